// What the rollout core holds of a leased group. Plain values, owned by RolloutCore.
#ifndef CRESCENDO_SERVICES_ROLLOUT_GROUP_STATE_H_
#define CRESCENDO_SERVICES_ROLLOUT_GROUP_STATE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "common/base/domain.h"
#include "common/base/ids.h"
#include "services/rollout/stop_watch.h"

namespace crescendo {

// One sample's tokens and how far they have come. acked <= sent <= tokens.size().
struct SampleState {
  std::vector<int32_t> tokens;
  std::vector<float> log_probs;
  std::vector<VersionRun> versions;  // run lengths over tokens
  FinishReason finish = FinishReason::kUnspecified;
  std::shared_ptr<StopWatch> watch;  // has seen `tokens`; null: no stop strings

  uint32_t sent = 0;        // on the present stream, or held by the learner before
  uint32_t acked = 0;       // the learner holds so many
  bool close_sent = false;  // the closing chunk is on its way
  bool closed = false;      // the learner says so
  bool paused = false;      // too much is unacknowledged
  bool in_backlog = false;

  uint64_t grade_id = 0;  // of the request without a verdict; 0: none
  Verdict verdict = Verdict::kUnspecified;
  double reward = 0;
  std::string extracted;
  std::string reason;

  bool finished() const { return finish != FinishReason::kUnspecified; }
  bool graded() const { return verdict != Verdict::kUnspecified; }

  // Appends a token drawn with `version`.
  void Append(int32_t token, float log_prob, PolicyVersion version);
  // Cuts to the first `count` tokens and forgets finish, verdict and close.
  void Truncate(uint32_t count);
  // The runs that cover tokens [from, from + count).
  std::vector<VersionRun> VersionsOf(uint32_t from, uint32_t count) const;
  // Tokens in front of the first that is newer than `version`.
  uint32_t TokensUpTo(PolicyVersion version) const;
};

struct GroupState {
  GroupLease lease;
  std::vector<int32_t> prompt_tokens;
  std::vector<SampleState> samples;

  bool started = false;         // the engine has had it; false: waits for its first Resume
  bool resume_pending = false;  // nothing is sent until the learner says what it holds
  bool header_sent = false;     // on the present stream
  bool completing = false;      // CompleteGroup is asked, its answer awaited
  std::string
      learner_incarnation;  // who acknowledged the latest close, or said that the group has ended
  int refusals = 0;         // in a row
  std::optional<absl::Time> resume_at;  // ask again then (after a refusal)

  bool train() const { return lease.purpose == GroupPurpose::kTrain; }
  // All samples have stopped decoding.
  bool decoded() const;
  uint64_t tokens() const;
};

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_ROLLOUT_GROUP_STATE_H_
