// The threads that grade: one for each core, each with a Grader of its own, fed by sources in turn.
//
// A source (a stream) holds its own pending answers, so that its bound is its own and none starves
// the others: the pool keeps only the list of sources that have work, and takes one answer of the
// first each time. Thread-safe.
#ifndef CRESCENDO_SERVICES_REWARD_GRADING_POOL_H_
#define CRESCENDO_SERVICES_REWARD_GRADING_POOL_H_

#include <deque>
#include <thread>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "services/reward/grader.h"

namespace crescendo {

class GradingPool {
 public:
  class Source {
   public:
    virtual ~Source() = default;
    // Grades some of what is pending, on the calling thread; true when more is pending. After it
    // returned false the source is scheduled again only by Schedule.
    virtual bool GradeSome(Grader& grader) = 0;
  };

  GradingPool(int threads, const GraderOptions& options);
  ~GradingPool();  // waits for what is being graded; sources that are still listed are dropped
  GradingPool(const GradingPool&) = delete;
  GradingPool& operator=(const GradingPool&) = delete;

  // The source has work. It must stay alive until GradeSome returned false. Call it once for each
  // time that a source goes from idle to pending.
  void Schedule(Source* source);

 private:
  void Run(const GraderOptions& options);
  bool HasWorkOrStops() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return stop_ || !sources_.empty();
  }

  absl::Mutex mutex_;
  std::deque<Source*> sources_ ABSL_GUARDED_BY(mutex_);
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_REWARD_GRADING_POOL_H_
