// Stop strings, as the core sees them: it has tokens only, the adapter knows their text.
#ifndef CRESCENDO_SERVICES_ROLLOUT_STOP_WATCH_H_
#define CRESCENDO_SERVICES_ROLLOUT_STOP_WATCH_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace crescendo {

// Follows one sample. Not thread-safe.
class StopWatch {
 public:
  virtual ~StopWatch() = default;
  // Whether the text of all tokens so far holds a stop string. Stays true.
  virtual bool Push(int32_t token) = 0;
};

// One for a new sample with these stop strings (at least one).
using StopWatchFactory =
    std::function<std::shared_ptr<StopWatch>(const std::vector<std::string>& stop)>;

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_ROLLOUT_STOP_WATCH_H_
