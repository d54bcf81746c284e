// The command line of crescendo: a command, what it works on, and options in either form
// (--out DIR, --out=DIR). Options that take several files take all that stand behind them, up to
// the next option.
#ifndef CRESCENDO_DEPLOY_CLI_ARGUMENTS_H_
#define CRESCENDO_DEPLOY_CLI_ARGUMENTS_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace crescendo {

struct CliArguments {
  std::string command;
  std::vector<std::string> positional;  // behind the command
  std::string out;                      // --out
  std::optional<uint64_t> seed;         // --seed
  std::optional<int64_t> steps;         // --steps
  int workers = 2;                      // --workers, [1, 64]
  std::vector<uint64_t> seeds;          // --seeds 1,2,3
  std::string coordinator;              // --coordinator host:port
  std::vector<std::string> eval_sets;   // --eval FILE...
  std::vector<std::string> unrelated;   // --unrelated FILE...
  std::vector<std::string> sets;        // --set FILE...
  std::string write;                    // --write FILE
  std::string model;                    // --model PATH
  double threshold = 0.5;               // --threshold, (0, 1]
  // As they were written: --gpus, --from, --mean-tokens, --price, --rollout-tokens-per-second,
  // --train-tokens-per-second (crescendo estimate).
  std::map<std::string, std::string> values;
  int within_seconds = 30;  // --within, [0, 86,400]
  bool plain = false;
  bool dry_run = false;
  bool insecure = false;
  bool force = false;              // --force
  std::vector<std::string> names;  // --name HOST...
  bool help = false;
  bool version = false;
  std::vector<std::string> overrides;  // --section.key=value, with --seed and --steps among them
};

// `arguments` without the program's name. InvalidArgument for an unknown option, with the nearest
// one, and for a value that does not fit.
absl::StatusOr<CliArguments> ParseArguments(const std::vector<std::string>& arguments);

}  // namespace crescendo

#endif  // CRESCENDO_DEPLOY_CLI_ARGUMENTS_H_
