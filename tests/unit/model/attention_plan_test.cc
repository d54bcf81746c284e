// The split of a batch's attention: every query row meets every key of its sequence once.
#include "common/model/attention_plan.h"

#include <algorithm>
#include <numeric>
#include <set>
#include <tuple>
#include <vector>

#include "catch2/catch.hpp"
#include "common/base/rng.h"

namespace crescendo {
namespace {

AttentionPlan Plan(const std::vector<int32_t>& queries, const std::vector<int32_t>& contexts,
                   const AttentionPlanShape& shape) {
  AttentionPlan plan;
  PlanAttention(queries, contexts, shape, &plan);
  return plan;
}

}  // namespace

TEST_CASE("a plan covers each tile and chunk once, within its capacity") {
  CounterRng rng(3);
  for (int trial = 0; trial < 200; ++trial) {
    AttentionPlanShape shape;
    shape.group = 1 + static_cast<int>(rng.Below(8));
    shape.tile = rng.Below(2) == 0 ? 16 : 128;
    shape.block_tokens = 16 << rng.Below(3);
    std::vector<int32_t> queries, contexts;
    int tiles = 0;
    for (uint64_t i = 0; i < 1 + rng.Below(20); ++i) {
      queries.push_back(rng.Below(2) == 0 ? 1 : 1 + static_cast<int32_t>(rng.Below(500)));
      contexts.push_back(queries.back() + static_cast<int32_t>(rng.Below(20000)));
      tiles += (queries.back() * shape.group + shape.tile - 1) / shape.tile;
    }
    shape.capacity = tiles + static_cast<int>(rng.Below(300));
    INFO("trial " << trial);
    const AttentionPlan plan = Plan(queries, contexts, shape);
    REQUIRE(plan.chunk_tokens % shape.block_tokens == 0);
    REQUIRE(plan.chunk_tokens >= kChunkTokensMin);
    REQUIRE(plan.blocks() <= shape.capacity);
    REQUIRE(plan.query_tile.size() == plan.sequence.size());
    REQUIRE(plan.key_chunk.size() == plan.sequence.size());

    std::set<std::tuple<int, int, int>> expected, found;
    int32_t partials = 0;
    size_t row = 0;
    for (size_t s = 0; s < queries.size(); ++s) {
      const int chunks = (contexts[s] + plan.chunk_tokens - 1) / plan.chunk_tokens;
      REQUIRE(plan.partial_start[s] == partials);
      for (int q = 0; q < queries[s]; ++q, ++row) {
        REQUIRE(plan.merge_start[row] == partials);
        partials += chunks;
        for (int c = 0; c < chunks; ++c) expected.insert({s, q * shape.group / shape.tile, c});
        const int last = q * shape.group + shape.group - 1;
        for (int c = 0; c < chunks; ++c) expected.insert({s, last / shape.tile, c});
      }
    }
    REQUIRE(plan.partial_start.back() == partials);
    REQUIRE(plan.merge_start.back() == partials);
    for (int b = 0; b < plan.blocks(); ++b) {
      const auto i = static_cast<size_t>(b);
      found.insert({plan.sequence[i], plan.query_tile[i], plan.key_chunk[i]});
    }
    REQUIRE(static_cast<int>(found.size()) == plan.blocks());
    REQUIRE(found == expected);
  }
}

TEST_CASE(
    "one long sequence among short ones is cut, and an even batch is not cut finer than asked") {
  AttentionPlanShape shape;
  shape.group = 6;
  shape.capacity = 64 + 264;
  std::vector<int32_t> contexts(64, 1000);
  contexts[5] = 24000;
  const AttentionPlan plan = Plan(std::vector<int32_t>(64, 1), contexts, shape);
  CHECK(plan.chunk_tokens == 320);  // with 304 there were 331 blocks
  CHECK(plan.blocks() == 63 * 4 + 75);
}

}  // namespace crescendo
