#include "deploy/cli/run_report.h"

#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "deploy/cli/child_process.h"
#include "deploy/cli/evaluation_report.h"
#include "deploy/cli/live_view.h"

namespace crescendo {
namespace {

using Json = nlohmann::ordered_json;

// The value of the first "key : value" line of a /proc file.
std::string ProcValue(FileSystem& files, const std::string& file, absl::string_view key) {
  const auto text = files.ReadFile(file, 4u << 20);
  if (!text.ok()) return "";
  for (const absl::string_view line : absl::StrSplit(*text, '\n')) {
    const size_t colon = line.find(':');
    if (colon == absl::string_view::npos) continue;
    if (absl::StripAsciiWhitespace(line.substr(0, colon)) == key) {
      return std::string(absl::StripAsciiWhitespace(line.substr(colon + 1)));
    }
  }
  return "";
}

std::string DescribeMachine(FileSystem& files) {
  std::string processor = ProcValue(files, "/proc/cpuinfo", "model name");
  if (processor.empty()) processor = "unknown processor";
  double kib = 0;
  const std::string memory = ProcValue(files, "/proc/meminfo", "MemTotal");
  if (!absl::SimpleAtod(memory.substr(0, memory.find(' ')), &kib)) kib = 0;
  utsname system = {};
  uname(&system);
  const long cores = sysconf(_SC_NPROCESSORS_ONLN);
  return absl::StrFormat("%s, %d cores, %.1f GiB, %s %s", processor, cores, kib / (1 << 20),
                         system.sysname, system.machine);
}

std::string FindCommit(const std::string& folder) {
  const auto hash = RunTool({"git", "-C", folder, "rev-parse", "HEAD"}, "");
  if (!hash.ok()) return "unknown";
  const auto changes =
      RunTool({"git", "-C", folder, "status", "--porcelain", "--untracked-files=no"}, "");
  return absl::StrCat(absl::StripAsciiWhitespace(*hash),
                      changes.ok() && !changes->empty() ? "-dirty" : "");
}

struct StageSums {
  double truncation = 0;
  double length = 0;
  int steps = 0;
};

std::vector<StageSums> SumByStage(const RunPicture& run) {
  std::vector<StageSums> sums(run.stages.size());
  for (const auto& [step, record] : run.steps) {
    if (record.stage() >= sums.size()) continue;
    StageSums& sum = sums[record.stage()];
    sum.truncation += record.metrics().truncation_ratio();
    sum.length += record.metrics().response_tokens_mean();
    ++sum.steps;
  }
  return sums;
}

Json StepJson(const v1::StepRecord& record) {
  const v1::StepMetrics& m = record.metrics();
  return {{"kind", "step"},
          {"step", record.step()},
          {"stage", record.stage()},
          {"reward_mean", m.reward_mean()},
          {"pass_rate", m.pass_rate()},
          {"truncation_ratio", m.truncation_ratio()},
          {"response_tokens_mean", m.response_tokens_mean()},
          {"generated_tokens", m.generated_tokens()},
          {"trained_tokens", m.trained_tokens()},
          {"loss", m.loss()},
          {"kl", m.kl()},
          {"entropy", m.entropy()},
          {"grad_norm", m.grad_norm()},
          {"clip_ratio", m.clip_ratio()},
          {"learning_rate", m.learning_rate()},
          {"mismatch_max", m.mismatch_max()},
          {"mismatch_mean", m.mismatch_mean()},
          {"staleness_mean", m.staleness_mean()},
          {"staleness_max", m.staleness_max()},
          {"zero_variance_groups", m.zero_variance_groups()},
          {"skipped", m.skipped()},
          {"wait_seconds", m.wait_seconds()},
          {"train_seconds", m.train_seconds()},
          {"publish_seconds", m.publish_seconds()},
          {"checkpoint_seconds", m.checkpoint_seconds()},
          {"elapsed_seconds", record.elapsed_seconds()},
          {"train_elapsed_seconds", record.train_elapsed_seconds()},
          {"train_generated_tokens", record.train_generated_tokens()},
          {"gpu_hours", record.gpu_hours()},
          {"core_hours", record.core_hours()},
          {"money", record.money()}};
}

Json CostJson(const v1::CostStatus& cost) {
  Json services = Json::array();
  for (const v1::ServiceCost& service : cost.services()) {
    services.push_back({{"service", service.service()},
                        {"gpu_type", service.gpu_type()},
                        {"gpu_hours", service.gpu_hours()},
                        {"core_hours", service.core_hours()},
                        {"money", service.money()}});
  }
  return {{"currency", cost.currency()},
          {"gpu_hours", cost.gpu_hours()},
          {"core_hours", cost.core_hours()},
          {"money", cost.money()},
          {"services", services}};
}

void AppendTraining(const Json& report, std::string& out) {
  if (report["base_pass_at_1"].is_number() && report["final_pass_at_1"].is_number()) {
    absl::StrAppendFormat(&out, "pass@1 %.3f -> %.3f  (95%% interval %.3f to %.3f)\n",
                          report["base_pass_at_1"].get<double>(),
                          report["final_pass_at_1"].get<double>(), report["ci95"][0].get<double>(),
                          report["ci95"][1].get<double>());
  }
  absl::StrAppendFormat(&out, "%d steps in %s, %s tokens generated, %s trained\n",
                        report["steps"].get<int64_t>(),
                        FormatTime(report["wall_seconds"].get<double>()),
                        FormatCount(report["generated_tokens"].get<double>()),
                        FormatCount(report["trained_tokens"].get<double>()));
  for (size_t i = 0; i < report["stages"].size(); ++i) {
    const Json& stage = report["stages"][i];
    absl::StrAppendFormat(
        &out, "stage %d: %d tokens, steps %d to %d (%s)\n", i + 1,
        stage["context_tokens"].get<int64_t>(), stage["first_step"].get<int64_t>() + 1,
        stage["last_step"].get<int64_t>() + 1, stage["reason"].get<std::string>());
  }
  absl::StrAppendFormat(&out, "largest |log-prob(learner) - log-prob(rollout)|: %.2e\n",
                        report["mismatch_max"].get<double>());
}

}  // namespace

Provenance FindProvenance(FileSystem& files, const std::string& program_folder) {
  return {FindCommit(program_folder), DescribeMachine(files)};
}

Json ReportJson(const RunPicture& run, uint64_t seed, int rollout_workers,
                const Provenance& provenance) {
  Json report = {{"commit", provenance.commit}, {"machine", provenance.machine}, {"seed", seed}};
  report["base_pass_at_1"] = nullptr;
  report["final_pass_at_1"] = nullptr;
  report["ci95"] = nullptr;
  if (!run.evaluations.empty()) {
    const auto& [first_step, first] = *run.evaluations.begin();
    const v1::EvaluationResult& last = run.evaluations.rbegin()->second;
    if (first_step == 0) report["base_pass_at_1"] = first.pass_at_1();
    report["final_pass_at_1"] = last.pass_at_1();
    report["ci95"] = {last.ci95_low(), last.ci95_high()};
  }
  report["steps"] = run.status.step();
  Json stages = Json::array(), truncation = Json::array(), length = Json::array();
  const std::vector<StageSums> sums = SumByStage(run);
  double mismatch_max = 0;
  for (const auto& [step, record] : run.steps) {
    mismatch_max = std::max(mismatch_max, record.metrics().mismatch_max());
  }
  for (size_t i = 0; i < run.stages.size(); ++i) {
    const v1::StageStatus& stage = run.stages[i];
    const bool ended = stage.last_step() >= 0;
    stages.push_back({{"context_tokens", stage.context_tokens()},
                      {"first_step", stage.first_step()},
                      {"last_step", ended ? stage.last_step() : run.status.step() - 1},
                      {"reason", ended ? stage.reason() : "end of the run"}});
    const StageSums& sum = sums[i];
    truncation.push_back(sum.steps > 0 ? Json(sum.truncation / sum.steps) : Json(nullptr));
    length.push_back(sum.steps > 0 ? Json(sum.length / sum.steps) : Json(nullptr));
  }
  report["stages"] = stages;
  report["wall_seconds"] = run.status.elapsed_seconds();
  report["generated_tokens"] = run.status.generated_tokens();
  report["trained_tokens"] = run.status.trained_tokens();
  report["rollout_workers"] = rollout_workers;
  report["mismatch_max"] = mismatch_max;
  report["truncation_by_stage"] = truncation;
  report["mean_length_by_stage"] = length;
  report["cost"] = CostJson(run.status.cost());
  report["evaluations"] = EvaluationsJson(run);
  return report;
}

std::string MetricsJsonLines(const RunPicture& run) {
  std::string out;
  auto evaluation = run.evaluations.begin();
  auto other = run.other_evaluations.begin();
  const auto evaluations_up_to = [&](int64_t step) {
    for (; evaluation != run.evaluations.end() && evaluation->first <= step; ++evaluation) {
      absl::StrAppend(&out, EvaluationJson(evaluation->second).dump(), "\n");
    }
    for (; other != run.other_evaluations.end() && other->first.first <= step; ++other) {
      absl::StrAppend(&out, EvaluationJson(other->second).dump(), "\n");
    }
  };
  for (const auto& [step, record] : run.steps) {
    evaluations_up_to(step);
    absl::StrAppend(&out, StepJson(record).dump(), "\n");
  }
  evaluations_up_to(INT64_MAX);
  return out;
}

std::string SummaryText(const Json& report) {
  std::string out;
  if (report["steps"].get<int64_t>() == 0) {  // only evaluated
    absl::StrAppendFormat(&out, "%s tokens generated in %s\n",
                          FormatCount(report["generated_tokens"].get<double>()),
                          FormatTime(report["wall_seconds"].get<double>()));
  } else {
    AppendTraining(report, out);
  }
  if (report.contains("cost")) {
    const Json& cost = report["cost"];
    absl::StrAppend(&out, "used ",
                    UsedText(cost["gpu_hours"].get<double>(), cost["core_hours"].get<double>(),
                             cost["money"].get<double>(), cost["currency"].get<std::string>()),
                    "\n");
  }
  if (report.contains("evaluations") && !report["evaluations"].empty()) {
    absl::StrAppend(&out, EvaluationText(report["evaluations"]));
  }
  return out;
}

}  // namespace crescendo
