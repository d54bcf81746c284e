// What ranks are given without any of them running: their place in the world, their share of a
// batch, and a request's way there.
#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "catch2/catch.hpp"
#include "services/learner/rank_balance.h"
#include "services/learner/rank_environment.h"
#include "services/learner/rank_wire.h"

namespace crescendo {
namespace {

absl::StatusOr<RankEnvironment> From(const std::map<std::string, std::string>& environment) {
  return RanksFromEnvironment([&](const char* name) -> std::optional<std::string> {
    const auto it = environment.find(name);
    if (it == environment.end()) return std::nullopt;
    return it->second;
  });
}

TEST_CASE("A launcher's environment") {
  const auto alone = From({});
  REQUIRE(alone.ok());
  CHECK(alone->rank == 0);
  CHECK(alone->size == 1);

  const auto second = From({{"RANK", "1"},
                            {"WORLD_SIZE", "4"},
                            {"MASTER_ADDR", "learner-0.local"},
                            {"MASTER_PORT", "29500"},
                            {"LOCAL_RANK", "0"}});
  REQUIRE(second.ok());
  CHECK(second->rank == 1);
  CHECK(second->size == 4);
  CHECK(second->master_host == "learner-0.local");
  CHECK(second->master_port == 29500);
  CHECK(second->local_rank == 0);
  CHECK_FALSE(alone->local_rank.has_value());

  const std::vector<std::pair<std::map<std::string, std::string>, std::string>> wrong = {
      {{{"RANK", "0"}}, "WORLD_SIZE: expected a number from 1"},
      {{{"LOCAL_RANK", "-1"}}, "LOCAL_RANK: expected a number from 0"},
      {{{"RANK", "2"}, {"WORLD_SIZE", "2"}}, "RANK: expected a number from 0 to 1, found \"2\""},
      {{{"RANK", "0"}, {"WORLD_SIZE", "2"}}, "MASTER_ADDR"},
      {{{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "a"}, {"MASTER_PORT", "x"}},
       "MASTER_PORT: expected a number from 1 to 65535, found \"x\""},
  };
  for (const auto& [environment, message] : wrong) {
    const auto found = From(environment);
    REQUIRE_FALSE(found.ok());
    INFO(found.status());
    CHECK(absl::StrContains(found.status().message(), message));
  }
}

// Samples of the given lengths, one micro-batch each two; tokens tell which sample they are of.
MiniBatch MakeMini(const std::vector<int>& lengths) {
  MiniBatch mini;
  mini.loss_tokens = 1000;
  for (size_t s = 0; s < lengths.size(); ++s) {
    if (s % 2 == 0) {
      mini.micro_batches.emplace_back().cu_seqlens.push_back(0);
      mini.micro_batches.back().temperature = 0.5f;
    }
    PackedMicroBatch& micro = mini.micro_batches.back();
    PackedSample sample;
    sample.group = GroupId(s);
    sample.sample = static_cast<uint32_t>(s);
    sample.sequence_begin = static_cast<int32_t>(micro.tokens.size());
    sample.loss_begin = static_cast<int32_t>(micro.targets.size());
    for (int i = 0; i < lengths[s]; ++i) {
      micro.tokens.push_back(static_cast<int32_t>(100 * s) + i);
      micro.positions.push_back(i);
      if (i < 1) continue;  // a prompt of one token
      micro.loss_rows.push_back(sample.sequence_begin + i);
      micro.targets.push_back(static_cast<int32_t>(100 * s) + i + 1);
      micro.old_log_probs.push_back(-0.25f * static_cast<float>(s));
    }
    sample.sequence_end = static_cast<int32_t>(micro.tokens.size());
    sample.loss_end = static_cast<int32_t>(micro.targets.size());
    sample.fresh_begin = sample.loss_end - 1;
    sample.advantage = 0.5 + static_cast<double>(s);
    sample.token_weight = 1e-3;
    micro.cu_seqlens.push_back(sample.sequence_end);
    micro.longest = std::max(micro.longest, lengths[s]);
    micro.samples.push_back(sample);
  }
  return mini;
}

TEST_CASE("Every sample is at one rank, whole, and loads are even") {
  const std::vector<int> lengths = {40, 3, 17, 9, 22, 8, 31, 12, 5};
  const MiniBatch mini = MakeMini(lengths);
  for (int ranks : {2, 3, 4}) {
    const std::vector<MiniBatch> parts = SplitOverRanks(mini, ranks, 48);
    REQUIRE(parts.size() == static_cast<size_t>(ranks));
    std::vector<int> seen(lengths.size(), 0);
    for (const MiniBatch& part : parts) {
      CHECK(part.loss_tokens == mini.loss_tokens);
      for (const PackedMicroBatch& micro : part.micro_batches) {
        CHECK(micro.tokens.size() <= 48);
        CHECK(micro.temperature == 0.5f);
        REQUIRE(micro.cu_seqlens.size() == micro.samples.size() + 1);
        int longest = 0, sequence = 0, loss = 0;
        for (size_t i = 0; i < micro.samples.size(); ++i) {
          const PackedSample& sample = micro.samples[i];
          const int s = static_cast<int>(sample.sample);
          ++seen[s];
          CHECK(sample.sequence_begin == sequence);
          CHECK(sample.loss_begin == loss);
          sequence = sample.sequence_end;
          loss = sample.loss_end;
          CHECK(micro.cu_seqlens[i + 1] == sequence);
          REQUIRE(sample.sequence_end - sample.sequence_begin == lengths[s]);
          REQUIRE(sample.loss_end - sample.loss_begin == lengths[s] - 1);
          CHECK(sample.fresh_begin == sample.loss_end - 1);
          CHECK(sample.advantage == 0.5 + s);
          longest = std::max(longest, lengths[s]);
          for (int t = sample.loss_begin; t < sample.loss_end; ++t) {
            CHECK(micro.tokens[micro.loss_rows[t]] + 1 == micro.targets[t]);
            CHECK(micro.old_log_probs[t] == -0.25f * static_cast<float>(s));
          }
        }
        CHECK(micro.longest == longest);
        CHECK(static_cast<size_t>(loss) == micro.targets.size());
      }
    }
    CHECK(seen == std::vector<int>(lengths.size(), 1));
    CHECK(RankImbalance(parts) <= 4.0 / 3.0);
  }
}

TEST_CASE("More ranks than samples leave some without work") {
  const std::vector<MiniBatch> parts = SplitOverRanks(MakeMini({5, 4}), 4, 16);
  CHECK(PackedTokens(parts[0]) == 5);
  CHECK(PackedTokens(parts[1]) == 4);
  CHECK(parts[2].micro_batches.empty());
  CHECK(RankImbalance(parts) == Approx(5.0 * 4 / 9));
  CHECK(RankImbalance(SplitOverRanks(MiniBatch(), 2, 16)) == 1);
}

TEST_CASE("A request arrives as it was sent, and what is cut off is refused") {
  TrainRequest request;
  request.step = StepId(17);
  request.learning_rate = 1.5e-6;
  request.loss.emplace().kl_coefficient = 0.001;
  request.reward_kl = 0.25;
  request.mini_batches = {MakeMini({7, 3, 5}), MakeMini({})};
  request.mini_batches[1].probe = MakeMini({4}).micro_batches;
  const std::string bytes = EncodeTrainRequest(request);
  const auto arrived = DecodeTrainRequest(bytes);
  REQUIRE(arrived.ok());
  CHECK(EncodeTrainRequest(*arrived) == bytes);
  CHECK(arrived->step == StepId(17));
  REQUIRE(arrived->loss.has_value());
  CHECK(arrived->loss->kl_coefficient == 0.001);
  REQUIRE(arrived->mini_batches.size() == 2);
  CHECK(arrived->mini_batches[0].micro_batches[1].tokens ==
        request.mini_batches[0].micro_batches[1].tokens);
  CHECK(arrived->mini_batches[0].micro_batches[0].samples[1].advantage == 1.5);
  CHECK(arrived->mini_batches[1].probe.size() == 1);
  for (size_t cut = 0; cut < bytes.size(); cut += 13) {
    CHECK_FALSE(DecodeTrainRequest(bytes.substr(0, cut)).ok());
  }
  CHECK_FALSE(DecodeTrainRequest(bytes + "x").ok());
}

}  // namespace
}  // namespace crescendo
