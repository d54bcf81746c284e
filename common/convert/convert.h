// Between the words of the cores (common/base/domain.h) and of the wire (proto/crescendo/v1).
//
// FromProto checks at the edge, once, what every receiver relies on: counts within limits.h,
// lengths that belong together, finite numbers, enum values that are known. Its errors are
// InvalidArgument and name the field, what was expected and what was found. What needs a receiver's
// own state to judge (is the token in the vocabulary, is the version published) is that receiver's
// to check. Pure; thread-safe.
#ifndef CRESCENDO_COMMON_CONVERT_CONVERT_H_
#define CRESCENDO_COMMON_CONVERT_CONVERT_H_

#include "absl/status/statusor.h"
#include "common/base/domain.h"
#include "crescendo/v1/coordinator.pb.h"
#include "crescendo/v1/experience.pb.h"

namespace crescendo {

// Coordinator
// ------------------------------------------------------------------------------------------------------
v1::Verdict ToProto(Verdict verdict);
absl::StatusOr<Verdict> FromProto(v1::Verdict verdict);

v1::SamplingParams ToProto(const SamplingParams& sampling);
absl::StatusOr<SamplingParams> FromProto(const v1::SamplingParams& sampling);

v1::RewardSpec ToProto(const RewardSpec& spec);
absl::StatusOr<RewardSpec> FromProto(const v1::RewardSpec& spec);

v1::LeasedGroup ToProto(const GroupLease& lease);
absl::StatusOr<GroupLease> FromProto(const v1::LeasedGroup& lease);

v1::CompleteGroupRequest ToProto(const GroupCompletion& completion);
absl::StatusOr<GroupCompletion> FromProto(const v1::CompleteGroupRequest& completion);

v1::Resources ToProto(const Resources& resources);
absl::StatusOr<Resources> FromProto(const v1::Resources& resources);

v1::StepPlan ToProto(const StepPlan& plan);
absl::StatusOr<StepPlan> FromProto(const v1::StepPlan& plan);

v1::LearnerDirective ToProto(LearnerDirective directive);
absl::StatusOr<LearnerDirective> FromProto(v1::LearnerDirective directive);

v1::GroupOutcome ToProto(const GroupOutcome& outcome);
absl::StatusOr<GroupOutcome> FromProto(const v1::GroupOutcome& outcome);

v1::StepMetrics ToProto(const StepMetrics& metrics);
// Any number is a metric, NaN too: a step that went wrong must be reportable.
StepMetrics FromProto(const v1::StepMetrics& metrics);

// Experience
// ---------------------------------------------------------------------------------------------------------
v1::SampleChunk ToProto(const SampleChunk& chunk);
absl::StatusOr<SampleChunk> FromProto(const v1::SampleChunk& chunk);

v1::ChunkAck ToProto(const ChunkAck& ack);
absl::StatusOr<ChunkAck> FromProto(const v1::ChunkAck& ack);

v1::ResumeResponse ToProto(const ResumeReply& reply);
absl::StatusOr<ResumeReply> FromProto(const v1::ResumeResponse& reply);

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_CONVERT_CONVERT_H_
