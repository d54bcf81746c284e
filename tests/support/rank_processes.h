// A test's own program started again once for each rank, in the environment that a launcher gives:
// RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT on a free loopback port. The child runs the hidden
// case of the name that is given, and finds SCENARIO and FOLDER in its environment.
#ifndef CRESCENDO_TESTS_SUPPORT_RANK_PROCESSES_H_
#define CRESCENDO_TESTS_SUPPORT_RANK_PROCESSES_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "tests/support/subprocess.h"

namespace crescendo {

int FreeLoopbackPort();

struct RankProcesses {
  std::vector<std::unique_ptr<Subprocess>> ranks;

  // Waits for all. A test fails when one does not end; `exit_codes`, when not empty, are what is
  // expected of each.
  void Join(const std::vector<int>& exit_codes, absl::Duration timeout);
};

// Starts ranks 0 to size - 1 but those in `left_out`.
RankProcesses StartRanks(int size, const std::string& test_case, const std::string& scenario,
                         const std::string& folder, const std::vector<int>& left_out = {});

}  // namespace crescendo

#endif  // CRESCENDO_TESTS_SUPPORT_RANK_PROCESSES_H_
