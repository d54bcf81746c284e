#include "services/learner/rank_environment.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace crescendo {
namespace {

absl::StatusOr<int> Number(const char* name, const std::optional<std::string>& text, int lowest,
                           int highest) {
  int value = 0;
  if (text.has_value() && absl::SimpleAtoi(*text, &value) && value >= lowest && value <= highest) {
    return value;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("environment: ", name, ": expected a number from ", lowest, " to ", highest,
                   ", found ", text.has_value() ? absl::StrCat("\"", *text, "\"") : "none"));
}

}  // namespace

absl::StatusOr<RankEnvironment> RanksFromEnvironment(
    const std::function<std::optional<std::string>(const char*)>& get) {
  RankEnvironment ranks;
  if (const std::optional<std::string> local = get("LOCAL_RANK"); local.has_value()) {
    ASSIGN_OR_RETURN(ranks.local_rank, Number("LOCAL_RANK", local, 0, kRanksMax - 1));
  }
  const std::optional<std::string> rank = get("RANK");
  const std::optional<std::string> size = get("WORLD_SIZE");
  if (!rank.has_value() && !size.has_value()) return ranks;
  ASSIGN_OR_RETURN(ranks.size, Number("WORLD_SIZE", size, 1, kRanksMax));
  ASSIGN_OR_RETURN(ranks.rank, Number("RANK", rank, 0, ranks.size - 1));
  if (ranks.size == 1) return ranks;
  const std::optional<std::string> host = get("MASTER_ADDR");
  if (!host.has_value() || host->empty()) {
    return absl::InvalidArgumentError(
        "environment: MASTER_ADDR: expected the host of rank 0, found none");
  }
  ranks.master_host = *host;
  ASSIGN_OR_RETURN(ranks.master_port, Number("MASTER_PORT", get("MASTER_PORT"), 1, 65535));
  return ranks;
}

}  // namespace crescendo
