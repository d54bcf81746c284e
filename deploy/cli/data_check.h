// What is wrong with training data: rows that cannot be read, golds that the grader cannot parse,
// problems that come twice, and problems of evaluation sets among them. Streams the training files:
// what is kept of a row is its hash, its place and its gold.
//
// The chance that unrelated problems are taken for a leak is measured, not assumed: the same
// matching between sets that have nothing to do with each other (CheckOptions::unrelated against
// the training files; without any, the evaluation sets among each other).
//
// Not thread-safe; blocks (seconds for 40,000 problems).
#ifndef CRESCENDO_DEPLOY_CLI_DATA_CHECK_H_
#define CRESCENDO_DEPLOY_CLI_DATA_CHECK_H_

#include <array>
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/os/env.h"

namespace crescendo {

struct DataCheckOptions {
  std::vector<std::string> train;      // files; not empty
  std::vector<std::string> eval;       // sets that must not be trained on
  std::vector<std::string> unrelated;  // sets known to have nothing in common with `train`
  double threshold = 0.5;              // (0, 1]: containment from which on a row is a leak
};

enum class DropReason : uint8_t {
  kMalformed,   // not a row, or without a field: detail says which
  kRepeatedId,  // the id of an earlier row
  kGold,        // none of its golds can be parsed
  kDuplicate,   // the problem of an earlier row, with an equal gold
  kConflict,    // the problem of another row, with a gold that is not known to be equal: all go
  kLeakExact,   // a problem of an evaluation set
  kLeakContainment,  // contains at least the threshold of one
};
inline constexpr int kDropReasons = 7;
const char* DropReasonName(DropReason reason);

struct DroppedRow {
  int file = 0;  // of options.train
  int64_t line = 0;
  std::string id;  // empty when it has none
  DropReason reason = DropReason::kMalformed;
  std::string detail;      // the error, or the other row, for people
  double containment = 0;  // of a leak
};

// Thresholds at which leaks and false positives are counted.
inline constexpr std::array<double, 6> kThresholds = {0.3, 0.4, 0.5, 0.6, 0.7, 0.8};

// One evaluation set against all training files.
struct LeakCount {
  std::string set;
  int64_t problems = 0;
  int64_t exact = 0;                        // problems of the set with an exact match
  std::array<int64_t, 6> problems_at = {};  // with a match at each of kThresholds, exact included
  // Of those, with an equal gold: the same problem. Without, mostly one made after the same
  // pattern.
  std::array<int64_t, 6> same_gold_at = {};
  std::array<int64_t, 6> pairs_at = {};  // (training row, problem)
  int64_t pairs = 0;                     // compared
};

struct DataCheck {
  std::vector<int64_t> rows;        // of each training file, those that cannot be read included
  std::vector<std::string> crc32c;  // of each training file
  int64_t golds = 0;
  int64_t golds_unparsable = 0;
  std::vector<DroppedRow> dropped;  // by file and line; a row once, for the first reason that holds
  std::vector<LeakCount> leaks;     // by set
  std::vector<LeakCount> unrelated;  // pairs of sets that have nothing in common
  bool unrelated_is_train = false;   // `unrelated` is of training rows; else of evaluation rows

  int64_t rows_in_all() const;
  std::map<DropReason, int64_t> dropped_by_reason() const;
};

// Errors are those of files that cannot be read at all and of evaluation sets with a wrong row.
absl::StatusOr<DataCheck> CheckData(FileSystem& files, const DataCheckOptions& options);

// What it found, in lines for a terminal.
std::string DataCheckText(const DataCheckOptions& options, const DataCheck& check);
// The manifest of a filtered set: its sources, rules and every dropped row.
nlohmann::ordered_json DataManifest(const DataCheckOptions& options, const DataCheck& check);
// Writes the rows that stay, byte for byte, to `path`, and the manifest beside it
// (path.manifest.json). Each appears whole or not at all.
absl::Status WriteFiltered(FileSystem& files, const DataCheckOptions& options,
                           const DataCheck& check, const std::string& path);

}  // namespace crescendo

#endif  // CRESCENDO_DEPLOY_CLI_DATA_CHECK_H_
