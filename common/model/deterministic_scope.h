// While it lives, LibTorch's operations sum in an order that does not depend on the device's
// scheduling: for those that would not otherwise (index_add and flash attention's backward pass on
// CUDA). Not for a scope with matrix products, of which LibTorch then asks for settings of cuBLAS.
//
// Thread rule: the setting is the process's; one thread at a time.
#ifndef CRESCENDO_COMMON_MODEL_DETERMINISTIC_SCOPE_H_
#define CRESCENDO_COMMON_MODEL_DETERMINISTIC_SCOPE_H_

#include <ATen/Context.h>

namespace crescendo {

class DeterministicScope {
 public:
  DeterministicScope()
      : algorithms_(context_.deterministicAlgorithms()),
        warn_only_(context_.deterministicAlgorithmsWarnOnly()),
        fill_(context_.deterministicFillUninitializedMemory()) {
    context_.setDeterministicAlgorithms(true, false);
    context_.setDeterministicFillUninitializedMemory(false);
  }
  ~DeterministicScope() {
    context_.setDeterministicAlgorithms(algorithms_, warn_only_);
    context_.setDeterministicFillUninitializedMemory(fill_);
  }
  DeterministicScope(const DeterministicScope&) = delete;
  DeterministicScope& operator=(const DeterministicScope&) = delete;

 private:
  at::Context& context_ = at::globalContext();
  const bool algorithms_, warn_only_, fill_;
};

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_MODEL_DETERMINISTIC_SCOPE_H_
