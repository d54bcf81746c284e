// What a run came to, as data: report.json and metrics.jsonl. Pure, but for where it ran.
#ifndef CRESCENDO_DEPLOY_CLI_RUN_REPORT_H_
#define CRESCENDO_DEPLOY_CLI_RUN_REPORT_H_

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "common/os/env.h"
#include "deploy/cli/run_client.h"

namespace crescendo {

// Where and by what a run was made.
struct Provenance {
  std::string commit;   // of the source tree, "-dirty" behind it when changed; "unknown"
  std::string machine;  // processor, cores, memory, system
};

// Asks /proc and git (of the tree that holds `program_folder`); never fails.
Provenance FindProvenance(FileSystem& files, const std::string& program_folder);

// The fields of report.json:
//   commit, machine, seed, base_pass_at_1, final_pass_at_1 and ci95 (of the final; null when there
//   was no evaluation), steps, stages (context_tokens, first_step, last_step, reason),
//   wall_seconds, generated_tokens, trained_tokens, rollout_workers, mismatch_max,
//   truncation_by_stage, mean_length_by_stage, cost (currency, gpu_hours, core_hours, money,
//   services), evaluations (evaluation_report.h).
// A stage's last_step is that of the run when the run ended in it. Steps count from 0.
nlohmann::ordered_json ReportJson(const RunPicture& run, uint64_t seed, int rollout_workers,
                                  const Provenance& provenance);

// One JSON object a line, in order of steps: {"kind": "step", ...} and {"kind": "evaluation", ...}.
std::string MetricsJsonLines(const RunPicture& run);

// The closing words for a terminal.
std::string SummaryText(const nlohmann::ordered_json& report);

}  // namespace crescendo

#endif  // CRESCENDO_DEPLOY_CLI_RUN_REPORT_H_
