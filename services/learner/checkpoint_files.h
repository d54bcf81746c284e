// The files of one checkpoint's folder: a rank's part of the trainer's state, and the manifest.
//
//   one rank:         weights.safetensors         optimizer.safetensors
//   rank r of R:      weights-r-of-R.safetensors  optimizer-r-of-R.safetensors   (r from 0)
//   checkpoint.json   a JSON object, and a last line with its CRC-32C
//
// A rank's files hold its slice of each tensor (SliceOf), flat; the manifest has the shapes. They
// are written by the rank itself, whole under their names or not at all, and read by any rank of
// any number of ranks, each the slices that it needs.
//
// Manifest version 1 is of one rank, 2 of several. Errors of a file that is not as it should be are
// DATA_LOSS and name it. Thread-safe but for the disk; all functions block on it.
#ifndef CRESCENDO_SERVICES_LEARNER_CHECKPOINT_FILES_H_
#define CRESCENDO_SERVICES_LEARNER_CHECKPOINT_FILES_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/formats/json.h"
#include "common/os/env.h"
#include "services/learner/tensor_data.h"

namespace crescendo {

inline constexpr int kCheckpointRanksMax = 4096;

absl::Status DamagedCheckpoint(const std::string& file, absl::string_view what);

// Writes a rank's part, durably. Returns its files as a JSON array of {name, bytes, crc32c}, read
// back from the disk.
absl::StatusOr<std::string> WritePart(FileSystem& files, const std::string& folder,
                                      const TrainerState& part);
// What WritePart returned for a rank, whose files must be in the folder as it says.
absl::StatusOr<Json> CheckPart(FileSystem& files, const std::string& folder,
                               absl::string_view written, int rank, int ranks);

// Adds the sum, writes, syncs.
absl::Status WriteManifest(FileSystem& files, const std::string& folder, const Json& manifest);
// Checked by its sum, format and version.
absl::StatusOr<Json> ReadManifest(FileSystem& files, const std::string& folder);
// Names, shapes and files of the parts as a manifest says them, from rank 0's part and every rank's
// files in order.
void DescribeParts(const TrainerState& part, const std::vector<Json>& files, Json& manifest);

// Whether all files of all ranks have the size and sum that the manifest says.
absl::Status VerifyFiles(FileSystem& files, const std::string& folder, const Json& manifest);
// The part of `rank` of `ranks` of a folder that was verified, whatever number of ranks wrote it.
// Everything of extra_json but the tensors is as in the manifest.
absl::StatusOr<TrainerState> ReadPart(FileSystem& files, const std::string& folder,
                                      const Json& manifest, int rank, int ranks);
// The same for a rank that has not read the manifest.
absl::StatusOr<TrainerState> ReadPart(FileSystem& files, const std::string& folder, int rank,
                                      int ranks);
// The weights alone, whole.
absl::StatusOr<std::vector<TensorData>> ReadWeights(FileSystem& files, const std::string& folder);

absl::StatusOr<std::string> ManifestString(const Json& manifest, const char* name,
                                           const std::string& folder);
// At most 2^62.
absl::StatusOr<int64_t> ManifestCount(const Json& manifest, const char* name,
                                      const std::string& folder);

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_LEARNER_CHECKPOINT_FILES_H_
