#include "services/learner/weight_store.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/crc32c.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/base/word_delta.h"

namespace crescendo {
namespace {

constexpr size_t kChunksWanted = 128;
constexpr size_t kChunkBytesMin = 256u << 10;  // what a message costs does not show

// Words of a tensor lie in one chunk, and at the same place of it in every version.
constexpr size_t kChunkAlignment = 4096;
constexpr size_t kDeltaShare = 4;  // a chunk over its largest delta

uint32_t ChunkBytes(size_t total, uint32_t most) {
  const size_t even = (total / kChunksWanted + kChunkAlignment - 1) / kChunkAlignment;
  const size_t wanted = std::max(kChunkBytesMin, even * kChunkAlignment);
  return static_cast<uint32_t>(std::min<size_t>(wanted, most));
}

bool LaidOutAlike(const PublishedWeights& a, const PublishedWeights& b) {
  return a.bytes.size() == b.bytes.size() && a.chunk_bytes == b.chunk_bytes;
}

std::optional<PublishedDelta> DeltaBetween(const PublishedWeights& base,
                                           const PublishedWeights& next) {
  PublishedDelta delta{base.version, base.chunk_crc32c, {}, {}};
  bool any = false;
  for (uint32_t i = 0; i < next.chunks(); ++i) {
    const absl::string_view chunk = next.Chunk(i);
    delta.chunks.push_back(
        EncodeWordDelta(base.Chunk(i), chunk, chunk.size() / kDeltaShare).value_or(""));
    delta.crc32c.push_back(delta.chunks.back().empty() ? 0 : Crc32c(delta.chunks.back()));
    any = any || !delta.chunks.back().empty();
  }
  if (!any) return std::nullopt;
  return delta;
}

}  // namespace

absl::string_view PublishedWeights::Chunk(uint32_t index) const {
  CRESCENDO_CHECK(index < chunks());
  return absl::string_view(bytes).substr(static_cast<size_t>(index) * chunk_bytes, chunk_bytes);
}

double PublishedWeights::DeltaRatio() const {
  if (!delta.has_value()) return 1;
  size_t pulled = 0;
  for (uint32_t i = 0; i < chunks(); ++i) {
    pulled += delta->chunks[i].empty() ? Chunk(i).size() : delta->chunks[i].size();
  }
  return static_cast<double>(pulled) / static_cast<double>(bytes.size());
}

WeightStore::WeightStore(int versions_kept, uint32_t chunk_bytes_max, bool deltas)
    : versions_kept_(versions_kept), chunk_bytes_max_(chunk_bytes_max), deltas_(deltas) {
  CRESCENDO_CHECK(versions_kept >= 1);
  CRESCENDO_CHECK(chunk_bytes_max >= 1 && chunk_bytes_max <= limits::kWeightChunkBytes);
}

absl::Status WeightStore::Publish(PolicyVersion version, std::vector<TensorData> tensors) {
  auto weights = std::make_shared<PublishedWeights>();
  weights->version = version;
  size_t total = 0;
  for (const TensorData& tensor : tensors) total += tensor.bytes.size();
  if (total == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("publishing version ", version.value(), ": the policy has no weights"));
  }
  weights->chunk_bytes = ChunkBytes(total, chunk_bytes_max_);
  weights->bytes.reserve(total);
  absl::flat_hash_set<std::string> names;
  for (TensorData& tensor : tensors) {
    if (!names.insert(tensor.name).second) {
      return absl::InvalidArgumentError(absl::StrCat("publishing version ", version.value(),
                                                     ": tensor ", tensor.name, " stands twice"));
    }
    weights->tensors.push_back(
        {tensor.name, tensor.dtype, tensor.shape, weights->bytes.size(), tensor.bytes.size()});
    weights->bytes.append(tensor.bytes);
    std::string().swap(tensor.bytes);  // never twice in memory as a whole
  }
  for (size_t begin = 0; begin < total; begin += weights->chunk_bytes) {
    weights->chunk_crc32c.push_back(
        Crc32c(absl::string_view(weights->bytes).substr(begin, weights->chunk_bytes)));
  }
  if (deltas_) {
    const auto base = Get(PolicyVersion(version.value() - 1));
    if (version.value() > 0 && base.ok() && LaidOutAlike(**base, *weights)) {
      weights->delta = DeltaBetween(**base, *weights);
    }
  }
  absl::MutexLock lock(&mutex_);
  held_[version] = std::move(weights);
  while (held_.size() > static_cast<size_t>(versions_kept_)) held_.erase(held_.begin());
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<const PublishedWeights>> WeightStore::Get(
    PolicyVersion version) const {
  absl::MutexLock lock(&mutex_);
  if (version.value() < 0 && !held_.empty()) return held_.rbegin()->second;
  const auto it = held_.find(version);
  if (it != held_.end()) return it->second;
  return absl::NotFoundError(absl::StrCat(
      "weights of version ", version.value(), " are not held; held: ",
      held_.empty() ? "none" : absl::StrJoin(held_, ", ", [](std::string* out, const auto& entry) {
        absl::StrAppend(out, entry.first.value());
      })));
}

std::vector<PolicyVersion> WeightStore::versions() const {
  absl::MutexLock lock(&mutex_);
  std::vector<PolicyVersion> out;
  for (const auto& [version, weights] : held_) out.push_back(version);
  return out;
}

}  // namespace crescendo
