// What the services say to each other, as plain values: the words of DESIGN.md's "Terms". The cores
// speak only these; the adapters turn them into protos and back (common/convert/convert.h), and
// tests/sim carries them over a simulated network. The contract of each field (units, bounds,
// absence) stands in proto/crescendo/v1.
#ifndef CRESCENDO_COMMON_BASE_DOMAIN_H_
#define CRESCENDO_COMMON_BASE_DOMAIN_H_

#include <cstdint>
#include <string>
#include <vector>

#include "common/base/ids.h"

namespace crescendo {

enum class Verdict : uint8_t { kUnspecified = 0, kCorrect = 1, kIncorrect = 2, kUndecided = 3 };
enum class FinishReason : uint8_t { kUnspecified = 0, kStop = 1, kTruncated = 2 };
enum class GroupPurpose : uint8_t { kUnspecified = 0, kTrain = 1, kEvaluate = 2 };

struct SamplingParams {
  float temperature = 1;
  int top_k = 0;
  float top_p = 1;
  float min_p = 0;
  std::vector<std::string> stop;
};

struct RewardSpec {
  std::string kind;
  std::vector<std::string> gold;
};

// What a process holds for as long as it is there.
struct Resources {
  std::string gpu_type;
  int gpus = 0;
  int cores = 0;
  bool operator==(const Resources&) const = default;
};

// A group granted to a worker.
struct GroupLease {
  LeaseId lease;
  GroupId group;
  GroupPurpose purpose = GroupPurpose::kTrain;
  std::string problem_id;
  std::string problem;
  RewardSpec reward;
  int samples = 0;
  SamplingParams sampling;
  int context_tokens = 0;
  uint64_t seed = 0;
  int stage = 0;
  int attempt = 0;
  int64_t pinned_version = -1;
  int64_t min_version = -1;
  uint64_t key = 0;  // lease_key.h
};

// Run lengths of policy versions over consecutive tokens.
struct VersionRun {
  PolicyVersion version;
  uint32_t tokens = 0;
  bool operator==(const VersionRun&) const = default;
};

struct GroupHeader {
  std::string problem_id;
  std::vector<int32_t> prompt_tokens;
  int samples = 0;
  int context_tokens = 0;
  float temperature = 1;
  int stage = 0;
};

struct SampleClose {
  FinishReason finish = FinishReason::kUnspecified;
  Verdict verdict = Verdict::kUnspecified;
  double reward = 0;
  uint32_t total_tokens = 0;
};

struct SampleChunk {
  GroupId group;
  LeaseId lease;
  uint64_t lease_key = 0;  // as the lease has it
  uint32_t sample = 0;
  bool has_header = false;
  GroupHeader header;
  uint32_t offset = 0;
  std::vector<int32_t> tokens;
  std::vector<float> log_probs;
  std::vector<VersionRun> versions;
  bool has_close = false;
  SampleClose close;
};

enum class ChunkOutcome : uint8_t {
  kUnspecified = 0,
  kAccepted,
  kDuplicate,
  kGap,
  kNeedHeader,
  kGroupEnded,
  kRefused,
};

struct ChunkAck {
  GroupId group;
  uint32_t sample = 0;
  ChunkOutcome outcome = ChunkOutcome::kUnspecified;
  uint32_t next_offset = 0;
  bool sample_closed = false;
  bool group_complete = false;
  std::string message;
  std::string learner_incarnation;
};

struct PartialSample {
  uint32_t sample = 0;
  std::vector<int32_t> tokens;
  std::vector<float> log_probs;
  std::vector<VersionRun> versions;
  bool closed = false;
};

enum class ResumeState : uint8_t { kUnspecified = 0, kUnknown, kPartial, kEnded };

struct ResumeReply {
  ResumeState state = ResumeState::kUnspecified;
  std::vector<PartialSample> samples;
  std::string learner_incarnation;
};

struct SampleResult {
  uint32_t sample = 0;
  Verdict verdict = Verdict::kUnspecified;
  double reward = 0;
  uint32_t tokens = 0;
  bool truncated = false;
  std::string extracted;
  std::string reason = {};
  std::string response = {};
};

// A group that has ended at a worker: all samples closed at the learner, or all graded for an
// evaluation.
struct GroupCompletion {
  std::string worker_id;
  LeaseId lease;
  GroupId group;
  GroupPurpose purpose = GroupPurpose::kTrain;
  std::vector<SampleResult> results;
  PolicyVersion version_min;
  PolicyVersion version_max;
  std::string learner_incarnation;
};

// What the learner trains in one step.
struct StepPlan {
  StepId step;
  int stage = 0;
  std::vector<GroupId> groups;
  int group_samples = 0;
  int context_tokens = 0;
  double learning_rate = 0;
  int max_staleness = 0;
};

enum class LearnerDirective : uint8_t { kUnspecified = 0, kTrain, kWait, kFinished };

struct GroupOutcome {
  GroupId group;
  int correct = 0;
  int incorrect = 0;
  int undecided = 0;
  int truncated = 0;
  uint64_t tokens = 0;
  double reward = 0;
};

struct StepMetrics {
  double reward_mean = 0;
  double pass_rate = 0;
  double truncation_ratio = 0;
  double response_tokens_mean = 0;
  uint64_t generated_tokens = 0;
  uint64_t trained_tokens = 0;
  double loss = 0;
  double kl = 0;
  double entropy = 0;
  double grad_norm = 0;
  double clip_ratio = 0;
  double learning_rate = 0;
  // NaN: not measured, because no token of the step was drawn with the weights that it began with.
  double mismatch_max = 0;
  double mismatch_mean = 0;
  double mismatch_p99 = 0;
  double mismatch_kl = 0;
  double kl_coefficient = 0;
  double staleness_mean = 0;
  int64_t staleness_max = 0;
  uint32_t zero_variance_groups = 0;
  bool skipped = false;
  double wait_seconds = 0;
  double train_seconds = 0;
  double publish_seconds = 0;
  double checkpoint_seconds = 0;
};

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_BASE_DOMAIN_H_
