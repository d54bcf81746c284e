#include "services/learner/batch_packer.h"

#include <algorithm>
#include <cstddef>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace crescendo {

namespace {

// One completion that is to be packed.
struct Item {
  size_t group = 0;
  size_t sample = 0;
  size_t length = 0;  // packed tokens
  double advantage = 0;
};

size_t PackedLength(const GroupExperience& group, const SampleExperience& sample) {
  return group.header.prompt_tokens.size() + sample.tokens.size() - 1;
}

// First-fit decreasing (Johnson 1973): at most 11/9 of the fewest possible bins, and deterministic.
std::vector<std::vector<Item>> Fill(std::vector<Item> items, size_t budget) {
  std::stable_sort(items.begin(), items.end(),
                   [](const Item& a, const Item& b) { return a.length > b.length; });
  std::vector<std::vector<Item>> bins;
  std::vector<size_t> used;
  size_t first_open = 0;  // bins before it have no room for even one token
  for (const Item& item : items) {
    size_t bin = first_open;
    while (bin < bins.size() && used[bin] + item.length > budget) ++bin;
    if (bin == bins.size()) {
      bins.emplace_back();
      used.push_back(0);
    }
    bins[bin].push_back(item);
    used[bin] += item.length;
    while (first_open < bins.size() && used[first_open] >= budget) ++first_open;
  }
  return bins;
}

// How many of the sample's last tokens were drawn with `version` (any, when it is -1).
size_t FreshTokens(const SampleExperience& sample, int64_t version) {
  if (version < 0) return sample.tokens.size();
  size_t fresh = 0;
  for (auto run = sample.versions.rbegin(); run != sample.versions.rend(); ++run) {
    if (run->version != PolicyVersion(version)) break;
    fresh += run->tokens;
  }
  return fresh;
}

void Append(const GroupExperience& group, const Item& item, int64_t version, double token_weight,
            PackedMicroBatch& out) {
  const SampleExperience& sample = group.samples[item.sample];
  const std::vector<int32_t>& prompt = group.header.prompt_tokens;
  PackedSample packed;
  packed.group = group.group;
  packed.sample = static_cast<uint32_t>(item.sample);
  packed.sequence_begin = static_cast<int32_t>(out.tokens.size());
  packed.loss_begin = static_cast<int32_t>(out.targets.size());
  packed.advantage = item.advantage;
  packed.token_weight = token_weight;
  out.tokens.insert(out.tokens.end(), prompt.begin(), prompt.end());
  out.tokens.insert(out.tokens.end(), sample.tokens.begin(), sample.tokens.end() - 1);
  for (size_t i = 0; i < item.length; ++i) out.positions.push_back(static_cast<int32_t>(i));
  for (size_t i = 0; i < sample.tokens.size(); ++i) {
    out.loss_rows.push_back(packed.sequence_begin + static_cast<int32_t>(prompt.size() - 1 + i));
  }
  out.targets.insert(out.targets.end(), sample.tokens.begin(), sample.tokens.end());
  out.old_log_probs.insert(out.old_log_probs.end(), sample.log_probs.begin(),
                           sample.log_probs.end());
  packed.sequence_end = static_cast<int32_t>(out.tokens.size());
  packed.loss_end = static_cast<int32_t>(out.targets.size());
  packed.fresh_begin = packed.loss_end - static_cast<int32_t>(FreshTokens(sample, version));
  out.cu_seqlens.push_back(packed.sequence_end);
  out.longest = std::max(out.longest, static_cast<int32_t>(item.length));
  out.samples.push_back(packed);
}

// The weight of each loss token of a sample of `own_tokens`.
double TokenWeight(LossAggregation aggregation, int64_t tokens, int64_t samples, size_t own_tokens,
                   int context_tokens) {
  double divisor = static_cast<double>(tokens);
  if (aggregation == LossAggregation::kSequenceMean) {
    divisor = static_cast<double>(samples) * static_cast<double>(own_tokens);
  } else if (aggregation == LossAggregation::kFixedLength) {
    divisor = static_cast<double>(samples) * context_tokens;
  }
  return divisor > 0 ? 1.0 / divisor : 0;
}

MiniBatch PackGroups(const PackOptions& options, const std::vector<GroupExperience>& groups,
                     const std::vector<GroupAdvantages>& advantages, size_t begin, size_t end) {
  MiniBatch mini;
  std::vector<Item> items;
  int64_t samples = 0;
  for (size_t g = begin; g < end; ++g) {
    if (options.drop_zero_variance && advantages[g].zero_variance) continue;
    for (size_t s = 0; s < groups[g].samples.size(); ++s) {
      const SampleExperience& sample = groups[g].samples[s];
      const bool masked = advantages[g].masked[s];
      if (!masked) {
        mini.loss_tokens += static_cast<int64_t>(sample.tokens.size());
        ++samples;
      }
      const double advantage = advantages[g].advantages[s];
      if (options.drop_zero_advantage && (masked || advantage == 0)) continue;
      items.push_back({g, s, PackedLength(groups[g], sample), advantage});
    }
  }
  for (const std::vector<Item>& bin :
       Fill(std::move(items), static_cast<size_t>(options.microbatch_tokens))) {
    PackedMicroBatch& micro = mini.micro_batches.emplace_back();
    micro.cu_seqlens.push_back(0);
    micro.temperature = groups[bin.front().group].header.temperature;
    for (const Item& item : bin) {
      const bool masked = advantages[item.group].masked[item.sample];
      const GroupExperience& group = groups[item.group];
      const double weight =
          TokenWeight(options.aggregation, mini.loss_tokens, samples,
                      group.samples[item.sample].tokens.size(), group.header.context_tokens);
      Append(group, item, options.version, masked ? 0 : weight, micro);
    }
  }
  return mini;
}

// As many samples as one micro-batch takes, the first of each group, then the second, ...
PackedMicroBatch MakeProbe(const PackOptions& options, const std::vector<GroupExperience>& groups) {
  PackedMicroBatch probe;
  probe.cu_seqlens.push_back(0);
  probe.temperature = groups.front().header.temperature;
  size_t most = 0;
  for (const GroupExperience& group : groups) most = std::max(most, group.samples.size());
  for (size_t s = 0; s < most; ++s) {
    for (size_t g = 0; g < groups.size(); ++g) {
      if (s >= groups[g].samples.size()) continue;
      const Item item{g, s, PackedLength(groups[g], groups[g].samples[s]), 0};
      const bool fits =
          probe.tokens.size() + item.length <= static_cast<size_t>(options.microbatch_tokens);
      if (!fits && !probe.samples.empty()) return probe;
      Append(groups[g], item, options.version, /*token_weight=*/0, probe);
    }
  }
  return probe;
}

}  // namespace

