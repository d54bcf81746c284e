#include "deploy/cli/restart_policy.h"

#include <signal.h>
#include <string.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/config/command_line.h"

namespace crescendo {

std::string DescribeExit(const ProcessExit& exit) {
  if (!exit.by_signal) {
    const char* meaning = "";
    if (exit.number == kExitFailed) meaning = " (it failed)";
    if (exit.number == kExitUser) meaning = " (something in its input has to be put right)";
    if (exit.number == 127) meaning = " (the program could not be started)";
    return absl::StrCat("ended with status ", exit.number, meaning);
  }
  const char* name = sigabbrev_np(exit.number);
  std::string start =
      absl::StrCat("was ended by SIG", name == nullptr ? "?" : name, " (", exit.number, ")");
  switch (exit.number) {
    case SIGKILL:
      return start + ": by hand, or because the machine ran out of memory";
    case SIGSEGV:
    case SIGABRT:
    case SIGBUS:
    case SIGFPE:
      return start + ": a bug in it; its log may say more";
    case SIGILL:
      return start + ": an instruction that this processor does not have, or a bug";
    default:
      return start;
  }
}

RestartDecision RestartPolicy::OnExit(const ProcessExit& exit, absl::Duration lifetime,
                                      absl::Duration since_other_death) {
  RestartDecision decision;
  quick_deaths_ = lifetime >= kQuickDeath ? 0 : quick_deaths_ + 1;
  if (!exit.by_signal && exit.number == kExitUser && since_other_death > kOthersDeathWindow) {
    decision.restart = false;
    decision.reason = DescribeExit(exit);
    return decision;
  }
  if (quick_deaths_ >= kQuickDeathsMax) {
    decision.restart = false;
    decision.reason =
        absl::StrCat(DescribeExit(exit), ", the ", kQuickDeathsMax, "th time in a row within ",
                     absl::FormatDuration(kQuickDeath), " of its start");
    return decision;
  }
  decision.wait = kFirstRestartWait;
  for (int i = 1; i < quick_deaths_; ++i)
    decision.wait = std::min(2 * decision.wait, kLongestRestartWait);
  return decision;
}

}  // namespace crescendo
