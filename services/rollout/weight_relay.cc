#include "services/rollout/weight_relay.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/crc32c.h"
#include "common/base/status_macros.h"
#include "common/base/word_delta.h"

namespace crescendo {

RelayedVersion::RelayedVersion(v1::WeightManifest manifest, ChunkBase base)
    : manifest_(std::move(manifest)),
      base_crc32c_(std::move(base.crc32c)),
      have_(chunks(), false),
      deltas_(chunks()),
      missing_(chunks()) {
  base_crc32c_.resize(chunks());
  for (uint32_t i = 0; i < chunks(); ++i) has_deltas_ = has_deltas_ || TakesDelta(i);
  if (base.own) {
    bytes_ = std::move(base.bytes);
  } else if (has_deltas_) {
    base_ = std::move(base.bytes);
  } else {
    base_crc32c_.assign(chunks(), std::nullopt);
  }
  base.bytes = nullptr;  // before memory is taken
  if (bytes_ == nullptr) bytes_ = std::make_shared<std::string>(manifest_.total_bytes(), '\0');
}

uint64_t RelayedVersion::Size(uint64_t index) const {
  return std::min<uint64_t>(manifest_.chunk_bytes(), manifest_.total_bytes() - Begin(index));
}

bool RelayedVersion::TakesDelta(uint32_t index) const {
  const v1::WeightDelta& delta = manifest_.delta();
  const int i = static_cast<int>(index);
  return manifest_.has_delta() && delta.bytes(i) > 0 && base_crc32c_[index] == delta.base_crc32c(i);
}

// Only the filling thread writes bytes, and nobody reads a chunk before have_ says so.
void RelayedVersion::Have(uint64_t index, absl::string_view delta) {
  absl::MutexLock lock(&mutex_);
  have_[index] = true;
  deltas_[index] = std::string(delta);
  if (--missing_ == 0) base_ = nullptr;
}

bool RelayedVersion::Put(uint64_t index, absl::string_view data) {
  if (index >= chunks() || data.size() != Size(index) ||
      Crc32c(data) != manifest_.chunk_crc32c(static_cast<int>(index))) {
    return false;
  }
  {
    absl::MutexLock lock(&mutex_);
    if (have_[index]) return true;
  }
  std::memcpy(bytes_->data() + Begin(index), data.data(), data.size());
  Have(index, "");
  return true;
}

bool RelayedVersion::PutDelta(uint64_t index, absl::string_view delta) {
  if (index >= chunks()) return false;
  const auto i = static_cast<int>(index);
  {
    absl::MutexLock lock(&mutex_);
    if (have_[index]) return true;
  }
  const bool good = TakesDelta(static_cast<uint32_t>(index)) &&
                    delta.size() == manifest_.delta().bytes(i) &&
                    Crc32c(delta) == manifest_.delta().crc32c(i);
  const absl::Span<char> chunk(bytes_->data() + Begin(index), Size(index));
  if (good && base_ != nullptr) {
    std::memcpy(chunk.data(), base_->data() + Begin(index), chunk.size());
  }
  if (good && ApplyWordDelta(delta, chunk)) {
    if (Crc32c(absl::string_view(chunk.data(), chunk.size())) == manifest_.chunk_crc32c(i)) {
      Have(index, delta);
      return true;
    }
    UndoWordDelta(delta, chunk);
  }
  base_crc32c_[index] = std::nullopt;
  return false;
}

bool RelayedVersion::Whole() const { return missing() == 0; }

size_t RelayedVersion::missing() const {
  absl::MutexLock lock(&mutex_);
  return missing_;
}

// Chunks that have no delta at all fit into either kind of run.
RelayedVersion::Run RelayedVersion::FirstMissing() const {
  absl::MutexLock lock(&mutex_);
  Run run;
  run.begin = static_cast<uint32_t>(std::find(have_.begin(), have_.end(), false) - have_.begin());
  bool known = false;
  for (run.end = run.begin; run.end < chunks() && !have_[run.end]; ++run.end) {
    if (!manifest_.has_delta() || manifest_.delta().bytes(static_cast<int>(run.end)) == 0) continue;
    const bool takes = TakesDelta(run.end);
    if (known && takes != run.deltas) break;
    run.deltas = takes;
    known = true;
  }
  return run;
}

void RelayedVersion::RefuseDeltas() {
  absl::MutexLock lock(&mutex_);
  for (uint32_t i = 0; i < chunks(); ++i) {
    if (!have_[i]) base_crc32c_[i] = std::nullopt;
  }
}

void RelayedVersion::GiveUp() {
  absl::MutexLock lock(&mutex_);
  gone_ = true;
}

RelayedVersion::Found RelayedVersion::AwaitChunk(uint32_t index, bool deltas,
                                                 absl::Duration at_most, Chunk* chunk) const {
  absl::MutexLock lock(&mutex_);
  const auto settled = [this, index]()
                           ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return have_[index] || gone_; };
  mutex_.AwaitWithTimeout(absl::Condition(&settled), at_most);
  if (!have_[index]) return gone_ ? Found::kGone : Found::kNotYet;
  chunk->delta = deltas && !deltas_[index].empty();
  chunk->data = chunk->delta ? absl::string_view(deltas_[index])
                             : absl::string_view(*bytes_).substr(Begin(index), Size(index));
  return Found::kReady;
}

