// Where this process stands among the learner's ranks, as torchrun, JobSet and other launchers say
// it in the environment: RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT and LOCAL_RANK. Pure.
#ifndef CRESCENDO_SERVICES_LEARNER_RANK_ENVIRONMENT_H_
#define CRESCENDO_SERVICES_LEARNER_RANK_ENVIRONMENT_H_

#include <functional>
#include <optional>
#include <string>

#include "absl/status/statusor.h"

namespace crescendo {

inline constexpr int kRanksMax = 4096;

struct RankEnvironment {
  int rank = 0;                   // [0, size)
  int size = 1;                   // >= 1
  std::optional<int> local_rank;  // LOCAL_RANK: among the ranks of this machine
  std::string master_host;        // where rank 0 listens; empty when size is 1
  int master_port = 0;
};

// `get` is getenv as an optional. Without RANK and WORLD_SIZE the process is alone: rank 0 of 1.
// INVALID_ARGUMENT names the variable, what was expected and what was found.
absl::StatusOr<RankEnvironment> RanksFromEnvironment(
    const std::function<std::optional<std::string>(const char*)>& get);

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_LEARNER_RANK_ENVIRONMENT_H_
