// Keeps the processes of a run alive: starts them, starts again what dies, and stops them in order.
//
//   Supervisor supervisor(clock.get(), services, logs_folder, [&](absl::string_view line) {...});
//   RETURN_IF_ERROR(supervisor.Start());
//   while (...) RETURN_IF_ERROR(supervisor.Poll());
//   supervisor.Stop();
//
// Not thread-safe; use it from the main thread (see child_process.h). The clock outlives it.
#ifndef CRESCENDO_DEPLOY_CLI_SUPERVISOR_H_
#define CRESCENDO_DEPLOY_CLI_SUPERVISOR_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "deploy/cli/child_process.h"
#include "deploy/cli/restart_policy.h"

namespace crescendo {

struct SupervisedService {
  std::string name;                               // "rollout-0": names its log too
  std::vector<std::string> command;               // program and arguments
  int stop_rank = 0;                              // those of a lower rank are stopped first
  absl::Duration stop_grace = absl::Seconds(10);  // from SIGTERM to SIGKILL
};

class Supervisor {
 public:
  // `tell` gets one line an event: a restart, what stopping took.
  Supervisor(Clock* clock, std::vector<SupervisedService> services, std::string logs_folder,
             std::function<void(absl::string_view)> tell);
  ~Supervisor();  // kills what still runs
  Supervisor(const Supervisor&) = delete;
  Supervisor& operator=(const Supervisor&) = delete;

  // Starts all of them.
  absl::Status Start();
  // Notices deaths and starts again what is due. An error ends the run: it says who died, how, and
  // shows the end of its log; InvalidArgument when the user has to put something right, else
  // Aborted. Does not block.
  absl::Status Poll();
  // The run is over: a process that ends from now on is not started again.
  void ExpectEnd() { expect_end_ = true; }
  // SIGTERM, then SIGKILL after the grace, rank by rank. Blocks until all are gone; the longest
  // grace of each rank is the bound.
  void Stop();

  int restarts() const { return restarts_; }
  std::string LogFile(const std::string& name) const;
  // The last lines of a service's log, indented.
  std::string LogTail(const std::string& name) const;
  // Process id of a running service, 0 when it does not run.
  pid_t Pid(const std::string& name) const;

 private:
  struct Entry {
    SupervisedService service;
    RestartPolicy policy;
    std::unique_ptr<ChildProcess> child;
    absl::Time started;
    absl::Time restart_at = absl::InfiniteFuture();
    absl::Time died = absl::InfinitePast();
  };

  absl::Status StartOne(Entry& entry);
  absl::Status HandleExit(Entry& entry, const ProcessExit& exit);
  absl::Time LastDeathOfOthers(const Entry& entry) const;
  void StopRank(int rank);

  Clock* const clock_;
  const std::string logs_folder_;
  const std::function<void(absl::string_view)> tell_;
  std::vector<Entry> entries_;
  bool expect_end_ = false;
  int restarts_ = 0;
};

}  // namespace crescendo

#endif  // CRESCENDO_DEPLOY_CLI_SUPERVISOR_H_
