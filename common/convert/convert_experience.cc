#include <cmath>
#include <limits>

#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/convert/convert.h"
#include "common/convert/field_check.h"

namespace crescendo {
namespace {

// Tokens, their log-probabilities and versions, the same in a chunk and in a partial sample.
template <typename To, typename From>
void TokensToProto(const From& from, To& to) {
  to.mutable_tokens()->Reserve(static_cast<int>(from.tokens.size()));
  for (int32_t token : from.tokens) to.add_tokens(static_cast<uint32_t>(token));
  to.mutable_log_probs()->Add(from.log_probs.begin(), from.log_probs.end());
  for (const VersionRun& run : from.versions) {
    v1::VersionRun* added = to.add_versions();
    added->set_version(run.version.value());
    added->set_tokens(run.tokens);
  }
}

template <typename From, typename To>
absl::Status TokensFromProto(const From& from, int tokens_max, To& to) {
  RETURN_IF_ERROR(CheckRange("tokens: count", from.tokens_size(), 0, tokens_max));
  RETURN_IF_ERROR(CheckRange("log_probs: count", from.log_probs_size(), from.tokens_size(),
                             from.tokens_size()));
  RETURN_IF_ERROR(CheckRange("versions: count", from.versions_size(), 0, from.tokens_size()));
  to.tokens.reserve(from.tokens_size());
  for (uint32_t token : from.tokens()) {
    RETURN_IF_ERROR(CheckRange("tokens", token, 0, limits::kVocabularyMax - 1));
    to.tokens.push_back(static_cast<int32_t>(token));
  }
  to.log_probs.assign(from.log_probs().begin(), from.log_probs().end());
  for (float log_prob : to.log_probs) {
    if (!(log_prob <= 0.0f) || !std::isfinite(log_prob)) {
      return absl::InvalidArgumentError(
          absl::StrCat("log_probs: expected finite numbers of at most 0, found ", log_prob));
    }
  }
  uint64_t covered = 0;
  for (const v1::VersionRun& run : from.versions()) {
    RETURN_IF_ERROR(CheckRange("versions.tokens", run.tokens(), 1, tokens_max));
    RETURN_IF_ERROR(
        CheckRange("versions.version", run.version(), 0, std::numeric_limits<int64_t>::max()));
    covered += run.tokens();
    to.versions.push_back({PolicyVersion(run.version()), run.tokens()});
  }
  return CheckRange("versions: sum of tokens", static_cast<int64_t>(covered), from.tokens_size(),
                    from.tokens_size());
}

absl::StatusOr<GroupHeader> HeaderFromProto(const v1::GroupHeader& from) {
  RETURN_IF_ERROR(CheckBytes("header.problem_id", from.problem_id().size(), 256));
  RETURN_IF_ERROR(CheckRange("header.prompt_tokens: count", from.prompt_tokens_size(), 1,
                             limits::kContextTokensMax));
  RETURN_IF_ERROR(CheckRange("header.samples", from.samples(), 1, limits::kGroupSamplesMax));
  RETURN_IF_ERROR(
      CheckRange("header.context_tokens", from.context_tokens(), 1, limits::kContextTokensMax));
  RETURN_IF_ERROR(CheckNumber("header.temperature", from.temperature(), 0, 100));
  RETURN_IF_ERROR(CheckRange("header.stage", from.stage(), 0, limits::kStagesMax - 1));
  GroupHeader to;
  to.problem_id = from.problem_id();
  to.prompt_tokens.reserve(from.prompt_tokens_size());
  for (uint32_t token : from.prompt_tokens()) {
    RETURN_IF_ERROR(CheckRange("header.prompt_tokens", token, 0, limits::kVocabularyMax - 1));
    to.prompt_tokens.push_back(static_cast<int32_t>(token));
  }
  to.samples = static_cast<int>(from.samples());
  to.context_tokens = static_cast<int>(from.context_tokens());
  to.temperature = from.temperature();
  to.stage = static_cast<int>(from.stage());
  return to;
}

absl::StatusOr<SampleClose> CloseFromProto(const v1::Close& from) {
  RETURN_IF_ERROR(CheckRange("close.finish", from.finish(), v1::FINISH_REASON_STOP,
                             v1::FINISH_REASON_TRUNCATED));
  RETURN_IF_ERROR(CheckNumber("close.reward", from.reward(), -1e6, 1e6));
  RETURN_IF_ERROR(
      CheckRange("close.total_tokens", from.total_tokens(), 0, limits::kContextTokensMax));
  SampleClose to;
  to.finish = static_cast<FinishReason>(from.finish());
  ASSIGN_OR_RETURN(to.verdict, FromProto(from.verdict()));
  to.reward = from.reward();
  to.total_tokens = from.total_tokens();
  return to;
}

}  // namespace

v1::SampleChunk ToProto(const SampleChunk& chunk) {
  v1::SampleChunk to;
  to.set_group_id(chunk.group.value());
  to.set_lease_id(chunk.lease.value());
  to.set_lease_key(chunk.lease_key);
  to.set_sample(chunk.sample);
  if (chunk.has_header) {
    v1::GroupHeader* header = to.mutable_header();
    header->set_problem_id(chunk.header.problem_id);
    for (int32_t token : chunk.header.prompt_tokens) {
      header->add_prompt_tokens(static_cast<uint32_t>(token));
    }
    header->set_samples(static_cast<uint32_t>(chunk.header.samples));
    header->set_context_tokens(static_cast<uint32_t>(chunk.header.context_tokens));
    header->set_temperature(chunk.header.temperature);
    header->set_stage(static_cast<uint32_t>(chunk.header.stage));
  }
  to.set_offset(chunk.offset);
  TokensToProto(chunk, to);
  if (chunk.has_close) {
    v1::Close* close = to.mutable_close();
    close->set_finish(static_cast<v1::FinishReason>(chunk.close.finish));
    close->set_verdict(ToProto(chunk.close.verdict));
    close->set_reward(chunk.close.reward);
    close->set_total_tokens(chunk.close.total_tokens);
  }
  return to;
}

absl::StatusOr<SampleChunk> FromProto(const v1::SampleChunk& from) {
  RETURN_IF_ERROR(CheckRange("sample", from.sample(), 0, limits::kGroupSamplesMax - 1));
  RETURN_IF_ERROR(CheckRange("offset", from.offset(), 0, limits::kContextTokensMax));
  SampleChunk to;
  to.group = GroupId(from.group_id());
  to.lease = LeaseId(from.lease_id());
  to.lease_key = from.lease_key();
  to.sample = from.sample();
  to.offset = from.offset();
  RETURN_IF_ERROR(TokensFromProto(from, limits::kChunkTokensMax, to));
  if (from.has_header()) {
    to.has_header = true;
    ASSIGN_OR_RETURN(to.header, HeaderFromProto(from.header()));
  }
  if (from.has_close()) {
    to.has_close = true;
    ASSIGN_OR_RETURN(to.close, CloseFromProto(from.close()));
  }
  return to;
}

v1::ChunkAck ToProto(const ChunkAck& ack) {
  v1::ChunkAck to;
  to.set_group_id(ack.group.value());
  to.set_sample(ack.sample);
  to.set_outcome(static_cast<v1::ChunkAck::Outcome>(ack.outcome));
  to.set_next_offset(ack.next_offset);
  to.set_sample_closed(ack.sample_closed);
  to.set_group_complete(ack.group_complete);
  to.set_message(ack.message);
  to.set_learner_incarnation(ack.learner_incarnation);
  return to;
}

absl::StatusOr<ChunkAck> FromProto(const v1::ChunkAck& from) {
  RETURN_IF_ERROR(CheckRange("outcome", from.outcome(), v1::ChunkAck::OUTCOME_ACCEPTED,
                             v1::ChunkAck::OUTCOME_REFUSED));
  RETURN_IF_ERROR(CheckRange("sample", from.sample(), 0, limits::kGroupSamplesMax - 1));
  RETURN_IF_ERROR(CheckRange("next_offset", from.next_offset(), 0, limits::kContextTokensMax));
  ChunkAck to;
  to.group = GroupId(from.group_id());
  to.sample = from.sample();
  to.outcome = static_cast<ChunkOutcome>(from.outcome());
  to.next_offset = from.next_offset();
  to.sample_closed = from.sample_closed();
  to.group_complete = from.group_complete();
  to.message = from.message();
  RETURN_IF_ERROR(CheckBytes("learner_incarnation", from.learner_incarnation().size(), 256));
  to.learner_incarnation = from.learner_incarnation();
  return to;
}

v1::ResumeResponse ToProto(const ResumeReply& reply) {
  v1::ResumeResponse to;
  to.set_state(static_cast<v1::ResumeResponse::State>(reply.state));
  to.set_learner_incarnation(reply.learner_incarnation);
  for (const PartialSample& sample : reply.samples) {
    v1::PartialSample* added = to.add_samples();
    added->set_sample(sample.sample);
    TokensToProto(sample, *added);
    added->set_closed(sample.closed);
  }
  return to;
}

absl::StatusOr<ResumeReply> FromProto(const v1::ResumeResponse& from) {
  RETURN_IF_ERROR(CheckRange("state", from.state(), v1::ResumeResponse::STATE_UNKNOWN,
                             v1::ResumeResponse::STATE_ENDED));
  RETURN_IF_ERROR(CheckRange("samples: count", from.samples_size(), 0, limits::kGroupSamplesMax));
  ResumeReply to;
  to.state = static_cast<ResumeState>(from.state());
  RETURN_IF_ERROR(CheckBytes("learner_incarnation", from.learner_incarnation().size(), 256));
  to.learner_incarnation = from.learner_incarnation();
  for (const v1::PartialSample& sample : from.samples()) {
    RETURN_IF_ERROR(CheckRange("samples.sample", sample.sample(), 0, limits::kGroupSamplesMax - 1));
    PartialSample added;
    added.sample = sample.sample();
    RETURN_IF_ERROR(TokensFromProto(sample, limits::kContextTokensMax, added));
    added.closed = sample.closed();
    to.samples.push_back(std::move(added));
  }
  return to;
}

}  // namespace crescendo
