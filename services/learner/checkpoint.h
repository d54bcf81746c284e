// Checkpoints of the learner: everything that a run needs to go on, one folder a step
// ("DIR/step-000017"; checkpoint_files.h says what is in it).
//
// Invariants:
// 1. A folder of that name is whole and durable, or does not exist: it is written as
//    ".writing-step-N-NONCE", synced, renamed, and the parent is synced. With several ranks each
//    writes its own part into it, and rank 0 the manifest when it has heard of all parts, last. A
//    crash of any rank leaves at most a ".writing-" folder, which the next checkpoint removes.
// 2. Load hands out only what was verified: format, run, sizes, checksums of all ranks' files, and
//    every tensor's place. What is torn, flipped, missing or foreign is an error that names the
//    file, and the next older one is tried.
// 3. The last `kept` folders stay; older ones go after a new one is durable.
//
// Not thread-safe; one thread at a time. All functions block on the disk. `files` outlives the
// store, which is rank 0's.
#ifndef CRESCENDO_SERVICES_LEARNER_CHECKPOINT_H_
#define CRESCENDO_SERVICES_LEARNER_CHECKPOINT_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/os/env.h"
#include "services/learner/learner_state.h"
#include "services/learner/ledger.h"
#include "services/learner/tensor_data.h"

namespace crescendo {

struct Checkpoint {
  int64_t steps_trained = 0;
  int stage = 0;         // of the last step: the curriculum's position
  TrainerState trainer;  // rank 0's part
  Ledger ledger;
  std::optional<StepReport> last_report;  // of step steps_trained - 1
  std::string config_toml;                // the effective configuration
  std::string folder;                     // that it was read from
};

struct CheckpointOptions {
  std::string folder;  // made when it is not there
  int kept = 2;        // >= 1
  // Of the run; a checkpoint of another one is foreign.
  std::string run_name;
  uint64_t run_seed = 0;
  int ranks = 1;  // of which this is rank 0; a checkpoint may be of any other number
  // Of this process: no other's files get into what it writes.
  std::string nonce = "";
};

struct LoadedCheckpoint {
  std::optional<Checkpoint> checkpoint;  // nullopt: the folder holds none, begin at the base
  std::vector<absl::Status> skipped;     // newer ones that could not be used, newest first
};

class CheckpointStore {
 public:
  CheckpointStore(FileSystem* files, CheckpointOptions options);

  // Waits for what WritePart returned at each other rank, from rank 1 on.
  using OtherParts = std::function<absl::StatusOr<std::vector<std::string>>()>;

  // With several ranks: makes the folder that all of them write the checkpoint of so many steps
  // into, and returns it. What an earlier one has left is removed.
  absl::StatusOr<std::string> Begin(int64_t steps);
  // Durable when it returns OK. On error nothing that was there before is lost. With several ranks
  // it writes rank 0's part, waits for `others`, and comes after Begin.
  absl::Status Write(const Checkpoint& checkpoint, const OtherParts& others = nullptr);
  // The newest good one. DATA_LOSS, naming every file, when there are some and none is good;
  // UNAVAILABLE when the folder cannot be listed.
  absl::StatusOr<LoadedCheckpoint> LoadNewest();
  // One folder ("DIR/step-000017"), with rank 0's part of options.ranks.
  absl::StatusOr<Checkpoint> Load(const std::string& folder);

 private:
  absl::StatusOr<std::vector<int64_t>> Steps();  // that have a folder, ascending
  absl::Status WriteInto(const std::string& folder, const Checkpoint& checkpoint,
                         const OtherParts& others);
  void Prune(int64_t newest);
  void RemoveUnfinished();
  std::string FolderOf(int64_t steps) const;
  std::string WritingOf(int64_t steps) const;

  FileSystem* files_;
  CheckpointOptions options_;
};

// A step's report as JSON and back; NaN travels as null.
std::string StepReportToJson(const StepReport& report);
absl::StatusOr<StepReport> StepReportFromJson(absl::string_view text, absl::string_view place);

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_LEARNER_CHECKPOINT_H_
