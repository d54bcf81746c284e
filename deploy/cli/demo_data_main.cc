// crescendo-demo-data: writes the demo's problems and the corpora that its base policy was warmed
// up on. See --help. Exit status: 0 done, 1 a file could not be written, 2 usage.
#include <cstdint>
#include <iostream>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "common/base/status_macros.h"
#include "common/os/posix_env.h"
#include "deploy/cli/arithmetic_task.h"

namespace crescendo {
namespace {

constexpr absl::string_view kHelp =
    R"(crescendo-demo-data: the demo's task as JSON lines

  crescendo-demo-data --problems train|eval --out FILE
      the 4096 problems that the demo trains on, or the 512 held out ones (no problem is in both):
      {"id", "problem", "answer"}
  crescendo-demo-data --phase A|B|V|C [--rows N] [--seed S] --out FILE
      a warm-start corpus in training order: {"prompt", "response", "ends"}; ends false: the response
      was cut at 192 tokens and no end token follows. Rows: by default steps x batch of the phase.

Exit status: 0 done, 1 the file could not be written, 2 usage.
)";

constexpr uint64_t kEvalSeed = 20260512;
constexpr uint64_t kTrainSeed = 20260513;
constexpr int kEvalProblems = 512;
constexpr int kTrainProblems = 4096;

struct Options {
  std::string problems;
  std::string phase;
  std::string out;
  int64_t rows = 0;  // 0: those of the phase
  uint64_t seed = 1;
};

// A string without quotes, control characters or non-ASCII as JSON; the task makes no others.
std::string JsonString(absl::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '\\') out += '\\';
    out += c;
  }
  return out + "\"";
}

std::string ProblemLines(bool train) {
  std::vector<std::string> taken;
  std::vector<ArithmeticProblem> problems = DrawDistinctProblems(kEvalSeed, kEvalProblems, taken);
  if (train) problems = DrawDistinctProblems(kTrainSeed, kTrainProblems, taken);
  std::string lines;
  for (size_t i = 0; i < problems.size(); ++i) {
    absl::StrAppend(&lines, "{\"id\":\"", train ? "train-" : "eval-", i,
                    "\",\"problem\":", JsonString(ProblemText(problems[i])),
                    ",\"answer\":", JsonString(AnswerText(problems[i])), "}\n");
  }
  return lines;
}

absl::Status WriteCorpus(FileSystem& files, const Options& options) {
  ASSIGN_OR_RETURN(const PhaseRecipe recipe, FindPhase(options.phase));
  const int64_t rows =
      options.rows > 0 ? options.rows : static_cast<int64_t>(recipe.steps) * recipe.batch;
  ASSIGN_OR_RETURN(auto file, files.CreateAtomic(options.out));
  for (int64_t i = 0; i < rows; ++i) {
    ASSIGN_OR_RETURN(const CorpusRow row, CorpusRowAt(options.phase, options.seed, i));
    RETURN_IF_ERROR(file->Append(absl::StrCat("{\"prompt\":", JsonString(row.prompt),
                                              ",\"response\":", JsonString(row.response),
                                              ",\"ends\":", row.ends ? "true" : "false", "}\n")));
  }
  return file->Commit();
}

absl::StatusOr<Options> ParseOptions(const std::vector<std::string>& arguments) {
  Options options;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& name = arguments[i];
    if (i + 1 >= arguments.size()) {
      return absl::InvalidArgumentError(absl::StrCat("'", name, "' needs a value, or is unknown"));
    }
    const std::string& value = arguments[++i];
    bool good = true;
    if (name == "--problems") {
      options.problems = value;
      good = value == "train" || value == "eval";
    } else if (name == "--phase") {
      options.phase = value;
      good = FindPhase(value).ok();
    } else if (name == "--out") {
      options.out = value;
    } else if (name == "--rows") {
      good = absl::SimpleAtoi(value, &options.rows) && options.rows > 0;
    } else if (name == "--seed") {
      good = absl::SimpleAtoi(value, &options.seed);
    } else {
      return absl::InvalidArgumentError(absl::StrCat("unknown option '", name, "'"));
    }
    if (!good) return absl::InvalidArgumentError(absl::StrCat("bad value for ", name, ": ", value));
  }
  if (options.out.empty() || options.problems.empty() == options.phase.empty()) {
    return absl::InvalidArgumentError("give --out FILE and one of --problems and --phase");
  }
  return options;
}

int Main(const std::vector<std::string>& arguments) {
  if (arguments.empty() || arguments[0] == "--help" || arguments[0] == "-h") {
    std::cout << kHelp;
    return arguments.empty() ? 2 : 0;
  }
  const absl::StatusOr<Options> options = ParseOptions(arguments);
  if (!options.ok()) {
    std::cerr << "crescendo-demo-data: " << options.status().message() << " (see --help)\n";
    return 2;
  }
  const std::unique_ptr<FileSystem> files = MakePosixFileSystem();
  const absl::Status status =
      options->phase.empty()
          ? files->WriteFile(options->out, ProblemLines(options->problems == "train"))
          : WriteCorpus(*files, *options);
  if (!status.ok()) {
    std::cerr << "crescendo-demo-data: " << status.message() << "\n";
    return 1;
  }
  return 0;
}

}  // namespace
}  // namespace crescendo

int main(int argc, char** argv) {
  return crescendo::Main(std::vector<std::string>(argv + 1, argv + argc));
}
