#include "deploy/cli/evaluation_report.h"

#include <algorithm>
#include <array>
#include <map>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace crescendo {

const char kPublishedSource[] =
    "table of the README of DeepScaleR-1.5B-Preview (agentica-project/deepscaler, February 2025)";

namespace {

using Json = nlohmann::ordered_json;

enum Set { kAime24, kMath500, kAmc23, kMinerva, kOlympiad, kSets };
struct PublishedModel {
  const char* name;
  std::array<double, kSets> percent;  // < 0: not told
};
constexpr std::array<PublishedModel, 6> kPublished = {{
    {"DeepSeek-R1-Distill-Qwen-1.5B (the base)", {28.8, 82.8, 62.9, 26.5, 43.3}},
    {"DeepScaleR-1.5B-Preview", {43.1, 87.8, 73.6, 30.2, 50.0}},
    {"o1-preview", {40.0, 81.4, -1, -1, -1}},
    {"rStar-Math-7B", {26.7, 78.4, 47.5, -1, 47.1}},
    {"Eurus-2-7B-PRIME", {26.7, 79.2, 57.8, 38.6, 42.1}},
    {"Qwen2.5-7B-SimpleRL", {26.7, 82.4, 62.5, 39.7, 43.3}},
}};

int SetOf(absl::string_view name) {
  std::string letters;
  for (const char c : name) {
    if (absl::ascii_isalnum(static_cast<unsigned char>(c))) {
      letters.push_back(absl::ascii_tolower(static_cast<unsigned char>(c)));
    }
  }
  static constexpr std::array<std::pair<const char*, Set>, 10> kNames = {
      {{"aime24", kAime24},
       {"aime2024", kAime24},
       {"math500", kMath500},
       {"amc23", kAmc23},
       {"amc2023", kAmc23},
       {"minerva", kMinerva},
       {"minervamath", kMinerva},
       {"olympiad", kOlympiad},
       {"olympiadbench", kOlympiad},
       {"olympiadbenchmath", kOlympiad}}};
  for (const auto& [known, set] : kNames) {
    if (letters == known) return set;
  }
  return kSets;
}

std::string Share(const Json& value) {
  return value.is_number() ? absl::StrFormat("%.3f", value.get<double>()) : "-";
}

// The largest k's pass@k, "pass@16 0.750".
std::string LargestPassAtK(const Json& result) {
  const Json& passes = result["pass_at_k"];
  if (passes.empty()) return "-";
  std::string at, value;
  for (const auto& [k, pass] : passes.items()) {
    at = k;
    value = Share(pass);
  }
  return absl::StrCat(value, " (k ", at, ")");
}

}  // namespace

std::vector<PublishedResult> PublishedResults(absl::string_view set) {
  std::vector<PublishedResult> results;
  const int column = SetOf(set);
  if (column == kSets) return results;
  for (const PublishedModel& model : kPublished) {
    if (model.percent[column] >= 0) results.push_back({model.name, model.percent[column] / 100});
  }
  return results;
}

Json EvaluationJson(const v1::EvaluationResult& e) {
  Json passes = Json::object();
  for (const v1::PassAtK& pass : e.pass_at_k()) passes[absl::StrCat(pass.k())] = pass.value();
  Json variants = nullptr;
  if (e.has_variants()) {
    const v1::VariantResult& v = e.variants();
    variants = {{"originals", v.originals()},
                {"variants", v.variants()},
                {"original_pass_at_1", v.original_pass_at_1()},
                {"variant_pass_at_1", v.variant_pass_at_1()},
                {"drop", v.original_pass_at_1() - v.variant_pass_at_1()},
                {"drop_ci95", {v.drop_low(), v.drop_high()}}};
  }
  return {{"kind", "evaluation"},
          {"step", e.step()},
          {"set", e.set()},
          {"problems", e.problems()},
          {"samples", e.samples()},
          {"pass_at_1", e.pass_at_1()},
          {"ci95", {e.ci95_low(), e.ci95_high()}},
          {"pass_at_k", passes},
          {"majority", e.majority()},
          {"mean_tokens", e.mean_tokens()},
          {"truncation_ratio", e.truncation_ratio()},
          {"undecided_ratio", e.undecided_ratio()},
          {"variants", variants},
          {"generated_tokens", e.generated_tokens()},
          {"seconds", e.seconds()},
          {"train_elapsed_seconds", e.train_elapsed_seconds()},
          {"train_generated_tokens", e.train_generated_tokens()}};
}

