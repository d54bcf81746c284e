// Block manager, scheduler and engine over the scripted model, which also checks that every context
// that is read was written by the same prefix.
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "catch2/catch.hpp"
#include "common/base/rng.h"
#include "services/rollout/engine.h"
#include "tests/support/scripted_model.h"

namespace crescendo {
namespace {

using Key = std::pair<uint64_t, uint32_t>;

EngineOptions SmallEngine() {
  EngineOptions options;
  options.slots = 8;
  options.step_tokens = 32;
  options.blocks = 64;
  options.block_tokens = 4;
  options.stop_tokens = {1};
  return options;
}

ScriptedModelOptions SmallModel() {
  ScriptedModelOptions options;
  options.block_tokens = 4;
  return options;
}

std::vector<int32_t> Prompt(int tokens, int32_t first = 5) {
  std::vector<int32_t> prompt;
  for (int i = 0; i < tokens; ++i) prompt.push_back(first + i);
  return prompt;
}

GroupRequest Request(uint64_t id, int samples, int prompt_tokens, int limit) {
  GroupRequest request;
  request.id = GroupId(id);
  request.seed = 17;
  request.limit = limit;
  request.prompt = Prompt(prompt_tokens, static_cast<int32_t>(5 + id));
  for (int i = 0; i < samples; ++i) request.samples.push_back({static_cast<uint32_t>(i), {}});
  return request;
}

struct Collected {
  std::map<Key, std::vector<int32_t>> tokens;
  std::map<Key, FinishReason> finish;
};

// Steps until nothing is left; checks that every step works.
Collected RunAll(Engine& engine, int64_t steps_max = 100000) {
  Collected collected;
  for (int64_t i = 0; i < steps_max; ++i) {
    const auto outputs = engine.Step();
    REQUIRE(outputs.ok());
    for (const EngineOutput& output : *outputs) {
      const Key key(output.group.value(), output.sample);
      REQUIRE(collected.finish.count(key) == 0);
      collected.tokens[key].push_back(output.token);
      if (output.finish != FinishReason::kUnspecified) collected.finish[key] = output.finish;
    }
    if (!engine.worked()) break;
  }
  return collected;
}

std::vector<int32_t> Expected(const ScriptedModelOptions& model, uint64_t group, uint32_t sample,
                              int limit) {
  std::vector<int32_t> tokens;
  while (static_cast<int>(tokens.size()) < limit) {
    tokens.push_back(
        ScriptedModel::TokenAt(model, 17, group, sample, static_cast<uint32_t>(tokens.size()), 0));
    if (tokens.back() == model.stop_token) break;
  }
  return tokens;
}

TEST_CASE("A block is free again when its last owner lets go") {
  BlockManager blocks(3, 16);
  CHECK(blocks.BlocksFor(0) == 0);
  CHECK(blocks.BlocksFor(16) == 1);
  CHECK(blocks.BlocksFor(17) == 2);
  std::vector<int32_t> table;
  blocks.Grow(table, 2);
  blocks.Share(table[0]);
  const int32_t shared = table[0];
  CHECK(blocks.free_blocks() == 1);
  blocks.ReleaseAll(table);
  CHECK(table.empty());
  CHECK(blocks.free_blocks() == 2);
  CHECK(blocks.owners(shared) == 1);
  blocks.Release(shared);
  CHECK(blocks.free_blocks() == 3);
  CHECK(blocks.used_blocks_peak() == 2);
}

TEST_CASE("Every sample gets exactly its tokens, and all blocks come back") {
  ScriptedModel model(SmallModel());
  Engine engine(SmallEngine(), &model);
  for (uint64_t id = 0; id < 6; ++id) engine.AddGroup(Request(id, 4, 3 + static_cast<int>(id), 20));
  const Collected collected = RunAll(engine);
  REQUIRE(collected.finish.size() == 24);
  for (const auto& [key, tokens] : collected.tokens) {
    const auto expected = Expected(SmallModel(), key.first, key.second, 20);
    CHECK(tokens == expected);
    CHECK(collected.finish.at(key) ==
          (expected.back() == 1 ? FinishReason::kStop : FinishReason::kTruncated));
  }
  CHECK(engine.blocks().used_blocks() == 0);
  CHECK(engine.running() + engine.waiting() == 0);
}

TEST_CASE("A group's prompt passes through the model once, its pages are shared") {
  EngineOptions options = SmallEngine();
  options.slots = 16;
  options.step_tokens = 512;
  options.block_tokens = 16;
  options.blocks = 256;
  ScriptedModelOptions scripted = SmallModel();
  scripted.block_tokens = 16;
  scripted.mean_tokens = 12;
  const auto run = [&](int prompt_tokens, bool share) {
    ScriptedModel model(scripted);
    Engine engine(options, &model);
    if (share) {
      engine.AddGroup(Request(0, 16, prompt_tokens, 12));
    } else {
      for (uint64_t id = 0; id < 16; ++id) engine.AddGroup(Request(id, 1, prompt_tokens, 12));
    }
    RunAll(engine);
    return std::make_pair(engine.prefilled_tokens(), engine.blocks().used_blocks_peak());
  };
  // 100 tokens: 6 full pages and a partly filled one, which is copied, not computed again.
  CHECK(run(100, true).first == 100);
  CHECK(run(96, true).first == 96);
  CHECK(run(96, true).second == 6 + 16);
  CHECK(run(96, false).first == 16 * 96);
}

TEST_CASE("A small pool preempts, computes again, and loses no token") {
  EngineOptions options = SmallEngine();
  options.blocks = 14;
  ScriptedModel model(SmallModel());
  Engine engine(options, &model);
  for (uint64_t id = 0; id < 5; ++id) engine.AddGroup(Request(id, 4, 6, 30));
  const Collected collected = RunAll(engine);
  REQUIRE(collected.finish.size() == 20);
  for (const auto& [key, tokens] : collected.tokens) {
    CHECK(tokens == Expected(SmallModel(), key.first, key.second, 30));
  }
  CHECK(engine.preemptions() > 0);
  CHECK(engine.blocks().used_blocks() == 0);
}

TEST_CASE("A long prompt is prefilled in chunks within the step's budget while others decode") {
  ScriptedModelOptions scripted = SmallModel();
  ScriptedModel model(scripted);
  Engine engine(SmallEngine(), &model);
  engine.AddGroup(Request(0, 2, 4, 30));
  engine.AddGroup(Request(1, 2, 100, 10));
  int64_t before = 0;
  for (int i = 0; i < 1000; ++i) {
    REQUIRE(engine.Step().ok());
    CHECK(model.computed_tokens() - before <= 32);
    before = model.computed_tokens();
    if (!engine.worked()) break;
  }
  CHECK(engine.blocks().used_blocks() == 0);
}

TEST_CASE("A resumed sample goes on behind the tokens it is given") {
  const ScriptedModelOptions scripted = SmallModel();
  const auto expected = Expected(scripted, 3, 1, 40);
  REQUIRE(expected.size() > 5);
  ScriptedModel model(scripted);
  Engine engine(SmallEngine(), &model);
  GroupRequest request = Request(3, 0, 9, 40);
  request.samples.push_back({0, {}});
  request.samples.push_back({1, {expected.begin(), expected.begin() + 5}});
  engine.AddGroup(std::move(request));
  const Collected collected = RunAll(engine);
  CHECK(collected.tokens.at({3, 1}) == std::vector<int32_t>(expected.begin() + 5, expected.end()));
  CHECK(collected.tokens.at({3, 0}) == Expected(scripted, 3, 0, 40));
}

TEST_CASE("What does not fit is said, not tried") {
  ScriptedModel model(SmallModel());
  Engine engine(SmallEngine(), &model);
  CHECK(engine.CheckFits(100, 152).ok());
  CHECK(engine.CheckFits(100, 153).code() == absl::StatusCode::kResourceExhausted);
  CHECK(engine.CheckFits(0, 10).code() == absl::StatusCode::kInvalidArgument);
  CHECK(engine.CheckFits(1, 0).code() == absl::StatusCode::kInvalidArgument);
  // The largest that fits runs alone to its end.
  ScriptedModelOptions endless = SmallModel();
  endless.mean_tokens = 100000;
  ScriptedModel long_model(endless);
  Engine long_engine(SmallEngine(), &long_model);
  long_engine.AddGroup(Request(0, 3, 101, 151));
  CHECK(RunAll(long_engine).finish.size() == 3);
}

TEST_CASE("Random pauses, holds and removals: no token is lost or doubled, no block leaks") {
  for (uint64_t seed = 1; seed <= 60; ++seed) {
    INFO("seed " << seed);
    CounterRng rng(seed);
    EngineOptions options = SmallEngine();
    options.slots = 1 + static_cast<int>(rng.Below(10));
    options.blocks = 24 + static_cast<int>(rng.Below(40));
    ScriptedModel model(SmallModel());
    Engine engine(options, &model);
    std::map<Key, std::vector<int32_t>> tokens;
    std::map<uint64_t, int> limits;
    std::set<Key> removed, paused;
    std::set<uint64_t> held;
    uint64_t next = 0;
    int quiet = 0;
    for (int i = 0; i < 3000 && quiet < 3; ++i) {
      const bool active = i < 300;
      const bool any = next > 0;
      if (active && rng.Below(6) == 0) {
        const int limit = 1 + static_cast<int>(rng.Below(40));
        const int prompt = 1 + static_cast<int>(rng.Below(30));
        if (engine.CheckFits(prompt, limit).ok()) {
          limits[next] = limit;
          engine.AddGroup(Request(next++, 1 + static_cast<int>(rng.Below(5)), prompt, limit));
        }
      }
      const uint64_t group = next == 0 ? 0 : rng.Below(next);
      const Key key(group, static_cast<uint32_t>(rng.Below(5)));
      if (active && any && rng.Below(10) == 0) {
        engine.SetPaused(GroupId(key.first), key.second, true);
        paused.insert(key);
      }
      if (active && any && rng.Below(12) == 0) {
        engine.SetRunnable(GroupId(group), false);
        held.insert(group);
      }
      if (active && any && rng.Below(40) == 0) {
        engine.RemoveSample(GroupId(key.first), key.second);
        removed.insert(key);
      }
      if (!active || rng.Below(5) == 0) {
        for (const Key& k : paused) engine.SetPaused(GroupId(k.first), k.second, false);
        for (const uint64_t g : held) engine.SetRunnable(GroupId(g), true);
        paused.clear();
        held.clear();
      }
      const auto outputs = engine.Step();
      REQUIRE(outputs.ok());
      for (const EngineOutput& out : *outputs) {
        const Key at(out.group.value(), out.sample);
        REQUIRE(removed.count(at) == 0);
        // A first token comes with the prompt, paused or not.
        REQUIRE((paused.count(at) == 0 || tokens[at].empty()));
        REQUIRE(held.count(at.first) == 0);
        tokens[at].push_back(out.token);
      }
      CHECK(engine.running() <= options.slots);
      quiet = !active && !engine.worked() ? quiet + 1 : 0;
    }
    CHECK(engine.running() + engine.waiting() == 0);
    CHECK(engine.blocks().used_blocks() == 0);
    for (const auto& [key, list] : tokens) {
      const auto expected = Expected(SmallModel(), key.first, key.second, limits[key.first]);
      if (removed.count(key) == 0) {
        CHECK(list == expected);
      } else {
        REQUIRE(list.size() <= expected.size());
        CHECK(std::equal(list.begin(), list.end(), expected.begin()));
      }
    }
  }
}

}  // namespace
}  // namespace crescendo
