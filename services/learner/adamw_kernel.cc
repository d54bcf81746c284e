#include "services/learner/adamw_kernel.h"

#include <algorithm>
#include <cmath>

namespace crescendo {

void AdamWStep(const AdamWConstants& constants, int64_t count, const float* __restrict grad,
               float* __restrict weight, float* __restrict exp_avg, float* __restrict exp_avg_sq) {
  const AdamWConstants c = constants;
  for (int64_t i = 0; i < count; ++i) {
    const float g = grad[i] * c.grad_scale;
    const float m = exp_avg[i] + (g - exp_avg[i]) * c.one_minus_beta1;
    const float v = exp_avg_sq[i] * c.beta2 + c.one_minus_beta2 * g * g;
    exp_avg[i] = m;
    exp_avg_sq[i] = v;
    const float denominator = std::sqrt(v) / c.bias_correction2_sqrt + c.epsilon;
    weight[i] = weight[i] * c.decay - c.step_size * m / denominator;
  }
}

double SumOfSquares(const float* data, int64_t count) {
  constexpr int64_t kBlock = 4096;
  constexpr int kLanes = 4;
  double sum = 0;
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t end = std::min(count, begin + kBlock);
    double lanes[kLanes] = {0, 0, 0, 0};
    int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes) {
      for (int lane = 0; lane < kLanes; ++lane) {
        const double x = data[i + lane];
        lanes[lane] += x * x;
      }
    }
    for (; i < end; ++i) lanes[0] += static_cast<double>(data[i]) * data[i];
    sum += (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
  }
  return sum;
}

}  // namespace crescendo
