// The rewards file: kinds of reward and the audit log of a run, in TOML.
//
//   [audit]
//   path = "audit.jsonl"     # no audit without it; relative to the rewards file
//   rate = 0.1               # of the verdicts that were no plain byte match, [0, 1]
//   bytes_max = 67108864     # a file is then renamed to .1 and a new one begun
//   files_max = 4
//
//   [kind.name]
//   type = "sum"             # math, exact, choice, regex, format, length, sum, external
//   ...                      # the settings of its type: reward_kinds.h
#ifndef CRESCENDO_SERVICES_REWARD_REWARD_CONFIG_H_
#define CRESCENDO_SERVICES_REWARD_REWARD_CONFIG_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "services/reward/audit_log.h"
#include "services/reward/reward_kinds.h"

namespace crescendo {

struct RewardConfig {
  std::vector<RewardKind> kinds;
  AuditOptions audit;
};

// InvalidArgument: `file` and line, the key, what was expected, what was found. Unknown keys are
// errors.
absl::StatusOr<RewardConfig> ParseRewardConfig(absl::string_view toml, absl::string_view file);

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_REWARD_REWARD_CONFIG_H_