Json EvaluationsJson(const RunPicture& run) {
  struct Ends {
    const v1::EvaluationResult* base = nullptr;
    const v1::EvaluationResult* last = nullptr;
  };
  std::vector<std::string> order;
  std::map<std::string, Ends> sets;
  const auto add = [&](const v1::EvaluationResult& result) {
    const auto [at, is_new] = sets.try_emplace(result.set());
    if (is_new) order.push_back(result.set());
    if (result.step() == 0) at->second.base = &result;
    at->second.last = &result;
  };
  for (const auto& [step, result] : run.evaluations) add(result);
  for (const auto& [key, result] : run.other_evaluations) add(result);
  Json out = Json::array();
  for (const std::string& name : order) {
    const Ends& ends = sets[name];
    Json published = Json::array();
    for (const PublishedResult& result : PublishedResults(name)) {
      published.push_back({{"model", result.model}, {"pass_at_1", result.pass_at_1}});
    }
    const bool told = !published.empty();
    out.push_back({{"set", name},
                   {"base", ends.base == nullptr ? Json(nullptr) : EvaluationJson(*ends.base)},
                   {"final", EvaluationJson(*ends.last)},
                   {"published", std::move(published)},
                   {"source", told ? Json(kPublishedSource) : Json(nullptr)}});
  }
  return out;
}

std::vector<std::vector<std::string>> EvaluationRows(const Json& evaluations) {
  std::vector<std::vector<std::string>> rows = {{"set", "problems", "samples", "base pass@1",
                                                 "pass@1", "95% interval", "pass@k", "majority",
                                                 "length", "truncated", "undecided"}};
  for (const Json& set : evaluations) {
    const Json& final = set["final"];
    rows.push_back({set["set"].get<std::string>(), absl::StrCat(final["problems"].get<int64_t>()),
                    absl::StrCat(final["samples"].get<int64_t>()),
                    set["base"].is_object() ? Share(set["base"]["pass_at_1"]) : "-",
                    Share(final["pass_at_1"]),
                    absl::StrCat(Share(final["ci95"][0]), " to ", Share(final["ci95"][1])),
                    LargestPassAtK(final), Share(final["majority"]),
                    absl::StrFormat("%.0f", final["mean_tokens"].get<double>()),
                    Share(final["truncation_ratio"]), Share(final["undecided_ratio"])});
  }
  return rows;
}

std::string EvaluationText(const Json& evaluations) {
  const auto rows = EvaluationRows(evaluations);
  std::vector<size_t> widths(rows[0].size(), 0);
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string out;
  for (const auto& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      const auto width = static_cast<int>(widths[i]);
      if (i == 0) {
        absl::StrAppendFormat(&line, "%-*s", width, row[i]);
      } else {
        absl::StrAppendFormat(&line, "  %*s", width, row[i]);
      }
    }
    absl::StrAppend(&out, line, "\n");
  }
  for (const Json& set : evaluations) {
    const std::string name = set["set"].get<std::string>();
    if (!set["published"].empty()) {
      std::vector<std::string> words;
      for (const Json& result : set["published"]) {
        words.push_back(
            absl::StrCat(result["model"].get<std::string>(), " ", Share(result["pass_at_1"])));
      }
      absl::StrAppend(&out, name, ", published: ", absl::StrJoin(words, ", "), "\n");
    }
    const Json& variants = set["final"]["variants"];
    if (variants.is_object()) {
      absl::StrAppendFormat(
          &out, "%s: %s on %d originals, %s on %d variants of them, drop %s (%s to %s)\n", name,
          Share(variants["original_pass_at_1"]), variants["originals"].get<int64_t>(),
          Share(variants["variant_pass_at_1"]), variants["variants"].get<int64_t>(),
          Share(variants["drop"]), Share(variants["drop_ci95"][0]),
          Share(variants["drop_ci95"][1]));
    }
  }
  return out;
}

}  // namespace crescendo
