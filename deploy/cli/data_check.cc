#include "deploy/cli/data_check.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/base/crc32c.h"
#include "common/base/status_macros.h"
#include "common/formats/jsonl.h"
#include "deploy/cli/leak_index.h"
#include "services/reward/gold_check.h"
#include "services/reward/grader.h"

namespace crescendo {

namespace {

constexpr size_t kGoldKept = 1024;  // bytes of a gold that duplicates are compared by

// An index over some sets, and what was found of them so far.
class Watch {
 public:
  void AddSet(const std::string& path, const std::vector<DatasetRow>& rows) {
    LeakCount count;
    count.set = BaseName(path);
    count.problems = static_cast<int64_t>(rows.size());
    for (const DatasetRow& row : rows) {
      index_.Add(row.problem);
      set_of_.push_back(counts_.size());
      ids_.push_back(row.id);
      golds_.push_back(row.answers);
    }
    counts_.push_back(std::move(count));
    best_.resize(index_.size());
  }

  using SameGold = absl::FunctionRef<bool(const std::vector<std::string>& golds)>;
  // Counts the text against all sets but `not_set`. The match that is nearest to a leak; nullopt:
  // none at the lowest threshold.
  std::optional<LeakMatch> Compare(absl::string_view text, double threshold, int not_set,
                                   SameGold same_gold) {
    for (size_t set = 0; set < counts_.size(); ++set) {
      if (static_cast<int>(set) != not_set) counts_[set].pairs += counts_[set].problems;
    }
    std::optional<LeakMatch> nearest;
    for (const LeakMatch& match : index_.Find(text, std::min(threshold, kThresholds[0]))) {
      const size_t set = set_of_[match.problem];
      if (static_cast<int>(set) == not_set) continue;
      Best& best = best_[match.problem];
      best.containment = std::max(best.containment, match.containment);
      best.exact |= match.exact;
      if (match.containment > best.same_gold && same_gold(golds_[match.problem])) {
        best.same_gold = match.containment;
      }
      for (size_t t = 0; t < kThresholds.size(); ++t) {
        counts_[set].pairs_at[t] += match.containment >= kThresholds[t] ? 1 : 0;
      }
      const bool nearer =
          !nearest || match.containment > nearest->containment || (match.exact && !nearest->exact);
      if (nearer) nearest = match;
    }
    return nearest;
  }

  std::vector<LeakCount> Counts() const {
    std::vector<LeakCount> counts = counts_;
    for (uint32_t i = 0; i < index_.size(); ++i) {
      LeakCount& count = counts[set_of_[i]];
      count.exact += best_[i].exact ? 1 : 0;
      for (size_t t = 0; t < kThresholds.size(); ++t) {
        count.problems_at[t] += best_[i].containment >= kThresholds[t] ? 1 : 0;
        count.same_gold_at[t] += best_[i].same_gold >= kThresholds[t] ? 1 : 0;
      }
    }
    return counts;
  }

  std::string NameOf(uint32_t problem) const {
    return absl::StrCat(counts_[set_of_[problem]].set, " ", ids_[problem]);
  }
  bool empty() const { return counts_.empty(); }
  const std::vector<std::string>& golds(uint32_t problem) const { return golds_[problem]; }

 private:
  // The largest containment in any text, and in one with an equal gold.
  struct Best {
    double containment = 0;
    double same_gold = 0;
    bool exact = false;
  };
  LeakIndex index_;
  std::vector<size_t> set_of_;                   // [problem]
  std::vector<std::string> ids_;                 // [problem]
  std::vector<std::vector<std::string>> golds_;  // [problem]
  std::vector<Best> best_;                       // [problem]
  std::vector<LeakCount> counts_;
};

struct Place {
  int file = 0;
  int64_t line = 0;
};

// The pass over the training files.
class Checker {
 public:
  Checker(const DataCheckOptions& options, Watch* watch, Watch* unrelated)
      : options_(options), watch_(*watch), unrelated_(*unrelated), grader_({}) {}

