// The policy versions that workers can pull: each one byte string with a manifest, cut into chunks
// with a CRC-32C each (proto/crescendo/v1/weights.proto), and, where the version before is held and
// little has changed, as deltas of its chunks (common/base/word_delta.h).
//
// Thread-safe. A version that a reader holds stays whole when the store drops it; its memory goes
// with its last reader.
#ifndef CRESCENDO_SERVICES_LEARNER_WEIGHT_STORE_H_
#define CRESCENDO_SERVICES_LEARNER_WEIGHT_STORE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "common/base/ids.h"
#include "services/learner/tensor_data.h"

namespace crescendo {

struct PublishedTensor {
  std::string name;
  std::string dtype;
  std::vector<int64_t> shape;
  uint64_t offset = 0;  // in the byte string; tensors follow each other without gaps
  uint64_t bytes = 0;
};

// What changed since another version, chunk by chunk.
struct PublishedDelta {
  PolicyVersion base_version;
  std::vector<uint32_t> base_crc32c;  // of the base's chunks
  std::vector<std::string> chunks;    // empty: that chunk has none
  std::vector<uint32_t> crc32c;       // of them
};

struct PublishedWeights {
  PolicyVersion version;
  std::vector<PublishedTensor> tensors;
  std::string bytes;
  uint32_t chunk_bytes = 0;  // of every chunk but the last
  std::vector<uint32_t> chunk_crc32c;
  std::optional<PublishedDelta> delta;  // absent: no chunk has one

  uint32_t chunks() const { return static_cast<uint32_t>(chunk_crc32c.size()); }
  // Requires index < chunks().
  absl::string_view Chunk(uint32_t index) const;
  // Bytes for who holds the version before, over all bytes.
  double DeltaRatio() const;
};

class WeightStore {
 public:
  // Keeps the newest `versions_kept` (>= 1). chunk_bytes_max in [1, limits::kWeightChunkBytes]: a
  // version of less than 128 such chunks has smaller ones, since each worker of a chain is behind
  // the one before by a chunk. `deltas`: versions are published as deltas too; a chunk's is kept
  // when it has at most a quarter of the chunk's bytes.
  WeightStore(int versions_kept, uint32_t chunk_bytes_max, bool deltas = false);

  // Takes a version; one of the same number is replaced. Its delta is that from the version of the
  // number before, where that is held and laid out alike. INVALID_ARGUMENT when there are no bytes
  // or two tensors have one name.
  absl::Status Publish(PolicyVersion version, std::vector<TensorData> tensors);

  // The version, or the newest for one below 0. NOT_FOUND says which are held.
  absl::StatusOr<std::shared_ptr<const PublishedWeights>> Get(PolicyVersion version) const;
  std::vector<PolicyVersion> versions() const;

 private:
  const int versions_kept_;
  const uint32_t chunk_bytes_max_;
  const bool deltas_;
  mutable absl::Mutex mutex_;
  std::map<PolicyVersion, std::shared_ptr<const PublishedWeights>> held_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_LEARNER_WEIGHT_STORE_H_
