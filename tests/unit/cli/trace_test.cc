// The picture of a trace: it is JSON, times are in order, and what begins ends inside what it began
// in.
#include "catch2/catch.hpp"
#include "deploy/cli/trace_picture.h"
#include "nlohmann/json.hpp"

#include <map>

namespace crescendo {
namespace {

void Add(v1::Trace& trace, const char* kind, int64_t micros, uint64_t group, int sample = -1,
         int64_t step = -1) {
  v1::TraceMoment* moment = trace.add_moments();
  moment->set_kind(kind);
  moment->set_unix_micros(micros);
  moment->set_group_id(group);
  moment->set_sample(sample);
  moment->set_step(step);
}

v1::Trace Named(const char* service, const char* instance) {
  v1::Trace trace;
  trace.set_service(service);
  trace.set_instance(instance);
  return trace;
}

// Two samples of group 5, trained by step 2; the learner's clock is 3 ms behind.
std::vector<v1::Trace> OneGroup() {
  v1::Trace coordinator = Named("coordinator", "coordinator");
  Add(coordinator, "leased", 1000, 5);
  coordinator.mutable_moments(0)->set_worker_id("rollout-1");
  Add(coordinator, "completed", 9500, 5);
  Add(coordinator, "trained", 20000, 5, -1, 2);
  v1::Trace rollout = Named("rollout", "rollout-1");
  Add(rollout, "leased", 1100, 5);
  Add(rollout, "first_token", 2000, 5, 0);
  Add(rollout, "first_token", 2100, 5, 1);
  Add(rollout, "chunk", 3000, 5, 0);
  Add(rollout, "finished", 4000, 5, 0);
  Add(rollout, "finished", 7000, 5, 1);
  Add(rollout, "graded", 5000, 5, 0);
  Add(rollout, "graded", 8000, 5, 1);
  Add(rollout, "no_such_kind", 1, 5, 1);
  v1::Trace learner = Named("learner", "learner");
  Add(learner, "accepted", 6000, 5);  // really 9000
  Add(learner, "train_begin", 10000, 0, -1, 2);
  Add(learner, "trained", 15000, 5, -1, 2);
  Add(learner, "published", 16000, 0, -1, 2);
  v1::Trace reward = Named("reward", "reward");
  Add(reward, "arrived", 4100, 5, 0);
  Add(reward, "grade_begin", 4300, 5, 0);
  Add(reward, "grade_end", 4900, 5, 0);
  Add(reward, "arrived", 7100, 5, 1);  // its stream broke
  return {coordinator, rollout, learner, reward};
}

TEST_CASE("a group's phases follow each other inside its life, on skewed clocks too") {
  const auto picture = nlohmann::json::parse(TracePicture(OneGroup()), nullptr, false);
  REQUIRE(picture.is_object());
  int64_t last = 0;
  std::map<std::string, std::vector<std::string>> open;  // by process, category and id
  std::vector<std::pair<std::string, int64_t>> phases, answers;
  for (const auto& event : picture.at("traceEvents")) {
    const std::string kind = event.at("ph");
    if (kind == "M") continue;
    const int64_t time = event.at("ts");
    CHECK(time >= last);
    last = time;
    const std::string key = event.at("pid").dump() + event.at("cat").dump() + event.at("id").dump();
    if (kind == "b") open[key].push_back(event.at("name"));
    if (kind == "e") {
      REQUIRE(!open[key].empty());
      CHECK(open[key].back() == event.at("name"));
      open[key].pop_back();
      if (event.at("cat") == "group") phases.emplace_back(event.at("name"), time);
      if (event.at("cat") == "answer") answers.emplace_back(event.at("name"), time);
    }
  }
  for (const auto& [key, names] : open) CHECK(names.empty());
  // From the earliest moment, which nobody knows the kind of, at 1.
  CHECK(phases == std::vector<std::pair<std::string, int64_t>>{{"prefill", 1999},
                                                               {"decode", 6999},
                                                               {"grade", 7999},
                                                               {"accept", 7999},
                                                               {"wait for the batch", 9999},
                                                               {"train", 14999},
                                                               {"group 5", 14999}});
  CHECK(answers == std::vector<std::pair<std::string, int64_t>>{
                       {"queue", 4299}, {"grade", 4899}, {"group 5 sample 0", 4899}});
}

TEST_CASE("an empty trace is an empty picture") {
  const auto picture = nlohmann::json::parse(TracePicture({}), nullptr, false);
  REQUIRE(picture.is_object());
  CHECK(picture.at("traceEvents").size() == 1);
}

}  // namespace
}  // namespace crescendo
