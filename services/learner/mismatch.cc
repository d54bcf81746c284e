#include "services/learner/mismatch.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>

namespace crescendo {
namespace {

constexpr int kDroppedBits = 18;  // of a float's 31 behind the sign
constexpr size_t kBuckets = size_t{1} << 13;
constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

}  // namespace

void MismatchStats::AddToken(float learner, float rollout) {
  const double difference = static_cast<double>(learner) - static_cast<double>(rollout);
  const double size = std::abs(difference);
  ++tokens;
  sum += size;
  max = std::max(max, size);
  kl_sum += std::exp(difference) - 1 - difference;
  if (buckets.empty()) buckets.assign(kBuckets, 0);
  const auto single = static_cast<float>(size);
  uint32_t bits;
  std::memcpy(&bits, &single, sizeof(bits));
  ++buckets[bits >> kDroppedBits];
}

void MismatchStats::Add(const MismatchStats& other) {
  tokens += other.tokens;
  sum += other.sum;
  max = std::max(max, other.max);
  kl_sum += other.kl_sum;
  if (other.buckets.empty()) return;
  if (buckets.empty()) buckets.assign(kBuckets, 0);
  for (size_t i = 0; i < kBuckets; ++i) buckets[i] += other.buckets[i];
}

std::vector<double> MismatchStats::Sums() const {
  std::vector<double> sums = {static_cast<double>(tokens), sum, kl_sum};
  sums.resize(3 + kBuckets, 0.0);
  std::copy(buckets.begin(), buckets.end(), sums.begin() + 3);
  return sums;
}

void MismatchStats::SetSums(const std::vector<double>& sums) {
  tokens = static_cast<int64_t>(sums[0]);
  sum = sums[1];
  kl_sum = sums[2];
  buckets.clear();
  if (tokens == 0) return;
  for (size_t i = 0; i < kBuckets; ++i) buckets.push_back(static_cast<int64_t>(sums[3 + i]));
}

double MismatchStats::mean() const {
  return tokens == 0 ? kNone : sum / static_cast<double>(tokens);
}
double MismatchStats::kl() const {
  return tokens == 0 ? kNone : kl_sum / static_cast<double>(tokens);
}
double MismatchStats::largest() const { return tokens == 0 ? kNone : max; }

double MismatchStats::p99() const {
  if (tokens == 0) return kNone;
  int64_t above = 0;
  size_t bucket = kBuckets;
  while (bucket > 0 && (above + buckets[bucket - 1]) * 100 <= tokens) above += buckets[--bucket];
  if (bucket == 0) return 0;
  // The upper edge of the bucket that the percentile lies in; 0 has one of its own.
  if (bucket == 1) return 0;
  const uint32_t bits = static_cast<uint32_t>(bucket) << kDroppedBits;
  float edge;
  std::memcpy(&edge, &bits, sizeof(edge));
  return std::min<double>(edge, max);
}

}  // namespace crescendo
