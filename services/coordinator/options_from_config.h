// From the run's configuration and its data sets to what the core has to know; and what stands
// between two configurations of one run folder.
#ifndef CRESCENDO_SERVICES_COORDINATOR_OPTIONS_FROM_CONFIG_H_
#define CRESCENDO_SERVICES_COORDINATOR_OPTIONS_FROM_CONFIG_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/config/run_config.h"
#include "common/os/env.h"
#include "services/coordinator/coordinator_options.h"

namespace crescendo {

// Reads [data] train and [evaluation] set. Errors name file and line (INVALID_ARGUMENT, NOT_FOUND).
// run_id is `run_id_of_new_run`: a journal that was started keeps its own.
absl::StatusOr<CoordinatorOptions> OptionsFromConfig(FileSystem& files, const RunConfig& config,
                                                     const std::string& run_id_of_new_run);

// The keys that two configurations (as of ToToml) have different values for, among those that a run
// must keep: "optimizer.learning_rate: 0.001, was 0.0003; ...". Empty when there is none.
std::string ConfigDifferences(absl::string_view before, absl::string_view now);

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_COORDINATOR_OPTIONS_FROM_CONFIG_H_
