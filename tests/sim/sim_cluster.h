// One whole run of the system in simulation: the services, a plan of faults drawn from the seed,
// and the judgement.
#ifndef CRESCENDO_TESTS_SIM_SIM_CLUSTER_H_
#define CRESCENDO_TESTS_SIM_SIM_CLUSTER_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "tests/sim/sim_services.h"

namespace crescendo::sim {

struct ClusterOptions {
  uint64_t seed = 1;      // of the faults, the network and the processes' pace
  uint64_t run_seed = 1;  // of the run itself: problems, draws
  int64_t steps = 12;
  int max_staleness = 0;
  int workers = 3;
  int checkpoint_every = 1;
  bool faults = true;
  std::vector<double> speeds;  // of the workers; empty: 1 each
  bool second_leases = true;
  bool failing_worker = false;  // the first worker dies again and again
  BrokenRule broken = BrokenRule::kNone;
};

struct ClusterResult {
  std::string violation;  // empty: every invariant held
  std::map<int64_t, TrainedBatch> batches;
  int64_t events = 0;
  int faults = 0;
  uint64_t second_leases = 0;
  uint64_t quarantines = 0;
  absl::Duration simulated;
};

// Runs until the run is finished or an invariant is broken; a run that does not finish in good time
// after all faults are healed breaks one (and says what it waits for).
ClusterResult RunCluster(const ClusterOptions& options);

}  // namespace crescendo::sim

#endif  // CRESCENDO_TESTS_SIM_SIM_CLUSTER_H_