  void Take(int file, int64_t line, absl::string_view text);
  DataCheck Result() &&;

 private:
  struct Seen {
    Place place;
    std::string id;
    std::string gold;
    bool conflict = false;
  };

  std::string PlaceText(const Place& place) const {
    return absl::StrCat(BaseName(options_.train[place.file]), ":", place.line);
  }
  void Drop(const Place& place, const std::string& id, DropReason reason, std::string detail,
            double containment = 0) {
    check_.dropped.push_back({place.file, place.line, id, reason, std::move(detail), containment});
  }
  bool AnyGoldParses(const DatasetRow& row, std::string* why);
  bool DropsLeak(const Place& place, const DatasetRow& row);
  void CompareWithEarlier(const Place& place, const DatasetRow& row);
  bool Equal(const std::string& gold, const std::string& other);

  const DataCheckOptions& options_;
  Watch& watch_;
  Watch& unrelated_;
  Grader grader_;
  DataCheck check_;
  absl::flat_hash_map<std::string, Place> ids_;
  absl::flat_hash_map<uint64_t, Seen> seen_;  // by the hash of the problem's tokens
};

bool Checker::AnyGoldParses(const DatasetRow& row, std::string* why) {
  bool any = false;
  for (const std::string& gold : row.answers) {
    const GoldCheck result = CheckGold(gold);
    ++check_.golds;
    any |= result.parsable;
    if (result.parsable) continue;
    ++check_.golds_unparsable;
    *why = absl::StrCat("the grader cannot parse ", gold.substr(0, 200));
  }
  return any;
}

bool Checker::DropsLeak(const Place& place, const DatasetRow& row) {
  const auto same_gold = [this, &row](const std::vector<std::string>& golds) {
    return std::any_of(golds.begin(), golds.end(),
                       [&](const std::string& gold) { return Equal(gold, row.answers.front()); });
  };
  const auto match = watch_.Compare(row.problem, options_.threshold, -1, same_gold);
  if (!unrelated_.empty()) {
    (void)unrelated_.Compare(row.problem, options_.threshold, -1, same_gold);
  }
  if (!match || (!match->exact && match->containment < options_.threshold)) return false;
  Drop(place, row.id, match->exact ? DropReason::kLeakExact : DropReason::kLeakContainment,
       absl::StrCat(watch_.NameOf(match->problem),
                    same_gold(watch_.golds(match->problem)) ? ", the same gold" : ", another gold"),
       match->containment);
  return true;
}

bool Checker::Equal(const std::string& gold, const std::string& other) {
  const std::string response = absl::StrCat("\\boxed{", other, "}");
  GradeQuery query;
  query.gold = {gold};
  query.response = response;
  return grader_.Evaluate(query).verdict == Verdict::kCorrect;
}

void Checker::CompareWithEarlier(const Place& place, const DatasetRow& row) {
  const std::string gold = row.answers.front().substr(0, kGoldKept);
  const auto [at, fresh] =
      seen_.try_emplace(TokensHash(ProblemTokens(row.problem)), Seen{place, row.id, gold, false});
  if (fresh) return;
  Seen& first = at->second;
  if (Equal(first.gold, gold)) {
    Drop(place, row.id, first.conflict ? DropReason::kConflict : DropReason::kDuplicate,
         absl::StrCat("of ", PlaceText(first.place), ", answer ", first.gold));
    return;
  }
  Drop(place, row.id, DropReason::kConflict,
       absl::StrCat("answer ", gold, ", but ", first.gold, " at ", PlaceText(first.place)));
  if (std::exchange(first.conflict, true)) return;
  Drop(first.place, first.id, DropReason::kConflict,
       absl::StrCat("answer ", first.gold, ", but ", gold, " at ", PlaceText(place)));
}

void Checker::Take(int file, int64_t line, absl::string_view text) {
  const Place place = {file, line};
  const absl::StatusOr<DatasetRow> row = ParseDatasetRow(text, PlaceText(place));
  if (!row.ok())
    return Drop(place, "", DropReason::kMalformed, std::string(row.status().message()));
  const auto [known, is_new] = ids_.emplace(row->id, place);
  if (!is_new) {
    return Drop(place, row->id, DropReason::kRepeatedId,
                absl::StrCat("the id of ", PlaceText(known->second), " too"));
  }
  std::string why;
  const bool parses = AnyGoldParses(*row, &why);
  const bool leaks = DropsLeak(place, *row);
  if (leaks) return;
  if (!parses) return Drop(place, row->id, DropReason::kGold, std::move(why));
  CompareWithEarlier(place, *row);
}

DataCheck Checker::Result() && {
  std::sort(check_.dropped.begin(), check_.dropped.end(),
            [](const DroppedRow& a, const DroppedRow& b) {
              return std::pair(a.file, a.line) < std::pair(b.file, b.line);
            });
  check_.leaks = watch_.Counts();
  return std::move(check_);
}

absl::Status AddSets(FileSystem& files, const std::vector<std::string>& paths, Watch* watch,
                     std::vector<std::vector<DatasetRow>>* rows) {
  for (const std::string& path : paths) {
    ASSIGN_OR_RETURN(std::vector<DatasetRow> set, ReadDataset(files, path));
    watch->AddSet(path, set);
    if (rows != nullptr) rows->push_back(std::move(set));
  }
  return absl::OkStatus();
}

}  // namespace

const char* DropReasonName(DropReason reason) {
  static constexpr std::array<const char*, kDropReasons> kNames = {
      "malformed",  "repeated_id",     "gold", "duplicate", "conflict",
      "leak_exact", "leak_containment"};
  return kNames[static_cast<size_t>(reason)];
}

int64_t DataCheck::rows_in_all() const {
  int64_t sum = 0;
  for (const int64_t count : rows) sum += count;
  return sum;
}

std::map<DropReason, int64_t> DataCheck::dropped_by_reason() const {
  std::map<DropReason, int64_t> counts;
  for (const DroppedRow& row : dropped) ++counts[row.reason];
  return counts;
}

absl::StatusOr<DataCheck> CheckData(FileSystem& files, const DataCheckOptions& options) {
  Watch watch;
  Watch unrelated;
  std::vector<std::vector<DatasetRow>> eval_rows;
  RETURN_IF_ERROR(AddSets(files, options.eval, &watch, &eval_rows));
  RETURN_IF_ERROR(AddSets(files, options.unrelated, &unrelated, nullptr));
  Checker checker(options, &watch, &unrelated);
  std::vector<int64_t> rows;
  std::vector<std::string> checksums;
  for (size_t file = 0; file < options.train.size(); ++file) {
    int64_t count = 0;
    RETURN_IF_ERROR(
        ForEachLine(files, options.train[file], [&](size_t line, absl::string_view text) {
          ++count;
          checker.Take(static_cast<int>(file), static_cast<int64_t>(line), text);
          return absl::OkStatus();
        }));
    rows.push_back(count);
    ASSIGN_OR_RETURN(const auto map, files.MemoryMap(options.train[file]));
    checksums.push_back(absl::StrFormat(
        "%08x", Crc32c(absl::string_view(map->bytes().data(), map->bytes().size()))));
  }
  DataCheck check = std::move(checker).Result();
  check.rows = std::move(rows);
  check.crc32c = std::move(checksums);
  check.unrelated_is_train = !options.unrelated.empty();
  if (check.unrelated_is_train) {
    check.unrelated = unrelated.Counts();
  } else if (eval_rows.size() > 1) {
    Watch among;
    for (size_t i = 0; i < eval_rows.size(); ++i) among.AddSet(options.eval[i], eval_rows[i]);
    for (size_t i = 0; i < eval_rows.size(); ++i) {
      for (const DatasetRow& row : eval_rows[i]) {
        (void)among.Compare(row.problem, options.threshold, static_cast<int>(i),
                            [](const std::vector<std::string>&) { return false; });
      }
    }
    check.unrelated = among.Counts();
  }
  return check;
}

}  // namespace crescendo
