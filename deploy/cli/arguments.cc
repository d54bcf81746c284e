#include "deploy/cli/arguments.h"

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/status_macros.h"
#include "common/config/edit_distance.h"

namespace crescendo {
namespace {

constexpr int kWorkersMax = 64;
constexpr int kWithinSecondsMax = 24 * 3600;
constexpr size_t kSeedsMax = 100;

absl::Status Bad(absl::string_view option, absl::string_view value, absl::string_view expected) {
  return absl::InvalidArgumentError(
      absl::StrCat(option, ": expected ", expected, ", found '", value, "'"));
}

bool SetFlag(const std::string& name, CliArguments& out) {
  if (name == "--plain")
    out.plain = true;
  else if (name == "--dry-run")
    out.dry_run = true;
  else if (name == "--force")
    out.force = true;
  else if (name == "--insecure")
    out.insecure = true;
  else if (name == "--help" || name == "-h")
    out.help = true;
  else if (name == "--version")
    out.version = true;
  else
    return false;
  return true;
}

bool IsEstimateOption(const std::string& name) {
  return name == "--gpus" || name == "--from" || name == "--mean-tokens" || name == "--price" ||
         name == "--rollout-tokens-per-second" || name == "--train-tokens-per-second";
}

bool TakesValue(const std::string& name) {
  return IsEstimateOption(name) || name == "--out" || name == "--seed" || name == "--steps" ||
         name == "--workers" || name == "--seeds" || name == "--coordinator" || name == "--write" ||
         name == "--model" || name == "--threshold" || name == "--within";
}

std::vector<std::string>* ListOf(const std::string& name, CliArguments& out) {
  if (name == "--eval") return &out.eval_sets;
  if (name == "--unrelated") return &out.unrelated;
  if (name == "--set") return &out.sets;
  if (name == "--name") return &out.names;
  return nullptr;
}

absl::Status SetValue(const std::string& name, const std::string& value, CliArguments& out) {
  if (IsEstimateOption(name)) {
    out.values[name] = value;
    return absl::OkStatus();
  }
  if (name == "--out") {
    if (value.empty()) return Bad(name, value, "a folder");
    out.out = value;
  } else if (name == "--coordinator") {
    out.coordinator = value;
  } else if (name == "--write") {
    out.write = value;
  } else if (name == "--model") {
    out.model = value;
  } else if (name == "--within") {
    const bool number = absl::SimpleAtoi(value, &out.within_seconds);
    if (!number || out.within_seconds < 0 || out.within_seconds > kWithinSecondsMax) {
      return Bad(name, value, "seconds, at most a day");
    }
  } else if (name == "--threshold") {
    const bool number = absl::SimpleAtod(value, &out.threshold);
    if (!number || !(out.threshold > 0 && out.threshold <= 1)) {
      return Bad(name, value, "a number above 0, up to 1");
    }
  } else if (name == "--seed") {
    uint64_t seed = 0;
    if (!absl::SimpleAtoi(value, &seed)) return Bad(name, value, "a whole number");
    out.seed = seed;
    out.overrides.push_back(absl::StrCat("run.seed=", seed));
  } else if (name == "--steps") {
    int64_t steps = 0;
    if (!absl::SimpleAtoi(value, &steps) || steps < 0) return Bad(name, value, "a whole number");
    out.steps = steps;
    out.overrides.push_back(absl::StrCat("run.steps=", steps));
  } else if (name == "--workers") {
    if (!absl::SimpleAtoi(value, &out.workers) || out.workers < 1 || out.workers > kWorkersMax) {
      return Bad(name, value, absl::StrCat("1 to ", kWorkersMax, " workers"));
    }
  } else {
    for (const absl::string_view part : absl::StrSplit(value, ',')) {
      uint64_t seed = 0;
      if (!absl::SimpleAtoi(part, &seed) || out.seeds.size() == kSeedsMax) {
        return Bad(name, value, "seeds with commas between them, such as 1,2,3");
      }
      out.seeds.push_back(seed);
    }
  }
  return absl::OkStatus();
}

absl::Status Unknown(const std::string& option) {
  const std::string nearest =
      Nearest(option, {"--out",   "--seed",        "--seeds",       "--steps",     "--workers",
                       "--plain", "--dry-run",     "--coordinator", "--eval",      "--unrelated",
                       "--set",   "--write",       "--model",       "--threshold", "--gpus",
                       "--from",  "--mean-tokens", "--price",       "--within",    "--name",
                       "--force", "--insecure",    "--help",        "--version"});
  return absl::InvalidArgumentError(
      absl::StrCat("unknown option '", option, "'; ",
                   nearest.empty() ? "see --help" : absl::StrCat("did you mean ", nearest, "?")));
}

}  // namespace

absl::StatusOr<CliArguments> ParseArguments(const std::vector<std::string>& arguments) {
  CliArguments out;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    if (!absl::StartsWith(argument, "-") || argument == "-") {
      if (out.command.empty())
        out.command = argument;
      else
        out.positional.push_back(argument);
      continue;
    }
    if (SetFlag(argument, out)) continue;
    const size_t equals = argument.find('=');
    const std::string name = argument.substr(0, equals);
    if (std::vector<std::string>* list = ListOf(name, out); list != nullptr) {
      if (equals != std::string::npos) list->push_back(argument.substr(equals + 1));
      while (equals == std::string::npos && i + 1 < arguments.size() &&
             !absl::StartsWith(arguments[i + 1], "-")) {
        list->push_back(arguments[++i]);
      }
      if (list->empty()) return absl::InvalidArgumentError(absl::StrCat(name, " needs a value"));
    } else if (TakesValue(name)) {
      if (equals == std::string::npos && i + 1 >= arguments.size()) {
        return absl::InvalidArgumentError(absl::StrCat(name, " needs a value"));
      }
      RETURN_IF_ERROR(SetValue(
          name, equals == std::string::npos ? arguments[++i] : argument.substr(equals + 1), out));
    } else if (absl::StartsWith(name, "--") && absl::StrContains(name, '.')) {
      out.overrides.push_back(argument.substr(2));
    } else {
      return Unknown(argument);
    }
  }
  return out;
}

}  // namespace crescendo
