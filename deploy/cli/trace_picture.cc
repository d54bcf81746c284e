#include "deploy/cli/trace_picture.h"

#include <algorithm>
#include <limits>
#include <map>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/metrics/life_trace.h"
#include "nlohmann/json.hpp"

namespace crescendo {
namespace {

using Json = nlohmann::ordered_json;
using Sample = std::pair<uint64_t, int32_t>;

constexpr int kGroupsProcess = 1;
constexpr uint64_t kEvaluationBit = uint64_t{1} << 63;

std::string GroupName(uint64_t group) {
  if ((group & kEvaluationBit) == 0) return absl::StrCat("group ", group);
  return absl::StrCat("evaluation group ", group & ~kEvaluationBit);
}

// The moments that bound the phases of a group. Of several (samples, attempts) the first or last.
struct GroupLife {
  std::map<LifeEvent, int64_t> at;
  int64_t step = -1;
  std::string worker;

  void First(LifeEvent kind, int64_t time) {
    const auto [found, added] = at.emplace(kind, time);
    if (!added) found->second = std::min(found->second, time);
  }
  void Last(LifeEvent kind, int64_t time) {
    const auto [found, added] = at.emplace(kind, time);
    if (!added) found->second = std::max(found->second, time);
  }
};

struct Phase {
  const char* name;
  LifeEvent end;
};
// From the lease on, in order.
constexpr Phase kPhases[] = {{"prefill", LifeEvent::kFirstToken},
                             {"decode", LifeEvent::kFinished},
                             {"grade", LifeEvent::kGraded},
                             {"accept", LifeEvent::kAccepted},
                             {"wait for the batch", LifeEvent::kTrainBegin},
                             {"train", LifeEvent::kTrained}};

class Picture {
 public:
  explicit Picture(const std::vector<v1::Trace>& traces) : traces_(traces) {
    begin_ = std::numeric_limits<int64_t>::max();
    for (const v1::Trace& trace : traces) {
      for (const v1::TraceMoment& moment : trace.moments()) {
        begin_ = std::min(begin_, moment.unix_micros());
      }
    }
  }

  std::string Draw() {
    Name(kGroupsProcess, "groups");
    Gather();
    DrawGroups();
    int process = kGroupsProcess;
    for (const v1::Trace& trace : traces_) {
      Name(++process, trace.instance());
      if (trace.service() == "rollout") DrawSamples(trace, process);
      if (trace.service() == "reward") DrawAnswers(trace, process);
      if (trace.service() == "learner") DrawSteps(trace, process);
    }
    std::stable_sort(events_.begin(), events_.end(), [](const Json& a, const Json& b) {
      return a["ts"].get<int64_t>() < b["ts"].get<int64_t>();
    });
    Json picture;
    picture["displayTimeUnit"] = "ms";
    picture["traceEvents"] = names_;
    for (Json& event : events_) picture["traceEvents"].push_back(std::move(event));
    return picture.dump() + "\n";
  }

 private:
  void Name(int process, const std::string& name) {
    names_.push_back({{"ph", "M"},
                      {"name", "process_name"},
                      {"pid", process},
                      {"tid", 0},
                      {"ts", 0},
                      {"args", {{"name", name}}}});
  }

  // "b" and "e" of one id nest in the order of their times.
  void Add(const char* phase, int process, const char* category, const std::string& id,
           const std::string& name, int64_t time, Json arguments = Json::object()) {
    events_.push_back({{"ph", phase},
                       {"cat", category},
                       {"id", id},
                       {"name", name},
                       {"pid", process},
                       {"tid", 0},
                       {"ts", time - begin_}});
    if (!arguments.empty()) events_.back()["args"] = std::move(arguments);
  }

  void Gather() {
    for (const v1::Trace& trace : traces_) {
      for (const v1::TraceMoment& moment : trace.moments()) {
        const std::optional<LifeEvent> kind = ParseLifeEvent(moment.kind());
        if (!kind) continue;
        if (*kind == LifeEvent::kTrainBegin) {
          train_begins_[moment.step()] = moment.unix_micros();
          continue;
        }
        if (*kind == LifeEvent::kPublished) continue;
        // The coordinator hears of a trained group later than the learner knows.
        if (*kind == LifeEvent::kTrained && trace.service() != "learner") continue;
        GroupLife& life = groups_[moment.group_id()];
        if (moment.step() >= 0) life.step = moment.step();
        if (!moment.worker_id().empty()) life.worker = moment.worker_id();
        if (*kind == LifeEvent::kLeased || *kind == LifeEvent::kFirstToken) {
          life.First(*kind, moment.unix_micros());
        } else {
          life.Last(*kind, moment.unix_micros());
        }
      }
    }
  }

  void DrawGroups() {
    for (auto& [group, life] : groups_) {
      const auto leased = life.at.find(LifeEvent::kLeased);
      if (leased == life.at.end()) continue;  // begun before the ring's first moment
      const auto train = train_begins_.find(life.step);
      if (train != train_begins_.end()) life.at[LifeEvent::kTrainBegin] = train->second;
      const std::string id = absl::StrCat(group);
      Json arguments = {{"step", life.step}, {"worker", life.worker}};
      int64_t now = leased->second;
      Add("b", kGroupsProcess, "group", id, GroupName(group), now, std::move(arguments));
      for (const Phase& phase : kPhases) {
        const auto end = life.at.find(phase.end);
        if (end == life.at.end()) continue;
        const int64_t until = std::max(now, end->second);
        Add("b", kGroupsProcess, "group", id, phase.name, now);
        Add("e", kGroupsProcess, "group", id, phase.name, until);
        now = until;
      }
      Add("e", kGroupsProcess, "group", id, GroupName(group), now);
    }
  }