absl::StatusOr<LossAggregation> ParseLossAggregation(absl::string_view name) {
  if (name == "token_mean") return LossAggregation::kTokenMean;
  if (name == "sequence_mean") return LossAggregation::kSequenceMean;
  if (name == "fixed_length") return LossAggregation::kFixedLength;
  return absl::InvalidArgumentError(absl::StrCat(
      "objective.aggregation: expected token_mean, sequence_mean or fixed_length, found \"", name,
      "\""));
}

absl::StatusOr<std::vector<MiniBatch>> PackBatch(const PackOptions& options,
                                                 const std::vector<GroupExperience>& groups,
                                                 const std::vector<GroupAdvantages>& advantages) {
  CRESCENDO_CHECK(groups.size() == advantages.size());
  CRESCENDO_CHECK(options.microbatch_tokens > 0 && options.minibatches > 0);
  for (size_t g = 0; g < groups.size(); ++g) {
    const GroupExperience& group = groups[g];
    CRESCENDO_CHECK(group.samples.size() == advantages[g].advantages.size());
    CRESCENDO_CHECK(!group.header.prompt_tokens.empty());
    for (const SampleExperience& sample : group.samples) {
      CRESCENDO_CHECK(sample.closed && !sample.tokens.empty() &&
                      sample.tokens.size() == sample.log_probs.size());
    }
    if (group.header.temperature != groups.front().header.temperature) {
      return absl::InvalidArgumentError(absl::StrCat(
          "batch: group ", group.group.value(), " was sampled at temperature ",
          group.header.temperature, ", but group ", groups.front().group.value(), " at ",
          groups.front().header.temperature, ": one step has one temperature"));
    }
  }
  const size_t parts = std::min<size_t>(options.minibatches, std::max<size_t>(groups.size(), 1));
  std::vector<MiniBatch> out;
  for (size_t part = 0; part < parts; ++part) {
    out.push_back(PackGroups(options, groups, advantages, groups.size() * part / parts,
                             groups.size() * (part + 1) / parts));
  }
  if (!groups.empty() && out.front().micro_batches.empty()) {
    out.front().probe.push_back(MakeProbe(options, groups));
  }
  return out;
}

BatchSummary SummarizeBatch(StepId step, const std::vector<GroupExperience>& groups,
                            const std::vector<GroupAdvantages>& advantages) {
  BatchSummary summary;
  StepMetrics& metrics = summary.metrics;
  double samples = 0, correct = 0, decided = 0, truncated = 0, reward = 0, staleness = 0;
  for (size_t g = 0; g < groups.size(); ++g) {
    GroupOutcome outcome;
    outcome.group = groups[g].group;
    for (size_t s = 0; s < groups[g].samples.size(); ++s) {
      const SampleExperience& sample = groups[g].samples[s];
      outcome.correct += sample.verdict == Verdict::kCorrect;
      outcome.incorrect += sample.verdict == Verdict::kIncorrect;
      outcome.undecided += sample.verdict == Verdict::kUndecided;
      const bool truncated_here = sample.finish == FinishReason::kTruncated;
      outcome.truncated += truncated_here;
      (truncated_here ? summary.truncated_lengths : summary.stopped_lengths)
          .push_back(static_cast<uint32_t>(sample.tokens.size()));
      outcome.tokens += sample.tokens.size();
      outcome.reward += sample.reward;
      if (advantages[g].advantages[s] != 0) metrics.trained_tokens += sample.tokens.size();
      for (const VersionRun& run : sample.versions) {
        const int64_t age = step.value() - run.version.value();
        staleness += static_cast<double>(age) * run.tokens;
        metrics.staleness_max = std::max(metrics.staleness_max, age);
        summary.tokens_by_staleness[age] += static_cast<uint64_t>(run.tokens);
      }
    }
    const double count = static_cast<double>(groups[g].samples.size());
    samples += count;
    correct += outcome.correct;
    decided += outcome.correct + outcome.incorrect;
    truncated += outcome.truncated;
    reward += outcome.reward;
    metrics.generated_tokens += outcome.tokens;
    metrics.zero_variance_groups += advantages[g].zero_variance;
    outcome.reward /= std::max(count, 1.0);
    summary.outcomes.push_back(outcome);
  }
  const double tokens = static_cast<double>(metrics.generated_tokens);
  if (samples > 0) {
    metrics.reward_mean = reward / samples;
    metrics.truncation_ratio = truncated / samples;
    metrics.response_tokens_mean = tokens / samples;
  }
  if (decided > 0) metrics.pass_rate = correct / decided;
  if (tokens > 0) metrics.staleness_mean = staleness / tokens;
  return summary;
}

}  // namespace crescendo
