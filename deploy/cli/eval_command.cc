// crescendo eval: a run of no steps, which is one round of its evaluation sets.
#include <algorithm>
#include <filesystem>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "deploy/cli/commands.h"

namespace crescendo {

namespace {

std::string AbsolutePath(const std::string& path) {
  std::error_code error;
  const std::filesystem::path absolute = std::filesystem::absolute(path, error);
  return error ? path : absolute.lexically_normal().string();
}

// The sets of the command line, with what [evaluation] says of the rest; all their problems unless
// the command line says how many.
void UseSets(const CliArguments& arguments, RunConfig& config) {
  const EvaluationSection& e = config.evaluation;
  const bool problems_given =
      std::any_of(arguments.overrides.begin(), arguments.overrides.end(),
                  [](const auto& text) { return absl::StartsWith(text, "evaluation.problems="); });
  config.evaluation_sets.clear();
  for (const std::string& path : arguments.sets) {
    config.evaluation_sets.push_back(
        {std::filesystem::path(path).stem().string(), AbsolutePath(path), config.data.reward_kind,
         problems_given ? e.problems : 0, e.samples, e.temperature, e.top_p, e.context_tokens, 0});
  }
  config.evaluation.set.clear();
}

}  // namespace

absl::Status EvalCommand(const CliArguments& arguments, const TrainingWorld& world) {
  if (arguments.positional.size() != 1) {
    return absl::InvalidArgumentError(absl::StrCat("expected one recipe (a TOML file), found ",
                                                   arguments.positional.size(),
                                                   "; see crescendo eval --help"));
  }
  std::vector<std::string> overrides = arguments.overrides;
  overrides.push_back("run.steps=0");
  if (!arguments.model.empty()) {
    overrides.push_back(absl::StrCat("policy.path=", AbsolutePath(arguments.model)));
  }
  ASSIGN_OR_RETURN(RunConfig config,
                   LoadRunConfig(*world.files, arguments.positional[0], overrides));
  if (!arguments.sets.empty()) UseSets(arguments, config);
  if (EvaluationSets(config).empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        arguments.positional[0], " has no evaluation set: name some with --set FILE..."));
  }
  config.run.out += "-eval";
  const std::string what = absl::StrCat("evaluating ", config.policy.path);
  return RunConfigured(arguments, std::move(config), what, world);
}

}  // namespace crescendo
