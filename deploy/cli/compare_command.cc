// crescendo compare: three arms with the same seeds, and what each level of accuracy cost.
#include <algorithm>
#include <filesystem>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "common/base/status_macros.h"
#include "deploy/cli/commands.h"
#include "deploy/cli/comparison.h"
#include "deploy/cli/html_report.h"
#include "deploy/cli/plots.h"
#include "deploy/cli/run_report.h"

namespace crescendo {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kMetricsBytesMax = 256u << 20;
constexpr int kCurvePoints = 120;
const std::vector<std::string>& Arms() {
  static const auto* arms = new std::vector<std::string>{"iterative", "fixed-long", "short-only"};
  return *arms;
}
const std::vector<double>& Levels() {
  static const auto* levels = new std::vector<double>{.70, .80, .85, .90};
  return *levels;
}

RunConfig ArmConfig(const RunConfig& recipe, const std::string& arm, uint64_t seed,
                    const std::string& out) {
  RunConfig config = recipe;
  config.run.seed = seed;
  config.run.name = absl::StrCat(arm, "-seed", seed);
  config.run.out = JoinPath(out, config.run.name);
  if (config.evaluation.context_tokens == 0) {
    config.evaluation.context_tokens = recipe.stages.back().context_tokens;
  }
  if (arm == "iterative") return config;
  config.stages = {arm == "fixed-long" ? recipe.stages.back() : recipe.stages.front()};
  config.curriculum.max_steps.clear();
  return config;
}

absl::StatusOr<std::vector<CurvePoint>> ReadCurve(FileSystem& files, const std::string& out) {
  const std::string path = JoinPath(out, "metrics.jsonl");
  ASSIGN_OR_RETURN(const std::string text, files.ReadFile(path, kMetricsBytesMax));
  std::vector<CurvePoint> curve;
  int line_number = 0;
  for (const absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    ++line_number;
    const Json row = Json::parse(line.begin(), line.end(), nullptr, false);
    if (!row.is_object() || row.value("kind", "") != "evaluation") continue;
    CurvePoint point;
    for (const auto& [key, target] : {std::pair{"train_generated_tokens", &point.tokens},
                                      std::pair{"train_elapsed_seconds", &point.seconds},
                                      std::pair{"pass_at_1", &point.pass_at_1}}) {
      if (!row.contains(key) || !row[key].is_number()) {
        return absl::DataLossError(
            absl::StrCat(path, ":", line_number, ": expected a number '", key, "'"));
      }
      *target = row[key].get<double>();
    }
    curve.push_back(point);
  }
  return curve;
}

Json SpreadJson(const Spread& spread) {
  if (spread.count == 0) return nullptr;
  return {{"seeds", spread.count}, {"mean", spread.mean}, {"min", spread.min}, {"max", spread.max}};
}

Json CompareJson(const std::vector<ArmRun>& runs, const std::vector<LevelRow>& rows,
                 const std::vector<uint64_t>& seeds, const Provenance& provenance) {
  Json out = {{"commit", provenance.commit}, {"machine", provenance.machine}, {"seeds", seeds}};
  out["arms"] = Json::array();
  for (const ArmRun& run : runs) {
    Json curve = Json::array();
    for (const CurvePoint& p : run.curve) {
      curve.push_back({{"tokens", p.tokens}, {"seconds", p.seconds}, {"pass_at_1", p.pass_at_1}});
    }
    out["arms"].push_back({{"arm", run.arm}, {"seed", run.seed}, {"curve", curve}});
  }
  out["levels"] = Json::array();
  for (const LevelRow& row : rows) {
    Json level = {{"level", row.level}};
    for (const ArmLevel& arm : row.arms) {
      level[arm.arm] = {{"runs", arm.runs},
                        {"reached", arm.tokens.count},
                        {"tokens", SpreadJson(arm.tokens)},
                        {"seconds", SpreadJson(arm.seconds)}};
    }
    level["fixed_over_iterative_tokens"] = SpreadJson(row.token_ratio);
    level["fixed_over_iterative_seconds"] = SpreadJson(row.second_ratio);
    out["levels"].push_back(level);
  }
  out["outcome"] = OutcomeWords(runs, Arms(), rows);
  return out;
}

std::string PlotOver(const std::vector<ArmRun>& runs, bool tokens) {
  Plot plot;
  plot.id = tokens ? "armsT" : "armsS";
  plot.title = "pass@1 on held-out problems: mean and range over seeds";
  plot.x_label = tokens ? "tokens generated for training" : "seconds of training";
  plot.y_label = "pass@1";
  plot.y_max = 1;
  for (size_t i = 0; i < Arms().size(); ++i) {
    PlotSeries series{Arms()[i], PlotStyle::kLineWithBand, static_cast<int>(i), {}};
    for (const BandPoint& p : MeanCurve(runs, Arms()[i], tokens, kCurvePoints)) {
      series.points.push_back({p.x, p.pass_at_1.mean, p.pass_at_1.min, p.pass_at_1.max});
    }
    plot.series.push_back(std::move(series));
  }
  const auto svg = DrawPlot(plot);
  return absl::StrCat("<div class=\"plot\">", svg.ok() ? *svg : HtmlEscape(svg.status().message()),
                      "</div>\n");
}

std::vector<std::vector<std::string>> Table(const std::vector<LevelRow>& rows, bool tokens) {
  std::vector<std::vector<std::string>> table = {{"pass@1"}};
  for (const std::string& arm : Arms()) {
    table[0].push_back(absl::StrCat(arm, tokens ? ", tokens" : ", seconds"));
  }
  table[0].push_back("fixed-long over iterative");
  for (const LevelRow& row : rows) {
    table.push_back({absl::StrFormat("%.2f", row.level)});
    for (const ArmLevel& arm : row.arms) {
      const std::string cost = SpreadText(tokens ? arm.tokens : arm.seconds, tokens ? 0 : 1);
      table.back().push_back(
          absl::StrCat(cost, arm.tokens.count < arm.runs
                                 ? absl::StrCat(", reached by ", arm.tokens.count, " of ", arm.runs)
                                 : ""));
    }
    table.back().push_back(SpreadText(tokens ? row.token_ratio : row.second_ratio, 2));
  }
  return table;
}

std::string CompareHtml(const std::vector<ArmRun>& runs, const std::vector<LevelRow>& rows,
                        const Json& json, const std::string& config_toml) {
  std::string body = absl::StrCat(
      "<h1>What a growing context limit saves</h1>\n<p class=\"sub\">Three arms with the same "
      "seeds (",
      absl::StrJoin(json["seeds"].get<std::vector<uint64_t>>(), ", "),
      "): iterative, the recipe as it is; fixed-long, the last stage's limit throughout; "
      "short-only, "
      "the first one's. Costs are those of training, evaluations left out. ",
      HtmlEscape(json["machine"].get<std::string>()), ". Commit ",
      HtmlEscape(json["commit"].get<std::string>()), ".</p>\n<p class=\"words\">",
      HtmlEscape(json["outcome"].get<std::string>()),
      "</p>\n<h2>Curves</h2>\n<div class=\"plots\">\n", PlotOver(runs, true), PlotOver(runs, false),
      "</div>\n",
      "<h2>Tokens to reach a level</h2>\n<p class=\"sub\">Mean (least to greatest) over "
      "seeds.</p>\n",
      HtmlTable(Table(rows, true)), "<h2>Seconds to reach a level</h2>\n",
      HtmlTable(Table(rows, false)), "<h2>Recipe</h2>\n<pre>", HtmlEscape(config_toml), "</pre>\n");
  return HtmlPage("Comparison - Crescendo", body);
}

// Trains what is not finished yet; the curves of all.
absl::StatusOr<std::vector<ArmRun>> RunArms(const RunConfig& recipe, const CliArguments& arguments,
                                            const std::vector<uint64_t>& seeds,
                                            const std::string& out, const TrainingWorld& world) {
  std::vector<ArmRun> runs;
  size_t number = 0;
  for (const uint64_t seed : seeds) {
    for (const std::string& arm : Arms()) {
      const RunConfig config = ArmConfig(recipe, arm, seed, out);
      const std::string title = absl::StrCat("arm ", ++number, " of ", seeds.size() * Arms().size(),
                                             ": ", arm, ", seed ", seed);
      std::string difference;
      ASSIGN_OR_RETURN(const FolderState state,
                       InspectFolder(*world.files, config.run.out, config, &difference));
      if (state == FolderState::kOther) {
        return absl::AlreadyExistsError(absl::StrCat(config.run.out,
                                                     " holds a run of another configuration (",
                                                     difference, "); choose another --out"));
      }
      world.terminal->Line(state == FolderState::kFinished ? title + " (finished before)" : title);
      if (state != FolderState::kFinished) {
        RETURN_IF_ERROR(Train(config, arguments.workers, world).status());
      }
      ASSIGN_OR_RETURN(auto curve, ReadCurve(*world.files, config.run.out));
      runs.push_back({arm, seed, std::move(curve)});
    }
  }
  return runs;
}

}  // namespace

