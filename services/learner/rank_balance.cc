#include "services/learner/rank_balance.h"

#include <algorithm>
#include <cstddef>

#include "common/base/status_macros.h"

namespace crescendo {
namespace {

// A sample where it lies.
struct Place {
  const PackedMicroBatch* micro = nullptr;
  const PackedSample* sample = nullptr;
  int32_t length() const { return sample->sequence_end - sample->sequence_begin; }
};

void Append(const Place& place, PackedMicroBatch& out) {
  const PackedMicroBatch& from = *place.micro;
  PackedSample moved = *place.sample;
  const int32_t sequence_shift = static_cast<int32_t>(out.tokens.size()) - moved.sequence_begin;
  const int32_t loss_shift = static_cast<int32_t>(out.targets.size()) - moved.loss_begin;
  const auto copy = [](const auto& source, int32_t begin, int32_t end, auto& target) {
    target.insert(target.end(), source.begin() + begin, source.begin() + end);
  };
  copy(from.tokens, moved.sequence_begin, moved.sequence_end, out.tokens);
  copy(from.positions, moved.sequence_begin, moved.sequence_end, out.positions);
  copy(from.targets, moved.loss_begin, moved.loss_end, out.targets);
  copy(from.old_log_probs, moved.loss_begin, moved.loss_end, out.old_log_probs);
  for (int32_t t = moved.loss_begin; t < moved.loss_end; ++t) {
    out.loss_rows.push_back(from.loss_rows[t] + sequence_shift);
  }
  moved.sequence_begin += sequence_shift;
  moved.sequence_end += sequence_shift;
  moved.loss_begin += loss_shift;
  moved.loss_end += loss_shift;
  moved.fresh_begin += loss_shift;
  out.cu_seqlens.push_back(moved.sequence_end);
  out.longest = std::max(out.longest, place.length());
  out.temperature = from.temperature;
  out.samples.push_back(moved);
}

}  // namespace

std::vector<MiniBatch> SplitOverRanks(const MiniBatch& mini, int ranks, int microbatch_tokens) {
  CRESCENDO_CHECK(ranks >= 1 && microbatch_tokens >= 1);
  if (ranks == 1) return {mini};
  std::vector<Place> places;
  for (const PackedMicroBatch& micro : mini.micro_batches) {
    for (const PackedSample& sample : micro.samples) places.push_back({&micro, &sample});
  }
  std::stable_sort(places.begin(), places.end(),
                   [](const Place& a, const Place& b) { return a.length() > b.length(); });
  std::vector<MiniBatch> parts(static_cast<size_t>(ranks));
  std::vector<int64_t> load(parts.size(), 0);
  for (MiniBatch& part : parts) part.loss_tokens = mini.loss_tokens;
  parts.front().probe = mini.probe;
  for (const Place& place : places) {
    const size_t rank =
        static_cast<size_t>(std::min_element(load.begin(), load.end()) - load.begin());
    load[rank] += place.length();
    std::vector<PackedMicroBatch>& bins = parts[rank].micro_batches;
    auto bin = std::find_if(bins.begin(), bins.end(), [&](const PackedMicroBatch& micro) {
      return micro.tokens.size() + static_cast<size_t>(place.length()) <=
             static_cast<size_t>(microbatch_tokens);
    });
    if (bin == bins.end()) {
      bin = bins.emplace(bins.end());
      bin->cu_seqlens.push_back(0);
    }
    Append(place, *bin);
  }
  return parts;
}

int64_t PackedTokens(const MiniBatch& mini) {
  int64_t tokens = 0;
  for (const PackedMicroBatch& micro : mini.micro_batches) {
    tokens += static_cast<int64_t>(micro.tokens.size());
  }
  return tokens;
}

double RankImbalance(const std::vector<MiniBatch>& parts) {
  int64_t total = 0, most = 0;
  for (const MiniBatch& part : parts) {
    total += PackedTokens(part);
    most = std::max(most, PackedTokens(part));
  }
  if (total == 0) return 1;
  return static_cast<double>(most) * static_cast<double>(parts.size()) / static_cast<double>(total);
}

}  // namespace crescendo
