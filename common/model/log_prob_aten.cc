#include "common/model/log_prob_aten.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "common/model/gradient_sink.h"

namespace crescendo {
namespace {

// fp32 logits of a chunk: 32 MB on the CPU, as its kernels take; 1 GB on a device, which wants
// large products and waits for the host once a chunk.
constexpr int64_t kHostLogits = 8 << 20;
constexpr int64_t kDeviceLogits = 256 << 20;
int64_t ChunkRows(const at::Tensor& hidden, int64_t vocab) {
  const int64_t logits = hidden.device().is_cpu() ? kHostLogits : kDeviceLogits;
  return std::max<int64_t>(64, logits / vocab);
}

// One chunk's logits, and what is asked of them. z = (logits - max) / temperature, so that the
// largest is 0.
class Chunk {
 public:
  Chunk(const at::Tensor& x, const at::Tensor& head, const at::Tensor& targets, double temperature)
      : x_(x), head_(head), inverse_(1.0 / temperature), targets_(targets.to(x.device())) {
    z_ = Logits();
    z_.sub_(z_.amax({1}, /*keepdim=*/true)).mul_(inverse_);
    e_ = z_.exp();
    sum_ = e_.sum({1}, /*keepdim=*/true);
    log_sum_ = sum_.log();
  }

  // [rows]
  at::Tensor LogProb() const {
    return z_.gather(1, targets_.unsqueeze(1)).sub_(log_sum_).squeeze(1);
  }
  // H = log sum - sum(e z) / sum
  at::Tensor Entropy() const {
    const at::Tensor dot = at::mul(e_, z_).sum({1}, /*keepdim=*/true);
    return at::sub(log_sum_, dot.div_(sum_)).squeeze(1);
  }

  // From slopes by log-probs and entropies (undefined: 0) to d_x [rows, hidden] and the head's
  // .grad. With p = e / sum: d log p[y] / d logits = (onehot(y) - p) / temperature, d H / d logits
  // = -p (log p + H) / temperature. The chunk is used up.
  void Backward(const at::Tensor& d_log_prob, const at::Tensor& d_entropy, const at::Tensor& d_x) {
    const at::Tensor scale = d_log_prob.mul(inverse_).unsqueeze(1);
    at::Tensor d;
    if (d_entropy.defined()) {
      const at::Tensor bonus = d_entropy.mul(inverse_).unsqueeze(1);
      const at::Tensor entropy = Entropy().unsqueeze(1);
      d = z_.add_(entropy.sub_(log_sum_)).mul_(bonus).add_(scale).mul_(e_).div_(sum_).neg_();
    } else {
      d = e_.mul_(scale.div(sum_).neg_());
    }
    const at::Tensor place = targets_.unsqueeze(1);
    d.scatter_(1, place, d.gather(1, place).add_(scale));
    const at::Tensor narrow = d.to(x_.scalar_type());
    at::Tensor out = d_x;
    at::mm_out(out, narrow, head_.detach());
    AddWeightGradient({head_}, narrow, x_);
  }

 private:
  // fp32; on a device straight from the product's sums, as the rollout's are there.
  at::Tensor Logits() const {
    const at::Tensor head_t = head_.detach().t();
    if (x_.scalar_type() == at::kFloat) return at::mm(x_, head_t);
    if (!x_.device().is_cpu()) return at::mm(x_, head_t, at::kFloat);
    return at::mm(x_, head_t).to(at::kFloat);
  }

  const at::Tensor x_, head_;
  const double inverse_;
  const at::Tensor targets_;
  at::Tensor z_, e_, sum_, log_sum_;  // fp32, the last two [rows, 1]
};

at::Tensor OnDevice(const std::vector<float>& values, int64_t rows, const at::Tensor& like) {
  const at::Tensor host = at::empty({rows}, at::kFloat);
  std::memcpy(host.data_ptr(), values.data(), static_cast<size_t>(rows) * sizeof(float));
  return host.to(like.device());
}

// Calls fn(chunk, first, rows) for each chunk, when its part of `out` is there.
template <typename F>
void EachChunk(const at::Tensor& hidden, const at::Tensor& head, const at::Tensor& targets,
               double temperature, bool want_entropy, TokenLogProbs& out, const F& fn) {
  const int64_t tokens = hidden.size(0);
  out.log_prob = at::empty({tokens}, at::kFloat);
  if (want_entropy) out.entropy = at::empty({tokens}, at::kFloat);
  const int64_t size = ChunkRows(hidden, head.size(0));
  for (int64_t first = 0; first < tokens; first += size) {
    const int64_t rows = std::min(size, tokens - first);
    Chunk chunk(hidden.narrow(0, first, rows), head, targets.narrow(0, first, rows), temperature);
    out.log_prob.narrow(0, first, rows).copy_(chunk.LogProb());
    if (want_entropy) out.entropy.narrow(0, first, rows).copy_(chunk.Entropy());
    fn(chunk, first, rows);
  }
}

}  // namespace

TokenLogProbs AtenLogProb(const at::Tensor& hidden, const at::Tensor& head,
                          const at::Tensor& targets, double temperature, bool want_entropy) {
  const at::NoGradGuard no_grad;
  TokenLogProbs out;
  EachChunk(hidden, head, targets, temperature, want_entropy, out,
            [](const Chunk&, int64_t, int64_t) {});
  return out;
}

TokenLogProbs AtenLogProbBackward(const at::Tensor& hidden, const at::Tensor& head,
                                  const at::Tensor& targets, double temperature, bool want_entropy,
                                  const RowSlopes& slopes, const at::Tensor& d_hidden) {
  const at::NoGradGuard no_grad;
  TokenLogProbs out;
  std::vector<float> d_log_prob, d_entropy;
  EachChunk(hidden, head, targets, temperature, want_entropy, out,
            [&](Chunk& chunk, int64_t first, int64_t rows) {
              d_log_prob.assign(static_cast<size_t>(rows), 0.0f);
              d_entropy.assign(static_cast<size_t>(rows), 0.0f);
              slopes(first, first + rows, out.log_prob.data_ptr<float>() + first,
                     want_entropy ? out.entropy.data_ptr<float>() + first : nullptr,
                     d_log_prob.data(), want_entropy ? d_entropy.data() : nullptr);
              const bool bonus = std::any_of(d_entropy.begin(), d_entropy.end(),
                                             [](float slope) { return slope != 0; });
              chunk.Backward(OnDevice(d_log_prob, rows, hidden),
                             bonus ? OnDevice(d_entropy, rows, hidden) : at::Tensor(),
                             d_hidden.narrow(0, first, rows));
            });
  return out;
}

}  // namespace crescendo
