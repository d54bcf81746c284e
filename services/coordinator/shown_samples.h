// The newest samples that workers sent with their texts, for people to read: what rewards do is
// seen in samples before it is seen in curves. Training and evaluation are kept apart, so that a
// round of evaluation does not push the run's own samples out. Nothing here is durable.
//
// Bounded in count and in bytes. Thread-safe.
#ifndef CRESCENDO_SERVICES_COORDINATOR_SHOWN_SAMPLES_H_
#define CRESCENDO_SERVICES_COORDINATOR_SHOWN_SAMPLES_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/base/domain.h"

namespace crescendo {

struct ShownSample {
  uint64_t id = 0;  // rises with the time of arrival, from 1
  absl::Time at;
  GroupPurpose purpose = GroupPurpose::kTrain;
  int64_t step = 0;  // that trains it; of an evaluation the version evaluated
  GroupId group;
  std::string problem_id;
  std::string problem;  // the text, cut as responses are
  std::vector<std::string> gold;
  std::string worker;
  int64_t version_min = -1;
  int64_t version_max = -1;
  SampleResult result;
};

struct SampleQuery {
  std::optional<Verdict> verdict;
  std::optional<GroupPurpose> purpose;
  bool truncated = false;  // only those that the limit cut
  std::string problem;     // part of the problem's id or text, in either case; empty: any
  uint64_t below = ~0ull;  // only ids below this: the page before
  size_t max = 50;
};

class ShownSamples {
 public:
  // Of each purpose, at most `kept` samples and `bytes_max` bytes.
  explicit ShownSamples(size_t kept, size_t bytes_max = 32u << 20);

  // Keeps the results of a group that carry a text. `sample` gives all but id and result.
  void Add(const ShownSample& sample, const std::vector<SampleResult>& results);

  // Newest first.
  std::vector<std::shared_ptr<const ShownSample>> Find(const SampleQuery& query) const;
  size_t kept() const { return kept_; }
  uint64_t newest_id() const;  // 0: none yet

 private:
  struct Ring {
    std::deque<std::shared_ptr<const ShownSample>> samples;
    size_t bytes = 0;
  };
  static size_t Bytes(const ShownSample& sample);

  const size_t kept_;
  const size_t bytes_max_;
  mutable absl::Mutex mutex_;
  Ring train_ ABSL_GUARDED_BY(mutex_);
  Ring evaluate_ ABSL_GUARDED_BY(mutex_);
  uint64_t next_id_ ABSL_GUARDED_BY(mutex_) = 1;
};

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_COORDINATOR_SHOWN_SAMPLES_H_
