// Requests from outside the run in the core: their tokens, their seeds, stop strings, and what they
// leave of the run's groups; a swap that computes the cache anew.
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "catch2/catch.hpp"
#include "services/rollout/rollout_core.h"
#include "tests/unit/rollout/fake_world.h"

namespace crescendo {
namespace {

using Key = std::pair<uint64_t, uint32_t>;

// A text of one letter a token: "a" for 2, "b" for 3, ...
class LetterWatch : public StopWatch {
 public:
  explicit LetterWatch(std::vector<std::string> stop) : stop_(std::move(stop)) {}
  bool Push(int32_t token) override {
    text_ += static_cast<char>('a' + (token - 2) % 26);
    for (const std::string& stop : stop_) stopped_ = stopped_ || text_.find(stop) != text_.npos;
    return stopped_;
  }

 private:
  std::vector<std::string> stop_;
  std::string text_;
  bool stopped_ = false;
};

RolloutOptions Options() {
  RolloutOptions options;
  options.engine.slots = 16;
  options.engine.step_tokens = 64;
  options.engine.blocks = 256;
  options.engine.block_tokens = 4;
  options.engine.stop_tokens = {1};
  options.chunk_tokens = 8;
  options.unacked_tokens_max = 64;
  options.watch_stops = [](const std::vector<std::string>& stop) {
    return std::make_shared<LetterWatch>(stop);
  };
  return options;
}

ScriptedModelOptions Model(int mean = 24) {
  ScriptedModelOptions options;
  options.block_tokens = 4;
  options.mean_tokens = mean;
  return options;
}

ServedRequest Request(uint64_t id, int samples, int limit, uint64_t seed) {
  ServedRequest request;
  request.id = id;
  request.prompt = {5, 6, 7};
  request.samples = samples;
  request.limit = limit;
  request.seed = seed;
  return request;
}

struct Served {
  std::map<Key, std::vector<int32_t>> tokens;
  std::map<Key, FinishReason> finish;
};

// Steps the core alone until nothing works; what was served.
Served Serve(RolloutCore& core) {
  Served served;
  for (int i = 0; i < 1000; ++i) {
    const absl::StatusOr<bool> worked = core.Step(absl::UnixEpoch() + absl::Milliseconds(i));
    REQUIRE(worked.ok());
    for (const RolloutAction& action : core.TakeActions()) {
      const auto* token = std::get_if<ServedToken>(&action);
      if (token == nullptr) continue;
      const Key key(token->request, token->sample);
      REQUIRE(served.finish.count(key) == 0);
      served.tokens[key].push_back(token->token);
      if (token->finish != FinishReason::kUnspecified) served.finish[key] = token->finish;
    }
    if (!*worked) break;
  }
  return served;
}

TEST_CASE("The same seed draws the same tokens, in any request and company") {
  ScriptedModel model(Model());
  RolloutCore core(Options(), &model);
  REQUIRE(core.Serve(Request(1, 2, 30, 7)).ok());
  REQUIRE(core.Serve(Request(2, 2, 30, 7)).ok());
  REQUIRE(core.Serve(Request(3, 2, 30, 8)).ok());
  CHECK(core.stats().served == 3);
  const Served served = Serve(core);
  REQUIRE(served.finish.size() == 6);
  CHECK(served.tokens.at({1, 0}) == served.tokens.at({2, 0}));
  CHECK(served.tokens.at({1, 1}) == served.tokens.at({2, 1}));
  CHECK(served.tokens.at({1, 0}) != served.tokens.at({1, 1}));
  CHECK(served.tokens.at({1, 0}) != served.tokens.at({3, 0}));
  CHECK(core.stats().served == 0);
  CHECK(core.stats().blocks_used == 0);
  for (const auto& [key, tokens] : served.tokens) {
    CHECK(served.finish.at(key) ==
          (tokens.back() == 1 ? FinishReason::kStop : FinishReason::kTruncated));
  }
}

TEST_CASE("A stop string ends a sample at the token that completes it") {
  ScriptedModel model(Model(400));
  RolloutCore core(Options(), &model);
  REQUIRE(core.Serve(Request(1, 1, 40, 7)).ok());
  const std::vector<int32_t> whole = Serve(core).tokens.at({1, 0});
  REQUIRE(whole.size() == 40);
  ServedRequest request = Request(2, 1, 40, 7);
  for (int i = 10; i < 13; ++i) {
    request.sampling.stop.resize(1);
    request.sampling.stop[0] += static_cast<char>('a' + (whole[i] - 2) % 26);
  }
  REQUIRE(core.Serve(request).ok());
  const Served served = Serve(core);
  CHECK(served.tokens.at({2, 0}) == std::vector<int32_t>(whole.begin(), whole.begin() + 13));
  CHECK(served.finish.at({2, 0}) == FinishReason::kStop);
  CHECK(core.stats().blocks_used == 0);
}

TEST_CASE("What does not fit is refused, and a request that is stopped leaves nothing") {
  ScriptedModel model(Model());
  RolloutCore core(Options(), &model);
  CHECK(core.Serve(Request(1, 1, 5000, 7)).code() == absl::StatusCode::kResourceExhausted);
  ServedRequest empty = Request(2, 1, 10, 7);
  empty.prompt.clear();
  CHECK(core.Serve(empty).code() == absl::StatusCode::kInvalidArgument);
  REQUIRE(core.Serve(Request(3, 4, 100, 7)).ok());
  for (int i = 0; i < 3; ++i) REQUIRE(core.Step(absl::UnixEpoch()).ok());
  core.StopServing(3);
  core.StopServing(3);
  CHECK(core.stats().served == 0);
  CHECK(core.stats().blocks_used == 0);
}

TEST_CASE("A lease's stop strings end its samples, and are found again after a resume") {
  FakeWorld world(Options(), Model(400));
  GroupLease lease = FakeWorld::Lease(3, 2, 60);
  lease.sampling.stop = {"a", "c"};
  world.core.OnLeases({FakeWorld::Leased(lease)});
  for (int i = 0; i < 8; ++i) world.Step();
  world.core.OnLearnerReset();  // all is asked of the learner, and sent again
  world.Settle();
  CHECK(world.error.empty());
  REQUIRE(world.held.count(GroupId(3)) == 1);
  REQUIRE(world.held.at(GroupId(3)).complete());
  for (int i = 0; i < 2; ++i) {
    const FakeSample& sample = world.held.at(GroupId(3)).samples.at(i);
    size_t expected = 0;
    while (expected < 60) {
      const int32_t token = ScriptedModel::TokenAt(Model(400), 17, 3, i, expected, 0);
      ++expected;
      if ((token - 2) % 26 == 0 || (token - 2) % 26 == 2) break;
    }
    CHECK(sample.tokens.size() == expected);
    CHECK(sample.close->finish == FinishReason::kStop);
  }
}

TEST_CASE("With recompute_cache a swap computes all that runs anew, and drops nothing") {
  for (const bool recompute : {false, true}) {
    RolloutOptions options = Options();
    options.recompute_cache = recompute;
    ScriptedModel model(Model(400));
    RolloutCore core(options, &model);
    REQUIRE(core.Serve(Request(1, 3, 50, 7)).ok());
    for (int i = 0; i < 10; ++i) REQUIRE(core.Step(absl::UnixEpoch()).ok());
    const int64_t before = model.computed_tokens();
    core.OnPublished(PolicyVersion(1), "learner");
    REQUIRE(core.Step(absl::UnixEpoch()).ok());
    core.OnWeightsReady(PolicyVersion(1), "learner");
    REQUIRE(core.Step(absl::UnixEpoch()).ok());
    CHECK(core.loaded() == PolicyVersion(1));
    for (int i = 0; i < 3; ++i) REQUIRE(core.Step(absl::UnixEpoch()).ok());
    // Three samples of a prompt of 3 and about 10 tokens, against one token a step.
    CHECK((model.computed_tokens() - before > 35) == recompute);
    const Served served = Serve(core);
    CHECK(served.finish.size() == 3);
    CHECK(core.stats().preemptions == 0);
    CHECK(core.stats().blocks_used == 0);
  }
}

}  // namespace
}  // namespace crescendo
