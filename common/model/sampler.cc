#include "common/model/sampler.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/model/kernel_dispatch.h"
#include "common/model/kernels.h"
#include "common/model/parallel.h"

namespace crescendo {
namespace {

using kernels::kSumBlock;

struct Row {
  const float* x;
  int64_t n;
  float max;
  float inverse;  // 1 / temperature
};

float LogProb(const Row& row, int64_t token, float inverse, double sum) {
  return static_cast<float>(static_cast<double>((row.x[token] - row.max) * inverse) -
                            std::log(sum));
}

int64_t Greedy(const Row& row) { return std::find(row.x, row.x + row.n, row.max) - row.x; }

// The first token at which the running sum of e^z passes `uniform` of the whole: blocks first, then
// inside one. Rounding can leave nothing at the end: the last token with weight then.
int64_t DrawWhole(const Row& row, const std::vector<float>& block_sums, double sum,
                  double uniform) {
  const double target = uniform * sum;
  double before = 0.0;
  const auto blocks = static_cast<int64_t>(block_sums.size());
  int64_t block = 0;
  for (; block + 1 < blocks; ++block) {
    const double after = before + static_cast<double>(block_sums[static_cast<size_t>(block)]);
    if (after > target) break;
    before = after;
  }
  float weights[kSumBlock];
  for (; block >= 0; --block) {
    const int64_t start = block * kSumBlock;
    const int64_t size = std::min(kSumBlock, row.n - start);
    kernels::Kernels().row_exp(row.x + start, weights, size, row.max, row.inverse);
    int64_t last = -1;
    for (int64_t i = 0; i < size; ++i) {
      before += static_cast<double>(weights[i]);
      // e^-87.3 is the kernels' zero.
      if (weights[i] > 1.3e-38f) last = i;
      if (before > target && last == i) return start + i;
    }
    if (last >= 0) return start + last;
  }
  return Greedy(row);
}

struct Candidate {
  float weight;  // e^z, so that the most probable has 1
  int32_t token;
};

// What is left after top-k, top-p and min-p, most probable first (the lower id among equals).
int64_t DrawTruncated(const Row& row, const RowSampling& params, double uniform,
                      std::vector<float>* weights, std::vector<Candidate>* candidates) {
  weights->resize(static_cast<size_t>(row.n));
  kernels::Kernels().row_exp(row.x, weights->data(), row.n, row.max, row.inverse);
  candidates->clear();
  // Every kept token has at least min_p of the largest weight, which is 1.
  const auto least = static_cast<float>(params.min_p);
  for (int64_t i = 0; i < row.n; ++i) {
    const float weight = (*weights)[static_cast<size_t>(i)];
    if (weight >= least || params.top_p < 1.0) {
      candidates->push_back({weight, static_cast<int32_t>(i)});
    }
  }
  const auto more = [](const Candidate& a, const Candidate& b) {
    return a.weight != b.weight ? a.weight > b.weight : a.token < b.token;
  };
  size_t kept = candidates->size();
  if (params.top_k > 0 && static_cast<size_t>(params.top_k) < kept) {
    kept = static_cast<size_t>(params.top_k);
    std::nth_element(candidates->begin(), candidates->begin() + static_cast<int64_t>(kept) - 1,
                     candidates->end(), more);
  }
  std::sort(candidates->begin(), candidates->begin() + static_cast<int64_t>(kept), more);
  if (params.top_p < 1.0) {
    double all = 0.0;
    for (size_t i = 0; i < kept; ++i) all += static_cast<double>((*candidates)[i].weight);
    double before = 0.0;
    size_t count = 0;
    // A token stays while those before it hold less than top_p.
    while (count < kept && (count == 0 || before < params.top_p * all)) {
      before += static_cast<double>((*candidates)[count++].weight);
    }
    kept = count;
  }
  while (kept > 1 && (*candidates)[kept - 1].weight < least) --kept;
  double sum = 0.0;
  for (size_t i = 0; i < kept; ++i) sum += static_cast<double>((*candidates)[i].weight);
  double before = 0.0;
  for (size_t i = 0; i < kept; ++i) {
    before += static_cast<double>((*candidates)[i].weight);
    if (before > uniform * sum) return (*candidates)[i].token;
  }
  return (*candidates)[kept - 1].token;
}

// Of a temperature; greedy counts as 1.
float InverseOf(double temperature) {
  return temperature == 0.0 ? 1.0f : static_cast<float>(1.0 / temperature);
}

// The most probable tokens by insertion: few are wanted of many.
std::vector<TopToken> TopTokens(const Row& row, int64_t count, double sum) {
  std::vector<TopToken> top;
  const auto wanted = static_cast<size_t>(std::min(count, row.n));
  top.reserve(wanted + 1);
  for (int64_t i = 0; i < row.n && wanted > 0; ++i) {
    if (top.size() == wanted && !(row.x[i] > row.x[top.back().token])) continue;
    auto at = top.end();
    while (at != top.begin() && row.x[i] > row.x[(at - 1)->token]) --at;
    top.insert(at, TopToken{static_cast<int32_t>(i), 0.0f});
    if (top.size() > wanted) top.pop_back();
  }
  for (TopToken& one : top) one.log_prob = LogProb(row, one.token, row.inverse, sum);
  return top;
}

// Memory of one thread.
struct Workspace {
  std::vector<float> logits;  // a row of bf16 logits, widened
  std::vector<float> block_sums;
  std::vector<float> weights;
  std::vector<Candidate> candidates;
};

SampledToken SampleRow(Row row, const RowSampling& params, double uniform, Workspace* space) {
  const auto& table = kernels::Kernels();
  const bool greedy = params.temperature == 0.0;
  row.inverse = InverseOf(params.temperature);
  space->block_sums.resize(static_cast<size_t>((row.n + kSumBlock - 1) / kSumBlock));
  const double sum =
      table.softmax_sums(row.x, row.n, row.max, row.inverse, space->block_sums.data(), false).exp;
  int64_t token;
  if (greedy) {
    token = Greedy(row);
  } else if (params.top_k > 0 || params.top_p < 1.0 || params.min_p > 0.0) {
    token = DrawTruncated(row, params, uniform, &space->weights, &space->candidates);
  } else {
    token = DrawWhole(row, space->block_sums, sum, uniform);
  }
  SampledToken out;
  out.token = static_cast<int32_t>(token);
  out.log_prob = LogProb(row, token, row.inverse, sum);
  out.log_prob_untempered = out.log_prob;
  if (params.top_tokens > 0) out.top = TopTokens(row, params.top_tokens, sum);
  if (row.inverse != 1.0f) {
    const double untempered = table.softmax_sums(row.x, row.n, row.max, 1.0f, nullptr, false).exp;
    out.log_prob_untempered = LogProb(row, token, 1.0f, untempered);
  }
  return out;
}

}  // namespace

absl::Status ValidateRowSampling(const RowSampling& params) {
  const auto fail = [](absl::string_view field, absl::string_view expected, double found) {
    return absl::InvalidArgumentError(
        absl::StrCat("sampling: field '", field, "': expected ", expected, ", found ", found));
  };
  if (!(params.temperature >= 0.0 && params.temperature <= 100.0) ||
      (params.temperature > 0.0 && params.temperature < 1e-3)) {
    return fail("temperature", "0 or a number from 0.001 to 100", params.temperature);
  }
  if (params.top_k < 0) return fail("top_k", "0 (off) or more", params.top_k);
  if (!(params.top_p > 0.0 && params.top_p <= 1.0)) {
    return fail("top_p", "a number above 0 and up to 1", params.top_p);
  }
  if (!(params.min_p >= 0.0 && params.min_p < 1.0)) {
    return fail("min_p", "a number from 0 to below 1", params.min_p);
  }
  if (params.top_tokens < 0 || params.top_tokens > kTopTokensMax) {
    return fail("top_tokens", absl::StrCat("0 to ", kTopTokensMax), params.top_tokens);
  }
  return absl::OkStatus();
}

std::vector<TopToken> MostProbable(absl::Span<const float> logits, double temperature,
                                   int32_t count) {
  const auto n = static_cast<int64_t>(logits.size());
  const auto& table = kernels::Kernels();
  const Row row{logits.data(), n, n > 0 ? table.row_max(logits.data(), n) : NAN,
                InverseOf(temperature)};
  if (!std::isfinite(row.max)) return {};
  const double sum = table.softmax_sums(row.x, n, row.max, row.inverse, nullptr, false).exp;
  return TopTokens(row, count, sum);
}

absl::Status SampleRows(const at::Tensor& logits, absl::Span<const RowSampling> params,
                        absl::Span<const double> uniforms, absl::Span<SampledToken> out) {
  CRESCENDO_CHECK(logits.dim() == 2 && logits.is_contiguous() &&
                  (logits.scalar_type() == at::kFloat || logits.scalar_type() == at::kBFloat16) &&
                  logits.size(1) > 0);
  const int64_t rows = logits.size(0);
  const int64_t vocab = logits.size(1);
  CRESCENDO_CHECK(static_cast<size_t>(rows) == params.size() && params.size() == uniforms.size() &&
                  params.size() == out.size());
  const bool narrow = logits.scalar_type() == at::kBFloat16;
  std::atomic<int64_t> bad_row{-1};
  ParallelRange(at::get_num_threads(), rows, RowGrain(vocab), [&](int64_t begin, int64_t end) {
    Workspace space;
    for (int64_t r = begin; r < end; ++r) {
      if (narrow) {
        space.logits.resize(static_cast<size_t>(vocab));
        kernels::Kernels().bf16_to_f32(Data<kernels::Bf16>(logits) + r * vocab, space.logits.data(),
                                       vocab);
      }
      Row row{narrow ? space.logits.data() : Data<float>(logits) + r * vocab, vocab, 0.0f, 1.0f};
      row.max = kernels::Kernels().row_max(row.x, vocab);
      if (!std::isfinite(row.max)) {
        bad_row.store(r);
        continue;
      }
      const auto i = static_cast<size_t>(r);
      out[i] = SampleRow(row, params[i], uniforms[i], &space);
    }
  });
  if (const int64_t row = bad_row.load(); row >= 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("sampling: row ", row, ": expected finite logits, found NaN or infinity"));
  }
  return absl::OkStatus();
}

}  // namespace crescendo
