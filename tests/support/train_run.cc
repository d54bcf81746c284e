#include "tests/support/train_run.h"

#include <algorithm>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "catch2/catch.hpp"

namespace crescendo {
namespace {

nlohmann::json ParseOrFail(const std::string& text, const std::string& what) {
  nlohmann::json parsed = nlohmann::json::parse(text, nullptr, false);
  INFO(what << ": " << text.substr(0, 200));
  REQUIRE_FALSE(parsed.is_discarded());
  return parsed;
}

}  // namespace

std::vector<std::string> FixedStage(int context_tokens, int groups) {
  std::vector<std::string> overrides = ThreeStages(groups, 10, 10);
  for (int stage : {0, 1, 2}) {
    overrides.push_back(absl::StrCat("--stage.", stage, ".context_tokens=", context_tokens));
  }
  return overrides;
}

std::vector<std::string> ThreeStages(int groups, int cap_1, int cap_2) {
  std::vector<std::string> overrides;
  for (int stage : {0, 1, 2}) {
    overrides.push_back(absl::StrCat("--stage.", stage, ".groups_per_step=", groups));
  }
  overrides.push_back(absl::StrCat("--curriculum.max_steps=[", cap_1, ", ", cap_2, "]"));
  return overrides;
}

std::unique_ptr<Subprocess> StartDemo(const std::string& out,
                                      const std::vector<std::string>& overrides) {
  std::vector<std::string> argv = {
      BuiltProgram("crescendo"), "train", "deploy/recipes/demo.toml", "--out", out, "--plain"};
  argv.insert(argv.end(), overrides.begin(), overrides.end());
  return Subprocess::Start(argv);
}

TrainRun ReadRun(const std::string& out) {
  TrainRun run;
  std::ifstream report(out + "/report.json");
  run.report = ParseOrFail({std::istreambuf_iterator<char>(report), {}}, "report.json");
  std::ifstream metrics(out + "/metrics.jsonl");
  for (std::string line; std::getline(metrics, line);) {
    nlohmann::json row = ParseOrFail(line, "metrics.jsonl");
    (row.at("kind") == "step" ? run.steps : run.evaluations).push_back(std::move(row));
  }
  return run;
}

TrainRun RunDemo(const std::string& out, const std::vector<std::string>& overrides,
                 absl::Duration timeout) {
  auto train = StartDemo(out, overrides);
  const std::optional<int> exit_code = train->Wait(timeout);
  INFO(train->output());
  REQUIRE(exit_code == 0);
  return ReadRun(out);
}

double TrainRun::PassAt(int64_t steps) const {
  for (const nlohmann::json& row : evaluations) {
    if (row.at("step") == steps) return row.at("pass_at_1");
  }
  FAIL("no evaluation after " << steps << " steps");
  return 0;
}

double TrainRun::BestPass() const {
  double best = 0;
  for (const nlohmann::json& row : evaluations) best = std::max<double>(best, row.at("pass_at_1"));
  return best;
}

uint64_t TrainRun::TokensOfFirst(size_t count) const {
  uint64_t tokens = 0;
  for (size_t i = 0; i < std::min(count, steps.size()); ++i) {
    tokens += steps[i].at("generated_tokens").get<uint64_t>();
  }
  return tokens;
}

double TrainRun::TokensTo(double level) const {
  double pass_before = 0;
  double tokens_before = 0;
  for (const nlohmann::json& row : evaluations) {
    const double pass = row.at("pass_at_1");
    const double tokens = row.at("train_generated_tokens");
    if (pass >= level) {
      return pass_before >= level
                 ? tokens_before
                 : tokens_before +
                       (tokens - tokens_before) * (level - pass_before) / (pass - pass_before);
    }
    pass_before = pass;
    tokens_before = tokens;
  }
  return -1;
}

double TrainRun::MismatchMax() const {
  double largest = 0;
  for (const nlohmann::json& row : steps)
    largest = std::max<double>(largest, row.at("mismatch_max"));
  return largest;
}

}  // namespace crescendo
