// Holds what workers have sent until it is trained: takes chunks exactly once by (group, sample,
// offset), serves back what it holds to a worker that resumes, and hands a plan's groups out whole.
//
// Invariants:
// 1. Each place (group, sample, offset) holds one token, with its log-probability and version; a
//    sample is a prefix without gaps. A refused chunk changes nothing.
// 2. A sample is closed once, by a verdict, and never changes afterwards. A group is complete when
// all
//    its samples are closed. Complete or consumed groups answer every further chunk with
//    kGroupEnded.
// 3. The newest lease wins. Once a chunk of a lease was taken, chunks of older leases of that group
//    may repeat what is held, but add nothing; where a newer lease's tokens differ from an older
//    one's in a sample that is not closed, they replace them from there on. A lease counts only
//    with the key that the coordinator gave it for this group (lease_key.h).
// 4. bytes() counts all that is held; above bytes_max only groups that the current plan wants are
//    taken (HasRoomFor), so a full buffer can never block the step that would empty it.
//
// Rollout draws depend on (seed, group, sample, position) only, so what a stale worker repeats is
// normally equal; the rules above hold when it is not. Not thread-safe: one thread, or the owner's
// lock.
#ifndef CRESCENDO_SERVICES_LEARNER_EXPERIENCE_BUFFER_H_
#define CRESCENDO_SERVICES_LEARNER_EXPERIENCE_BUFFER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/domain.h"
#include "common/base/ids.h"
#include "common/base/lease_key.h"
#include "services/learner/experience.h"
#include "services/learner/ledger.h"

namespace crescendo {

struct ExperienceOptions {
  int vocabulary_size = 0;        // token ids are in [0, vocabulary_size)
  int64_t bytes_max = 256 << 20;  // memory held by samples
  int groups_max = 65536;         // groups held at once
  // Groups behind the last one of the newest plan that the coordinator can have leased by now; one
  // further on is of a lease that nobody granted. 0: not checked.
  int64_t groups_ahead_max = 0;
};

// Counts since the start; each chunk counts in exactly one of the first six.
struct ExperienceCounters {
  uint64_t chunks_accepted = 0;
  uint64_t chunks_duplicate = 0;
  uint64_t chunks_gap = 0;
  uint64_t chunks_need_header = 0;
  uint64_t chunks_group_ended = 0;
  uint64_t chunks_refused = 0;
  uint64_t conflicts = 0;  // refused for it, or resolved in favour of a newer lease
  uint64_t tokens_accepted = 0;
  uint64_t tokens_replaced = 0;  // dropped in favour of a newer lease
  uint64_t groups_completed = 0;
};

struct GroupProgress {
  bool known = false;
  int samples = 0;
  int closed = 0;
  uint64_t tokens = 0;
  LeaseId lease;  // newest seen
};

class ExperienceBuffer {
 public:
  ExperienceBuffer(const ExperienceOptions& options, Ledger ledger, PolicyVersion published);

  // Takes one chunk; the ack says what became of it (proto/crescendo/v1/experience.proto).
  ChunkAck Accept(SampleChunk chunk);
  // False when the chunk must wait: the buffer is full, and the group is none that is wanted. The
  // caller holds the stream until it is true.
  bool HasRoomFor(const SampleChunk& chunk) const;
  // What is held of a group. Samples with at least a token, or closed.
  ResumeReply Resume(GroupId group) const;

  // Versions above this are "from the future".
  void SetPublished(PolicyVersion version) { published_ = version; }
  // The groups of the plan that is collected now. Plans take groups in the order of their ids.
  void SetWanted(const std::vector<GroupId>& groups);
  // Lease ids begin anew (another coordinator): those seen so far fence nobody off any more. From
  // now on a chunk needs the key that this secret gives its lease; empty: none is looked at.
  void BeginLeases(const LeaseSecret& secret);

  bool Complete(GroupId group) const;
  GroupProgress Progress(GroupId group) const;

  // Hands out the plan's groups in its order, and records them in the ledger as consumed by its
  // step. FAILED_PRECONDITION, and nothing changed: a group is not complete, has another shape than
  // the plan says, was consumed before, or holds a token older than step - max_staleness.
  absl::StatusOr<std::vector<GroupExperience>> Take(const StepPlan& plan);
  // The complete groups of the plan that it must not train: they hold a token older than step -
  // max_staleness, or have another shape than the plan says.
  std::vector<GroupId> Unfit(const StepPlan& plan) const;
  // Forgets what is held of a group, so that it is generated anew.
  void Drop(GroupId group);

  const Ledger& ledger() const { return ledger_; }
  const ExperienceCounters& counters() const { return counters_; }
  int64_t bytes() const { return bytes_; }
  int64_t tokens() const { return tokens_; }
  int groups() const { return static_cast<int>(groups_.size()); }
  int groups_complete() const { return groups_complete_; }

 private:
  struct Group {
    GroupExperience experience;
    std::vector<LeaseId> writers;  // one a sample: the lease that wrote to it last
    LeaseId newest_lease;
    int closed = 0;
    int64_t bytes = 0;
    int64_t tokens = 0;
    bool complete() const { return closed == experience.header.samples; }
  };
  // How a chunk lies against what is held of its sample.
  struct Placement {
    size_t overlap = 0;     // leading tokens of the chunk that are held already and equal
    size_t keep = 0;        // held tokens that stay
    bool conflict = false;  // those from `keep` on differ
    bool adds = false;      // it adds tokens or closes
  };

  ChunkAck Decide(SampleChunk& chunk);
  ChunkAck DecideKnown(SampleChunk& chunk, Group& group);
  ChunkAck Store(SampleChunk& chunk, Group& group, const Placement& placement);
  absl::Status CheckFit(const StepPlan& plan, const Group& group) const;
  Group& AddGroup(SampleChunk& chunk);
  void Truncate(Group& group, SampleExperience& sample, size_t tokens);
  void Charge(Group& group, int64_t tokens, int64_t other_bytes);
  void Release(const Group& group);
  void Count(const ChunkAck& ack);

  ExperienceOptions options_;
  Ledger ledger_;
  PolicyVersion published_;
  absl::flat_hash_map<GroupId, Group> groups_;
  absl::flat_hash_set<GroupId> wanted_;
  LeaseSecret secret_;
  uint64_t groups_end_ = 0;  // ids from here on nobody can have leased; 0: no plan yet
  ExperienceCounters counters_;
  int64_t bytes_ = 0;
  int64_t tokens_ = 0;
  int groups_complete_ = 0;
};

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_LEARNER_EXPERIENCE_BUFFER_H_
