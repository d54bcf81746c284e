#include "services/reward/commands.h"

#include <algorithm>
#include <cstdio>
#include <map>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "services/reward/gold_check.h"
#include "services/reward/grader.h"
#include "services/reward/json_lines.h"

namespace crescendo {
namespace {

using Json = nlohmann::json;

// Invalid UTF-8 becomes U+FFFD: the output is JSON in any case.
std::string Dump(const Json& value) {
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

void ReportLine(const CommandStreams& streams, int64_t line, const absl::Status& status) {
  *streams.err << streams.name << ":" << line << ": " << std::string(status.message()) << "\n";
}

// A bar that is drawn again each percent.
class Progress {
 public:
  explicit Progress(const CommandStreams& streams) : streams_(streams) {}
  void Update(int64_t bytes, int64_t lines) {
    if (!streams_.progress || streams_.bytes <= 0) return;
    const int64_t percent = std::min<int64_t>(100, bytes * 100 / streams_.bytes);
    if (percent == percent_) return;
    percent_ = percent;
    const auto filled = static_cast<size_t>(percent * 40 / 100);
    *streams_.err << absl::StrFormat("\r[%s%s] %3d%%  %d answers", std::string(filled, '#'),
                                     std::string(40 - filled, '.'), percent, lines)
                  << std::flush;
  }
  void End() {
    if (percent_ >= 0) *streams_.err << "\n";
  }

 private:
  const CommandStreams& streams_;
  int64_t percent_ = -1;
};

absl::StatusOr<Json> GradeLine(Grader& grader, Clock* clock, const std::string& line,
                               bool too_long) {
  auto object = ParseObject(line, too_long);
  if (!object.ok()) return object.status();
  auto gold = GoldField(*object);
  if (!gold.ok()) return gold.status();
  auto response = StringField(*object, "response", true);
  if (!response.ok()) return response.status();
  auto problem = StringField(*object, "problem", false);
  if (!problem.ok()) return problem.status();
  GradeQuery query;
  for (const std::string& each : *gold) query.gold.push_back(each);
  query.response = *response;
  query.problem = *problem;
  const absl::Time start = clock->Now();
  const Grade grade = grader.Evaluate(query);
  const int64_t micros = absl::ToInt64Microseconds(clock->Now() - start);
  Json out = Json::object();
  out["id"] = object->value("id", Json());
  out["verdict"] = std::string(VerdictName(grade.verdict));
  out["reason"] = std::string(ReasonName(grade.reason));
  out["extracted"] = grade.extracted;
  out["micros"] = micros;
  return out;
}

}  // namespace

absl::Status RunGrade(const CommandStreams& streams, const GradeCommandOptions& options,
                      Clock* clock) {
  GraderOptions grader_options;
  grader_options.extractor.allow_plain = options.allow_plain;
  Grader grader(grader_options);
  LineReader reader(streams.in);
  Progress progress(streams);
  std::string line;
  bool too_long = false;
  int64_t graded = 0, malformed = 0;
  while (reader.Next(&line, &too_long)) {
    const auto out = GradeLine(grader, clock, line, too_long);
    if (out.ok()) {
      *streams.out << Dump(*out) << "\n";
      ++graded;
    } else {
      ReportLine(streams, reader.number(), out.status());
      ++malformed;
    }
    progress.Update(reader.bytes(), graded);
  }
  progress.End();
  streams.out->flush();
  if (malformed > 0)
    *streams.err << absl::StrCat(graded, " graded, ", malformed, " malformed lines skipped\n");
  return absl::OkStatus();
}

namespace {

struct SeenProblem {
  int64_t line = 0;
  std::string gold;
};

std::string Join(const std::vector<std::string>& golds) {
  std::string text;
  for (const std::string& gold : golds) absl::StrAppend(&text, text.empty() ? "" : " | ", gold);
  return text;
}

}  // namespace

absl::Status RunCheckDataset(const CommandStreams& streams) {
  LineReader reader(streams.in);
  Grader grader({});
  absl::flat_hash_map<std::string, SeenProblem> seen;
  std::map<std::string, int64_t> types;
  std::string line;
  bool too_long = false;
  int64_t golds = 0, parsable = 0, malformed = 0, duplicates = 0, equal = 0;
  std::map<std::string, int64_t> differing;  // by verdict
  while (reader.Next(&line, &too_long)) {
    const auto object = ParseObject(line, too_long);
    const auto gold = object.ok() ? GoldField(*object)
                                  : absl::StatusOr<std::vector<std::string>>(object.status());
    if (!gold.ok()) {
      ReportLine(streams, reader.number(), gold.status());
      ++malformed;
      continue;
    }
    for (const std::string& each : *gold) {
      const GoldCheck check = CheckGold(each);
      ++golds;
      parsable += check.parsable ? 1 : 0;
      ++types[std::string(check.type)];
      const Json row = {{"line", reader.number()},
                        {"id", object->value("id", Json())},
                        {"type", std::string(check.type)},
                        {"parsable", check.parsable}};
      *streams.out << Dump(row) << "\n";
    }
    const auto problem = StringField(*object, "problem", false);
    if (!problem.ok() || problem->empty()) continue;
    const std::string answer = Join(*gold);
    const auto [at, fresh] = seen.try_emplace(*problem, SeenProblem{reader.number(), answer});
    if (fresh) continue;
    ++duplicates;
    const std::string response = absl::StrCat("\\boxed{", answer, "}");
    GradeQuery query;
    query.gold = {at->second.gold};
    query.response = response;
    const Grade grade = grader.Evaluate(query);
    if (grade.verdict == Verdict::kCorrect) {
      ++equal;
      continue;
    }
    ++differing[std::string(VerdictName(grade.verdict))];
    const Json row = {{"line", reader.number()},
                      {"duplicate_of_line", at->second.line},
                      {"answer", answer},
                      {"other_answer", at->second.gold},
                      {"verdict", std::string(VerdictName(grade.verdict))}};
    *streams.out << Dump(row) << "\n";
  }
  streams.out->flush();
  std::ostream& err = *streams.err;
  err << absl::StrFormat(
      "%d gold answers, %d parsable (%.2f%%), %d malformed lines\n", golds, parsable,
      golds == 0 ? 0.0 : 100.0 * static_cast<double>(parsable) / static_cast<double>(golds),
      malformed);
  for (const auto& [type, count] : types) err << absl::StrFormat("  %-12s %8d\n", type, count);
  err << absl::StrFormat(
      "%d rows repeat a problem: %d with an equal answer, %d with another one, %d that could not "
      "be told\n",
      duplicates, equal, differing["incorrect"], differing["undecided"]);
  return absl::OkStatus();
}

absl::Status RunAudit(const CommandStreams& streams) {
  LineReader reader(streams.in);
  std::map<std::pair<std::string, std::string>, int64_t> reasons;
  std::vector<std::string> undecided;
  constexpr size_t kUndecidedMax = 10000;
  std::string line;
  bool too_long = false;
  int64_t total = 0;
  while (reader.Next(&line, &too_long)) {
    const auto object = ParseObject(line, too_long);
    if (!object.ok()) {
      ReportLine(streams, reader.number(), object.status());
      continue;
    }
    const auto verdict = StringField(*object, "verdict", true),
               reason = StringField(*object, "reason", true);
    if (!verdict.ok() || !reason.ok()) {
      ReportLine(streams, reader.number(), verdict.ok() ? reason.status() : verdict.status());
      continue;
    }
    ++total;
    ++reasons[{*verdict, *reason}];
    if (*verdict == "undecided" && undecided.size() < kUndecidedMax) {
      const Json row = {{"reason", *reason},
                        {"gold", object->value("gold", Json())},
                        {"extracted", object->value("extracted", Json())},
                        {"line", reader.number()}};
      undecided.push_back(Dump(row));
    }
  }
  *streams.out << absl::StrFormat("%d answers\n", total);
  std::vector<std::pair<int64_t, std::pair<std::string, std::string>>> sorted;
  sorted.reserve(reasons.size());
  for (const auto& [key, count] : reasons) sorted.emplace_back(count, key);
  std::sort(sorted.rbegin(), sorted.rend());
  for (const auto& [count, key] : sorted)
    *streams.out << absl::StrFormat("%9d  %-10s %s\n", count, key.first, key.second);
  if (!undecided.empty()) *streams.out << "undecided:\n";
  for (const std::string& row : undecided) *streams.out << row << "\n";
  return absl::OkStatus();
}

}  // namespace crescendo
