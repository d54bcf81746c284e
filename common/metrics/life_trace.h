// The life of groups as one process saw it: when each was leased, spoke its first token, was
// graded, accepted, trained. Kept in a ring of limits::kTraceEventsMax events, oldest first to go,
// for `crescendo trace`; and the time between two events, as histograms.
//
//   LifeTrace trace(clock, registry, "learner", {{LifeEvent::kAccepted, LifeEvent::kTrained}});
//   trace.Note({.kind = LifeEvent::kAccepted, .group = 7});
//   trace.Note({.kind = LifeEvent::kTrained, .group = 7, .step = 3});  // observes the time
//   between: crescendo_learner_group_stage_seconds{stage="accepted_to_trained"}
//
// Thread-safe; never blocks for long. Outlives what notes in it.
#ifndef CRESCENDO_COMMON_METRICS_LIFE_TRACE_H_
#define CRESCENDO_COMMON_METRICS_LIFE_TRACE_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/metrics/metric_makers.h"

namespace crescendo {

// In the order of a life.
enum class LifeEvent {
  kLeased,      // coordinator: granted; rollout: taken
  kFirstToken,  // rollout, of a sample: its prompt is prefilled
  kChunk,       // rollout, of a sample: tokens sent to the learner
  kFinished,    // rollout, of a sample: its text went to the reward service
  kArrived,     // reward, of a sample: its text is there
  kGradeBegin,  // reward, of a sample: a grader takes it
  kGradeEnd,    // reward, of a sample: its verdict is made
  kGraded,      // rollout, of a sample: its verdict is there
  kAccepted,    // learner: the group is whole
  kCompleted,   // coordinator: the worker said so
  kTrainBegin,  // learner, of a step
  kTrained,     // learner, coordinator: of a group, and of a step
  kPublished,   // learner, of a step: the version that it made
};
inline constexpr int kLifeEvents = 13;

// "leased", "first_token".
absl::string_view LifeEventName(LifeEvent event);
std::optional<LifeEvent> ParseLifeEvent(absl::string_view name);

struct LifeMoment {
  LifeEvent kind = LifeEvent::kLeased;
  uint64_t group = 0;
  int32_t sample = -1;  // -1: of the group
  int64_t step = -1;    // -1: none is known
  int64_t tokens = 0;   // of a chunk
  std::string worker = {};
  absl::Time time = {};  // set by Note
};

// From the first event of a group (or sample) to the second.
struct LifeStage {
  LifeEvent from;
  LifeEvent to;
};

class LifeTrace {
 public:
  LifeTrace(Clock* clock, prometheus::Registry& registry, const std::string& service,
            const std::vector<LifeStage>& stages);

  void Note(LifeMoment moment);
  // Oldest first.
  std::vector<LifeMoment> Moments() const;

 private:
  struct Stage {
    LifeStage of;
    bool last;  // no later stage begins with the same event
    prometheus::Histogram* seconds;
  };
  using Key = std::tuple<LifeEvent, uint64_t, int32_t>;

  void Measure(const LifeMoment& moment) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  Clock* const clock_;
  std::vector<Stage> stages_;
  mutable absl::Mutex mutex_;
  std::vector<LifeMoment> ring_ ABSL_GUARDED_BY(mutex_);
  size_t next_ ABSL_GUARDED_BY(mutex_) = 0;
  // Of stages that have begun; bounded as the ring is.
  std::map<Key, absl::Time> begun_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_METRICS_LIFE_TRACE_H_
