// A tensor that owns its bytes, without a tensor library: how weights and optimizer state travel
// from the trainer to checkpoints and to the weight store, and back. Plain values; copy with care.
#ifndef CRESCENDO_SERVICES_LEARNER_TENSOR_DATA_H_
#define CRESCENDO_SERVICES_LEARNER_TENSOR_DATA_H_

#include <algorithm>
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

// The elements of a tensor that a rank owns, the tensor taken flat.
struct TensorSlice {
  int64_t begin = 0, size = 0;
};
// Equal parts rounded up; the last ones have fewer, or none.
inline TensorSlice SliceOf(int64_t elements, int rank, int ranks) {
  const int64_t part = (elements + ranks - 1) / ranks;
  const int64_t begin = std::min(elements, rank * part);
  return {begin, std::min(elements, begin + part) - begin};
}

// All that a trainer needs to go on as if it had never stopped; with several ranks a rank's part of
// it: the rank's slice of each tensor, flat, and everything else whole.
struct TrainerState {
  std::vector<TensorData> weights;    // fp32 masters where the model computes in bf16
  std::vector<TensorData> optimizer;  // moments and the like; names are the trainer's own
  std::string extra_json;             // a JSON object: update count, random state, schedules
  int rank = 0, ranks = 1;            // whose part it is
  // With several ranks: shapes of the whole tensors, those of `weights`, then those of `optimizer`.
  std::vector<std::vector<int64_t>> shapes;
};

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_LEARNER_TENSOR_DATA_H_