absl::Status CompareCommand(const CliArguments& arguments, const TrainingWorld& world) {
  if (arguments.positional.size() != 1) {
    return absl::InvalidArgumentError("expected one recipe; see crescendo compare --help");
  }
  std::vector<std::string> overrides = arguments.overrides;
  const bool every_given = std::any_of(
      overrides.begin(), overrides.end(),
      [](const std::string& text) { return absl::StartsWith(text, "evaluation.every="); });
  if (!every_given) overrides.push_back("evaluation.every=2");
  ASSIGN_OR_RETURN(const RunConfig recipe,
                   LoadRunConfig(*world.files, arguments.positional[0], overrides));
  if (recipe.evaluation.set.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(arguments.positional[0], ": evaluation.set is needed to compare arms"));
  }
  std::error_code ignored;
  const std::string out =
      std::filesystem::absolute(
          arguments.out.empty() ? absl::StrCat(recipe.run.out, "-compare") : arguments.out, ignored)
          .lexically_normal()
          .string();
  std::vector<uint64_t> seeds = arguments.seeds;
  if (seeds.empty())
    seeds =
        arguments.seed ? std::vector<uint64_t>{*arguments.seed} : std::vector<uint64_t>{1, 2, 3};
  if (arguments.dry_run) {
    for (const std::string& arm : Arms()) {
      world.terminal->Line(
          absl::StrCat("# arm ", arm, "\n", ToToml(ArmConfig(recipe, arm, seeds[0], out))));
    }
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const auto runs, RunArms(recipe, arguments, seeds, out, world));
  const auto rows = CompareLevels(runs, Arms(), Levels(), "fixed-long", "iterative");
  const Json json =
      CompareJson(runs, rows, seeds, FindProvenance(*world.files, world.program_folder));
  RETURN_IF_ERROR(world.files->WriteFile(JoinPath(out, "compare.html"),
                                         CompareHtml(runs, rows, json, ToToml(recipe))));
  RETURN_IF_ERROR(world.files->WriteFile(JoinPath(out, "compare.json"), json.dump(2) + "\n"));
  world.terminal->Line(absl::StrCat("\n", json["outcome"].get<std::string>(),
                                    "\nreport: ", JoinPath(out, "compare.html")));
  return absl::OkStatus();
}

}  // namespace crescendo
