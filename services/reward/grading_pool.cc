#include "services/reward/grading_pool.h"

#include <algorithm>

namespace crescendo {

GradingPool::GradingPool(int threads, const GraderOptions& options) {
  for (int i = 0; i < std::max(1, threads); ++i) {
    threads_.emplace_back([this, options] { Run(options); });
  }
}

GradingPool::~GradingPool() {
  {
    absl::MutexLock lock(&mutex_);
    stop_ = true;
  }
  for (std::thread& thread : threads_) thread.join();
}

void GradingPool::Schedule(Source* source) {
  absl::MutexLock lock(&mutex_);
  sources_.push_back(source);
}

void GradingPool::Run(const GraderOptions& options) {
  Grader grader(options);
  while (true) {
    Source* source = nullptr;
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(this, &GradingPool::HasWorkOrStops));
      if (stop_) return;
      source = sources_.front();
      sources_.pop_front();
    }
    if (source->GradeSome(grader)) Schedule(source);
  }
}

}  // namespace crescendo
