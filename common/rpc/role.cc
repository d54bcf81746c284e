#include "common/rpc/role.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace crescendo {
namespace {

constexpr absl::string_view kUriStart = "spiffe://crescendo/";
constexpr absl::string_view kHealth = "/grpc.health.v1.Health/";

// Bits of the roles, for the table.
constexpr unsigned Bit(Role role) { return 1u << static_cast<unsigned>(role); }
constexpr unsigned kLearnerOnly = Bit(Role::kLearner);
constexpr unsigned kRolloutOnly = Bit(Role::kRollout);
constexpr unsigned kOperatorOnly = Bit(Role::kOperator);

struct MethodRoles {
  absl::string_view method;
  unsigned roles;
};

constexpr MethodRoles kTable[] = {
    // Coordinator: work is handed to rollout workers, steps to the learner, the run is the
    // operator's.
    {"/crescendo.v1.CoordinatorService/Join", kRolloutOnly},
    {"/crescendo.v1.CoordinatorService/Lease", kRolloutOnly},
    {"/crescendo.v1.CoordinatorService/Heartbeat", kRolloutOnly},
    {"/crescendo.v1.CoordinatorService/CompleteGroup", kRolloutOnly},
    {"/crescendo.v1.CoordinatorService/Abandon", kRolloutOnly},
    {"/crescendo.v1.CoordinatorService/Leave", kRolloutOnly},
    {"/crescendo.v1.CoordinatorService/AttachLearner", kLearnerOnly},
    {"/crescendo.v1.CoordinatorService/NextStep", kLearnerOnly},
    {"/crescendo.v1.CoordinatorService/ReportStep", kLearnerOnly},
    {"/crescendo.v1.CoordinatorService/GetStatus", kOperatorOnly},
    {"/crescendo.v1.CoordinatorService/GetHistory", kOperatorOnly},
    {"/crescendo.v1.CoordinatorService/SetStage", kOperatorOnly},
    // Learner: samples come from rollout workers; weights go to them, and to an operator.
    {"/crescendo.v1.ExperienceService/StreamSamples", kRolloutOnly},
    {"/crescendo.v1.ExperienceService/Resume", kRolloutOnly},
    {"/crescendo.v1.WeightsService/GetManifest", kRolloutOnly | kOperatorOnly},
    {"/crescendo.v1.WeightsService/PullChunks", kRolloutOnly | kOperatorOnly},
    {"/crescendo.v1.LearnerService/Checkpoint", kOperatorOnly},
    // Reward: a reward service may ask another one for a kind that it does not grade itself.
    {"/crescendo.v1.RewardService/Grade", kRolloutOnly | kOperatorOnly | Bit(Role::kReward)},
    // Rollout.
    {"/crescendo.v1.RolloutService/GetWorker", kOperatorOnly | Bit(Role::kCoordinator)},
    {"/crescendo.v1.RolloutService/Drain", kOperatorOnly | Bit(Role::kCoordinator)},
    // Every service.
    {"/crescendo.v1.TraceService/GetTrace", kOperatorOnly},
    // What a service offers: for grpcurl in an operator's hands.
    {"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", kOperatorOnly},
};

}  // namespace

absl::string_view RoleName(Role role) {
  switch (role) {
    case Role::kCoordinator:
      return "coordinator";
    case Role::kLearner:
      return "learner";
    case Role::kRollout:
      return "rollout";
    case Role::kReward:
      return "reward";
    case Role::kOperator:
      return "operator";
  }
  return "unknown";
}

std::optional<Role> ParseRole(absl::string_view name) {
  for (const Role role : kRoles) {
    if (name == RoleName(role)) return role;
  }
  return std::nullopt;
}

std::string RoleUri(Role role) { return absl::StrCat(kUriStart, RoleName(role)); }

std::optional<Role> RoleOfNames(const std::vector<std::string>& uris,
                                absl::string_view common_name) {
  std::optional<Role> found;
  bool ours = false;
  for (const std::string& uri : uris) {
    absl::string_view rest = uri;
    if (!absl::ConsumePrefix(&rest, kUriStart)) continue;
    if (ours) return std::nullopt;
    ours = true;
    found = ParseRole(rest);
  }
  return ours ? found : ParseRole(common_name);
}

bool MayCall(Role role, absl::string_view method) {
  const auto* entry = std::find_if(std::begin(kTable), std::end(kTable),
                                   [&](const MethodRoles& row) { return row.method == method; });
  return entry != std::end(kTable) && (entry->roles & Bit(role)) != 0;
}

bool IsOpenToAllRoles(absl::string_view method) { return absl::StartsWith(method, kHealth); }

std::vector<absl::string_view> MethodsOfTable() {
  std::vector<absl::string_view> methods;
  for (const MethodRoles& row : kTable) methods.push_back(row.method);
  return methods;
}

}  // namespace crescendo
