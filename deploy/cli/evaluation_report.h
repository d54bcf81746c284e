// What evaluations came to: as data, as a table for a terminal or a page, and beside what was
// published for the same sets. Pure functions; thread-safe.
#ifndef CRESCENDO_DEPLOY_CLI_EVALUATION_REPORT_H_
#define CRESCENDO_DEPLOY_CLI_EVALUATION_REPORT_H_

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "deploy/cli/run_client.h"

namespace crescendo {

// A published pass@1, a share of 1, mean over samples (16 for the 1.5B models).
struct PublishedResult {
  const char* model;
  double pass_at_1;
};
// Those for the set of this name ("aime24", "MATH-500", "olympiad_bench", ...); none for others.
std::vector<PublishedResult> PublishedResults(absl::string_view set);
// Where they are from.
extern const char kPublishedSource[];

// One result: {"kind": "evaluation", "step", "set", "problems", "samples", "pass_at_1", "ci95",
// "pass_at_k", "majority", "mean_tokens", "truncation_ratio", "undecided_ratio", "variants", ...}.
nlohmann::ordered_json EvaluationJson(const v1::EvaluationResult& result);

// One object a set, the first set first: {"set", "base", "final", "published", "source"}; base is
// the result before the first step, null without one, final the newest.
nlohmann::ordered_json EvaluationsJson(const RunPicture& run);

// A table of what EvaluationsJson gave, its first row the heads.
std::vector<std::vector<std::string>> EvaluationRows(const nlohmann::ordered_json& evaluations);
// The same in columns of text, and a line for each set with published results and with variants.
std::string EvaluationText(const nlohmann::ordered_json& evaluations);

}  // namespace crescendo

#endif  // CRESCENDO_DEPLOY_CLI_EVALUATION_REPORT_H_
