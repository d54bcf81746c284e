#include "common/metrics/life_trace.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/limits.h"

namespace crescendo {
namespace {

constexpr absl::string_view kNames[kLifeEvents] = {
    "leased", "first_token", "chunk",     "finished",    "arrived", "grade_begin", "grade_end",
    "graded", "accepted",    "completed", "train_begin", "trained", "published"};

bool IsOfSample(LifeEvent event) {
  return event >= LifeEvent::kFirstToken && event <= LifeEvent::kGraded;
}

}  // namespace

absl::string_view LifeEventName(LifeEvent event) { return kNames[static_cast<int>(event)]; }

std::optional<LifeEvent> ParseLifeEvent(absl::string_view name) {
  for (int i = 0; i < kLifeEvents; ++i) {
    if (name == kNames[i]) return static_cast<LifeEvent>(i);
  }
  return std::nullopt;
}

LifeTrace::LifeTrace(Clock* clock, prometheus::Registry& registry, const std::string& service,
                     const std::vector<LifeStage>& stages)
    : clock_(clock) {
  for (const LifeStage& stage : stages) {
    for (Stage& earlier : stages_) earlier.last = earlier.last && earlier.of.from != stage.from;
    stages_.push_back(
        {stage, true,
         &MakeHistogram(registry, absl::StrCat("crescendo_", service, "_group_stage_seconds"),
                        "Time between two moments of a group's or a sample's life.",
                        ExponentialBuckets(0.001, 2, 22),
                        {{"stage", absl::StrCat(LifeEventName(stage.from), "_to_",
                                                LifeEventName(stage.to))}})});
  }
}

void LifeTrace::Measure(const LifeMoment& moment) {
  for (const Stage& stage : stages_) {
    const Key key{stage.of.from, moment.group, IsOfSample(stage.of.from) ? moment.sample : -1};
    if (moment.kind == stage.of.from) {
      // What was begun and never ended: groups of workers that died.
      if (begun_.size() >= limits::kTraceEventsMax) begun_.clear();
      begun_[key] = moment.time;
    } else if (moment.kind == stage.of.to) {
      const auto begun = begun_.find(key);
      if (begun == begun_.end()) continue;
      stage.seconds->Observe(absl::ToDoubleSeconds(moment.time - begun->second));
      // A group's moment stays for its other samples.
      if (stage.last && IsOfSample(stage.of.from) == IsOfSample(stage.of.to)) begun_.erase(begun);
    }
  }
}

void LifeTrace::Note(LifeMoment moment) {
  moment.time = clock_->Now();
  absl::MutexLock lock(&mutex_);
  Measure(moment);
  if (ring_.size() < limits::kTraceEventsMax) {
    ring_.push_back(std::move(moment));
    return;
  }
  ring_[next_] = std::move(moment);
  next_ = (next_ + 1) % ring_.size();
}

std::vector<LifeMoment> LifeTrace::Moments() const {
  absl::MutexLock lock(&mutex_);
  std::vector<LifeMoment> moments(ring_.begin() + static_cast<int64_t>(next_), ring_.end());
  moments.insert(moments.end(), ring_.begin(), ring_.begin() + static_cast<int64_t>(next_));
  return moments;
}

}  // namespace crescendo
