#include "deploy/cli/completion.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace crescendo {
namespace {

bool IsOptionCharacter(char c) { return absl::ascii_islower(c) || c == '-'; }

}  // namespace

std::vector<std::string> OptionsOf(absl::string_view help) {
  std::vector<std::string> options;
  for (size_t at = help.find("--"); at != absl::string_view::npos; at = help.find("--", at)) {
    size_t end = at + 2;
    while (end < help.size() && IsOptionCharacter(help[end])) ++end;
    const std::string option(help.substr(at, end - at));
    // --section.key=value stands for many.
    const bool key = end < help.size() && help[end] == '.';
    if (option.size() > 2 && !key &&
        std::find(options.begin(), options.end(), option) == options.end()) {
      options.push_back(option);
    }
    at = end;
  }
  return options;
}

std::string BashCompletion(const std::vector<CommandHelp>& commands) {
  std::vector<std::string> names;
  std::string cases;
  for (const auto& [name, help] : commands) {
    names.push_back(name);
    std::vector<std::string> options = OptionsOf(help);
    if (std::find(options.begin(), options.end(), "--help") == options.end()) {
      options.push_back("--help");
    }
    absl::StrAppend(&cases, "    ", name, ") options='", absl::StrJoin(options, " "), "' ;;\n");
  }
  const std::string offered = absl::StrJoin(names, " ");
  return absl::StrCat(
      R"script(# crescendo's completion for bash: eval "$(crescendo completion bash)"
_crescendo() {
  local word=${COMP_WORDS[COMP_CWORD]} command=${COMP_WORDS[1]} options=
  COMPREPLY=()
  if [ "$COMP_CWORD" = 1 ]; then
    COMPREPLY=($(compgen -W ')script",
      offered, R"script( --help --version' -- "$word"))
    return
  fi
  case $command in
)script",
      cases, R"script(  esac
  case $word in
    -*) COMPREPLY=($(compgen -W "$options" -- "$word")) ;;
    *) COMPREPLY=($(compgen -f -- "$word")) ;;
  esac
}
complete -o filenames -F _crescendo crescendo
)script");
}

}  // namespace crescendo
