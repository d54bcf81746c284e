#include "common/model/log_prob.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "common/model/gradient_sink.h"
#include "common/model/kernel_dispatch.h"
#include "common/model/kernels.h"
#include "common/model/linear.h"
#include "common/model/log_prob_aten.h"
#include "common/model/parallel.h"

namespace crescendo {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Logits of a chunk: 16 MB at most, 64 rows at least (so that the products stay efficient).
constexpr int64_t kChunkLogits = 4 << 20;
// With gradients, whose sum over the chunks is passed over once a chunk: 32 MB.
constexpr int64_t kGradientLogits = 8 << 20;
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

// What a row of fp32 logits says of its target; `sums` is of kRowSums.
void ReadRow(const float* x, int64_t vocab, int64_t target, float inverse, bool want_entropy,
             float* log_prob, float* entropy, double* sums) {
  const auto& table = kernels::Kernels();
  const float max = table.row_max(x, vocab);
  const auto s = table.softmax_sums(x, vocab, max, inverse, nullptr, want_entropy);
  *log_prob =
      static_cast<float>(static_cast<double>((x[target] - max) * inverse) - std::log(s.exp));
  sums[0] = max;
  sums[1] = s.exp;
  sums[2] = want_entropy ? std::log(s.exp) - s.z_exp / s.exp : 0;
  if (want_entropy) *entropy = static_cast<float>(sums[2]);
}

// The row becomes the gradient of d_log_prob log p[target] + d_entropy H by its logits:
// d log p[y] / d logits = (onehot(y) - p) / temperature, d H / d logits = -p (log p + H) /
// temperature.
void RowToGradient(float* x, int64_t vocab, int64_t target, float inverse, const double* sums,
                   float d_log_prob, float d_entropy) {
  const auto& table = kernels::Kernels();
  const float scale = d_log_prob * inverse;
  const auto max = static_cast<float>(sums[0]);
  if (d_entropy == 0) {
    table.log_prob_gradient(x, vocab, max, inverse, sums[1], scale);
  } else {
    const double e = static_cast<double>(d_entropy) * inverse;
    table.exp_times_line(x, vocab, max, inverse,
                         static_cast<float>((-scale - e * (sums[2] - std::log(sums[1]))) / sums[1]),
                         static_cast<float>(-e / sums[1]));
  }
  x[target] += scale;
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
  for (int64_t first = 0; first < tokens; first += chunk) {
    const int64_t rows = std::min(chunk, tokens - first);
    const at::Tensor logits = ChunkLogits(hidden, head, first, rows, deterministic);
    ParallelRange(at::get_num_threads(), rows, RowGrain(vocab), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const int64_t t = first + r;
        double unused[kRowSums];
        ReadRow(logits.data_ptr<float>() + r * vocab, vocab, ids[t], inverse, want_entropy,
                out.log_prob.data_ptr<float>() + t,
                want_entropy ? out.entropy.data_ptr<float>() + t : nullptr,
                sums != nullptr ? sums->values.data_ptr<double>() + kRowSums * t : unused);
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

  // A chunk at a time.
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
    for (int64_t first = 0; first < tokens; first += chunk) {
      const int64_t rows = std::min(chunk, tokens - first);
      at::Tensor logits = ChunkLogits(hidden, head, first, rows, deterministic);
      ParallelRange(at::get_num_threads(), rows, RowGrain(vocab), [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r) {
          const int64_t t = first + r;
          RowToGradient(logits.data_ptr<float>() + r * vocab, vocab, ids[t], inverse,
                        sums + kRowSums * t, d_log_prob[t],
                        d_entropy == nullptr ? 0 : d_entropy[t]);
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

// The same in ATen's operations. The head's gradient does not go through the graph.
struct AtenLogProbFunction : torch::autograd::Function<AtenLogProbFunction> {
  static variable_list forward(AutogradContext* ctx, const at::Tensor& hidden,
                               const at::Tensor& head, const at::Tensor& targets,
                               double temperature, bool want_entropy) {
    TokenLogProbs out = AtenLogProb(hidden, head, targets, temperature, want_entropy);
    ctx->save_for_backward({hidden, head, targets});
    ctx->saved_data["temperature"] = temperature;
    if (!want_entropy) return {out.log_prob};
    return {out.log_prob, out.entropy};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor d =
        grads[0].defined() ? grads[0].contiguous() : at::zeros({saved[0].size(0)}, at::kFloat);
    const at::Tensor d_e =
        grads.size() > 1 && grads[1].defined() ? grads[1].contiguous() : at::Tensor();
    const auto copy = [](const at::Tensor& from, int64_t begin, int64_t end, float* to) {
      std::copy(from.data_ptr<float>() + begin, from.data_ptr<float>() + end, to);
    };
    const at::Tensor d_hidden = at::empty_like(saved[0]);
    (void)AtenLogProbBackward(
        saved[0], saved[1], saved[2], ctx->saved_data["temperature"].toDouble(), d_e.defined(),
        [&](int64_t begin, int64_t end, const float*, const float*, float* d_log_prob,
            float* d_entropy) {
          copy(d, begin, end, d_log_prob);
          if (d_e.defined()) copy(d_e, begin, end, d_entropy);
        },
        d_hidden);
    return {d_hidden, at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

// Logits of one chunk at a time in memory that all chunks share, and the products that their
// gradient is part of.
class ChunkProducts {
 public:
  ChunkProducts(const at::Tensor& hidden, const at::Tensor& head, int64_t rows_max,
                bool deterministic)
      : hidden_(hidden), head_(head.detach()), weight_(head), deterministic_(deterministic) {
    logits_ = at::empty({rows_max, head.size(0)}, at::kFloat);
    if (hidden.scalar_type() != at::kFloat) {
      rounded_ = at::empty({rows_max, head.size(0)}, hidden.options());
    }
  }

  // fp32 logits of rows [first, first + rows), valid until the next call.
  float* Logits(int64_t first, int64_t rows) {
    at::Tensor out = (rounded_.defined() ? rounded_ : logits_).narrow(0, 0, rows);
    LinearInto(hidden_.narrow(0, first, rows), head_.t(), at::Tensor(), out, false, deterministic_);
    if (rounded_.defined()) {
      Convert(rows, [&](int64_t begin, int64_t n) {
        kernels::Kernels().bf16_to_f32(Data<kernels::Bf16>(rounded_) + begin,
                                       Data<float>(logits_) + begin, n);
      });
    }
    return logits_.data_ptr<float>();
  }

  // From the gradient by the logits, in the place of the logits.
  void Backward(int64_t first, int64_t rows, const at::Tensor& d_hidden) {
    if (rounded_.defined()) {
      Convert(rows, [&](int64_t begin, int64_t n) {
        kernels::Kernels().f32_to_bf16(Data<float>(logits_) + begin,
                                       Data<kernels::Bf16>(rounded_) + begin, n);
      });
    }
    const at::Tensor d = (rounded_.defined() ? rounded_ : logits_).narrow(0, 0, rows);
    at::Tensor part = d_hidden.narrow(0, first, rows);
    at::mm_out(part, d, head_);
    if (!weight_.requires_grad()) return;
    const at::Tensor x = hidden_.narrow(0, first, rows);
    if (!rounded_.defined()) return AddWeightGradient({weight_}, d, x);
    // Block by block, so that the rounded product stays in the cache.
    const at::Tensor grad = GradientOf(weight_);
    for (int64_t v = 0; v < head_.size(0); v += kVocabBlock) {
      const int64_t n = std::min(kVocabBlock, head_.size(0) - v);
      AddWidened(at::mm(d.narrow(1, v, n).t(), x), grad.narrow(0, v, n));
    }
  }

 private:
  static constexpr int64_t kVocabBlock = 8192;

  template <typename F>
  void Convert(int64_t rows, const F& fn) const {
    const int64_t vocab = head_.size(0);
    ParallelRange(at::get_num_threads(), rows, RowGrain(vocab),
                  [&](int64_t begin, int64_t end) { fn(begin * vocab, (end - begin) * vocab); });
  }

  const at::Tensor hidden_, head_, weight_;
  const bool deterministic_;
  at::Tensor logits_, rounded_;
};

}  // namespace

TokenLogProbs TokenLogProbBackward(const at::Tensor& hidden, const at::Tensor& head_weight,
                                   const at::Tensor& targets, double temperature, bool want_entropy,
                                   bool deterministic, const RowSlopes& slopes,
                                   const at::Tensor& d_hidden, bool aten) {
  TORCH_CHECK(temperature > 0.0, "log-prob: expected a temperature above 0, found ", temperature);
  CheckTargets(hidden, head_weight, targets);
  if (aten) {
    return AtenLogProbBackward(hidden, head_weight, targets, temperature, want_entropy, slopes,
                               d_hidden);
  }
  const int64_t tokens = hidden.size(0);
  const int64_t vocab = head_weight.size(0);
  const auto inverse = static_cast<float>(1.0 / temperature);
  const int64_t* ids = targets.data_ptr<int64_t>();
  TokenLogProbs out;
  out.log_prob = at::empty({tokens}, at::kFloat);
  if (want_entropy) out.entropy = at::empty({tokens}, at::kFloat);
  const int64_t chunk =
      std::max<int64_t>(1, std::min(tokens, std::max<int64_t>(64, kGradientLogits / vocab)));
  ChunkProducts products(hidden, head_weight, chunk, deterministic);
  std::vector<double> sums(static_cast<size_t>(kRowSums * chunk));
  std::vector<float> d_log_prob(static_cast<size_t>(chunk)), d_entropy(d_log_prob.size());
  float* log_prob = out.log_prob.data_ptr<float>();
  float* entropy = want_entropy ? out.entropy.data_ptr<float>() : nullptr;
  for (int64_t first = 0; first < tokens; first += chunk) {
    const int64_t rows = std::min(chunk, tokens - first);
    float* logits = products.Logits(first, rows);
    const auto each_row = [&](const auto& fn) {
      ParallelRange(at::get_num_threads(), rows, RowGrain(vocab), [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r) {
          fn(static_cast<size_t>(r), logits + r * vocab, ids[first + r]);
        }
      });
    };
    each_row([&](size_t r, const float* x, int64_t target) {
      ReadRow(x, vocab, target, inverse, want_entropy, log_prob + first + r,
              want_entropy ? entropy + first + r : nullptr, &sums[kRowSums * r]);
    });
    std::fill(d_log_prob.begin(), d_log_prob.end(), 0.0f);
    std::fill(d_entropy.begin(), d_entropy.end(), 0.0f);
    slopes(first, first + rows, log_prob + first, want_entropy ? entropy + first : nullptr,
           d_log_prob.data(), want_entropy ? d_entropy.data() : nullptr);
    each_row([&](size_t r, float* x, int64_t target) {
      RowToGradient(x, vocab, target, inverse, &sums[kRowSums * r], d_log_prob[r], d_entropy[r]);
    });
    products.Backward(first, rows, d_hidden);
  }
  return out;
}

TokenLogProbs TokenLogProb(const at::Tensor& hidden, const at::Tensor& head_weight,
                           const at::Tensor& targets, double temperature, bool want_entropy,
                           bool deterministic, bool aten) {
  TORCH_CHECK(temperature > 0.0, "log-prob: expected a temperature above 0, found ", temperature);
  CheckTargets(hidden, head_weight, targets);
  const bool graph =
      at::GradMode::is_enabled() && (hidden.requires_grad() || head_weight.requires_grad());
  if (aten) {
    if (!graph) {
      return AtenLogProb(hidden.contiguous(), head_weight, targets, temperature, want_entropy);
    }
    const variable_list out = AtenLogProbFunction::apply(hidden.contiguous(), head_weight, targets,
                                                         temperature, want_entropy);
    return {out[0], want_entropy ? out[1] : at::Tensor()};
  }
  if (graph) {
    const variable_list out = LogProbFunction::apply(hidden.contiguous(), head_weight, targets,
                                                     temperature, want_entropy, deterministic);
    return {out[0], want_entropy ? out[1] : at::Tensor()};
  }
  at::NoGradGuard no_grad;
  return Forward(hidden.contiguous(), head_weight, targets, temperature, want_entropy,
                 deterministic, nullptr);
}

}  // namespace crescendo
