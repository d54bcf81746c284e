#include "services/rollout/weight_stage.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "common/base/status_macros.h"

namespace crescendo {

void WeightStage::Stage(std::unique_ptr<StagedWeights> weights) {
  absl::MutexLock lock(&mutex_);
  staged_ = std::move(weights);
}

int64_t WeightStage::bytes() const {
  absl::MutexLock lock(&mutex_);
  return staged_ == nullptr ? 0 : static_cast<int64_t>(staged_->bytes->size());
}

absl::Status WeightStage::SwapInto(
    PolicyVersion version, absl::FunctionRef<absl::Status(absl::Span<const TensorBytes>)> load) {
  std::unique_ptr<StagedWeights> weights;
  {
    absl::MutexLock lock(&mutex_);
    if (staged_ == nullptr || staged_->version != version) {
      return absl::NotFoundError(absl::StrCat(
          "swap to version ", version.value(), ": ",
          staged_ == nullptr ? std::string("no version is staged")
                             : absl::StrCat("version ", staged_->version.value(), " is staged")));
    }
    weights = std::move(staged_);
  }
  std::vector<TensorBytes> tensors;
  tensors.reserve(weights->tensors.size());
  for (const StagedTensor& tensor : weights->tensors) {
    tensors.push_back(
        TensorBytes{tensor.name, tensor.dtype, tensor.shape,
                    absl::string_view(*weights->bytes).substr(tensor.offset, tensor.bytes)});
  }
  return Annotate(load(tensors), absl::StrCat("swap to version ", version.value()));
}

}  // namespace crescendo
