// Datasets as JSON lines: one problem a line, with `id`, `problem`, `answer` and, where known,
// `level` and `variant_of`. Other fields are left alone. Pure functions; thread-safe.
#ifndef CRESCENDO_COMMON_FORMATS_JSONL_H_
#define CRESCENDO_COMMON_FORMATS_JSONL_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/os/env.h"

namespace crescendo {

struct DatasetRow {
  std::string id;                    // unique in its file, not empty
  std::string problem;               // not empty
  std::vector<std::string> answers;  // any of them is right; at least one, none empty
  std::optional<double> level;       // difficulty, as the dataset counts it
  std::string variant_of;  // the id of the problem that this one is with other numbers; empty: none
};

// All rows of a file, in order. Blank lines are skipped. INVALID_ARGUMENT names file and line:
// "gsm8k.jsonl:17: field 'answer' is missing". A number as answer becomes its shortest text ("204",
// "0.5").
absl::StatusOr<std::vector<DatasetRow>> ReadDataset(FileSystem& files, const std::string& path);

// Calls `take` with the number (from 1) and the text of each line that is not blank, until it
// returns an error, which is then returned. INVALID_ARGUMENT names a line that is too long.
absl::Status ForEachLine(FileSystem& files, const std::string& path,
                         absl::FunctionRef<absl::Status(size_t, absl::string_view)> take);

// One line; `place` starts the error.
absl::StatusOr<DatasetRow> ParseDatasetRow(absl::string_view line, absl::string_view place);

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_FORMATS_JSONL_H_
