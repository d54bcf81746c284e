// Any bytes as a dataset: rows that keep their promises, or an error that names the place.
#include "absl/strings/match.h"
#include "common/base/status_macros.h"
#include "common/formats/jsonl.h"
#include "tests/support/one_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace crescendo;
  OneFile files(data, size);
  const auto rows = ReadDataset(files, "input");
  if (!rows.ok()) {
    CRESCENDO_CHECK(absl::StartsWith(rows.status().message(), "input:"));
    return 0;
  }
  for (const DatasetRow& row : *rows) {
    CRESCENDO_CHECK(!row.id.empty() && !row.problem.empty() && !row.answers.empty());
  }
  return 0;
}
