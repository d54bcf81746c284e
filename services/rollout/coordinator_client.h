// The worker's talk with the coordinator, on three threads: leases (long poll), heartbeats (at once
// when kicked), and reports (completions and abandoned leases, each until answered).
//
// A coordinator that does not know the worker (it was restarted) answers FAILED_PRECONDITION: the
// worker joins again, under the same incarnation, and goes on. Failures are retried with a bounded
// back-off for as long as the worker runs.
//
// Thread-safe. Results go to the core as events.
#ifndef CRESCENDO_SERVICES_ROLLOUT_COORDINATOR_CLIENT_H_
#define CRESCENDO_SERVICES_ROLLOUT_COORDINATOR_CLIENT_H_

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include <grpcpp/grpcpp.h>

#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/base/bounded_queue.h"
#include "crescendo/v1/coordinator.grpc.pb.h"
#include "services/rollout/peer_watch.h"
#include "services/rollout/prompt_codec.h"
#include "services/rollout/worker_context.h"

namespace crescendo {

// What a heartbeat reports; the core's thread keeps it up to date.
struct WorkerProgress {
  std::vector<LeaseTokens> leases;
  PolicyVersion loaded;
  uint64_t generated_tokens = 0;
};

class CoordinatorClient {
 public:
  struct Hooks {
    std::function<WorkerProgress()> progress;
    // Each heartbeat's answer, before its events are posted.
    std::function<void(const v1::HeartbeatResponse&)> on_heartbeat;
    std::function<void()> on_finished;  // the run is over
  };
  // `codec` outlives the client.
  CoordinatorClient(const WorkerContext& context, std::shared_ptr<grpc::Channel> channel,
                    const PromptCodec* codec, Hooks hooks);
  ~CoordinatorClient();

  // The first Join. FAILED_PRECONDITION: another protocol version. Blocks up to rpc_timeout.
  absl::Status Join();
  void Start();
  // Never block: false when the queue is full (the core's thread tries again).
  bool Ask(const AskLeases& ask);
  bool Report(std::variant<CompleteGroup, AbandonLease> report);
  // A heartbeat now.
  void Kick();
  // Asks for no more leases: cancels the long poll.
  void StopLeasing();
  // Waits until all reports are answered, at most so long.
  void FlushReports(absl::Duration timeout);
  // Says goodbye; call it after the core is empty.
  void Leave(absl::string_view reason);
  // Ends the threads. The stop flag must be set.
  void Stop();
  std::string Awaiting() const { return watch_.Awaiting(); }

 private:
  void LeaseLoop();
  void HeartbeatLoop();
  void ReportLoop();
  std::vector<LeasedPrompt> Lease(int groups_max);
  absl::Status HeartbeatOnce();
  absl::Status SendReport(const std::variant<CompleteGroup, AbandonLease>& report);
  void AbandonNow(uint64_t lease, absl::string_view reason);
  // One call with the plain deadline (plus `extra`); FAILED_PRECONDITION joins again before it is
  // returned.
  absl::Status Run(absl::string_view what, absl::Duration extra, grpc::ClientContext* context,
                   const std::function<grpc::Status(grpc::ClientContext*)>& call);

  const WorkerContext context_;
  const PromptCodec* const codec_;
  const Hooks hooks_;
  const std::unique_ptr<v1::CoordinatorService::Stub> stub_;
  PeerWatch watch_;

  BoundedQueue<AskLeases> asks_;
  BoundedQueue<std::variant<CompleteGroup, AbandonLease>> reports_;
  BoundedQueue<bool> kicks_;
  absl::Mutex mutex_;
  bool leasing_ ABSL_GUARDED_BY(mutex_) = true;
  int reports_open_ ABSL_GUARDED_BY(mutex_) = 0;
  grpc::ClientContext* lease_call_ ABSL_GUARDED_BY(mutex_) = nullptr;
  uint64_t last_generated_ = 0;
  absl::Time last_heartbeat_ = absl::InfinitePast();
  std::vector<std::thread> threads_;
};

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_ROLLOUT_COORDINATOR_CLIENT_H_
