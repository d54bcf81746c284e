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

// What the backward pass needs of each row: [T, 2] max and sum, fp64 so that it is exact.
struct RowSums {
  at::Tensor max_and_sum;
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
  if (sums != nullptr) sums->max_and_sum = at::empty({tokens, 2}, at::kDouble);
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
        if (want_entropy) {
          out.entropy.data_ptr<float>()[t] = static_cast<float>(std::log(s.exp) - s.z_exp / s.exp);
        }
        if (sums != nullptr) {
          double* row = sums->max_and_sum.data_ptr<double>() + 2 * t;
          row[0] = max;
          row[1] = s.exp;
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
    ctx->save_for_backward({hidden, head, targets, sums.max_and_sum});
    ctx->saved_data["temperature"] = temperature;
    ctx->saved_data["deterministic"] = deterministic;
    if (!want_entropy) return {out.log_prob};
    ctx->mark_non_differentiable({out.entropy});
    return {out.log_prob, out.entropy};
  }

  // d log p[y] / d logits = (onehot(y) - softmax) / temperature, a chunk at a time.
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor& hidden = saved[0];
    const at::Tensor& head = saved[1];
    const int64_t* ids = saved[2].data_ptr<int64_t>();
    const double* sums = saved[3].data_ptr<double>();
    const auto inverse = static_cast<float>(1.0 / ctx->saved_data["temperature"].toDouble());
    const bool deterministic = ctx->saved_data["deterministic"].toBool();
    const at::Tensor d = grads[0].contiguous();
    const float* d_log_prob = d.data_ptr<float>();
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
          table.log_prob_gradient(x, vocab, static_cast<float>(sums[2 * t]), inverse,
                                  sums[2 * t + 1], scale);
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
