// A checkpoint is whole or absent, and nothing that was damaged is ever loaded.
#include "services/learner/checkpoint.h"

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "catch2/catch.hpp"
#include "common/base/rng.h"
#include "services/learner/checkpoint_files.h"
#include "tests/support/faulty_files.h"
#include "tests/support/temp_dir.h"

namespace crescendo {
namespace {

Checkpoint MakeCheckpoint(int64_t steps) {
  Checkpoint checkpoint;
  checkpoint.steps_trained = steps;
  checkpoint.stage = 1;
  std::string bytes(240, '\0');
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * 7 + steps);
  checkpoint.trainer.weights = {{"w.a", "F32", {6, 10}, bytes}, {"w.b", "F32", {1}, "abcd"}};
  checkpoint.trainer.optimizer = {{"exp_avg.w.a", "F32", {6, 10}, bytes}};
  checkpoint.trainer.extra_json = R"({"updates":34})";
  for (int64_t step = 0; step < steps; ++step) {
    CRESCENDO_CHECK(
        checkpoint.ledger.Record(StepId(step), {GroupId(static_cast<uint64_t>(step))}).ok());
  }
  StepReport report;
  report.step = StepId(steps - 1);
  report.metrics.loss = 0.1;
  report.metrics.grad_norm = std::numeric_limits<double>::quiet_NaN();
  report.metrics.generated_tokens = 123;
  report.metrics.skipped = true;
  report.groups = {{GroupId(static_cast<uint64_t>(steps) - 1), 3, 4, 1, 2, 99, 0.375}};
  checkpoint.last_report = report;
  checkpoint.config_toml = "[run]\nname = \"r\"\n";
  return checkpoint;
}

CheckpointOptions Options(const std::string& folder, int kept = 2) {
  CheckpointOptions options;
  options.folder = folder;
  options.kept = kept;
  options.run_name = "r";
  options.run_seed = 18446744073709551615u;
  return options;
}

void CheckEqual(const Checkpoint& a, const Checkpoint& b) {
  CHECK(a.steps_trained == b.steps_trained);
  CHECK(a.stage == b.stage);
  CHECK(a.trainer.weights == b.trainer.weights);
  CHECK(a.trainer.optimizer == b.trainer.optimizer);
  CHECK(a.trainer.extra_json == b.trainer.extra_json);
  CHECK(a.ledger == b.ledger);
  CHECK(a.config_toml == b.config_toml);
  REQUIRE(a.last_report.has_value() == b.last_report.has_value());
  if (!a.last_report.has_value()) return;
  CHECK(a.last_report->step == b.last_report->step);
  CHECK(a.last_report->metrics.loss == b.last_report->metrics.loss);
  CHECK(std::isnan(b.last_report->metrics.grad_norm));
  CHECK(b.last_report->metrics.generated_tokens == 123);
  CHECK(b.last_report->metrics.skipped);
  REQUIRE(b.last_report->groups.size() == 1);
  CHECK(b.last_report->groups[0].reward == 0.375);
  CHECK(b.last_report->groups[0].tokens == 99);
}

TEST_CASE("What is written comes back, from a real disk, and the last ones are kept") {
  TempDir dir;
  CheckpointStore store(dir.files.get(), Options(dir / "checkpoints"));
  CHECK_FALSE(store.LoadNewest().value().checkpoint.has_value());
  for (int64_t steps = 1; steps <= 4; ++steps) REQUIRE(store.Write(MakeCheckpoint(steps)).ok());
  const LoadedCheckpoint loaded = store.LoadNewest().value();
  REQUIRE(loaded.checkpoint.has_value());
  CHECK(loaded.skipped.empty());
  CheckEqual(*loaded.checkpoint, MakeCheckpoint(4));
  CHECK(dir.files->ListDir(dir / "checkpoints").value() ==
        std::vector<std::string>{"step-000003", "step-000004"});
}

// Lets the disk fail at each operation of `steps` checkpoints, and crash: the newest durable one is
// found, and the run goes on from there. `write` and `write_after`, what a restart writes with, are
// called with (files, store, steps trained).
template <typename Write, typename WriteAfter>
void CheckDiskFailures(int64_t checkpoints, int64_t operations_min, const Write& write,
                       const WriteAfter& write_after) {
  int64_t operations = 0;
  {
    FaultyFiles files(1);
    CheckpointStore store(&files, Options("d"));
    for (int64_t steps = 1; steps <= checkpoints; ++steps) {
      REQUIRE(write(files, store, steps).ok());
    }
    operations = files.operations();
  }
  REQUIRE(operations > operations_min);
  for (int64_t at = 0; at < operations; ++at) {
    INFO("fails after " << at << " operations");
    FaultyFiles files(100 + static_cast<uint64_t>(at));
    CheckpointStore store(&files, Options("d"));
    files.FailAfter(at);
    int64_t durable = 0;
    for (int64_t steps = 1; steps <= checkpoints; ++steps) {
      if (!write(files, store, steps).ok()) break;
      durable = steps;
    }
    files.Crash();
    const absl::StatusOr<LoadedCheckpoint> loaded = store.LoadNewest();
    REQUIRE(loaded.ok());
    const int64_t found = loaded->checkpoint.has_value() ? loaded->checkpoint->steps_trained : 0;
    // The rename may have happened before a later call of the same Write failed.
    CHECK(found >= durable);
    CHECK(found <= durable + 1);
    if (found > 0) CheckEqual(*loaded->checkpoint, MakeCheckpoint(found));
    REQUIRE(write_after(files, store, found + 1).ok());
    CHECK(store.LoadNewest()->checkpoint->steps_trained == found + 1);
    for (const std::string& path : files.Paths()) CHECK_FALSE(absl::StrContains(path, ".writing"));
  }
}

TEST_CASE("The disk fails at any moment: the newest durable checkpoint is what a restart finds") {
  const auto write = [](FaultyFiles&, CheckpointStore& store, int64_t steps) {
    return store.Write(MakeCheckpoint(steps));
  };
  CheckDiskFailures(3, 20, write, write);
}

TEST_CASE("Any flipped bit or cut file is named, and the one before is used") {
  CounterRng rng(3);
  for (const std::string name :
       {"weights.safetensors", "optimizer.safetensors", "checkpoint.json"}) {
    for (int i = 0; i < 60; ++i) {
      FaultyFiles files(7);
      CheckpointStore store(&files, Options("d"));
      REQUIRE(store.Write(MakeCheckpoint(1)).ok());
      REQUIRE(store.Write(MakeCheckpoint(2)).ok());
      std::string& bytes = files.Bytes("d/step-000002/" + name);
      const size_t at = rng.Below(bytes.size());
      if (i % 3 == 0) {
        bytes.resize(at);
      } else {
        bytes[at] = static_cast<char>(bytes[at] ^ (1 << rng.Below(8)));
      }
      INFO(name << (i % 3 == 0 ? " cut at " : " flipped at ") << at);
      const absl::StatusOr<LoadedCheckpoint> loaded = store.LoadNewest();
      REQUIRE(loaded.ok());
      CHECK(loaded->checkpoint->steps_trained == 1);
      REQUIRE(loaded->skipped.size() == 1);
      CHECK(loaded->skipped[0].code() == absl::StatusCode::kDataLoss);
      CHECK(absl::StrContains(loaded->skipped[0].message(), "d/step-000002/" + name));
    }
  }
}

TEST_CASE("A file that is missing, and a folder that is no checkpoint") {
  FaultyFiles files(7);
  CheckpointStore store(&files, Options("d"));
  REQUIRE(store.Write(MakeCheckpoint(1)).ok());
  REQUIRE(store.Write(MakeCheckpoint(2)).ok());
  REQUIRE(files.Remove("d/step-000002/optimizer.safetensors").ok());
  REQUIRE(files.MakeDirs("d/step-000009").ok());
  REQUIRE(files.MakeDirs("d/step-x").ok());
  const LoadedCheckpoint loaded = store.LoadNewest().value();
  CHECK(loaded.checkpoint->steps_trained == 1);
  CHECK(loaded.skipped.size() == 2);
}

TEST_CASE("When none is good the error names every file, and nothing begins silently at the base") {
  FaultyFiles files(7);
  CheckpointStore store(&files, Options("d"));
  REQUIRE(store.Write(MakeCheckpoint(1)).ok());
  files.Bytes("d/step-000001/checkpoint.json").clear();
  const absl::Status status = store.LoadNewest().status();
  CHECK(status.code() == absl::StatusCode::kDataLoss);
  CHECK(absl::StrContains(status.message(), "d/step-000001/checkpoint.json"));
}

TEST_CASE("A checkpoint of another run is foreign") {
  FaultyFiles files(7);
  REQUIRE(CheckpointStore(&files, Options("d")).Write(MakeCheckpoint(1)).ok());
  CheckpointOptions other = Options("d");
  other.run_seed = 2;
  const absl::Status status = CheckpointStore(&files, other).LoadNewest().status();
  CHECK(status.code() == absl::StatusCode::kDataLoss);
  CHECK(absl::StrContains(status.message(), "is of another run"));
}

TEST_CASE("A damaged newer checkpoint is replaced by the step that is trained again") {
  FaultyFiles files(7);
  CheckpointStore store(&files, Options("d"));
  for (int64_t steps = 1; steps <= 3; ++steps) REQUIRE(store.Write(MakeCheckpoint(steps)).ok());
  files.Bytes("d/step-000003/weights.safetensors")[99] ^= 1;
  REQUIRE(store.LoadNewest().value().checkpoint->steps_trained == 2);
  REQUIRE(store.Write(MakeCheckpoint(3)).ok());
  const LoadedCheckpoint loaded = store.LoadNewest().value();
  CHECK(loaded.checkpoint->steps_trained == 3);
  CHECK(loaded.skipped.empty());
}

// Several ranks -----------------------------------------------------------------------------

// A rank's part of a whole state.
TrainerState PartOf(const TrainerState& whole, int rank, int ranks) {
  TrainerState part = whole;
  part.rank = rank;
  part.ranks = ranks;
  for (auto* list : {&part.weights, &part.optimizer}) {
    for (TensorData& tensor : *list) {
      part.shapes.push_back(tensor.shape);
      const size_t width = sizeof(float);
      const TensorSlice own =
          SliceOf(static_cast<int64_t>(tensor.bytes.size() / width), rank, ranks);
      tensor.shape = {own.size};
      tensor.bytes = tensor.bytes.substr(static_cast<size_t>(own.begin) * width,
                                         static_cast<size_t>(own.size) * width);
    }
  }
  return part;
}

absl::Status WriteByRanks(FileSystem& files, CheckpointStore& store, int64_t steps, int ranks) {
  Checkpoint checkpoint = MakeCheckpoint(steps);
  const TrainerState whole = checkpoint.trainer;
  checkpoint.trainer = PartOf(whole, 0, ranks);
  const absl::StatusOr<std::string> folder = store.Begin(steps);
  if (!folder.ok()) return folder.status();
  return store.Write(checkpoint, [&]() -> absl::StatusOr<std::vector<std::string>> {
    std::vector<std::string> written;
    for (int r = 1; r < ranks; ++r) {
      absl::StatusOr<std::string> part = WritePart(files, *folder, PartOf(whole, r, ranks));
      if (!part.ok()) return part.status();
      written.push_back(*std::move(part));
    }
    return written;
  });
}

void CheckPartEqual(const TrainerState& found, const TrainerState& expected) {
  CHECK(found.rank == expected.rank);
  CHECK(found.ranks == expected.ranks);
  CHECK(found.weights == expected.weights);
  CHECK(found.optimizer == expected.optimizer);
  CHECK(found.shapes == expected.shapes);
  CHECK(found.extra_json == expected.extra_json);
}

TEST_CASE("Parts of any number of ranks are cut anew for any other") {
  const TrainerState whole = MakeCheckpoint(2).trainer;
  for (const int wrote : {1, 2, 3, 4, 7}) {
    FaultyFiles files(7);
    CheckpointOptions options = Options("d");
    CheckpointStore store(&files, options);
    REQUIRE(
        (wrote == 1 ? store.Write(MakeCheckpoint(2)) : WriteByRanks(files, store, 2, wrote)).ok());
    CheckEqual(*store.LoadNewest().value().checkpoint, MakeCheckpoint(2));
    CHECK(ReadWeights(files, "d/step-000002").value() == whole.weights);
    for (const int reads : {2, 3, 4, 9}) {
      INFO(wrote << " ranks wrote, " << reads << " read");
      options.ranks = reads;
      CheckPartEqual(CheckpointStore(&files, options).LoadNewest().value().checkpoint->trainer,
                     PartOf(whole, 0, reads));
      for (int r = 1; r < reads; ++r) {
        CheckPartEqual(ReadPart(files, "d/step-000002", r, reads).value(), PartOf(whole, r, reads));
      }
    }
  }
}

TEST_CASE("The disk of any rank fails at any moment: the newest durable checkpoint is found") {
  const auto by_ranks = [](int ranks) {
    return [ranks](FaultyFiles& files, CheckpointStore& store, int64_t steps) {
      return WriteByRanks(files, store, steps, ranks);
    };
  };
  CheckDiskFailures(2, 20, by_ranks(3), by_ranks(2));
}

TEST_CASE("Any rank's file that is flipped, cut, missing or another's is named") {
  CounterRng rng(4);
  for (const std::string name :
       {"weights-0-of-2.safetensors", "weights-1-of-2.safetensors", "optimizer-0-of-2.safetensors",
        "optimizer-1-of-2.safetensors", "checkpoint.json"}) {
    for (int i = 0; i < 20; ++i) {
      FaultyFiles files(7);
      CheckpointStore store(&files, Options("d"));
      for (int64_t steps : {1, 2}) REQUIRE(WriteByRanks(files, store, steps, 2).ok());
      const std::string path = "d/step-000002/" + name;
      std::string& bytes = files.Bytes(path);
      const size_t at = rng.Below(bytes.size());
      if (i % 4 == 0) bytes.resize(at);
      if (i % 4 == 1) bytes[at] = static_cast<char>(bytes[at] ^ (1 << rng.Below(8)));
      if (i % 4 == 2) REQUIRE(files.Remove(path).ok());
      if (i % 4 == 3) bytes = files.Bytes("d/step-000001/" + name);
      INFO(name << ", damage " << i % 4 << " at " << at);
      const absl::StatusOr<LoadedCheckpoint> loaded = store.LoadNewest();
      REQUIRE(loaded.ok());
      CHECK(loaded->checkpoint->steps_trained == 1);
      REQUIRE(loaded->skipped.size() == 1);
      CHECK(loaded->skipped[0].code() == absl::StatusCode::kDataLoss);
      CHECK(absl::StrContains(loaded->skipped[0].message(), path));
    }
  }
}

TEST_CASE("A rank that is gone, or that writes elsewhere, costs this checkpoint alone") {
  FaultyFiles files(7), elsewhere(8);
  CheckpointStore store(&files, Options("d"));
  REQUIRE(WriteByRanks(files, store, 1, 2).ok());
  Checkpoint second = MakeCheckpoint(2);
  const TrainerState whole = second.trainer;
  second.trainer = PartOf(whole, 0, 2);
  REQUIRE(store.Begin(2).ok());
  const absl::Status gone =
      store.Write(second, [] { return absl::AbortedError("rank 1 is gone"); });
  CHECK(gone.code() == absl::StatusCode::kAborted);
  const std::string folder = store.Begin(2).value();
  const absl::Status apart = store.Write(second, [&]() -> absl::StatusOr<std::vector<std::string>> {
    return std::vector<std::string>{WritePart(elsewhere, folder, PartOf(whole, 1, 2)).value()};
  });
  CHECK(absl::StrContains(apart.message(), "weights-1-of-2.safetensors"));
  CHECK(absl::StrContains(apart.message(), "run.out must be a folder that all ranks share"));
  CHECK(store.LoadNewest().value().checkpoint->steps_trained == 1);
  CHECK(store.LoadNewest().value().skipped.empty());
}

TEST_CASE("A report that is no report is refused by field") {
  const std::string good = StepReportToJson(*MakeCheckpoint(1).last_report);
  REQUIRE(StepReportFromJson(good, "f").ok());
  for (const char* text : {"", "[]", "{}", R"({"step":1,"checkpointed":true})",
                           R"({"step":"1","checkpointed":true,"metrics":{},"groups":[]})"}) {
    const absl::Status status = StepReportFromJson(text, "f").status();
    INFO(text);
    CHECK(status.code() == absl::StatusCode::kInvalidArgument);
    CHECK(absl::StartsWith(status.message(), "f"));
  }
}

}  // namespace
}  // namespace crescendo
