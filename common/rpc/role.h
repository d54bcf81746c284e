// Who a process is, and which calls that lets it make.
//
// A role stands in a process's certificate: the URI spiffe://crescendo/ROLE among its alternative
// names, or, where it has no such URI, ROLE as its common name. The token that comes with a call
// must be one that is accepted for the same role. What a role may call is one table (role.cc); a
// call that is not in it is refused to everyone, and a test holds it against the protocol.
#ifndef CRESCENDO_COMMON_RPC_ROLE_H_
#define CRESCENDO_COMMON_RPC_ROLE_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace crescendo {

enum class Role { kCoordinator, kLearner, kRollout, kReward, kOperator };

inline constexpr Role kRoles[] = {Role::kCoordinator, Role::kLearner, Role::kRollout, Role::kReward,
                                  Role::kOperator};

// "coordinator", "learner", "rollout", "reward", "operator": also the names of the files.
absl::string_view RoleName(Role role);
std::optional<Role> ParseRole(absl::string_view name);

// spiffe://crescendo/ROLE
std::string RoleUri(Role role);
// The role that a certificate with these names has; nullopt when it has none, or several.
std::optional<Role> RoleOfNames(const std::vector<std::string>& uris,
                                absl::string_view common_name);

// Whether `role` may call `method` ("/crescendo.v1.CoordinatorService/Lease").
bool MayCall(Role role, absl::string_view method);
// A method that needs a certificate of ours but no token and no role: the health service.
bool IsOpenToAllRoles(absl::string_view method);
// Every method of the table: for the test that holds it against the protocol.
std::vector<absl::string_view> MethodsOfTable();

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_RPC_ROLE_H_
