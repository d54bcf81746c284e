#include "services/learner/chunk_checks.h"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/base/limits.h"

namespace crescendo {

namespace {

// What rounding may leave of a log-probability of 0.
constexpr float kLogProbMax = 1e-5f;

}  // namespace

absl::Status RefuseField(absl::string_view field, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat(field, ": ", why));
}

absl::Status CheckHeader(const GroupHeader& header, int vocabulary_size) {
  if (header.samples < 1 || header.samples > limits::kGroupSamplesMax) {
    return RefuseField("header.samples", absl::StrCat("expected 1 to ", limits::kGroupSamplesMax,
                                                      ", found ", header.samples));
  }
  if (header.context_tokens < 1 || header.context_tokens > limits::kContextTokensMax) {
    return RefuseField("header.context_tokens",
                       absl::StrCat("expected 1 to ", limits::kContextTokensMax, ", found ",
                                    header.context_tokens));
  }
  if (!(header.temperature > 0) || !std::isfinite(header.temperature)) {
    return RefuseField("header.temperature",
                       absl::StrCat("expected a number above 0, found ", header.temperature));
  }
  if (header.prompt_tokens.empty() ||
      header.prompt_tokens.size() > static_cast<size_t>(limits::kContextTokensMax)) {
    return RefuseField("header.prompt_tokens",
                       absl::StrCat("expected 1 to ", limits::kContextTokensMax, ", found ",
                                    header.prompt_tokens.size()));
  }
  for (size_t i = 0; i < header.prompt_tokens.size(); ++i) {
    const int32_t token = header.prompt_tokens[i];
    if (token < 0 || token >= vocabulary_size) {
      return RefuseField(absl::StrCat("header.prompt_tokens[", i, "]"),
                         absl::StrCat("expected a token of the vocabulary, 0 to ",
                                      vocabulary_size - 1, ", found ", token));
    }
  }
  return absl::OkStatus();
}

// The chunk against its group's header.
absl::Status CheckBounds(const SampleChunk& chunk, const GroupHeader& header) {
  if (chunk.sample >= static_cast<uint32_t>(header.samples)) {
    return RefuseField("sample", absl::StrCat("expected 0 to ", header.samples - 1,
                                              " (header.samples), found ", chunk.sample));
  }
  const uint64_t end = uint64_t{chunk.offset} + chunk.tokens.size();
  if (end > static_cast<uint64_t>(header.context_tokens)) {
    return RefuseField("offset",
                       absl::StrCat("tokens reach up to ", end, ", but the context limit is ",
                                    header.context_tokens));
  }
  return absl::OkStatus();
}

absl::Status CheckClose(const SampleClose& close) {
  if (close.finish != FinishReason::kStop && close.finish != FinishReason::kTruncated) {
    return RefuseField("close.finish", "expected STOP or TRUNCATED, found none");
  }
  if (close.verdict == Verdict::kUnspecified) {
    return RefuseField("close.verdict", "expected CORRECT, INCORRECT or UNDECIDED, found none");
  }
  if (!std::isfinite(close.reward)) {
    return RefuseField("close.reward",
                       absl::StrCat("expected a finite number, found ", close.reward));
  }
  if (close.total_tokens == 0)
    return RefuseField("close.total_tokens", "expected 1 or more, found 0");
  return absl::OkStatus();
}

absl::Status CheckTokens(const SampleChunk& chunk, int vocabulary_size, PolicyVersion published) {
  const size_t count = chunk.tokens.size();
  if (count > static_cast<size_t>(limits::kChunkTokensMax)) {
    return RefuseField(
        "tokens", absl::StrCat("expected at most ", limits::kChunkTokensMax, ", found ", count));
  }
  if (chunk.log_probs.size() != count) {
    return RefuseField("log_probs", absl::StrCat("expected one for each of ", count,
                                                 " tokens, found ", chunk.log_probs.size()));
  }
  for (size_t i = 0; i < count; ++i) {
    if (chunk.tokens[i] < 0 || chunk.tokens[i] >= vocabulary_size) {
      return RefuseField(absl::StrCat("tokens[", i, "]"),
                         absl::StrCat("expected a token of the vocabulary, 0 to ",
                                      vocabulary_size - 1, ", found ", chunk.tokens[i]));
    }
    if (!std::isfinite(chunk.log_probs[i]) || chunk.log_probs[i] > kLogProbMax) {
      return RefuseField(
          absl::StrCat("log_probs[", i, "]"),
          absl::StrCat("expected a finite number of at most 0, found ", chunk.log_probs[i]));
    }
  }
  uint64_t in_runs = 0;
  for (size_t i = 0; i < chunk.versions.size(); ++i) {
    const VersionRun& run = chunk.versions[i];
    const std::string field = absl::StrCat("versions[", i, "]");
    if (run.tokens == 0) return RefuseField(field, "expected a run of 1 or more tokens, found 0");
    if (run.version.value() < 0 || run.version > published) {
      return RefuseField(field, absl::StrCat("expected a published version, 0 to ",
                                             published.value(), ", found ", run.version.value()));
    }
    in_runs += run.tokens;
  }
  if (in_runs != count) {
    return RefuseField("versions", absl::StrCat("expected runs that add up to ", count,
                                                " tokens, found ", in_runs));
  }
  return absl::OkStatus();
}

}  // namespace crescendo
