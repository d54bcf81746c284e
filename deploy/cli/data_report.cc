// What a check of data found, for people and programs.
#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/status_macros.h"
#include "common/formats/jsonl.h"
#include "deploy/cli/data_check.h"
#include "deploy/cli/leak_index.h"

namespace crescendo {

namespace {

using Json = nlohmann::ordered_json;
constexpr int kShownOfAReason = 3;

struct Rate {
  int64_t matches = 0;
  int64_t pairs = 0;
  double upper = 0;  // 95% bound of the rate, of the Poisson law
};

Rate RateAt(const std::vector<LeakCount>& counts, size_t threshold) {
  Rate rate;
  for (const LeakCount& count : counts) {
    rate.matches += count.pairs_at[threshold];
    rate.pairs += count.pairs;
  }
  if (rate.pairs == 0) return rate;
  // 3 for no event ("rule of three"); else the usual approximation of the Poisson law's bound.
  const auto k = static_cast<double>(rate.matches);
  const double bound = rate.matches == 0 ? 3.0 : k + 1.645 * std::sqrt(k) + 1.5;
  rate.upper = bound / static_cast<double>(rate.pairs);
  return rate;
}

void AppendLeaks(const DataCheck& check, std::string& out) {
  absl::StrAppendFormat(&out, "\n%-24s %8s %6s", "evaluation set", "problems", "exact");
  for (const double t : kThresholds)
    absl::StrAppendFormat(&out, " %7s", absl::StrFormat(">=%.1f", t));
  absl::StrAppend(&out, "   problems found in the training rows (with an equal gold)\n");
  for (const LeakCount& count : check.leaks) {
    absl::StrAppendFormat(&out, "%-24s %8d %6d", count.set, count.problems, count.exact);
    for (size_t t = 0; t < kThresholds.size(); ++t) {
      absl::StrAppendFormat(&out, " %7s",
                            absl::StrCat(count.problems_at[t], "(", count.same_gold_at[t], ")"));
    }
    out.push_back('\n');
  }
}

void AppendFalsePositives(const DataCheckOptions& options, const DataCheck& check,
                          std::string& out) {
  if (check.unrelated.empty()) return;
  absl::StrAppend(&out, "\nfalse matches, measured on ",
                  check.unrelated_is_train
                      ? "--unrelated sets against the training rows"
                      : "the evaluation sets against each other (true repeats among them count)",
                  ":\n");
  int64_t compared = 0;
  for (const LeakCount& count : check.leaks) compared += count.pairs;
  for (size_t t = 0; t < kThresholds.size(); ++t) {
    const Rate rate = RateAt(check.unrelated, t);
    absl::StrAppendFormat(&out,
                          "  >=%.1f: %d of %d pairs, at most %.1e of them (95%%): at most %.1f "
                          "expected among the %d pairs above\n",
                          kThresholds[t], rate.matches, rate.pairs, rate.upper,
                          rate.upper * static_cast<double>(compared), compared);
  }
  (void)options;
}

void AppendDropped(const DataCheckOptions& options, const DataCheck& check, std::string& out) {
  for (const auto& [reason, count] : check.dropped_by_reason()) {
    absl::StrAppendFormat(&out, "\n%s: %d rows\n", DropReasonName(reason), count);
    int shown = 0;
    for (const DroppedRow& row : check.dropped) {
      if (row.reason != reason || shown++ == kShownOfAReason) continue;
      if (shown > kShownOfAReason) break;
      const std::string place =
          absl::StrCat(BaseName(options.train[row.file]), ":", row.line, ": ", row.id);
      absl::StrAppend(
          &out, "  ",
          reason == DropReason::kMalformed ? row.detail : absl::StrCat(place, ": ", row.detail),
          row.containment > 0 ? absl::StrFormat(" (%.2f)", row.containment) : "", "\n");
    }
    if (count > kShownOfAReason) absl::StrAppend(&out, "  ...\n");
  }
}

Json CountJson(const LeakCount& count) {
  Json problems = Json::object();
  Json same_gold = Json::object();
  Json pairs = Json::object();
  for (size_t t = 0; t < kThresholds.size(); ++t) {
    problems[absl::StrFormat("%.1f", kThresholds[t])] = count.problems_at[t];
    same_gold[absl::StrFormat("%.1f", kThresholds[t])] = count.same_gold_at[t];
    pairs[absl::StrFormat("%.1f", kThresholds[t])] = count.pairs_at[t];
  }
  return {{"set", count.set},
          {"problems", count.problems},
          {"exact", count.exact},
          {"problems_at_containment", problems},
          {"with_an_equal_gold", same_gold},
          {"pairs", count.pairs},
          {"pairs_at_containment", pairs}};
}

}  // namespace

std::string DataCheckText(const DataCheckOptions& options, const DataCheck& check) {
  std::string out;
  for (size_t i = 0; i < options.train.size(); ++i) {
    absl::StrAppendFormat(&out, "%s: %d rows\n", options.train[i], check.rows[i]);
  }
  absl::StrAppendFormat(&out, "%d gold answers, %d that the grader cannot parse\n", check.golds,
                        check.golds_unparsable);
  if (!check.leaks.empty()) AppendLeaks(check, out);
  AppendFalsePositives(options, check, out);
  AppendDropped(options, check, out);
  const auto dropped = static_cast<int64_t>(check.dropped.size());
  absl::StrAppendFormat(&out,
                        "\n%d of %d rows stay; a leak is an exact match or containment >= %g\n",
                        check.rows_in_all() - dropped, check.rows_in_all(), options.threshold);
  return out;
}

Json DataManifest(const DataCheckOptions& options, const DataCheck& check) {
  Json manifest = {{"made_by", "crescendo data check"},
                   {"ngram_tokens", LeakIndex::kGramTokens},
                   {"tokens_min", LeakIndex::kTokensMin},
                   {"containment_threshold", options.threshold}};
  Json sources = Json::array();
  for (size_t i = 0; i < options.train.size(); ++i) {
    sources.push_back(
        {{"file", options.train[i]}, {"rows", check.rows[i]}, {"crc32c", check.crc32c[i]}});
  }
  manifest["sources"] = std::move(sources);
  manifest["rows_kept"] = check.rows_in_all() - static_cast<int64_t>(check.dropped.size());
  Json counts = Json::object();
  for (const auto& [reason, count] : check.dropped_by_reason()) {
    counts[DropReasonName(reason)] = count;
  }
  manifest["dropped"] = std::move(counts);
  Json leaks = Json::array();
  for (const LeakCount& count : check.leaks) leaks.push_back(CountJson(count));
  manifest["evaluation_sets"] = std::move(leaks);
  Json unrelated = Json::array();
  for (const LeakCount& count : check.unrelated) unrelated.push_back(CountJson(count));
  manifest["unrelated"] = std::move(unrelated);
  manifest["unrelated_compared_with"] = check.unrelated_is_train ? "training" : "evaluation";
  Json rows = Json::array();
  for (const DroppedRow& row : check.dropped) {
    Json entry = {{"file", options.train[row.file]},
                  {"line", row.line},
                  {"id", row.id},
                  {"reason", DropReasonName(row.reason)},
                  {"detail", row.detail}};
    if (row.containment > 0) entry["containment"] = row.containment;
    rows.push_back(std::move(entry));
  }
  manifest["dropped_rows"] = std::move(rows);
  return manifest;
}

absl::Status WriteFiltered(FileSystem& files, const DataCheckOptions& options,
                           const DataCheck& check, const std::string& path) {
  ASSIGN_OR_RETURN(const auto out, files.CreateAtomic(path));
  auto dropped = check.dropped.begin();
  for (size_t file = 0; file < options.train.size(); ++file) {
    RETURN_IF_ERROR(
        ForEachLine(files, options.train[file], [&](size_t line, absl::string_view text) {
          const bool drop = dropped != check.dropped.end() &&
                            dropped->file == static_cast<int>(file) &&
                            dropped->line == static_cast<int64_t>(line);
          if (drop) {
            ++dropped;
            return absl::OkStatus();
          }
          RETURN_IF_ERROR(out->Append(text));
          return out->Append("\n");
        }));
  }
  RETURN_IF_ERROR(out->Commit());
  const std::string manifest =
      DataManifest(options, check).dump(1, ' ', false, Json::error_handler_t::replace);
  return files.WriteFile(absl::StrCat(path, ".manifest.json"), manifest + "\n");
}

}  // namespace crescendo
