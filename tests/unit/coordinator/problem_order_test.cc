// The order of problems: each once an epoch, by the mix, settled ones less often, at any position.
#include "services/coordinator/problem_order.h"

#include <map>
#include <set>

#include "catch2/catch.hpp"

namespace crescendo {
namespace {

ProblemOrderOptions Levels(uint32_t problems, int classes) {
  ProblemOrderOptions options;
  options.seed = 3;
  options.problems = problems;
  options.classes = classes;
  for (uint32_t i = 0; i < problems; ++i) options.levels.push_back(1.0 + i % classes);
  return options;
}

std::vector<uint32_t> Take(ProblemOrder& order, uint64_t from, int count,
                           const std::vector<int>& mix, int64_t trained,
                           const std::vector<ProblemStatistics>& statistics) {
  std::vector<uint32_t> problems;
  for (int i = 0; i < count; ++i) {
    problems.push_back(order.Next(GroupId(from + i), mix, trained, statistics));
  }
  return problems;
}

TEST_CASE("a level mix says how often each level comes while all have problems left") {
  const std::vector<ProblemStatistics> none(3000);
  ProblemOrder order(Levels(3000, 3));
  std::map<uint32_t, int> counts;
  for (const uint32_t p : Take(order, 0, 1000, {6, 3, 1}, 0, none)) ++counts[p % 3];
  REQUIRE(counts[0] == Approx(600).margin(60));
  REQUIRE(counts[1] == Approx(300).margin(60));
  REQUIRE(counts[2] == Approx(100).margin(40));
}

TEST_CASE("a change of the mix in the middle of an epoch neither repeats nor skips a problem") {
  const std::vector<ProblemStatistics> none(300);
  ProblemOrder order(Levels(300, 3));
  std::vector<uint32_t> problems = Take(order, 0, 80, {1, 0, 0}, 0, none);
  for (const uint32_t p : problems) REQUIRE(p % 3 == 0);
  for (const auto& mix : {std::vector<int>{1, 1, 1}, {0, 0, 1}, {}}) {
    const auto more = Take(order, problems.size(), 60, mix, 0, none);
    problems.insert(problems.end(), more.begin(), more.end());
  }
  const auto rest = Take(order, problems.size(), 40, {0, 0, 1}, 0, none);
  problems.insert(problems.end(), rest.begin(), rest.end());
  REQUIRE(problems.size() == 300);
  REQUIRE(std::set<uint32_t>(problems.begin(), problems.end()).size() == 300);
  REQUIRE(order.position().epoch == 0);
  Take(order, 300, 1, {}, 7, none);
  REQUIRE(order.position().epoch == 1);
  REQUIRE(order.position().started_at == 7);
}

TEST_CASE("settled problems sit out by their weight, each has its chance every epoch") {
  ProblemOrderOptions options;
  options.seed = 5;
  options.problems = 1000;
  options.settled_weight = 0.25;
  std::vector<ProblemStatistics> statistics(1000);
  for (int i = 0; i < 1000; ++i) {
    // A half are settled (solved or not, alternating), a half are mixed.
    statistics[i] = {2, i % 2 == 0 ? 8 : (i % 4 == 1 ? 0 : 16), 16};
  }
  ProblemOrder order(options);
  std::set<uint32_t> settled_seen;
  uint64_t group = 1000;
  Take(order, 0, 1000, {}, 0, statistics);  // epoch 0: all
  for (int epoch = 1; epoch <= 20; ++epoch) {
    int settled = 0;
    int mixed = 0;
    do {
      const uint32_t p = order.Next(GroupId(group++), {}, 1, statistics);
      (p % 2 == 0 ? mixed : settled) += 1;
      if (p % 2 == 1) settled_seen.insert(p);
    } while ([&] {
      ProblemOrder next = order;
      next.Next(GroupId(group), {}, 1, statistics);
      return next.position().epoch == epoch;
    }());
    REQUIRE(mixed == 500);
    REQUIRE(settled > 85);
    REQUIRE(settled < 165);
  }
  REQUIRE(settled_seen.size() > 490);  // 500 x (1 - .75^20)
}

TEST_CASE("levels are estimated from pass rates where none is given") {
  ProblemOrderOptions options;
  options.problems = 100;
  options.classes = 2;
  std::vector<ProblemStatistics> statistics(100);
  for (int i = 0; i < 100; ++i) statistics[i] = {1, i < 50 ? 1 : 7, 8};  // the first half is hard
  ProblemOrder order(options);
  Take(order, 0, 100, {}, 0, statistics);
  for (const uint32_t p : Take(order, 100, 50, {1, 0}, 1, statistics)) REQUIRE(p >= 50);
  for (const uint32_t p : Take(order, 150, 50, {1, 0}, 1, statistics)) REQUIRE(p < 50);
}

TEST_CASE("restored at any position it goes on the same") {
  ProblemOrderOptions options = Levels(40, 4);
  options.settled_weight = 0.5;
  std::vector<ProblemStatistics> statistics(40);
  ProblemOrder order(options);
  std::vector<ProblemStatistics> at_start = statistics;
  for (uint64_t group = 0; group < 200; ++group) {
    ProblemOrder restored(options);
    REQUIRE(restored.Restore(order.position(), at_start));
    const int64_t epoch = order.position().epoch;
    const uint32_t problem = order.Next(GroupId(group), {1, 2, 3, 4}, 9, statistics);
    REQUIRE(restored.Next(GroupId(group), {1, 2, 3, 4}, 9, statistics) == problem);
    REQUIRE(restored.position() == order.position());
    if (order.position().epoch != epoch) at_start = statistics;
    statistics[problem].groups += 1;
    statistics[problem].samples += 8;
    statistics[problem].correct += problem % 3 == 0 ? 8 : 4;
  }
  ProblemPosition wrong = order.position();
  wrong.cursors[0] = 1000;
  REQUIRE_FALSE(order.Restore(wrong, statistics));
  wrong.cursors.pop_back();
  REQUIRE_FALSE(order.Restore(wrong, statistics));
}

}  // namespace
}  // namespace crescendo
