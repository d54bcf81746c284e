// The ledger knows exactly what was recorded, in few entries, and comes back from its text.
#include "services/learner/ledger.h"

#include <map>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "catch2/catch.hpp"
#include "common/base/rng.h"

namespace crescendo {
namespace {

std::vector<GroupId> Range(uint64_t first, uint64_t count) {
  std::vector<GroupId> groups;
  for (uint64_t i = 0; i < count; ++i) groups.emplace_back(first + i);
  return groups;
}

TEST_CASE("Consecutive steps of one size are one entry") {
  Ledger ledger;
  for (int64_t step = 0; step < 1000; ++step) {
    REQUIRE(ledger.Record(StepId(step), Range(static_cast<uint64_t>(step) * 32, 32)).ok());
  }
  CHECK(ledger.Serialize() == "v1 0:1000:0:32");
  CHECK(ledger.groups() == 32000);
  CHECK(ledger.steps_end() == 1000);
  CHECK(ledger.StepOf(GroupId(31)) == StepId(0));
  CHECK(ledger.StepOf(GroupId(32)) == StepId(1));
  CHECK(ledger.StepOf(GroupId(31999)) == StepId(999));
  CHECK_FALSE(ledger.Contains(GroupId(32000)));
}

TEST_CASE("A group is consumed once, and a step is recorded once") {
  Ledger ledger;
  REQUIRE(ledger.Record(StepId(0), Range(0, 4)).ok());
  const absl::Status again = ledger.Record(StepId(1), {GroupId(4), GroupId(2)});
  CHECK(again.code() == absl::StatusCode::kFailedPrecondition);
  CHECK(absl::StrContains(again.message(), "group 2 of step 1 was consumed by step 0"));
  CHECK(ledger.Record(StepId(1), {GroupId(7), GroupId(7)}).code() ==
        absl::StatusCode::kFailedPrecondition);
  CHECK(ledger.Record(StepId(0), Range(10, 1)).code() == absl::StatusCode::kFailedPrecondition);
  CHECK(ledger.Serialize() == "v1 0:1:0:4");
}

TEST_CASE("Any plans: the ledger agrees with a map, also after text and truncation") {
  const uint64_t seed = GENERATE(1, 2, 3, 4, 5, 6, 7, 8);
  INFO("seed " << seed);
  CounterRng rng(seed);
  std::vector<uint64_t> ids;
  for (uint64_t i = 0; i < 400; ++i) ids.push_back(i);
  if (seed % 2 == 0) rng.Shuffle(ids);
  Ledger ledger;
  std::map<uint64_t, int64_t> model;
  size_t next = 0;
  int64_t step = 0;
  while (next + 16 < ids.size()) {
    std::vector<GroupId> groups;
    const uint64_t count = rng.Below(4) == 0 ? 1 + rng.Below(12) : 8;
    for (uint64_t i = 0; i < count; ++i) {
      model[ids[next]] = step;
      groups.emplace_back(ids[next++]);
    }
    rng.Shuffle(groups);
    REQUIRE(ledger.Record(StepId(step), groups).ok());
    step += 1 + static_cast<int64_t>(rng.Below(8) == 0);
  }
  const auto agrees = [&](const Ledger& candidate) {
    bool same = candidate.groups() == model.size();
    for (uint64_t id = 0; id < ids.size(); ++id) {
      const auto it = model.find(id);
      const bool has = candidate.Contains(GroupId(id));
      same = same && has == (it != model.end());
      if (has && it != model.end())
        same = same && candidate.StepOf(GroupId(id)).value() == it->second;
    }
    return same;
  };
  CHECK(agrees(ledger));
  const absl::StatusOr<Ledger> parsed = Ledger::Parse(ledger.Serialize());
  REQUIRE(parsed.ok());
  CHECK(*parsed == ledger);
  CHECK(agrees(*parsed));
  CHECK(parsed->steps_end() == ledger.steps_end());
  const int64_t cut = step / 2;
  ledger.Truncate(StepId(cut));
  for (auto it = model.begin(); it != model.end();) {
    it = it->second >= cut ? model.erase(it) : std::next(it);
  }
  CHECK(agrees(ledger));
  CHECK(ledger.steps_end() <= cut);
}

TEST_CASE("Text that is no ledger is refused by entry") {
  for (const char* text :
       {"", "v2 0:1:0:4", "v1 0:1:0", "v1 0:1:0:4 1:1:2:4", "v1 0:0:0:4", "v1 -1:1:0:4",
        "v1 0:1:0:0", "v1 0:1:18446744073709551615:2", "v1 a:1:0:4", "v1  0:1:0:4"}) {
    INFO(text);
    CHECK(Ledger::Parse(text).status().code() == absl::StatusCode::kInvalidArgument);
  }
}

}  // namespace
}  // namespace crescendo
