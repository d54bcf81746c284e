#include "common/model/cuda_blas.h"

#include <cublas_v2.h>
#include <dlfcn.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "common/base/status_macros.h"
#include "common/model/cuda_memory.h"

namespace crescendo {
namespace {

// cuBLAS' manual recommends 32 MiB from Hopper on.
constexpr int64_t kWorkspaceBytes = int64_t{32} << 20;
constexpr char kLibrary[] = "libcublas.so.13";

// C++ has an overload of its own beside the C function, whose type this is.
using GemmEx = cublasStatus_t (*)(cublasHandle_t, cublasOperation_t, cublasOperation_t, int, int,
                                  int, const void*, const void*, cudaDataType, int, const void*,
                                  cudaDataType, int, const void*, void*, cudaDataType, int,
                                  cublasComputeType_t, cublasGemmAlgo_t);

// The functions of the library that are used.
struct Functions {
  decltype(&cublasCreate_v2) create = nullptr;
  decltype(&cublasDestroy_v2) destroy = nullptr;
  decltype(&cublasSetStream_v2) set_stream = nullptr;
  decltype(&cublasSetWorkspace_v2) set_workspace = nullptr;
  decltype(&cublasSetMathMode) set_math_mode = nullptr;
  GemmEx gemm = nullptr;
};

template <typename F>
absl::Status Find(void* library, const char* name, F* function) {
  *function = reinterpret_cast<F>(dlsym(library, name));
  if (*function != nullptr) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(kLibrary, ": expected a function ", name));
}

// Stays loaded to the end of the process.
absl::StatusOr<Functions> LoadLibrary() {
  void* library = dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* reason = dlerror();
    return absl::FailedPreconditionError(absl::StrCat("cuBLAS (", kLibrary,
                                                      ", of the CUDA 13 toolkit or the PyPI wheel "
                                                      "nvidia-cublas) cannot be loaded: ",
                                                      reason == nullptr ? "" : reason));
  }
  Functions functions;
  RETURN_IF_ERROR(Find(library, "cublasCreate_v2", &functions.create));
  RETURN_IF_ERROR(Find(library, "cublasDestroy_v2", &functions.destroy));
  RETURN_IF_ERROR(Find(library, "cublasSetStream_v2", &functions.set_stream));
  RETURN_IF_ERROR(Find(library, "cublasSetWorkspace_v2", &functions.set_workspace));
  RETURN_IF_ERROR(Find(library, "cublasSetMathMode", &functions.set_math_mode));
  RETURN_IF_ERROR(Find(library, "cublasGemmEx", &functions.gemm));
  return functions;
}

absl::Status CublasStatus(cublasStatus_t status, absl::string_view operation) {
  if (status == CUBLAS_STATUS_SUCCESS) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(operation, ": cuBLAS error ", static_cast<int>(status)));
}

cudaDataType_t TypeOf(cuda::Dtype dtype) {
  return dtype == cuda::Dtype::kF32 ? CUDA_R_32F : CUDA_R_16BF;
}

class LoadedBlas : public CudaBlas {
 public:
  LoadedBlas(const Functions& functions, CudaMemory workspace)
      : functions_(functions), workspace_(std::move(workspace)) {}
  ~LoadedBlas() override {
    if (handle_ != nullptr) functions_.destroy(handle_);
  }

  absl::Status Start(cudaStream_t stream) {
    RETURN_IF_ERROR(CublasStatus(functions_.create(&handle_), "start cuBLAS"));
    RETURN_IF_ERROR(CublasStatus(functions_.set_stream(handle_, stream), "cuBLAS' stream"));
    // Split sums are added in fp32 too.
    RETURN_IF_ERROR(CublasStatus(
        functions_.set_math_mode(
            handle_, static_cast<cublasMath_t>(CUBLAS_DEFAULT_MATH |
                                               CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION)),
        "cuBLAS' precision"));
    // After the stream: setting that takes the workspace away again.
    return CublasStatus(functions_.set_workspace(handle_, workspace_.data(),
                                                 static_cast<size_t>(workspace_.bytes())),
                        "cuBLAS' workspace");
  }

  absl::Status MatMul(const MatMulArgs& args) override {
    if (args.rows == 0) return absl::OkStatus();
    const float one = 1.0f;
    const float beta = args.accumulate ? 1.0f : 0.0f;
    // In cuBLAS' column-major terms: out^T [columns, rows] = (w^T)^T x^T.
    const auto columns = static_cast<int>(args.columns);
    const auto inner = static_cast<int>(args.inner);
    const cublasStatus_t status = functions_.gemm(
        handle_, CUBLAS_OP_T, CUBLAS_OP_N, columns, static_cast<int>(args.rows), inner, &one,
        args.w, TypeOf(args.dtype), inner, args.x, TypeOf(args.dtype), inner, &beta, args.out,
        TypeOf(args.out_dtype), columns, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
    if (status == CUBLAS_STATUS_SUCCESS) return absl::OkStatus();
    return CublasStatus(status, absl::StrCat("matrix product [", args.rows, ", ", args.inner,
                                             "] x [", args.columns, ", ", args.inner, "]^T"));
  }

 private:
  Functions functions_;
  CudaMemory workspace_;
  cublasHandle_t handle_ = nullptr;
};

}  // namespace

absl::StatusOr<std::unique_ptr<CudaBlas>> CudaBlas::Create(cudaStream_t stream) {
  ASSIGN_OR_RETURN(const Functions functions, LoadLibrary());
  ASSIGN_OR_RETURN(CudaMemory workspace,
                   CudaMemory::Allocate(CudaMemory::Kind::kDevice, kWorkspaceBytes, "cuBLAS"));
  auto blas = std::make_unique<LoadedBlas>(functions, std::move(workspace));
  RETURN_IF_ERROR(blas->Start(stream));
  return std::unique_ptr<CudaBlas>(std::move(blas));
}

}  // namespace crescendo
