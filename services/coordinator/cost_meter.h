// What a run has cost and will cost: GPU-hours, core-hours and money, by service and GPU type.
//
// Processes are counted for as long as they are there, idle or not, since that is what they are
// paid for. What was counted is durable with the journal; the seconds while the coordinator itself
// is away are not counted. Money is a figure for people: a GPU type without a price costs nothing.
//
// Pure; not thread-safe. No clock: time comes with each call.
#ifndef CRESCENDO_SERVICES_COORDINATOR_COST_METER_H_
#define CRESCENDO_SERVICES_COORDINATOR_COST_METER_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/base/domain.h"

namespace crescendo {

struct CostPrices {
  std::string currency = "$";
  std::map<std::string, double> gpu_hour;  // by GPU type
  double core_hour = 0;
};

struct CostTotals {
  double gpu_hours = 0;
  double core_hours = 0;
  double money = 0;
};

struct ServiceCostView {
  std::string service;
  std::string gpu_type;  // empty: without GPUs
  int processes = 0;     // these three: now
  int gpus = 0;
  int cores = 0;
  CostTotals used;
};

struct TimeProjection {
  double seconds = 0;  // from now
  double low = 0;      // 95% interval
  double high = 0;
};

// Steps still to come, from the seconds that the last ones took: their number times the mean, and
// the prediction interval of that sum with Student's t (the steps taken as independent and of one
// distribution: sd^2 (n + n^2 / m) is the variance of a sum of n more steps about n times the mean
// of m). `more_seconds` comes on top as it is. nullopt with fewer than four steps.
std::optional<TimeProjection> ProjectSteps(absl::Span<const double> step_seconds,
                                           int64_t steps_left, double more_seconds);

struct CostProjectionView {
  int64_t last_step = 0;
  TimeProjection time;
  CostTotals used;  // at the end, in all; with low and high ends of the interval
  CostTotals low;
  CostTotals high;
};

struct CostView {
  std::string currency;
  std::vector<ServiceCostView> services;
  CostTotals used;  // of all services
  double money_per_hour = 0;
  CostTotals last_step;  // from the step before to the last one
  std::optional<CostProjectionView> stage_end;
  std::optional<CostProjectionView> run_end;
};

class CostMeter {
 public:
  // What one service holds now, summed over its processes with the same GPU type.
  using Key = std::pair<std::string, std::string>;  // service, GPU type
  struct Holding {
    int processes = 0;
    int gpus = 0;
    int cores = 0;
  };
  using Holdings = std::map<Key, Holding>;
  static void Hold(const std::string& service, const Resources& resources, Holdings* holdings);

  explicit CostMeter(CostPrices prices) : prices_(std::move(prices)) {}

  // `holdings` were there for `seconds` (not negative) and are what is there now.
  void Add(Holdings holdings, double seconds);

  CostTotals totals() const;
  // Services, totals and the present rate; the rest is the caller's.
  CostView View() const;
  // What there will be after the time, at the present size.
  CostProjectionView Project(int64_t last_step, const TimeProjection& time) const;

  // What was counted, as text for the journal; reads back to the same bits. DATA_LOSS for a text
  // that is none of these.
  std::string Save() const;
  absl::Status Restore(absl::string_view text);

 private:
  struct Hours {
    double gpu = 0;
    double core = 0;
  };
  CostTotals Priced(const Key& key, const Hours& hours) const;
  CostTotals After(double seconds) const;

  const CostPrices prices_;
  std::map<Key, Hours> hours_;
  Holdings holdings_;
};

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_COORDINATOR_COST_METER_H_
