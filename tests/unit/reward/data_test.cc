// The figures on real data: labelled GSM8K solutions, and the gold answers of DeepScaleR and MATH.
#include <cstdlib>
#include <fstream>
#include <string>
#include <unordered_map>
#include <vector>

#include "catch2/catch.hpp"
#include "nlohmann/json.hpp"
#include "services/reward/grader.h"

namespace crescendo {
namespace {

using Json = nlohmann::json;

// The rows of a file of shared data; empty, with a message, when it is absent.
std::vector<Json> Rows(const std::string& path) {
  const char* folder = std::getenv("CRESCENDO_SHARED_DATA");
  const std::string file = std::string(folder != nullptr ? folder : "../shared/data") + "/" + path;
  std::ifstream in(file);
  std::vector<Json> rows;
  std::string line;
  while (std::getline(in, line)) {
    Json row = Json::parse(line, nullptr, false);
    if (row.is_object()) rows.push_back(std::move(row));
  }
  if (rows.empty()) WARN("skipped: no " << file);
  return rows;
}

Grade Ask(Grader& grader, const std::string& gold, const std::string& response) {
  GradeQuery query;
  query.gold = {gold};
  query.response = response;
  return grader.Evaluate(query);
}

TEST_CASE("GSM8K model solutions: agreement with the labels at least 99.9%") {
  Grader grader({});
  size_t agree = 0;
  const std::vector<Json> rows = Rows("grading/gsm8k_model_solutions.jsonl");
  for (const Json& row : rows) {
    const Grade grade = Ask(grader, row.value("gold", ""), row.value("response", ""));
    const bool same = (grade.verdict == Verdict::kCorrect) == row.value("correct", false);
    agree += same ? 1 : 0;
    if (!same)
      WARN(row.value("id", "") << ": gold " << row.value("gold", "") << ", extracted "
                               << grade.extracted);
  }
  CHECK(agree * 1000 >= rows.size() * 999);
}

std::vector<std::string> Golds(const std::string& path) {
  std::vector<std::string> golds;
  for (const Json& row : Rows(path)) {
    const Json& answer = row["answer"];
    if (answer.is_string()) golds.push_back(answer.get<std::string>());
  }
  return golds;
}

TEST_CASE("Gold answers graded against themselves are correct, plainly and with other styling") {
  for (const char* path : {"train/deepscaler.jsonl", "train/math.jsonl"}) {
    Grader grader({});
    const std::vector<std::string> golds = Golds(path);
    size_t plain = 0, styled = 0;
    for (const std::string& gold : golds) {
      const Grade grade = Ask(grader, gold, "Therefore $\\boxed{" + gold + "}$.");
      plain += grade.verdict == Verdict::kCorrect ? 1 : 0;
      if (grade.verdict != Verdict::kCorrect)
        WARN(path << ": " << gold << ": " << std::string(ReasonName(grade.reason)));
      styled += Ask(grader, gold, "\\boxed{\\displaystyle " + gold + "\\, .}").verdict ==
                        Verdict::kCorrect
                    ? 1
                    : 0;
    }
    INFO(path << ": " << plain << " and " << styled << " of " << golds.size());
    CHECK(plain * 1000 >= golds.size() * 999);
    CHECK(styled * 1000 >= golds.size() * 999);
  }
}

TEST_CASE("A gold answer is no correct answer to another problem, unless it is equal") {
  std::vector<std::string> distinct;
  std::unordered_map<std::string, int> seen;
  for (const char* path : {"train/deepscaler.jsonl", "train/math.jsonl"}) {
    for (const std::string& gold : Golds(path)) {
      if (seen[gold]++ == 0) distinct.push_back(gold);
    }
  }
  Grader grader({});
  size_t pairs = 0, equal = 0, rounded = 0;
  for (size_t i = 0; i < distinct.size(); ++i) {
    for (size_t k = 1; k <= 10; ++k) {
      const std::string& other = distinct[(i * 7919 + k * 104729) % distinct.size()];
      if (other == distinct[i]) continue;
      ++pairs;
      const Grade one = Ask(grader, distinct[i], "\\boxed{" + other + "}");
      if (one.verdict != Verdict::kCorrect) continue;
      // Equality holds in both directions; only a rounding, by convention, does not.
      rounded += one.reason == ReasonCode::kRounds ? 1 : 0;
      equal += one.reason != ReasonCode::kRounds ? 1 : 0;
      if (one.reason == ReasonCode::kRounds) continue;
      const Grade back = Ask(grader, other, "\\boxed{" + distinct[i] + "}");
      INFO(distinct[i] << "   against   " << other);
      CHECK(back.verdict == Verdict::kCorrect);
    }
  }
  if (pairs > 0) WARN(pairs << " pairs: " << equal << " equal, " << rounded << " rounded");
  CHECK(equal * 1000 <= pairs);
}

}  // namespace
}  // namespace crescendo
