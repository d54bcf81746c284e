// The view of a run for a terminal, as text. Pure: what is known of the run goes in, lines come
// out.
#ifndef CRESCENDO_DEPLOY_CLI_LIVE_VIEW_H_
#define CRESCENDO_DEPLOY_CLI_LIVE_VIEW_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "deploy/cli/run_client.h"

namespace crescendo {

struct ViewOptions {
  int width = 80;      // columns
  bool color = true;   // ANSI colours
  std::string title;   // "demo, seed 1"
  std::string notice;  // shown at the end: an unreachable coordinator, a restart; may be empty
};

// The frame: a dozen lines or so, none wider than `width`.
std::vector<std::string> RenderView(const RunPicture& run, const ViewOptions& options);

// One line of a plain log: a step, an evaluation, a stage that ended.
std::string StepLine(const v1::StepRecord& step, const RunPicture& run);
std::string EvaluationLine(const v1::EvaluationResult& evaluation);
std::string StageLine(const v1::StageStatus& ended);

// Training tokens generated a second over the last steps (the coordinator's own figure is of the
// last moment, and stands still while the learner trains); that figure when there are no two steps
// yet.
double TokensPerSecond(const RunPicture& run);

// Values as a row of blocks of eight heights, at most `width` of them (the mean of neighbours when
// there are more values). The lowest stands for `low`, the highest for `high`.
std::string Sparkline(const std::vector<double>& values, int width, double low, double high);

// "1:05", "1:02:03"; "?" for what is not known (negative or infinite).
std::string FormatTime(double seconds);
// "0.42 core-hours", "3.1 GPU-hours, $3.66".
std::string UsedText(double gpu_hours, double core_hours, double money,
                     const std::string& currency);
// "5,820".
std::string FormatCount(double count);
// Columns that a text takes: UTF-8 characters, without ANSI sequences.
int DisplayWidth(absl::string_view text);

}  // namespace crescendo

#endif  // CRESCENDO_DEPLOY_CLI_LIVE_VIEW_H_
