// Whole runs and what they write in their logs: every line can be parsed, says who said it, and has
// run, worker, group and step as fields where it is about them. A peer that makes up leases and
// sends too much is part of one of the runs: it is refused, counted and logged, and the run goes
// on.
#include <grpcpp/grpcpp.h>
#include <signal.h>

#include <fstream>
#include <map>
#include <optional>
#include <regex>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "catch2/catch.hpp"
#include "common/base/limits.h"
#include "common/os/posix_env.h"
#include "crescendo/v1/experience.grpc.pb.h"
#include "tests/support/http_get.h"
#include "tests/support/temp_dir.h"
#include "tests/support/train_run.h"

namespace crescendo {
namespace {

constexpr absl::Duration kRunMax = absl::Minutes(8);
constexpr int kSteps = 30;  // enough to be attacked meanwhile
constexpr char kServices[][16] = {"coordinator", "learner", "reward", "rollout-0", "rollout-1"};

std::string ReadBytes(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// A line's fields, values as text.
using Line = std::map<std::string, std::string>;

// As a reader of logfmt does it: words of key=value, a value bare or quoted as Go quotes.
std::optional<Line> ParseLogfmt(absl::string_view text) {
  Line line;
  while (!text.empty()) {
    const size_t equals = text.find('=');
    if (equals == absl::string_view::npos || equals == 0) return std::nullopt;
    const std::string key(text.substr(0, equals));
    text.remove_prefix(equals + 1);
    std::string value;
    if (absl::StartsWith(text, "\"")) {
      size_t at = 1;
      for (; at < text.size() && text[at] != '"'; ++at) {
        if (text[at] == '\\') ++at;
        if (at < text.size()) value.push_back(text[at]);
      }
      if (at >= text.size()) return std::nullopt;
      text.remove_prefix(at + 1);
    } else {
      value = std::string(text.substr(0, text.find(' ')));
      text.remove_prefix(value.size());
    }
    if (!text.empty() && text[0] != ' ') return std::nullopt;
    if (!text.empty()) text.remove_prefix(1);
    if (!line.emplace(key, value).second) return std::nullopt;
  }
  return line;
}

std::optional<Line> ParseJson(const std::string& text) {
  const auto json = nlohmann::json::parse(text, nullptr, false);
  if (!json.is_object()) return std::nullopt;
  Line line;
  for (const auto& [key, value] : json.items()) {
    line[key] = value.is_string() ? value.get<std::string>() : value.dump();
  }
  return line;
}

// What a text names as "WORD 17", "WORD-17" where `joint` is "-".
std::optional<std::string> Named(const std::string& text, const std::string& word,
                                 const std::string& joint = " ") {
  std::smatch found;
  if (!std::regex_search(text, found, std::regex("\\b" + word + joint + "([0-9]+)"))) return {};
  return found[1];
}

// What every line has to have, whoever wrote it.
void CheckLine(const std::string& service, const Line& line) {
  for (const char* key : {"time", "level", "service", "instance", "msg"})
    CHECK(line.count(key) == 1);
  for (const auto& [key, value] : line) {
    for (const char c : key) CHECK((absl::ascii_islower(c) || absl::ascii_isdigit(c) || c == '_'));
  }
  absl::Time time;
  CHECK(absl::ParseTime(absl::RFC3339_full, line.at("time"), &time, nullptr));
  const std::string name = line.at("service"), said = line.at("msg");
  CHECK(absl::StartsWith(service, name));
  if (name == "rollout") {
    REQUIRE(line.count("worker") == 1);
    CHECK(line.at("worker") == service);
  } else if (const auto worker = Named(said, "rollout", "-")) {
    REQUIRE(line.count("worker") == 1);
    CHECK(line.at("worker") == absl::StrCat("rollout-", *worker));
  }
  for (const char* word : {"step", "group"}) {
    if (const auto number = Named(said, word)) {
      REQUIRE(line.count(word) == 1);
      CHECK(line.at(word) == *number);
    }
  }
  for (const char* key : {"step", "group", "sample", "lease", "version"}) {
    int64_t number = 0;
    if (line.count(key) == 1) CHECK(absl::SimpleAtoi(line.at(key), &number));
  }
  // The reward service serves any run: its lines about a worker's answers say of which.
  if (name == "reward") CHECK(line.count("run") == line.count("worker"));
}

// All lines of a run's logs by service.
std::map<std::string, std::vector<Line>> CheckLogs(const std::string& out, bool json) {
  std::map<std::string, std::vector<Line>> logs;
  std::string run;  // as the coordinator says first
  for (const std::string service : kServices) {
    bool knows_run = false;
    const std::string text = ReadBytes(absl::StrCat(out, "/logs/", service, ".log"));
    for (const absl::string_view view : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
      INFO(service << ": " << view);
      const auto line = json ? ParseJson(std::string(view)) : ParseLogfmt(view);
      REQUIRE(line.has_value());
      CheckLine(service, *line);
      // A process knows its run from some line on; its next life begins anew.
      if (line->at("msg") == "serving") knows_run = false;
      knows_run = knows_run || (line->count("run") == 1 && service != "reward");
      if (knows_run) REQUIRE(line->count("run") == 1);
      if (line->count("run") == 1) {
        if (run.empty()) run = line->at("run");
        CHECK(line->at("run") == run);
      }
      logs[service].push_back(*line);
    }
    INFO(service);
    CHECK(logs[service].size() >= 2);
  }
  return logs;
}

std::vector<Line> LinesOf(const std::vector<Line>& lines, const std::string& said) {
  std::vector<Line> found;
  for (const Line& line : lines) {
    if (absl::StartsWith(line.at("msg"), said)) found.push_back(line);
  }
  return found;
}

std::vector<std::string> Overrides(int steps) {
  std::vector<std::string> overrides = FixedStage(96, 8);
  overrides.push_back(absl::StrCat("--steps=", steps));
  overrides.push_back("--evaluation.problems=32");
  overrides.push_back(absl::StrCat("--evaluation.every=", steps));
  return overrides;
}

double Metric(const std::string& address, const std::string& name_and_labels) {
  for (const absl::string_view line : absl::StrSplit(HttpGet(address, "/metrics"), '\n')) {
    double value = 0;
    if (absl::StartsWith(line, name_and_labels + " ") &&
        absl::SimpleAtod(line.substr(name_and_labels.size() + 1), &value)) {
      return value;
    }
  }
  return -1;
}

// A stream of samples to the learner by somebody who was granted nothing.
class Intruder {
 public:
  explicit Intruder(const std::string& learner) {
    // A channel of our own making would not send too much.
    stub_ = v1::ExperienceService::NewStub(
        grpc::CreateChannel(learner, grpc::InsecureChannelCredentials()));
    context_.set_deadline(absl::ToChronoTime(RealNow() + absl::Minutes(1)));
    stream_ = stub_->StreamSamples(&context_);
  }
  v1::ChunkAck Send(const v1::SampleChunk& chunk) {
    v1::ChunkAck ack;
    REQUIRE(stream_->Write(chunk));
    REQUIRE(stream_->Read(&ack));
    return ack;
  }
  grpc::Status SendTooMuch() {
    v1::SampleChunk chunk;
    chunk.mutable_header()->set_problem_id(std::string(limits::kMessageBytesMax, 'x'));
    stream_->Write(chunk);
    return stream_->Finish();
  }

 private:
  std::unique_ptr<v1::ExperienceService::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::SampleChunk, v1::ChunkAck>> stream_;
};

TEST_CASE("Every line of a run's logs is logfmt with its fields; what was made up is refused") {
  const TempDir dir;
  const std::string out = dir / "run";
  auto train = StartDemo(out, Overrides(kSteps));
  const bool came = train->ReadUntil(
      [](const std::string& line) { return absl::StartsWith(line, "step 2/"); }, kRunMax);
  INFO(train->output());
  REQUIRE(came);
  const auto addresses = nlohmann::json::parse(ReadBytes(out + "/addresses.json"), nullptr, false);
  REQUIRE(addresses.is_object());
  const std::string learner = addresses.at("learner").at("address").get<std::string>();
  const std::string metrics = addresses.at("learner").at("metrics").get<std::string>();

  const std::string refused_chunks = "crescendo_learner_chunks_total{outcome=\"refused\"}";
  const double refused_before = Metric(metrics, refused_chunks);
  Intruder intruder(learner);
  v1::SampleChunk chunk;
  chunk.set_group_id(8 * (kSteps - 1));  // of the last step: nobody has it yet
  chunk.set_lease_id(1'000'000);
  v1::GroupHeader& header = *chunk.mutable_header();
  header.set_problem_id("p");
  header.add_prompt_tokens(1);
  header.set_samples(8);
  header.set_context_tokens(96);
  header.set_temperature(1);
  for (const uint64_t key : {uint64_t{0}, uint64_t{12345}}) {
    chunk.set_lease_key(key);
    const v1::ChunkAck ack = intruder.Send(chunk);
    INFO(ack.message());
    CHECK(ack.outcome() == v1::ChunkAck::OUTCOME_REFUSED);
    CHECK(absl::StartsWith(ack.message(), "lease_key: "));
  }
  CHECK(Metric(metrics, refused_chunks) == refused_before + 2);
  const grpc::Status large = intruder.SendTooMuch();
  CHECK(large.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED);
  CHECK(absl::StartsWith(large.error_message(), "message: expected at most 20971520 bytes"));
  CHECK(Metric(metrics, "crescendo_learner_refused_calls_total{reason=\"oversized\"}") == 1);
  const std::vector<pid_t> workers = ChildrenOf(train->pid(), "crescendo-rollout");
  REQUIRE(workers.size() == 2);
  REQUIRE(kill(workers.front(), SIGKILL) == 0);
  const std::optional<int> exit_code = train->Wait(kRunMax);
  INFO(train->output());
  REQUIRE(exit_code == 0);
  CHECK(ReadRun(out).steps.size() == kSteps);

  const auto logs = CheckLogs(out, /*json=*/false);
  std::set<std::string> steps;
  for (const Line& line : LinesOf(logs.at("learner"), "step trained"))
    steps.insert(line.at("step"));
  CHECK(steps.size() == kSteps);
  const std::vector<Line> refused = LinesOf(logs.at("learner"), "sample chunk refused");
  REQUIRE(refused.size() >= 2);
  CHECK(refused.front().at("group") == absl::StrCat(8 * (kSteps - 1)));
  CHECK(refused.front().at("sample") == "0");
}

TEST_CASE("Every line of a run's logs is JSON with its fields, where that is asked for") {
  const TempDir dir;
  std::vector<std::string> overrides = Overrides(2);
  overrides.push_back("--log.format=json");
  overrides.push_back("--log.level=debug");
  RunDemo(dir / "run", overrides, kRunMax);
  CheckLogs(dir / "run", /*json=*/true);
}

}  // namespace
}  // namespace crescendo
