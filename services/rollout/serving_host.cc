#include "services/rollout/serving_host.h"

#include <utility>
#include <variant>

namespace crescendo {
namespace {

constexpr size_t kEvents = 4096;
constexpr absl::Duration kIdleWait = absl::Milliseconds(200);
constexpr absl::Duration kPostWait = absl::Milliseconds(200);

}  // namespace

void PublishMemory(const ModelRunner& runner, RolloutMetrics& metrics) {
  const ModelMemory memory = runner.Memory();
  metrics.weight_memory_bytes.Set(static_cast<double>(memory.weights));
  metrics.cache_memory_bytes.Set(static_cast<double>(memory.cache));
  metrics.scratch_memory_bytes.Set(static_cast<double>(memory.scratch));
  metrics.staged_memory_bytes.Set(static_cast<double>(memory.staged));
}

ServingHost::ServingHost(const RolloutOptions& options, ModelRunner* runner, Clock* clock,
                         RolloutMetrics* metrics, std::function<void(const ServedToken&)> on_token)
    : runner_(runner),
      clock_(clock),
      metrics_(metrics),
      on_token_(std::move(on_token)),
      events_(kEvents),
      core_(options, runner) {}

ServingHost::~ServingHost() { (void)Stop(); }

void ServingHost::Start(std::function<void()> on_failure) {
  on_failure_ = std::move(on_failure);
  thread_ = std::thread([this] { Loop(); });
}

void ServingHost::Post(CoreEvent event) {
  while (!events_.closed()) {
    // Push leaves the event as it was when it finds no room.
    if (events_.Push(std::move(event), kPostWait)) return;  // NOLINT(bugprone-use-after-move)
  }
}

absl::Status ServingHost::Stop() {
  events_.Close();
  if (thread_.joinable()) thread_.join();
  return status_;
}

void ServingHost::Loop() {
  bool worked = false;
  while (!events_.closed()) {
    for (CoreEvent& event : events_.PopAll(worked ? absl::ZeroDuration() : kIdleWait)) {
      event(core_);
    }
    const absl::StatusOr<bool> step = core_.Step(clock_->Now());
    if (!step.ok()) {
      status_ = step.status();
      events_.Close();
      on_failure_();
      return;
    }
    worked = *step;
    // Leases and weights are asked of nobody.
    for (const RolloutAction& action : core_.TakeActions()) {
      if (const auto* token = std::get_if<ServedToken>(&action)) on_token_(*token);
    }
    Publish();
  }
}

void ServingHost::Publish() {
  const RolloutStats stats = core_.stats();
  metrics_->generated_tokens_total.Increment(
      static_cast<double>(stats.generated_tokens - published_.generated_tokens));
  metrics_->prefilled_tokens_total.Increment(
      static_cast<double>(stats.prefilled_tokens - published_.prefilled_tokens));
  metrics_->running_samples.Set(stats.running);
  metrics_->waiting_samples.Set(stats.waiting);
  metrics_->kv_blocks_used_ratio.Set(static_cast<double>(stats.blocks_used) / stats.blocks_total);
  PublishMemory(*runner_, *metrics_);
  metrics_->policy_version.Set(static_cast<double>(core_.loaded().value()));
  published_ = stats;
}

}  // namespace crescendo
