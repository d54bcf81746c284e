#include "services/rollout/weight_relay.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/base/crc32c.h"
#include "common/base/status_macros.h"

namespace crescendo {

RelayedVersion::RelayedVersion(v1::WeightManifest manifest)
    : manifest_(std::move(manifest)),
      bytes_(std::make_shared<std::string>(manifest_.total_bytes(), '\0')),
      have_(chunks(), false),
      missing_(chunks()) {}

uint64_t RelayedVersion::Size(uint64_t index) const {
  return std::min<uint64_t>(manifest_.chunk_bytes(), manifest_.total_bytes() - Begin(index));
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
  // Only this thread writes, and nobody reads the place before have_ says so.
  std::memcpy(bytes_->data() + Begin(index), data.data(), data.size());
  absl::MutexLock lock(&mutex_);
  have_[index] = true;
  --missing_;
  return true;
}

bool RelayedVersion::Whole() const {
  absl::MutexLock lock(&mutex_);
  return missing_ == 0;
}

std::pair<uint32_t, uint32_t> RelayedVersion::FirstMissing() const {
  absl::MutexLock lock(&mutex_);
  const auto begin = std::find(have_.begin(), have_.end(), false);
  const auto end = std::find(begin, have_.end(), true);
  return {static_cast<uint32_t>(begin - have_.begin()), static_cast<uint32_t>(end - have_.begin())};
}

void RelayedVersion::GiveUp() {
  absl::MutexLock lock(&mutex_);
  gone_ = true;
}

RelayedVersion::Found RelayedVersion::AwaitChunk(uint32_t index, absl::Duration at_most,
                                                 absl::string_view* data) const {
  CRESCENDO_CHECK(index < chunks());
  absl::MutexLock lock(&mutex_);
  const auto settled = [this, index]()
                           ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return have_[index] || gone_; };
  mutex_.AwaitWithTimeout(absl::Condition(&settled), at_most);
  if (have_[index]) {
    *data = absl::string_view(*bytes_).substr(Begin(index), Size(index));
    return Found::kReady;
  }
  return gone_ ? Found::kGone : Found::kNotYet;
}

std::shared_ptr<const std::string> RelayedVersion::bytes() const {
  CRESCENDO_CHECK(Whole());
  return bytes_;
}

std::shared_ptr<RelayedVersion> WeightRelay::Begin(const v1::WeightManifest& manifest) {
  absl::MutexLock lock(&mutex_);
  if (kept_ != nullptr) {
    if (kept_->manifest().SerializeAsString() == manifest.SerializeAsString()) return kept_;
    if (!kept_->Whole()) kept_->GiveUp();
  }
  kept_ = nullptr;  // before the new one's memory is taken
  kept_ = std::make_shared<RelayedVersion>(manifest);
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
