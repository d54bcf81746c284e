// Ranks as processes of their own: collectives, errors that name the rank, and AdamW over shares of
// the state, which gives the bits of AdamW alone where sums are exact.
#include <ATen/ATen.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "catch2/catch.hpp"
#include "common/model/torch_guard.h"
#include "services/learner/rank_environment.h"
#include "services/learner/rank_group.h"
#include "services/learner/sharded_optimizer.h"
#include "tests/support/rank_processes.h"
#include "tests/support/temp_dir.h"

namespace crescendo {
namespace {

constexpr absl::Duration kEnd = absl::Seconds(60);

std::string Env(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

absl::StatusOr<std::unique_ptr<RankGroup>> JoinFromEnvironment(absl::Duration join_timeout,
                                                               const std::string& digest) {
  RankGroupOptions options;
  options.ranks = *RanksFromEnvironment([](const char* name) -> std::optional<std::string> {
    return Env(name).empty() ? std::nullopt : std::optional<std::string>(Env(name));
  });
  options.digest = digest;
  options.join_timeout = join_timeout;
  options.timeout = absl::Seconds(30);
  return RankGroup::Join(options, [] { return false; });
}

// In the child ------------------------------------------------------------------------------

void Collectives(RankGroup& group) {
  const int r = group.rank(), n = group.size();
  std::vector<double> values = {1.0 + r, 0.5};
  REQUIRE(group.Sum(absl::MakeSpan(values), "sum").ok());
  CHECK(values[0] == n * (n + 1) / 2.0);
  CHECK(values[1] == 0.5 * n);
  std::vector<double> largest = {static_cast<double>(r)};
  REQUIRE(group.Max(absl::MakeSpan(largest), "max").ok());
  CHECK(largest[0] == n - 1);

  at::Tensor in = at::arange(3 * n, at::kFloat) * (r + 1);
  at::Tensor out = at::empty({3}, at::kFloat);
  REQUIRE(group.ReduceScatter(in, out, "reduce-scatter").ok());
  CHECK(out.equal((at::arange(3, at::kFloat) + 3 * r) * (n * (n + 1) / 2)));

  at::Tensor own = at::full({5}, r, at::kBFloat16);
  at::Tensor all = at::empty({5 * n}, at::kBFloat16);
  REQUIRE(group.AllGather(own, all, "gather").ok());
  for (int i = 0; i < n; ++i) CHECK(all.narrow(0, 5 * i, 5).eq(i).all().item<bool>());

  at::Tensor given =
      r == 0 ? at::arange(6, at::kFloat).view({2, 3}) : at::zeros({2, 3}, at::kFloat);
  REQUIRE(group.Broadcast(given, 0, "broadcast").ok());
  CHECK(given.view(-1).equal(at::arange(6, at::kFloat)));

  for (int step = 0; step < 3; ++step) {
    if (r == 0) {
      REQUIRE(group.Announce(absl::StrCat("step ", step)).ok());
      for (int to = 1; to < n; ++to) {
        REQUIRE(group.Send(to, absl::StrCat("hello ", to), "send").ok());
      }
    } else {
      const auto command = group.AwaitAnnouncement();
      REQUIRE(command.ok());
      CHECK(*command == absl::StrCat("step ", step));
      const auto bytes = group.Receive(0, 100, "receive");
      REQUIRE(bytes.ok());
      CHECK(*bytes == absl::StrCat("hello ", r));
    }
  }
  CHECK(group.Check().ok());
}

// Rank 1 dies between two collectives, the others say so.
void OneDies(RankGroup& group) {
  std::vector<double> values = {1};
  REQUIRE(group.Sum(absl::MakeSpan(values), "first").ok());
  if (group.rank() == 1) _exit(9);
  const absl::Status status = group.Sum(absl::MakeSpan(values), "second");
  std::printf("STATUS %s\n", status.ToString().c_str());
  CHECK_FALSE(status.ok());
  // Nobody leaves before all have asked who is gone: rank 0 holds the rendezvous.
  std::fflush(stdout);
}

// Rank 0 has nothing to announce for longer than ranks beat.
void Idle(RankGroup& group) {
  if (group.rank() == 0) {
    absl::Mutex mutex;
    absl::MutexLock lock(&mutex);
    bool never = false;
    mutex.AwaitWithTimeout(absl::Condition(&never), absl::Milliseconds(2500));
    REQUIRE(group.Announce("go").ok());
  } else {
    REQUIRE(group.AwaitAnnouncement().ok());
  }
  std::vector<double> values = {1};
  REQUIRE(group.Sum(absl::MakeSpan(values), "sum").ok());
}

void OneFails(RankGroup& group) {
  if (group.rank() == 1) {
    group.Tell(absl::ResourceExhaustedError("out of memory at layer 7"));
    _exit(9);
  }
  std::vector<double> values = {1};
  std::printf("STATUS %s\n", group.Sum(absl::MakeSpan(values), "sum").ToString().c_str());
}

std::vector<NamedTensor> Parameters(at::ScalarType type) {
  // Lengths that do not divide, one of them below the number of ranks.
  std::vector<NamedTensor> parameters;
  const std::vector<std::vector<int64_t>> shapes = {{7, 3}, {2}, {1}, {64, 5}};
  for (size_t i = 0; i < shapes.size(); ++i) {
    int64_t size = 1;
    for (int64_t s : shapes[i]) size *= s;
    at::Tensor tensor = (at::arange(size, at::kFloat) / 16 - 0.5).view(shapes[i]).to(type);
    tensor.set_requires_grad(true);
    parameters.push_back({absl::StrCat("p", i), tensor});
  }
  return parameters;
}

// Sixteenths, small: they add up without rounding in any order, also in bf16.
at::Tensor Gradient(const at::Tensor& like, int update, int micro) {
  const at::Tensor flat = at::arange(like.numel(), at::kInt);
  return ((flat * (3 + micro) + update).remainder(11) - 5)
      .to(at::kFloat)
      .div(16)
      .view(like.sizes())
      .to(like.scalar_type());
}

// Updates [begin, end), of four micro-batches each, that the ranks share out.
void TrainShards(ShardedAdamW& optimizer, const std::vector<NamedTensor>& parameters, int begin,
                 int end, int rank, int size) {
  for (int update = begin; update < end; ++update) {
    optimizer.ZeroGrad();
    std::vector<int> own;
    for (int micro = 0; micro < 4; ++micro) {
      if (micro % size == rank) own.push_back(micro);
    }
    const auto rounds = optimizer.Rounds(static_cast<int64_t>(own.size()));
    REQUIRE(rounds.ok());
    for (int64_t round = 0; round < *rounds; ++round) {
      if (round < static_cast<int64_t>(own.size())) {
        for (const NamedTensor& parameter : parameters) {
          at::Tensor& grad = parameter.tensor.mutable_grad();
          const at::Tensor more = Gradient(parameter.tensor.detach(), update, own[round]);
          grad = grad.defined() ? grad + more : more;
        }
      }
      REQUIRE(optimizer.AfterBackward().ok());
    }
    const auto norm = optimizer.ReduceGradients();
    REQUIRE(norm.ok());
    // Powers of two, so that the norm's last bits do not matter.
    REQUIRE(optimizer.Step(1.0 / 64, *norm > 1 ? 0.5 : 1).ok());
  }
}

std::string Dump(const TrainerState& state) {
  std::string text;
  for (const auto* list : {&state.weights, &state.optimizer}) {
    for (const TensorData& tensor : *list)
      absl::StrAppend(&text, tensor.name, " ", tensor.bytes, "\n");
  }
  return text;
}

// A rank's part of a whole state.
TrainerState PartOf(const TrainerState& whole, int rank, int ranks) {
  TrainerState part = whole;
  for (auto* list : {&part.weights, &part.optimizer}) {
    for (TensorData& tensor : *list) {
      const TensorSlice own =
          SliceOf(static_cast<int64_t>(tensor.bytes.size() / sizeof(float)), rank, ranks);
      tensor.bytes = tensor.bytes.substr(static_cast<size_t>(own.begin) * sizeof(float),
                                         static_cast<size_t>(own.size) * sizeof(float));
    }
  }
  return part;
}

void WriteText(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}
std::string ReadText(const std::string& path) {
  std::stringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

struct Trained {
  TrainerState state;      // this rank's part
  std::string parameters;  // whole
};

// Three updates, a state out and in again through another optimizer, two more.
Trained TrainHere(RankGroup* group, int stage, at::ScalarType type) {
  const int rank = group == nullptr ? 0 : group->rank();
  const int size = group == nullptr ? 1 : group->size();
  AdamWOptions options;
  options.weight_decay = 0.125;
  auto first = Parameters(type);
  ShardedAdamW before(first, options, group, stage);
  TrainShards(before, first, 0, 3, rank, size);
  const TrainerState middle = before.Export();
  CHECK(middle.ranks == size);

  auto second = Parameters(type);
  ShardedAdamW after(second, options, group, stage);
  REQUIRE(after.Check(middle).ok());
  REQUIRE(after.Import(middle, before.steps()).ok());
  CHECK(after.steps() == 3);
  for (size_t i = 0; i < first.size(); ++i) CHECK(first[i].tensor.equal(second[i].tensor));
  TrainShards(after, second, 3, 5, rank, size);
  Trained trained{after.Export(), ""};
  for (const NamedTensor& parameter : second) {
    const at::Tensor exact = parameter.tensor.detach().to(at::kFloat);
    trained.parameters.append(static_cast<const char*>(exact.const_data_ptr()), exact.nbytes());
  }
  return trained;
}

std::string FileOf(at::ScalarType type, int stage, int rank) {
  return absl::StrCat(at::toString(type), "-", stage, "-", rank);
}

void Shards(RankGroup& group) {
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    for (int stage : {1, 2}) {
      const Trained trained = TrainHere(&group, stage, type);
      WriteText(absl::StrCat(Env("FOLDER"), "/", FileOf(type, stage, group.rank())),
                absl::StrCat(Dump(trained.state), trained.parameters));
    }
  }
}

// A note is taken by whom it is for, once it is there; one of a rank that is gone is not awaited.
void Notes(RankGroup& group) {
  if (group.rank() == 0) {
    CHECK(group.AwaitNote(1, "first").value() == "one");
    CHECK(group.AwaitNote(1, "second").value().size() == 100000);
    const absl::Status gone = group.AwaitNote(1, "third").status();
    CHECK(gone.code() == absl::StatusCode::kAborted);
    CHECK(absl::StrContains(gone.message(), "third: rank 1 is gone"));
    return;
  }
  REQUIRE(group.LeaveNote("second", std::string(100000, 'x')).ok());
  REQUIRE(group.LeaveNote("first", "one").ok());
  _exit(9);
}

TEST_CASE("rank process", "[.]") {
  SetComputeThreads(1);
  const std::string scenario = Env("SCENARIO");
  const bool other = scenario == "other configuration" && Env("RANK") == "1";
  auto group = JoinFromEnvironment(scenario == "left out" ? absl::Seconds(2) : absl::Seconds(30),
                                   other ? "b" : "a");
  if (scenario == "left out" || scenario == "other configuration") {
    std::printf("STATUS %s\n", group.status().ToString().c_str());
    return;
  }
  REQUIRE(group.ok());
  if (scenario == "collectives") Collectives(**group);
  if (scenario == "one dies") OneDies(**group);
  if (scenario == "one fails") OneFails(**group);
  if (scenario == "idle") Idle(**group);
  if (scenario == "shards") Shards(**group);
  if (scenario == "notes") Notes(**group);
}

// In the parent -----------------------------------------------------------------------------

TEST_CASE("Collectives between 2 and 3 processes") {
  for (int size : {2, 3}) {
    RankProcesses processes = StartRanks(size, "rank process", "collectives", "");
    processes.Join(std::vector<int>(size, 0), kEnd);
  }
}

TEST_CASE("A rank that dies is named by the others") {
  RankProcesses processes = StartRanks(3, "rank process", "one dies", "");
  processes.Join({0, 9, 0}, kEnd);
  INFO(processes.ranks[0]->output());
  CHECK(absl::StrContains(processes.ranks[0]->output(), "rank 0 of 3: second: rank 1 is gone"));
  INFO(processes.ranks[2]->output());
  CHECK(absl::StrContains(processes.ranks[2]->output(), "rank 2 of 3: second: rank "));
}

TEST_CASE("A rank that fails says why") {
  RankProcesses processes = StartRanks(2, "rank process", "one fails", "");
  processes.Join({0, 9}, kEnd);
  INFO(processes.ranks[0]->output());
  CHECK(absl::StrContains(processes.ranks[0]->output(),
                          "rank 1: RESOURCE_EXHAUSTED: out of memory at layer 7"));
}

TEST_CASE("Ranks that wait for work say nothing") {
  RankProcesses processes = StartRanks(2, "rank process", "idle", "");
  processes.Join({0, 0}, kEnd);
  for (const auto& rank : processes.ranks) {
    INFO(rank->output());
    CHECK_FALSE(absl::StrContains(rank->output(), "[W"));
  }
}

TEST_CASE("A rank that never comes is named") {
  RankProcesses processes = StartRanks(3, "rank process", "left out", "", {1});
  processes.Join({0, 0}, kEnd);
  INFO(processes.ranks[0]->output());
  CHECK(absl::StrContains(processes.ranks[0]->output(), "rank 1 did not come to rendezvous"));
}

TEST_CASE("Another configuration is told at both ends") {
  RankProcesses processes = StartRanks(2, "rank process", "other configuration", "");
  processes.Join({0, 0}, kEnd);
  CHECK(absl::StrContains(processes.ranks[0]->output(), "expected those of rank 1, \"2 b\""));
  CHECK(absl::StrContains(processes.ranks[1]->output(), "expected those of rank 0, \"2 a\""));
}

TEST_CASE("AdamW over shares has the bits of AdamW alone, on 2 and 4 ranks") {
  for (int size : {2, 4}) {
    const TempDir dir;
    RankProcesses processes = StartRanks(size, "rank process", "shards", dir.path());
    processes.Join(std::vector<int>(size, 0), kEnd);
    for (const auto type : {at::kFloat, at::kBFloat16}) {
      const Trained alone = TrainHere(nullptr, 1, type);
      for (int stage : {1, 2}) {
        for (int rank = 0; rank < size; ++rank) {
          INFO("rank " << rank << " of " << size << ", stage " << stage << ", "
                       << at::toString(type));
          const std::string text =
              ReadText(absl::StrCat(dir.path(), "/", FileOf(type, stage, rank)));
          CHECK((text == Dump(PartOf(alone.state, rank, size)) + alone.parameters));
        }
      }
    }
  }
}

TEST_CASE("A rank leaves notes for another one") {
  RankProcesses processes = StartRanks(2, "rank process", "notes", "");
  processes.Join({0, 9}, kEnd);
}

}  // namespace
}  // namespace crescendo