  void DrawSamples(const v1::Trace& trace, int process) {
    struct Life {
      int64_t first = -1, finished = -1, graded = -1;
      std::vector<std::pair<int64_t, int64_t>> chunks;  // time, tokens
    };
    std::map<Sample, Life> samples;
    for (const v1::TraceMoment& moment : trace.moments()) {
      const std::optional<LifeEvent> kind = ParseLifeEvent(moment.kind());
      if (!kind || moment.sample() < 0) continue;
      Life& life = samples[{moment.group_id(), moment.sample()}];
      const int64_t time = moment.unix_micros();
      if (*kind == LifeEvent::kFirstToken && life.first < 0) life.first = time;
      if (*kind == LifeEvent::kFinished) life.finished = time;
      if (*kind == LifeEvent::kGraded) life.graded = time;
      if (*kind == LifeEvent::kChunk) life.chunks.emplace_back(time, moment.tokens());
    }
    for (const auto& [sample, life] : samples) {
      if (life.first < 0 || life.finished < life.first) continue;
      const std::string id = absl::StrCat(sample.first, "/", sample.second);
      const std::string name = absl::StrCat(GroupName(sample.first), " sample ", sample.second);
      const int64_t end = std::max(life.finished, life.graded);
      Add("b", process, "sample", id, name, life.first);
      Add("b", process, "sample", id, "decode", life.first);
      for (const auto& [time, tokens] : life.chunks) {
        if (time < life.first || time > life.finished) continue;
        Add("n", process, "sample", id, "chunk", time, {{"tokens", tokens}});
      }
      Add("e", process, "sample", id, "decode", life.finished);
      if (life.graded >= life.finished) {
        Add("b", process, "sample", id, "grade", life.finished);
        Add("e", process, "sample", id, "grade", life.graded);
      }
      Add("e", process, "sample", id, name, end);
    }
  }

  // Of an answer that came twice (its stream broke) the last time.
  void DrawAnswers(const v1::Trace& trace, int process) {
    struct Life {
      int64_t arrived = -1, begun = -1, ended = -1;
    };
    std::map<Sample, Life> answers;
    for (const v1::TraceMoment& moment : trace.moments()) {
      const std::optional<LifeEvent> kind = ParseLifeEvent(moment.kind());
      Life& life = answers[{moment.group_id(), moment.sample()}];
      if (kind == LifeEvent::kArrived) life = {.arrived = moment.unix_micros()};
      if (kind == LifeEvent::kGradeBegin) life.begun = moment.unix_micros();
      if (kind == LifeEvent::kGradeEnd) life.ended = moment.unix_micros();
    }
    for (const auto& [sample, life] : answers) {
      if (life.arrived < 0 || life.begun < life.arrived || life.ended < life.begun) continue;
      const std::string id = absl::StrCat(sample.first, "/", sample.second);
      const std::string name = absl::StrCat(GroupName(sample.first), " sample ", sample.second);
      Add("b", process, "answer", id, name, life.arrived);
      Add("b", process, "answer", id, "queue", life.arrived);
      Add("e", process, "answer", id, "queue", life.begun);
      Add("b", process, "answer", id, "grade", life.begun);
      Add("e", process, "answer", id, "grade", life.ended);
      Add("e", process, "answer", id, name, life.ended);
    }
  }

  void DrawSteps(const v1::Trace& trace, int process) {
    std::map<int64_t, std::pair<int64_t, int64_t>> steps;  // begin, end of the training
    for (const v1::TraceMoment& moment : trace.moments()) {
      const std::optional<LifeEvent> kind = ParseLifeEvent(moment.kind());
      if (!kind || moment.step() < 0) continue;
      auto& [begin, end] = steps.try_emplace(moment.step(), -1, -1).first->second;
      if (*kind == LifeEvent::kTrainBegin) begin = moment.unix_micros();
      if (*kind == LifeEvent::kTrained) end = std::max(end, moment.unix_micros());
      if (*kind == LifeEvent::kPublished) {
        Add("n", process, "step", absl::StrCat("step ", moment.step()), "published",
            moment.unix_micros(), {{"version", moment.step() + 1}});
      }
    }
    for (const auto& [step, times] : steps) {
      if (times.first < 0 || times.second < times.first) continue;
      const std::string name = absl::StrCat("step ", step);
      Add("b", process, "step", name, name, times.first);
      Add("e", process, "step", name, name, times.second);
    }
  }

  const std::vector<v1::Trace>& traces_;
  int64_t begin_ = 0;
  std::map<uint64_t, GroupLife> groups_;
  std::map<int64_t, int64_t> train_begins_;  // by step
  std::vector<Json> names_;
  std::vector<Json> events_;
};

}  // namespace

std::string TracePicture(const std::vector<v1::Trace>& traces) { return Picture(traces).Draw(); }

}  // namespace crescendo
