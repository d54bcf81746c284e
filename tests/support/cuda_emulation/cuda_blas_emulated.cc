// CudaBlas on the host: plain sums in double, enqueued like a kernel.
#include "common/model/cuda_blas.h"
#include "common/model/cuda_math.cuh"

namespace crescendo {
namespace {

template <typename T>
void Multiply(const MatMulArgs& args) {
  const T* x = static_cast<const T*>(args.x);
  const T* w = static_cast<const T*>(args.w);
  for (int64_t r = 0; r < args.rows; ++r) {
    for (int64_t c = 0; c < args.columns; ++c) {
      double sum = 0.0;
      for (int64_t i = 0; i < args.inner; ++i) {
        sum += static_cast<double>(cuda::Widen(x[r * args.inner + i])) *
               cuda::Widen(w[c * args.inner + i]);
      }
      const int64_t at = r * args.columns + c;
      const auto store = [&](auto* out) {
        if (args.accumulate) sum += cuda::Widen(out[at]);
        cuda::NarrowInto(static_cast<float>(sum), &out[at]);
      };
      if (args.out_dtype == cuda::Dtype::kF32) {
        store(static_cast<float*>(args.out));
      } else {
        store(static_cast<cuda::Bf16*>(args.out));
      }
    }
  }
}

class EmulatedBlas : public CudaBlas {
 public:
  explicit EmulatedBlas(cudaStream_t stream) : stream_(stream) {}
  absl::Status MatMul(const MatMulArgs& args) override {
    cuda_emulation::Enqueue(stream_, [args] {
      if (args.dtype == cuda::Dtype::kF32) {
        Multiply<float>(args);
      } else {
        Multiply<cuda::Bf16>(args);
      }
    });
    return absl::OkStatus();
  }

 private:
  cudaStream_t stream_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<CudaBlas>> CudaBlas::Create(cudaStream_t stream) {
  return std::unique_ptr<CudaBlas>(new EmulatedBlas(stream));
}

}  // namespace crescendo
