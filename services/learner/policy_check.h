// What a policy's files say without any weight being read: for --dry-run.
#ifndef CRESCENDO_SERVICES_LEARNER_POLICY_CHECK_H_
#define CRESCENDO_SERVICES_LEARNER_POLICY_CHECK_H_

#include <string>

#include "absl/status/statusor.h"
#include "common/os/env.h"

namespace crescendo {

// "models/x (1543714304 parameters, 28 layers)". NOT_FOUND names a folder or file that is not
// there, INVALID_ARGUMENT and UNIMPLEMENTED what cannot be read of config.json and of the weights'
// headers. Of a .gguf only that it is there.
absl::StatusOr<std::string> DescribePolicyFiles(FileSystem& files, const std::string& path);

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_LEARNER_POLICY_CHECK_H_
