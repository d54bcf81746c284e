#include "common/model/log_prob.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>

#include "common/model/kernel_dispatch.h"
#include "common/model/kernels.h"
#include "common/model/linear.h"
#include "common/model/parallel.h"

namespace crescendo {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Logits of a chunk: 16 MB at most, 64 rows at least (so that the products stay efficient).
constexpr int64_t kChunkLogits = 4 << 20;
int64_t ChunkRows(int64_t vocab) { return std::max<int64_t>(64, kChunkLogits / vocab); }

// fp32 logits of rows [first, first + rows).
at::Tensor ChunkLogits(const at::Tensor& hidden, const at::Tensor& head, int64_t first,
                       int64_t rows, bool deterministic) {
  at::Tensor logits = at::empty({rows, head.size(0)}, hidden.options());
  LinearInto(hidden.narrow(0, first, rows), head.detach().t(), at::Tensor(), logits, false,
             deterministic);
  return logits.scalar_type() == at::kFloat ? logits : logits.to(at::kFloat);
}

// What the backward pass needs of each row: [T, 3] max, sum and entropy, fp64 so that it is exact.
constexpr int64_t kRowSums = 3;
struct RowSums {
  at::Tensor values;
};

void CheckTargets(const at::Tensor& hidden, const at::Tensor& head, const at::Tensor& targets) {
  TORCH_CHECK(hidden.dim() == 2 && head.dim() == 2 && hidden.size(1) == head.size(1),
              "log-prob: hidden ", hidden.sizes(), " does not fit the head ", head.sizes());
  TORCH_CHECK(targets.dim() == 1 && targets.size(0) == hidden.size(0) &&
                  targets.scalar_type() == at::kLong && targets.is_contiguous(),
              "log-prob: expected ", hidden.size(0), " int64 targets");
  const int64_t* ids = targets.data_ptr<int64_t>();
  for (int64_t i = 0; i < targets.size(0); ++i) {
    TORCH_CHECK(ids[i] >= 0 && ids[i] < head.size(0), "log-prob: target ", i, " is ", ids[i],
                ", outside the vocabulary of ", head.size(0));
  }
}

TokenLogProbs Forward(const at::Tensor& hidden, const at::Tensor& head, const at::Tensor& targets,
                      double temperature, bool want_entropy, bool deterministic, RowSums* sums) {
  const int64_t tokens = hidden.size(0);
  const int64_t vocab = head.size(0);
  const auto inverse = static_cast<float>(1.0 / temperature);
  TokenLogProbs out;
  out.log_prob = at::empty({tokens}, at::kFloat);
  if (want_entropy) out.entropy = at::empty({tokens}, at::kFloat);
  if (sums != nullptr) sums->values = at::empty({tokens, kRowSums}, at::kDouble);
  const int64_t chunk = ChunkRows(vocab);
  const int64_t* ids = targets.data_ptr<int64_t>();
  const auto& table = kernels::Kernels();
  for (int64_t first = 0; first < tokens; first += chunk) {
    const int64_t rows = std::min(chunk, tokens - first);
    const at::Tensor logits = ChunkLogits(hidden, head, first, rows, deterministic);
    ParallelRange(at::get_num_threads(), rows, RowGrain(vocab), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const float* x = logits.data_ptr<float>() + r * vocab;
        const int64_t t = first + r;
        const float max = table.row_max(x, vocab);
        const auto s = table.softmax_sums(x, vocab, max, inverse, nullptr, want_entropy);
        out.log_prob.data_ptr<float>()[t] =
            static_cast<float>(static_cast<double>((x[ids[t]] - max) * inverse) - std::log(s.exp));
        const double entropy = want_entropy ? std::log(s.exp) - s.z_exp / s.exp : 0;
        if (want_entropy) out.entropy.data_ptr<float>()[t] = static_cast<float>(entropy);
        if (sums != nullptr) {
          double* row = sums->values.data_ptr<double>() + kRowSums * t;
          row[0] = max;
          row[1] = s.exp;
          row[2] = entropy;
        }
      }
    });
  }
  return out;
}