std::shared_ptr<const std::string> RelayedVersion::bytes() const {
  CRESCENDO_CHECK(Whole());
  return bytes_;
}

ChunkBase RelayedVersion::TakeBase(bool alone) {
  absl::MutexLock lock(&mutex_);
  ChunkBase base;
  // What a chunk that has not come holds: the bytes of the base, if it is made of them in place.
  const bool in_place = base_ == nullptr;
  for (uint32_t i = 0; i < chunks(); ++i) {
    if (have_[i]) {
      base.crc32c.push_back(manifest_.chunk_crc32c(static_cast<int>(i)));
    } else {
      base.crc32c.push_back(in_place ? base_crc32c_[i] : std::nullopt);
    }
  }
  base.own = alone && bytes_.use_count() == 1;
  // Others have let go: what they read happened before.
  std::atomic_thread_fence(std::memory_order_acquire);
  base.bytes = base.own ? std::move(bytes_) : bytes_;
  return base;
}

std::shared_ptr<RelayedVersion> WeightRelay::Begin(const v1::WeightManifest& manifest) {
  absl::MutexLock lock(&mutex_);
  if (kept_ != nullptr && kept_->manifest().SerializeAsString() == manifest.SerializeAsString()) {
    return kept_;
  }
  ChunkBase base;
  if (std::shared_ptr<RelayedVersion> last = std::move(kept_); last != nullptr) {
    if (!last->Whole()) last->GiveUp();
    const v1::WeightManifest& before = last->manifest();
    if (before.total_bytes() == manifest.total_bytes() &&
        before.chunk_bytes() == manifest.chunk_bytes()) {
      base = last->TakeBase(last.use_count() == 1);
    }
  }
  kept_ = std::make_shared<RelayedVersion>(manifest, std::move(base));
  return kept_;
}

std::shared_ptr<const RelayedVersion> WeightRelay::Await(PolicyVersion version,
                                                         absl::string_view learner_incarnation,
                                                         absl::Duration at_most) const {
  absl::MutexLock lock(&mutex_);
  const auto kept = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return kept_ != nullptr &&
           (version.value() < 0 || kept_->manifest().version() == version.value()) &&
           (learner_incarnation.empty() ||
            kept_->manifest().learner_incarnation() == learner_incarnation);
  };
  if (!mutex_.AwaitWithTimeout(absl::Condition(&kept), at_most)) return nullptr;
  return kept_;
}

std::string WeightRelay::Kept() const {
  absl::MutexLock lock(&mutex_);
  return kept_ == nullptr ? "none" : absl::StrCat("version ", kept_->manifest().version());
}

}  // namespace crescendo
