// Follows a run and shows it: the live frame on a terminal, else one line an event.
#ifndef CRESCENDO_DEPLOY_CLI_RUN_WATCHER_H_
#define CRESCENDO_DEPLOY_CLI_RUN_WATCHER_H_

#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "deploy/cli/run_client.h"
#include "deploy/cli/terminal.h"

namespace crescendo {

// Not thread-safe. The terminal outlives it.
class RunWatcher {
 public:
  // from_the_beginning: the run is a new one, and every step of it is told, however late the first
  // answer comes.
  RunWatcher(Terminal* terminal, std::string title, bool from_the_beginning);

  // Asks the coordinator when a quarter of a second has passed since it was last asked, and shows
  // what is new. A coordinator that does not answer is told in the view after a few seconds. Blocks
  // for a second at most. The error of the last call, OK when none was due.
  absl::Status Poll(RunClient& client, absl::Time now);
  // The whole history, and the last frame. Blocks for up to half a minute a call.
  absl::Status FetchAll(RunClient& client);

  const RunPicture& picture() const { return picture_; }
  // When the coordinator last answered; when it was first asked, before that.
  absl::Time last_answer() const { return last_answer_; }

 private:
  void TellLines();
  void TellResume();
  void Draw();

  Terminal* const terminal_;
  const std::string title_;
  RunPicture picture_;
  absl::Time next_poll_ = absl::InfinitePast();
  absl::Time last_answer_ = absl::InfinitePast();
  std::string notice_;
  bool answered_;
  int64_t told_step_ = -1;
  int64_t told_evaluation_ = -1;
  size_t told_stages_ = 0;
  std::string told_awaiting_;  // without its numbers
};

}  // namespace crescendo

#endif  // CRESCENDO_DEPLOY_CLI_RUN_WATCHER_H_
