// The learner's ranks as seen from one of them: the rendezvous (a c10d TCPStore that rank 0 holds),
// collectives over c10d (Gloo; NCCL for tensors on a device), and what rank 0 announces to the
// others.
//
// Invariants:
// 1. Everything has a deadline. A failure names the rank that is gone, or says that all answer; it
//    is final: the group is not used any more, the process ends, and its launcher starts all ranks
//    again.
// 2. All ranks call the same collectives in the same order with the same shapes. The order of
//    summation depends on the number of ranks and the shapes only.
// 3. A rank that was started again while the others still run is not let in: it tells them, so that
//    they end, and tries until they have.
//
// Thread rule: one thread, the trainer's, but for notes. A thread of the group's own tells the
// others every second that this rank lives. Nothing throws.
#ifndef CRESCENDO_SERVICES_LEARNER_RANK_GROUP_H_
#define CRESCENDO_SERVICES_LEARNER_RANK_GROUP_H_

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "services/learner/rank_environment.h"

namespace crescendo {

struct RankGroupOptions {
  RankEnvironment ranks;
  std::string digest;                               // of the configuration: all ranks' must agree
  absl::Duration join_timeout = absl::Seconds(60);  // for all ranks to come
  absl::Duration timeout = absl::Minutes(30);       // of a collective: a rank may still compute
  absl::Duration silence_max = absl::Seconds(10);   // of a rank that is taken for dead
};

class RankGroup {
 public:
  // Blocks until all ranks have joined. DEADLINE_EXCEEDED names the ranks that did not come,
  // FAILED_PRECONDITION one of another configuration or WORLD_SIZE; CANCELLED when `stopped` says
  // so.
  static absl::StatusOr<std::unique_ptr<RankGroup>> Join(const RankGroupOptions& options,
                                                         const std::function<bool()>& stopped);
  virtual ~RankGroup() = default;

  int rank() const { return rank_; }
  int size() const { return size_; }

  // From now on collectives over tensors of `device` go over NCCL, when it is a CUDA device.
  // Collective. FAILED_PRECONDITION: this build has no NCCL, or it cannot be loaded.
  virtual absl::Status UseDevice(at::Device device) = 0;

  // Collectives over contiguous tensors, on the CPU or the device used. `what` names the operation
  // in errors.
  virtual absl::Status Sum(at::Tensor& tensor, absl::string_view what) = 0;  // in place
  virtual absl::Status Max(at::Tensor& tensor, absl::string_view what) = 0;  // in place
  // out [n]: rank's part of the sum of in [size * n].
  virtual absl::Status ReduceScatter(at::Tensor& in, at::Tensor& out, absl::string_view what) = 0;
  // out [size * n]: the `in` [n] of each rank, in order.
  virtual absl::Status AllGather(at::Tensor& in, at::Tensor& out, absl::string_view what) = 0;
  virtual absl::Status Broadcast(at::Tensor& tensor, int from, absl::string_view what) = 0;

  // Bytes from one rank to another, which calls Receive with a bound.
  virtual absl::Status Send(int to, absl::string_view bytes, absl::string_view what) = 0;
  virtual absl::StatusOr<std::string> Receive(int from, size_t bytes_max,
                                              absl::string_view what) = 0;

  // Rank 0 tells the others what to do next; they wait for it, for as long as rank 0 lives. What
  // follows an announcement needs at least one collective or message of every rank.
  virtual absl::Status Announce(const std::string& command) = 0;
  virtual absl::StatusOr<std::string> AwaitAnnouncement() = 0;

  // Between collectives: whether all ranks live. Cheap when it was asked within the last second.
  virtual absl::Status Check() = 0;
  // This rank will end with `failure`; the others then name it with the reason.
  virtual void Tell(const absl::Status& failure) = 0;

  // A note for another rank, and the note of that name from another one. From one more thread than
  // the group's: neither waits for collectives. A note is taken once. ABORTED when the rank that is
  // awaited fails or falls silent.
  virtual absl::Status LeaveNote(const std::string& name, absl::string_view text) = 0;
  virtual absl::StatusOr<std::string> AwaitNote(int from, const std::string& name) = 0;

  // The same over numbers.
  absl::Status Sum(absl::Span<double> values, absl::string_view what);
  absl::Status Max(absl::Span<double> values, absl::string_view what);

 protected:
  RankGroup(int rank, int size) : rank_(rank), size_(size) {}

 private:
  const int rank_;
  const int size_;
};

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_LEARNER_RANK_GROUP_H_
