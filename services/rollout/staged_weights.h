// A whole, verified policy version as it came over the wire: on its way into the model.
#ifndef CRESCENDO_SERVICES_ROLLOUT_STAGED_WEIGHTS_H_
#define CRESCENDO_SERVICES_ROLLOUT_STAGED_WEIGHTS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "common/base/ids.h"

namespace crescendo {

struct StagedTensor {
  std::string name;   // Hugging Face's
  std::string dtype;  // F32 or BF16
  std::vector<int64_t> shape;
  uint64_t offset = 0;  // into bytes
  uint64_t bytes = 0;
};

// Invariant: each tensor lies within `bytes` (never null), and all chunks of it had their checksum.
struct StagedWeights {
  PolicyVersion version;
  std::string learner_incarnation;
  std::vector<StagedTensor> tensors;
  std::shared_ptr<const std::string> bytes;  // shared with the worker's relay
};

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_ROLLOUT_STAGED_WEIGHTS_H_