struct LogProbFunction : torch::autograd::Function<LogProbFunction> {
  static variable_list forward(AutogradContext* ctx, const at::Tensor& hidden,
                               const at::Tensor& head, const at::Tensor& targets,
                               double temperature, bool want_entropy, bool deterministic) {
    RowSums sums;
    TokenLogProbs out =
        Forward(hidden, head, targets, temperature, want_entropy, deterministic, &sums);
    ctx->save_for_backward({hidden, head, targets, sums.values});
    ctx->saved_data["temperature"] = temperature;
    ctx->saved_data["deterministic"] = deterministic;
    if (!want_entropy) return {out.log_prob};
    return {out.log_prob, out.entropy};
  }

  // d log p[y] / d logits = (onehot(y) - p) / temperature and d H / d logits = -p (log p + H) /
  // temperature, a chunk at a time.
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor& hidden = saved[0];
    const at::Tensor& head = saved[1];
    const int64_t* ids = saved[2].data_ptr<int64_t>();
    const double* sums = saved[3].data_ptr<double>();
    const auto inverse = static_cast<float>(1.0 / ctx->saved_data["temperature"].toDouble());
    const bool deterministic = ctx->saved_data["deterministic"].toBool();
    // Of an output that nothing was asked of, autograd hands in no gradient, or one of 0.
    const at::Tensor d =
        grads[0].defined() ? grads[0].contiguous() : at::zeros({hidden.size(0)}, at::kFloat);
    const float* d_log_prob = d.data_ptr<float>();
    const at::Tensor d_e =
        grads.size() > 1 && grads[1].defined() ? grads[1].contiguous() : at::Tensor();
    const float* d_entropy = d_e.defined() ? d_e.data_ptr<float>() : nullptr;
    const int64_t tokens = hidden.size(0);
    const int64_t vocab = head.size(0);
    const int64_t chunk = ChunkRows(vocab);
    at::Tensor d_hidden = at::empty_like(hidden);
    // Summed in fp32 whatever the weights' dtype.
    at::Tensor d_head = at::zeros(head.sizes(), at::kFloat);
    const auto& table = kernels::Kernels();
    for (int64_t first = 0; first < tokens; first += chunk) {
      const int64_t rows = std::min(chunk, tokens - first);
      at::Tensor logits = ChunkLogits(hidden, head, first, rows, deterministic);
      ParallelRange(at::get_num_threads(), rows, RowGrain(vocab), [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r) {
          float* x = logits.data_ptr<float>() + r * vocab;
          const int64_t t = first + r;
          const float scale = d_log_prob[t] * inverse;
          const double* row = sums + kRowSums * t;
          const auto max = static_cast<float>(row[0]);
          if (d_entropy == nullptr || d_entropy[t] == 0) {
            table.log_prob_gradient(x, vocab, max, inverse, row[1], scale);
          } else {
            const double e = static_cast<double>(d_entropy[t]) * inverse;
            table.exp_times_line(
                x, vocab, max, inverse,
                static_cast<float>((-scale - e * (row[2] - std::log(row[1]))) / row[1]),
                static_cast<float>(-e / row[1]));
          }
          x[ids[t]] += scale;
        }
      });
      const at::Tensor d_logits = logits.to(head.scalar_type());
      at::Tensor part = d_hidden.narrow(0, first, rows);
      at::mm_out(part, d_logits, head);
      if (head.scalar_type() == at::kFloat) {
        d_head.addmm_(d_logits.t(), hidden.narrow(0, first, rows));
      } else {
        d_head.add_(at::mm(d_logits.t(), hidden.narrow(0, first, rows)));
      }
    }
    return {d_hidden,    d_head.to(head.scalar_type()), at::Tensor(), at::Tensor(), at::Tensor(),
            at::Tensor()};
  }
};

}  // namespace

TokenLogProbs TokenLogProb(const at::Tensor& hidden, const at::Tensor& head_weight,
                           const at::Tensor& targets, double temperature, bool want_entropy,
                           bool deterministic) {
  TORCH_CHECK(temperature > 0.0, "log-prob: expected a temperature above 0, found ", temperature);
  CheckTargets(hidden, head_weight, targets);
  if (at::GradMode::is_enabled() && (hidden.requires_grad() || head_weight.requires_grad())) {
    const variable_list out = LogProbFunction::apply(hidden.contiguous(), head_weight, targets,
                                                     temperature, want_entropy, deterministic);
    return {out[0], want_entropy ? out[1] : at::Tensor()};
  }
  at::NoGradGuard no_grad;
  return Forward(hidden.contiguous(), head_weight, targets, temperature, want_entropy,
                 deterministic, nullptr);
}

}  // namespace crescendo
