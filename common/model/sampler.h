// Draws tokens from logits: temperature, top-k, top-p, min-p, one uniform draw a row. Own CPU code,
// one pass a row where nothing is truncated. Rows are independent: the same logits, parameters and
// draw give the same token in any batch.
//
// Thread rule: thread-safe; runs on the compute threads.
#ifndef CRESCENDO_COMMON_MODEL_SAMPLER_H_
#define CRESCENDO_COMMON_MODEL_SAMPLER_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "common/base/top_token.h"

namespace crescendo {

// Of one row. (domain.h has the SamplingParams of a lease: one program must not have two of the
// name.)
struct RowSampling {
  double temperature = 1.0;  // 0: greedy (the lowest id among equals)
  int32_t top_k = 0;         // 0: off
  double top_p = 1.0;        // in (0, 1]; 1: off
  double min_p = 0.0;        // in [0, 1); 0: off
  int32_t top_tokens = 0;    // how many of the most probable tokens to give, up to kTopTokensMax
};
// INVALID_ARGUMENT names the field.
absl::Status ValidateRowSampling(const RowSampling& params);

struct SampledToken {
  int32_t token = 0;
  // Of the token under softmax(logits / temperature), before any truncation: what the objective
  // needs. With temperature 0 it is that of the untempered distribution.
  float log_prob = 0.0f;
  // Under softmax(logits).
  float log_prob_untempered = 0.0f;
  // Of the distribution of log_prob, the most probable first (the lower id among equals).
  std::vector<TopToken> top = {};
};

// The `count` most probable tokens of softmax(logits / temperature), the most probable first (the
// lower id among equals); temperature 0 counts as 1. What SampledToken::top is. Empty for logits
// that are not finite. Requires count up to kTopTokensMax.
std::vector<TopToken> MostProbable(absl::Span<const float> logits, double temperature,
                                   int32_t count);

// logits [B, V] fp32 or bf16 (computed in fp32), contiguous; params and uniforms (in (0, 1),
// TokenUniform of common/base/rng.h) one a row; out has B places. Truncation goes as in Hugging
// Face: top-k, then top-p over what is left, then min-p relative to the most probable. Requires the
// sizes to agree and valid params. INVALID_ARGUMENT for a row whose logits are not finite (it names
// the row).
absl::Status SampleRows(const at::Tensor& logits, absl::Span<const RowSampling> params,
                        absl::Span<const double> uniforms, absl::Span<SampledToken> out);

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_MODEL_SAMPLER_H_
