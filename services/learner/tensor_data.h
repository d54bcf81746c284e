// A tensor that owns its bytes, without a tensor library: how weights and optimizer state travel
// from the trainer to checkpoints and to the weight store, and back. Plain values; copy with care.
#ifndef CRESCENDO_SERVICES_LEARNER_TENSOR_DATA_H_
#define CRESCENDO_SERVICES_LEARNER_TENSOR_DATA_H_

#include <cstdint>
#include <string>
#include <vector>

namespace crescendo {

struct TensorData {
  std::string name;   // Hugging Face's for weights
  std::string dtype;  // safetensors' name: F32, BF16, F16, I64, U8
  std::vector<int64_t> shape;
  std::string bytes;  // little-endian, row-major, as long as shape and dtype say

  bool operator==(const TensorData&) const = default;
};

// All that a trainer needs to go on as if it had never stopped.
struct TrainerState {
  std::vector<TensorData> weights;    // fp32 masters where the model computes in bf16
  std::vector<TensorData> optimizer;  // moments and the like; names are the trainer's own
  std::string extra_json;             // a JSON object: update count, random state, schedules
};

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_LEARNER_TENSOR_DATA_H_
