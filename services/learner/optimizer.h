// AdamW with decoupled weight decay (Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2) in
// one fused pass over parameters, gradients and moments, with torch.optim.AdamW's arithmetic and
// order of operations in fp32, and clipping by the global gradient norm.
//
// Parameters that are bf16 get an fp32 master copy here: the step is taken on the copy, and the
// parameter is its rounding. Moments are always fp32. All parameters decay alike, as in torch.
//
// On a device, where masters and moments then are too, the step is LibTorch's fused one: the same
// to rounding.
//
// Invariants: moments and masters have their parameter's shape; steps() counts Step calls.
// Thread rule: one thread at a time; works on the compute threads. Throws what LibTorch throws.
#ifndef CRESCENDO_SERVICES_LEARNER_OPTIMIZER_H_
#define CRESCENDO_SERVICES_LEARNER_OPTIMIZER_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "common/model/policy_model.h"
#include "services/learner/adamw_kernel.h"

namespace crescendo {

class AdamW {
 public:
  // `parameters` are leaves (fp32 or bf16, contiguous, on one device) whose gradients autograd
  // collects; they share storage with the model's and are written in place.
  AdamW(std::vector<NamedTensor> parameters, const AdamWOptions& options);

  // Moves the gradients of bf16 parameters to fp32 sums of its own, so that those of many
  // micro-batches add up exactly enough. Call it after each backward pass; does nothing for fp32.
  void FoldGradients();

  // sqrt of the sum of squares of all gradients, in a fixed order (by parameters in double; within
  // one too, but on a device in fp32). A gradient that
  // is missing counts as 0. Not finite when any element is not.
  double GradNorm() const;

  // One step with the gradients times `grad_scale`. Parameters without a gradient stay.
  void Step(double learning_rate, double grad_scale);
  // Drops the gradients; the next backward pass then stores its own without adding.
  void ZeroGrad();

  int64_t steps() const { return steps_; }
  void set_steps(int64_t steps) { steps_ = steps; }

  // Moments by name: "exp_avg.NAME", "exp_avg_sq.NAME", in parameter order, fp32: the tensors
  // themselves. steps() is the caller's to keep.
  std::vector<NamedTensor> Moments() const;
  // Moments as bytes; views, valid until the next step. Requires parameters on the CPU.
  std::vector<TensorBytes> State() const;
  // Whether LoadState would take them: INVALID_ARGUMENT names the tensor that is missing, unknown
  // or doubled, or whose shape, dtype or length is wrong.
  absl::Status CheckState(absl::Span<const TensorBytes> tensors) const;
  // Overwrites the moments; all are checked before one is written.
  absl::Status LoadState(absl::Span<const TensorBytes> tensors);

  // The weights that steps are taken on, fp32, in parameter order: the parameters themselves, or
  // their masters.
  std::vector<NamedTensor> Masters() const;
  // Rounds masters to parameters, after someone wrote to Masters().
  void ApplyMasters();
  // As after construction: moments 0, steps 0, masters from the parameters.
  void Reset();

 private:
  struct Slot {
    NamedTensor parameter;
    at::Tensor exp_avg;     // fp32
    at::Tensor exp_avg_sq;  // fp32
    at::Tensor master;      // fp32; undefined for an fp32 parameter
    at::Tensor folded;      // fp32 gradient of a bf16 parameter; undefined: none yet
  };
  // fp32 and contiguous, of what was folded and what was not; undefined: there is none.
  static at::Tensor Gradient(const Slot& slot);
  void StepAten(double learning_rate, double grad_scale);

  AdamWOptions options_;
  bool aten_ = false;
  std::vector<Slot> slots_;
  int64_t steps_ = 0;
};

// What gradients are multiplied with so that their norm is at most `grad_clip`: as torch's
// clip_grad_norm_, min(1, grad_clip / (norm + 1e-6)); 1 when grad_clip is 0.
double GradClipScale(double norm, double grad_clip);

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_LEARNER_OPTIMIZER_H_
