// RolloutCore: requests from outside the run, and stop strings.
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "services/rollout/rollout_core.h"

namespace crescendo {
namespace {

// All requests draw as this group: their seeds tell them apart.
const GroupId kDrawnAs(kServedBit);

}  // namespace

absl::Status RolloutCore::Serve(ServedRequest request) {
  const GroupId id = ServedGroup(request.id);
  CRESCENDO_CHECK(request.samples >= 1 && !served_.contains(id));
  RETURN_IF_ERROR(engine_.CheckFits(static_cast<int64_t>(request.prompt.size()), request.limit));
  GroupRequest group;
  group.id = id;
  group.draw_id = kDrawnAs;
  group.seed = request.seed;
  group.sampling = request.sampling;
  group.limit = request.limit;
  group.top_tokens = request.top_tokens;
  group.prompt = request.prompt;
  Served& served = served_[id];
  for (int i = 0; i < request.samples; ++i) {
    group.samples.push_back(SampleStart{static_cast<uint32_t>(i), {}});
    bool stopped = false;
    served.watches.push_back(WatchOver(request.sampling, {}, &stopped));
  }
  served.left = request.samples;
  served.request = std::move(request);
  engine_.AddGroup(std::move(group));
  return absl::OkStatus();
}

void RolloutCore::StopServing(uint64_t request) {
  const GroupId id = ServedGroup(request);
  if (served_.erase(id) > 0) engine_.RemoveGroup(id);
}

void RolloutCore::OnServedToken(const EngineOutput& output) {
  const auto it = served_.find(output.group);
  if (it == served_.end()) return;
  Served& served = it->second;
  FinishReason finish = output.finish;
  StopWatch* watch = served.watches[output.sample].get();
  if (watch != nullptr && watch->Push(output.token) && finish == FinishReason::kUnspecified) {
    finish = FinishReason::kStop;
    engine_.RemoveSample(output.group, output.sample);
  }
  actions_.push_back(ServedToken{served.request.id, output.sample, output.token, output.log_prob,
                                 finish, loaded_, output.top});
  if (finish != FinishReason::kUnspecified && --served.left == 0) served_.erase(it);
}

// A watch that has seen `tokens`; null without stop strings.
std::shared_ptr<StopWatch> RolloutCore::WatchOver(const SamplingParams& sampling,
                                                  absl::Span<const int32_t> tokens,
                                                  bool* stopped) const {
  if (sampling.stop.empty() || !options_.watch_stops) return nullptr;
  std::shared_ptr<StopWatch> watch = options_.watch_stops(sampling.stop);
  for (const int32_t token : tokens) *stopped = watch->Push(token);
  return watch;
}

}  // namespace crescendo
