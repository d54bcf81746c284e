// What to do when a supervised process ends: start it again, how soon, or give up. Pure: the exit
// and the time come in, a decision goes out.
//
// - A process that ends is started again after a wait that doubles with each quick death in a row
//   (200 ms up to 5 s). One that lived for 10 s has a clean record.
// - Six quick deaths in a row end the run.
// - Status 2 says that the user has to put something right. It ends the run at once, unless another
//   process died in the last minute: then it may only have missed that one.
#ifndef CRESCENDO_DEPLOY_CLI_RESTART_POLICY_H_
#define CRESCENDO_DEPLOY_CLI_RESTART_POLICY_H_

#include <string>

#include "absl/time/time.h"

namespace crescendo {

// How a process ended: by a signal, or with a status.
struct ProcessExit {
  bool by_signal = false;
  int number = 0;
};

// "ended with status 2 (something in its input has to be put right)", "was killed by SIGKILL (9):
// by hand, or because the machine ran out of memory".
std::string DescribeExit(const ProcessExit& exit);

inline constexpr int kQuickDeathsMax = 6;
inline constexpr absl::Duration kQuickDeath = absl::Seconds(10);
inline constexpr absl::Duration kFirstRestartWait = absl::Milliseconds(200);
inline constexpr absl::Duration kLongestRestartWait = absl::Seconds(5);
inline constexpr absl::Duration kOthersDeathWindow = absl::Seconds(60);

struct RestartDecision {
  bool restart = true;
  absl::Duration wait;  // when restart
  std::string reason;   // when not
};

// One process's record. Not thread-safe.
class RestartPolicy {
 public:
  // The process ended after living for `lifetime`. `since_other_death`: since another process of
  // the run last died (infinite: none has).
  RestartDecision OnExit(const ProcessExit& exit, absl::Duration lifetime,
                         absl::Duration since_other_death);

 private:
  int quick_deaths_ = 0;
};

}  // namespace crescendo

#endif  // CRESCENDO_DEPLOY_CLI_RESTART_POLICY_H_
