// The view, the report and the comparison say what the run was, in exact figures where there are
// any.
#include <fcntl.h>
#include <unistd.h>

#include <cmath>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "catch2/catch.hpp"
#include "common/os/posix_env.h"
#include "deploy/cli/arguments.h"
#include "deploy/cli/child_process.h"
#include "deploy/cli/comparison.h"
#include "deploy/cli/curve_files.h"
#include "deploy/cli/html_report.h"
#include "deploy/cli/live_view.h"
#include "deploy/cli/plots.h"
#include "deploy/cli/run_report.h"
#include "deploy/cli/tensorboard.h"
#include "tests/support/temp_dir.h"

namespace crescendo {
namespace {

v1::StepRecord Step(int64_t step, uint32_t stage, double reward, double truncation, double length) {
  v1::StepRecord record;
  record.set_step(step);
  record.set_stage(stage);
  record.mutable_metrics()->set_reward_mean(reward);
  record.mutable_metrics()->set_truncation_ratio(truncation);
  record.mutable_metrics()->set_response_tokens_mean(length);
  record.mutable_metrics()->set_mismatch_max(1e-6 * static_cast<double>(step + 1));
  record.set_train_generated_tokens(static_cast<uint64_t>(1000 * (step + 1)));
  record.set_elapsed_seconds(2.0 * static_cast<double>(step + 1));
  return record;
}

v1::EvaluationResult Evaluation(int64_t step, double pass) {
  v1::EvaluationResult e;
  e.set_step(step);
  e.set_problems(512);
  e.set_pass_at_1(pass);
  e.set_ci95_low(pass - .04);
  e.set_ci95_high(pass + .04);
  e.set_train_generated_tokens(static_cast<uint64_t>(1000 * step));
  return e;
}

v1::StageStatus Stage(uint32_t index, uint32_t context, int64_t first, int64_t last,
                      const std::string& reason) {
  v1::StageStatus stage;
  stage.set_index(index);
  stage.set_context_tokens(context);
  stage.set_first_step(first);
  stage.set_last_step(last);
  stage.set_reason(reason);
  return stage;
}

RunPicture Picture() {
  RunPicture run;
  run.steps = {
      {0, Step(0, 0, .1, .8, 45)}, {1, Step(1, 0, .3, .6, 40)}, {2, Step(2, 1, .5, .1, 30)}};
  run.evaluations = {{0, Evaluation(0, .354)}, {3, Evaluation(3, .705)}};
  run.stages = {Stage(0, 48, 0, 1, "length stopped falling"), Stage(1, 96, 2, -1, "")};
  run.status.set_run_id("demo");
  run.status.set_state("training");
  run.status.set_step(3);
  run.status.set_steps_total(4);
  run.status.set_stage(1);
  run.status.set_elapsed_seconds(6);
  run.status.set_eta_seconds(2);
  run.status.set_generated_tokens(3000);
  run.status.set_trained_tokens(2500);
  run.status.set_tokens_per_second(5820);
  *run.status.mutable_last() = run.steps[2].metrics();
  return run;
}

TEST_CASE("report.json has the fields of the issue with their exact values") {
  const auto report = ReportJson(Picture(), 7, 2, {"abc", "a machine"});
  std::vector<std::string> keys;
  for (const auto& [key, value] : report.items()) keys.push_back(key);
  CHECK(keys == std::vector<std::string>{"commit", "machine", "seed", "base_pass_at_1",
                                         "final_pass_at_1", "ci95", "steps", "stages",
                                         "wall_seconds", "generated_tokens", "trained_tokens",
                                         "rollout_workers", "mismatch_max", "truncation_by_stage",
                                         "mean_length_by_stage", "cost", "evaluations"});
  CHECK(report["base_pass_at_1"] == .354);
  CHECK(report["final_pass_at_1"] == .705);
  CHECK(report["ci95"][0] == .705 - .04);
  CHECK(report["steps"] == 3);
  CHECK(report["stages"].size() == 2);
  CHECK(report["stages"][0]["last_step"] == 1);
  CHECK(report["stages"][0]["reason"] == "length stopped falling");
  CHECK(report["stages"][1]["last_step"] == 2);
  CHECK(report["stages"][1]["reason"] == "end of the run");
  CHECK(report["mismatch_max"] == 1e-6 * 3);
  CHECK(report["truncation_by_stage"][0].get<double>() == Approx(.7));
  CHECK(report["mean_length_by_stage"][0] == 42.5);
  CHECK(report["mean_length_by_stage"][1] == 30.0);
}

TEST_CASE("a run without evaluation or steps has nulls, not numbers that were not measured") {
  RunPicture run;
  run.stages = {Stage(0, 48, 0, -1, "")};
  const auto report = ReportJson(run, 1, 1, {});
  CHECK(report["base_pass_at_1"].is_null());
  CHECK(report["final_pass_at_1"].is_null());
  CHECK(report["ci95"].is_null());
  CHECK(report["truncation_by_stage"][0].is_null());
  CHECK_FALSE(SummaryText(report).empty());
}

TEST_CASE("metrics.jsonl is one object a line, an evaluation before the step that follows it") {
  const std::string lines = MetricsJsonLines(Picture());
  std::vector<std::string> order;
  size_t begin = 0;
  for (size_t end; (end = lines.find('\n', begin)) != std::string::npos; begin = end + 1) {
    const auto row = nlohmann::json::parse(lines.substr(begin, end - begin), nullptr, false);
    REQUIRE(row.is_object());
    order.push_back(absl::StrCat(row["kind"].get<std::string>(), row["step"].get<int>()));
  }
  CHECK(order == std::vector<std::string>{"evaluation0", "step0", "step1", "step2", "evaluation3"});
}

TEST_CASE("the curves' files grow with the run, and are written anew when it is set back") {
  const TempDir dir;
  CurveFiles curves(dir.files.get(), dir.path());
  const absl::Time now = absl::FromUnixSeconds(1700000000);
  const std::string events_path = dir / "tensorboard/events.out.tfevents.0.crescendo";
  const auto lines = [&] { return *dir.files->ReadFile(dir / "metrics.jsonl", 1 << 20); };
  const auto events = [&] { return *dir.files->ReadFile(events_path, 1 << 20); };
  RunPicture run = Picture();
  const absl::Time begin = now - absl::Seconds(run.status.elapsed_seconds());
  REQUIRE(curves.Update(run, now).ok());
  CHECK(lines() == MetricsJsonLines(run));
  const std::string begun = events();
  CHECK(begun == TensorBoardEvents(lines(), begin));

  // A reader that follows the files sees the same files become longer.
  const int reader = open(events_path.c_str(), O_RDONLY | O_CLOEXEC);
  REQUIRE(reader >= 0);
  run.steps[3] = Step(3, 1, .6, .1, 28);
  REQUIRE(curves.Update(run, now + absl::Seconds(9)).ok());
  CHECK(lines() == MetricsJsonLines(run));
  CHECK(events() == TensorBoardEvents(lines(), begin));
  CHECK(lseek(reader, 0, SEEK_END) == static_cast<off_t>(events().size()));
  CHECK(events().size() > begun.size());
  close(reader);

  run.steps.erase(3);
  run.steps[2] = Step(2, 1, .4, .2, 31);
  REQUIRE(curves.Update(run, now + absl::Seconds(12)).ok());
  CHECK(lines() == MetricsJsonLines(run));
  CHECK(events() == TensorBoardEvents(lines(), begin));
}

TEST_CASE("each set is told with its base, its end, its variants and what was published for it") {
  RunPicture run = Picture();
  for (auto& [step, result] : run.evaluations) result.set_set("held-out");
  v1::EvaluationResult aime = Evaluation(3, .4);
  aime.set_set("aime24");
  aime.set_samples(4);
  aime.set_majority(.5);
  for (const int k : {1, 2, 4}) {
    v1::PassAtK* pass = aime.add_pass_at_k();
    pass->set_k(k);
    pass->set_value(.4 + .05 * k);
  }
  aime.mutable_variants()->set_originals(10);
  aime.mutable_variants()->set_variants(20);
  aime.mutable_variants()->set_original_pass_at_1(.5);
  aime.mutable_variants()->set_variant_pass_at_1(.35);
  run.other_evaluations[{3, "aime24"}] = aime;
  const auto report = ReportJson(run, 7, 2, {"abc", "a machine"});
  const auto& sets = report["evaluations"];
  REQUIRE(sets.size() == 2);
  CHECK(sets[0]["set"] == "held-out");
  CHECK(sets[0]["base"]["pass_at_1"] == .354);
  CHECK(sets[0]["final"]["pass_at_1"] == .705);
  CHECK(sets[0]["published"].empty());
  CHECK(sets[1]["base"].is_null());
  CHECK(sets[1]["final"]["pass_at_k"]["4"].get<double>() == Approx(.6));
  CHECK(sets[1]["final"]["variants"]["drop"].get<double>() == Approx(.15));
  REQUIRE(sets[1]["published"].size() == 6);
  CHECK(sets[1]["published"][1]["model"] == "DeepScaleR-1.5B-Preview");
  CHECK(sets[1]["published"][1]["pass_at_1"].get<double>() == Approx(.431));
  const std::string text = SummaryText(report);
  CHECK(
      absl::StrContains(text, "aime24, published: DeepSeek-R1-Distill-Qwen-1.5B (the base) 0.288"));
  CHECK(absl::StrContains(text, "0.500 on 10 originals, 0.350 on 20 variants of them, drop 0.150"));
  CHECK(absl::StrContains(HtmlReport("run", run, report, ""), "Qwen2.5-7B-SimpleRL"));
  CHECK(absl::StrContains(MetricsJsonLines(run), "\"set\":\"aime24\""));
}

TEST_CASE("no line of the view is wider than the terminal, at any width, with any text") {
  RunPicture run = Picture();
  run.status.set_awaiting(
      "step 3 waits for 3 of 8 groups: leased to rollout-2, last heartbeat 41 s "
      "ago, and more words than fit, with an — and a …");
  for (int i = 0; i < 9; ++i) run.status.add_workers()->set_worker_id(absl::StrCat("rollout-", i));
  for (int width = 40; width <= 120; width += 7) {
    for (const bool color : {false, true}) {
      for (const std::string& line : RenderView(run, {width, color, "demo, seed 1", "notice"})) {
        CHECK(DisplayWidth(line) <= width);
      }
    }
  }
  CHECK_FALSE(RenderView(RunPicture(), {80, true, "x", ""}).empty());
}

TEST_CASE(
    "the view shows step, stage, pass@1, lengths, tokens a second, time left and what is awaited") {
  RunPicture run = Picture();
  run.status.set_awaiting("step 3 waits for rollout-2");
  std::string text;
  for (const std::string& line : RenderView(run, {100, false, "demo, seed 1", ""}))
    text += line + "\n";
  for (const char* part :
       {"step 3/4", "stage 2 (96 tokens)", "0.354 → 0.705", "±0.040", "0.500", "10.0%", "30.0",
        "5,820", "0:02 left", "step 3 waits for rollout-2", "48 to step 2 → 96", "3.0e-06"}) {
    INFO(text);
    INFO(part);
    CHECK(absl::StrContains(text, part));
  }
}

TEST_CASE("sparklines, times and counts") {
  CHECK(Sparkline({0, .5, 1}, 10, 0, 1) == "▁▅█");
  CHECK(Sparkline({0, 0, 1, 1}, 2, 0, 1) == "▁█");
  CHECK(Sparkline({}, 10, 0, 1).empty());
  CHECK(Sparkline({NAN, 1e300}, 10, 0, 1) == "▁█");
  CHECK(FormatTime(65) == "1:05");
  CHECK(FormatTime(3723) == "1:02:03");
  CHECK(FormatTime(-1) == "?");
  CHECK(FormatCount(1234567) == "1,234,567");
  CHECK(FormatCount(-1234) == "-1,234");
  CHECK(FormatCount(-123) == "-123");
}

TEST_CASE("a cost is read on the line between two evaluations") {
  const std::vector<CurvePoint> curve = {{0, 0, .4}, {100, 10, .6}, {200, 30, .8}, {300, 40, .7}};
  CHECK(CostToReach(curve, .4)->tokens == 0);
  CHECK(CostToReach(curve, .5)->tokens == Approx(50));
  CHECK(CostToReach(curve, .7)->tokens == Approx(150));
  CHECK(CostToReach(curve, .7)->seconds == Approx(20));
  CHECK_FALSE(CostToReach(curve, .81).has_value());
}

TEST_CASE("ratios are of the same seed, and a seed that never got there is left out and counted") {
  const std::vector<ArmRun> runs = {{"iterative", 1, {{0, 0, .4}, {100, 10, .8}}},
                                    {"fixed-long", 1, {{0, 0, .4}, {200, 40, .8}}},
                                    {"iterative", 2, {{0, 0, .4}, {100, 10, .8}}},
                                    {"fixed-long", 2, {{0, 0, .4}, {300, 50, .8}}},
                                    {"iterative", 3, {{0, 0, .4}, {100, 10, .8}}},
                                    {"fixed-long", 3, {{0, 0, .4}, {300, 50, .7}}}};
  const auto rows =
      CompareLevels(runs, {"iterative", "fixed-long"}, {.8}, "fixed-long", "iterative");
  REQUIRE(rows.size() == 1);
  CHECK(rows[0].token_ratio.count == 2);
  CHECK(rows[0].token_ratio.mean == Approx(2.5));
  CHECK(rows[0].token_ratio.min == Approx(2));
  CHECK(rows[0].second_ratio.max == Approx(5));
  CHECK(rows[0].arms[1].runs == 3);
  CHECK(rows[0].arms[1].tokens.count == 2);
  const std::string words = OutcomeWords(runs, {"iterative", "fixed-long"}, rows);
  CHECK(absl::StrContains(words, "fixed-long took 2.50 (2.00 to 3.00) times the tokens"));
  CHECK(absl::StrContains(words, "Their ends overlap"));
  const auto band = MeanCurve(runs, "fixed-long", true, 3);
  REQUIRE(band.size() == 3);
  CHECK(band[2].x == 200);
  CHECK(band[2].pass_at_1.max == Approx(.8));
}

TEST_CASE("the page stands alone and escapes what it is given") {
  if (!RunTool({"gnuplot", "--version"}, "").ok()) {
    WARN("gnuplot is not installed: plots are not tested");
    return;
  }
  RunPicture run = Picture();
  const auto report = ReportJson(run, 7, 2, {"abc", "<script>"});
  const std::string page = HtmlReport("demo & co", run, report, "[run]\nname = \"<b>\"\n");
  CHECK(absl::StartsWith(page, "<!DOCTYPE html>"));
  CHECK(absl::StrContains(page, "demo &amp; co"));
  CHECK_FALSE(absl::StrContains(page, "<script>"));
  CHECK_FALSE(absl::StrContains(page, "src=\"http"));
  CHECK_FALSE(absl::StrContains(page, "No plot"));
  size_t plots = 0;
  for (size_t at = 0; (at = page.find("<svg", at)) != std::string::npos; ++at) ++plots;
  CHECK(plots == 10);
  CHECK(absl::StrContains(page, "length stopped falling"));
}

TEST_CASE("options are taken in both forms, and a wrong one names the nearest") {
  const auto parsed =
      ParseArguments({"train", "demo.toml", "--out=runs/x", "--seed", "7", "--workers", "3",
                      "--steps=5", "--plain", "--optimizer.beta1=0.5"});
  REQUIRE(parsed.ok());
  CHECK(parsed->command == "train");
  CHECK(parsed->positional == std::vector<std::string>{"demo.toml"});
  CHECK(parsed->out == "runs/x");
  CHECK(parsed->workers == 3);
  CHECK(parsed->plain);
  CHECK(parsed->overrides ==
        std::vector<std::string>{"run.seed=7", "run.steps=5", "optimizer.beta1=0.5"});
  CHECK(*ParseArguments({"compare", "--seeds", "3,5"})->seeds.rbegin() == 5);
  const auto message = [](std::vector<std::string> arguments) {
    return std::string(ParseArguments(arguments).status().message());
  };
  CHECK(message({"--worker", "2"}) == "unknown option '--worker'; did you mean --workers?");
  CHECK(message({"--workers", "0"}) == "--workers: expected 1 to 64 workers, found '0'");
  CHECK(message({"--seed", "x"}) == "--seed: expected a whole number, found 'x'");
  CHECK(message({"--steps"}) == "--steps needs a value");
}

}  // namespace
}  // namespace crescendo
