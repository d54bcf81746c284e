// Who is told which weights a pass is about to use, and from when on it does not: weights that are
// shared out over processes are there in between only (ZeRO-3).
//
// Units are what passes use together, numbered in the order of PolicyModel::parameters(): 0 the
// embedding, 1 to L the layers, L + 1 the final norm, L + 2 the head unless it is the embedding.
//
// Thread rule: as PolicyModel.
#ifndef CRESCENDO_COMMON_MODEL_WEIGHT_WATCHER_H_
#define CRESCENDO_COMMON_MODEL_WEIGHT_WATCHER_H_

namespace crescendo {

class WeightWatcher {
 public:
  virtual ~WeightWatcher() = default;
  // The unit's weights are there when it returns. Throws when they cannot be.
  virtual void BeforeUse(int unit) = 0;
  // Once for each BeforeUse, in any order.
  virtual void AfterUse(int unit) = 0;
};

// One use of a unit; with no watcher (null) nothing.
class WeightUse {
 public:
  WeightUse(WeightWatcher* watcher, int unit) : watcher_(watcher), unit_(unit) {
    if (watcher_ != nullptr) watcher_->BeforeUse(unit_);
  }
  ~WeightUse() {
    if (watcher_ != nullptr) watcher_->AfterUse(unit_);
  }
  WeightUse(const WeightUse&) = delete;
  WeightUse& operator=(const WeightUse&) = delete;

 private:
  WeightWatcher* const watcher_;
  const int unit_;
};

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_MODEL_WEIGHT_WATCHER_H_
