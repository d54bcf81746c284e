// crescendo_<service>_refused_calls_total: what a server did not let in, by reason
// (common/rpc/refusal.h). Thread-safe; outlives the server that counts in it.
#ifndef CRESCENDO_COMMON_METRICS_REFUSED_CALLS_H_
#define CRESCENDO_COMMON_METRICS_REFUSED_CALLS_H_

#include <map>
#include <string>

#include "common/metrics/metric_makers.h"
#include "common/rpc/refusal.h"

namespace crescendo {

class RefusedCalls {
 public:
  // `service`: "coordinator". Every reason is there from the start, at 0.
  RefusedCalls(prometheus::Registry& registry, const std::string& service) {
    for (const Refusal refusal : kRefusals) {
      counters_[refusal] = &MakeCounter(registry, "crescendo_" + service + "_refused_calls_total",
                                        "Calls and connections that were refused, by reason.",
                                        {{"reason", RefusalName(refusal)}});
    }
  }

  OnRefusal Counter() {
    return [this](Refusal refusal) { counters_.at(refusal)->Increment(); };
  }

 private:
  std::map<Refusal, prometheus::Counter*> counters_;
};

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_METRICS_REFUSED_CALLS_H_
