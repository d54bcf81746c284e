#include "services/coordinator/shown_samples.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "common/base/limits.h"
#include "common/base/shorten.h"

namespace crescendo {

namespace {

constexpr size_t kSampleOverheadBytes = 512;

bool Holds(const ShownSample& sample, const SampleQuery& query, const std::string& problem) {
  if (query.verdict && sample.result.verdict != *query.verdict) return false;
  if (query.truncated && !sample.result.truncated) return false;
  return problem.empty() || absl::StrContains(absl::AsciiStrToLower(sample.problem_id), problem) ||
         absl::StrContains(absl::AsciiStrToLower(sample.problem), problem);
}

}  // namespace

ShownSamples::ShownSamples(size_t kept, size_t bytes_max) : kept_(kept), bytes_max_(bytes_max) {}

size_t ShownSamples::Bytes(const ShownSample& sample) {
  size_t bytes = kSampleOverheadBytes + sample.problem.size() + sample.result.response.size();
  for (const std::string& gold : sample.gold) bytes += gold.size();
  return bytes;
}

void ShownSamples::Add(const ShownSample& sample, const std::vector<SampleResult>& results) {
  absl::MutexLock lock(&mutex_);
  Ring& ring = sample.purpose == GroupPurpose::kEvaluate ? evaluate_ : train_;
  for (const SampleResult& result : results) {
    if (result.response.empty()) continue;
    auto added = std::make_shared<ShownSample>(sample);
    added->id = next_id_++;
    added->problem = ShortenMiddle(sample.problem, limits::kShownTextBytesMax);
    added->result = result;
    ring.bytes += Bytes(*added);
    ring.samples.push_back(std::move(added));
  }
  while (!ring.samples.empty() && (ring.samples.size() > kept_ || ring.bytes > bytes_max_)) {
    ring.bytes -= Bytes(*ring.samples.front());
    ring.samples.pop_front();
  }
}

std::vector<std::shared_ptr<const ShownSample>> ShownSamples::Find(const SampleQuery& query) const {
  std::vector<std::shared_ptr<const ShownSample>> all;
  {
    absl::MutexLock lock(&mutex_);
    if (query.purpose != GroupPurpose::kEvaluate) {
      all.assign(train_.samples.begin(), train_.samples.end());
    }
    if (query.purpose != GroupPurpose::kTrain) {
      all.insert(all.end(), evaluate_.samples.begin(), evaluate_.samples.end());
    }
  }
  std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a->id > b->id; });
  const std::string problem = absl::AsciiStrToLower(query.problem);
  std::vector<std::shared_ptr<const ShownSample>> found;
  for (auto& sample : all) {
    if (found.size() >= query.max) break;
    if (sample->id < query.below && Holds(*sample, query, problem)) {
      found.push_back(std::move(sample));
    }
  }
  return found;
}

uint64_t ShownSamples::newest_id() const {
  absl::MutexLock lock(&mutex_);
  return next_id_ - 1;
}

}  // namespace crescendo
