// The optimizer's settings, and its inner loops over plain arrays and without LibTorch, so that
// they can be compiled for speed by themselves. Thread-safe: pure but for what they write.
#ifndef CRESCENDO_SERVICES_LEARNER_ADAMW_KERNEL_H_
#define CRESCENDO_SERVICES_LEARNER_ADAMW_KERNEL_H_

#include <cstdint>

namespace crescendo {

struct AdamWOptions {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0.01;
  bool aten = false;  // AdamW: with LibTorch's fused step also on the CPU, as on a device
};

struct AdamWConstants {
  float grad_scale;
  float decay;  // 1 - learning_rate x weight_decay
  float one_minus_beta1;
  float beta2;
  float one_minus_beta2;
  float step_size;              // learning_rate / (1 - beta1^t)
  float bias_correction2_sqrt;  // sqrt(1 - beta2^t)
  float epsilon;
};

// The arithmetic of torch's _single_tensor_adamw, element by element. The arrays do not overlap.
void AdamWStep(const AdamWConstants& constants, int64_t count, const float* grad, float* weight,
               float* exp_avg, float* exp_avg_sq);

// In double, in an order that depends on count alone.
double SumOfSquares(const float* data, int64_t count);

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_LEARNER_ADAMW_KERNEL_H_
