// The policy version that this worker pulls or has pulled, for other workers to pull from it:
// chunks are handed on as soon as each has had its checksum, while later ones still arrive. So N
// workers in a chain have a version after bytes / bandwidth plus N chunks. Chunks of the version
// kept before are what deltas are applied to (common/base/word_delta.h), and deltas are handed on
// as they came.
//
// Invariants: only chunks whose size and CRC-32C are those of the manifest are held or handed on,
// whichever way they came; held bytes do not move or change while anybody can read them; at most
// one version is kept, the newest that was begun (a reader keeps an older one alive until it lets
// go).
//
// Memory: a version's bytes once. The next version takes them over and changes them in place; only
// while somebody still reads them (a swap that has not been, a worker that pulls) it has its own
// beside them. Deltas on top, at most a quarter.
//
// Thread-safe; a version is filled by one thread.
#ifndef CRESCENDO_SERVICES_ROLLOUT_WEIGHT_RELAY_H_
#define CRESCENDO_SERVICES_ROLLOUT_WEIGHT_RELAY_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/base/ids.h"
#include "crescendo/v1/weights.pb.h"

namespace crescendo {

// The bytes of an earlier version, cut alike.
struct ChunkBase {
  std::shared_ptr<std::string> bytes;           // null: there is none
  std::vector<std::optional<uint32_t>> crc32c;  // of its chunks; nullopt: what is there is unknown
  bool own = false;                             // nobody reads them: they may be written over
};

class RelayedVersion {
 public:
  // `manifest` was checked (CheckManifest), and so was that `base` is of the same size and chunks.
  explicit RelayedVersion(v1::WeightManifest manifest, ChunkBase base = {});

  const v1::WeightManifest& manifest() const { return manifest_; }
  uint32_t chunks() const { return static_cast<uint32_t>(manifest_.chunk_crc32c_size()); }

  // Takes a chunk. False when there is none of that index or its bytes are not those that the
  // manifest promises: nothing has changed then.
  bool Put(uint64_t index, absl::string_view data);
  // The same with a chunk's delta. After false, too when the base is not what the delta is for,
  // the chunk is one to be asked for as it is.
  bool PutDelta(uint64_t index, absl::string_view delta);
  bool Whole() const;
  size_t missing() const;
  // Chunks [begin, end) that are missing, and whether they can be taken as deltas.
  struct Run {
    uint32_t begin = 0, end = 0;
    bool deltas = false;
    bool operator==(const Run&) const = default;
  };
  // The first run; empty when the version is whole. The filling thread's alone.
  Run FirstMissing() const;
  // No more deltas: all that is missing is to be asked for as it is. The filling thread's alone.
  void RefuseDeltas();
  // Nobody fills it any more.
  void GiveUp();

  // Whether it was begun with a base for its deltas, and so has those to hand on.
  bool has_deltas() const { return has_deltas_; }
  enum class Found { kReady, kNotYet, kGone };
  struct Chunk {
    absl::string_view data;  // valid while the version lives
    bool delta = false;
  };
  // Waits for a chunk. Requires index < chunks(). kReady sets `chunk`: with `deltas` to the delta
  // that it came as, if it did.
  Found AwaitChunk(uint32_t index, bool deltas, absl::Duration at_most, Chunk* chunk) const;
  // All bytes. Requires Whole().
  std::shared_ptr<const std::string> bytes() const;
  // What the next version may be made of; `alone`: nobody else has this one, which is then not used
  // any more.
  ChunkBase TakeBase(bool alone);

 private:
  uint64_t Begin(uint64_t index) const { return index * manifest_.chunk_bytes(); }
  uint64_t Size(uint64_t index) const;
  bool TakesDelta(uint32_t index) const;
  void Have(uint64_t index, absl::string_view delta);

  const v1::WeightManifest manifest_;
  // Where deltas are applied: to chunks of `bytes_` itself, or to copies of those of `base_`.
  std::vector<std::optional<uint32_t>> base_crc32c_;  // the filling thread's
  std::shared_ptr<const std::string> base_;           // the same; null: bytes_, or none
  std::shared_ptr<std::string> bytes_;
  bool has_deltas_ = false;
  mutable absl::Mutex mutex_;
  std::vector<bool> have_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::string> deltas_ ABSL_GUARDED_BY(mutex_);  // of chunks that are there; or empty
  size_t missing_ ABSL_GUARDED_BY(mutex_);
  bool gone_ ABSL_GUARDED_BY(mutex_) = false;
};

class WeightRelay {
 public:
  // The version of this manifest: the one that is kept, with the chunks that it has, or a new one
  // in its place, made of that where it can be. Called by the thread that fills versions, which has
  // let go of those before.
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
