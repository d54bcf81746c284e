// The policy version that this worker pulls or has pulled, for other workers to pull from it:
// chunks are handed on as soon as each has had its checksum, while later ones still arrive. So N
// workers in a chain have a version after bytes / bandwidth plus N chunks.
//
// Invariants: only chunks whose size and CRC-32C are those of the manifest are held or handed on;
// held bytes never move or change; at most one version is kept, the newest that was begun (a reader
// keeps an older one alive until it lets go).
//
// Thread-safe; a version is filled by one thread.
#ifndef CRESCENDO_SERVICES_ROLLOUT_WEIGHT_RELAY_H_
#define CRESCENDO_SERVICES_ROLLOUT_WEIGHT_RELAY_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/base/ids.h"
#include "crescendo/v1/weights.pb.h"

namespace crescendo {

class RelayedVersion {
 public:
  // `manifest` was checked (CheckManifest).
  explicit RelayedVersion(v1::WeightManifest manifest);

  const v1::WeightManifest& manifest() const { return manifest_; }
  uint32_t chunks() const { return static_cast<uint32_t>(manifest_.chunk_crc32c_size()); }

  // Takes a chunk. False when there is none of that index or its bytes are not those that the
  // manifest promises: nothing has changed then.
  bool Put(uint64_t index, absl::string_view data);
  bool Whole() const;
  // The first run of chunks that are missing, [begin, end); empty when it is whole.
  std::pair<uint32_t, uint32_t> FirstMissing() const;
  // Nobody fills it any more.
  void GiveUp();

  enum class Found { kReady, kNotYet, kGone };
  // Waits for a chunk. Requires index < chunks(). kReady sets `data`, valid while this lives.
  Found AwaitChunk(uint32_t index, absl::Duration at_most, absl::string_view* data) const;
  // All bytes. Requires Whole().
  std::shared_ptr<const std::string> bytes() const;

 private:
  uint64_t Begin(uint64_t index) const { return index * manifest_.chunk_bytes(); }
  uint64_t Size(uint64_t index) const;

  const v1::WeightManifest manifest_;
  const std::shared_ptr<std::string> bytes_;
  mutable absl::Mutex mutex_;
  std::vector<bool> have_ ABSL_GUARDED_BY(mutex_);
  size_t missing_ ABSL_GUARDED_BY(mutex_);
  bool gone_ ABSL_GUARDED_BY(mutex_) = false;
};

class WeightRelay {
 public:
  // The version of this manifest: the one that is kept, with the chunks that it has, or a new one
  // in its place.
  std::shared_ptr<RelayedVersion> Begin(const v1::WeightManifest& manifest);
  // Waits until `version` of that incarnation of the learner was begun (below 0: any version,
  // empty: any learner). Null: it was not.
  std::shared_ptr<const RelayedVersion> Await(PolicyVersion version,
                                              absl::string_view learner_incarnation,
                                              absl::Duration at_most) const;
  // What is kept, in words.
  std::string Kept() const;

 private:
  mutable absl::Mutex mutex_;
  std::shared_ptr<RelayedVersion> kept_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_ROLLOUT_WEIGHT_RELAY_H_
