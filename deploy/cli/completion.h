// Completion of crescendo's command line for shells.
#ifndef CRESCENDO_DEPLOY_CLI_COMPLETION_H_
#define CRESCENDO_DEPLOY_CLI_COMPLETION_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"

namespace crescendo {

// A command and its --help.
using CommandHelp = std::pair<std::string, std::string>;

// The options that a help text names: "--out", "--seeds", ...; each once, in its order.
std::vector<std::string> OptionsOf(absl::string_view help);

// A script for bash: commands, the options of each as its help names them, files elsewhere.
std::string BashCompletion(const std::vector<CommandHelp>& commands);

}  // namespace crescendo

#endif  // CRESCENDO_DEPLOY_CLI_COMPLETION_H_
