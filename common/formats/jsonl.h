// Datasets as JSON lines: one problem a line, with `id`, `problem`, `answer` and, where known,
// `level`. Other fields are left alone. Pure functions; thread-safe.
#ifndef CRESCENDO_COMMON_FORMATS_JSONL_H_
#define CRESCENDO_COMMON_FORMATS_JSONL_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/os/env.h"

namespace crescendo {

struct DatasetRow {
  std::string id;                    // unique in its file, not empty
  std::string problem;               // not empty
  std::vector<std::string> answers;  // any of them is right; at least one, none empty
  std::optional<double> level;       // difficulty, as the dataset counts it
};

// All rows of a file, in order. Blank lines are skipped. INVALID_ARGUMENT names file and line:
// "gsm8k.jsonl:17: field 'answer' is missing". A number as answer becomes its shortest text ("204",
// "0.5").
absl::StatusOr<std::vector<DatasetRow>> ReadDataset(FileSystem& files, const std::string& path);

// One line; `place` starts the error.
absl::StatusOr<DatasetRow> ParseDatasetRow(absl::string_view line, absl::string_view place);

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_FORMATS_JSONL_H_
