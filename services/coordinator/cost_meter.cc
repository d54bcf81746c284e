#include "services/coordinator/cost_meter.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "common/base/status_macros.h"

namespace crescendo {

namespace {

constexpr double kSecondsPerHour = 3600;
constexpr size_t kStepsMin = 4;
constexpr size_t kKeysMax = 256;  // more are counted as GPUs of type "other"

// The 97.5% quantile of Student's t: the expansion of Abramowitz and Stegun 26.7.5 about the
// normal quantile; within 1% from 3 degrees of freedom on.
double StudentT(double degrees) {
  constexpr double z = 1.959963984540054;
  const double z3 = z * z * z, z5 = z3 * z * z, z7 = z5 * z * z;
  const double g1 = (z3 + z) / 4;
  const double g2 = (5 * z5 + 16 * z3 + 3 * z) / 96;
  const double g3 = (3 * z7 + 19 * z5 + 17 * z3 - 15 * z) / 384;
  return z + g1 / degrees + g2 / (degrees * degrees) + g3 / (degrees * degrees * degrees);
}

CostTotals Sum(const CostTotals& a, const CostTotals& b) {
  return {a.gpu_hours + b.gpu_hours, a.core_hours + b.core_hours, a.money + b.money};
}

}  // namespace

std::optional<TimeProjection> ProjectSteps(absl::Span<const double> step_seconds,
                                           int64_t steps_left, double more_seconds) {
  const auto m = static_cast<double>(step_seconds.size());
  if (step_seconds.size() < kStepsMin || steps_left < 0) return std::nullopt;
  double mean = 0;
  for (const double seconds : step_seconds) mean += seconds / m;
  double squares = 0;
  for (const double seconds : step_seconds) squares += (seconds - mean) * (seconds - mean);
  const auto n = static_cast<double>(steps_left);
  const double deviation = std::sqrt(squares / (m - 1) * (n + n * n / m));
  const double half = StudentT(m - 1) * deviation;
  TimeProjection projection;
  projection.seconds = n * mean + more_seconds;
  projection.low = std::max(0.0, projection.seconds - half);
  projection.high = projection.seconds + half;
  return projection;
}

void CostMeter::Hold(const std::string& service, const Resources& resources, Holdings* holdings) {
  Holding& holding = (*holdings)[{service, resources.gpu_type}];
  ++holding.processes;
  holding.gpus += resources.gpus;
  holding.cores += resources.cores;
}

void CostMeter::Add(Holdings holdings, double seconds) {
  CRESCENDO_CHECK(seconds >= 0);
  for (const auto& [key, holding] : holdings) {
    const bool room = hours_.size() < kKeysMax || hours_.count(key) > 0;
    Hours& hours = hours_[room ? key : Key(key.first, "other")];
    hours.gpu += holding.gpus * seconds / kSecondsPerHour;
    hours.core += holding.cores * seconds / kSecondsPerHour;
  }
  holdings_ = std::move(holdings);
}

CostTotals CostMeter::Priced(const Key& key, const Hours& hours) const {
  const auto price = prices_.gpu_hour.find(key.second);
  const double gpu_hour = price == prices_.gpu_hour.end() ? 0 : price->second;
  return {hours.gpu, hours.core, hours.gpu * gpu_hour + hours.core * prices_.core_hour};
}

CostTotals CostMeter::totals() const {
  CostTotals totals;
  for (const auto& [key, hours] : hours_) totals = Sum(totals, Priced(key, hours));
  return totals;
}

CostTotals CostMeter::After(double seconds) const {
  CostTotals after = totals();
  const double passed = seconds / kSecondsPerHour;
  for (const auto& [key, holding] : holdings_) {
    after = Sum(after, Priced(key, {holding.gpus * passed, holding.cores * passed}));
  }
  return after;
}

CostView CostMeter::View() const {
  CostView view;
  view.currency = prices_.currency;
  view.used = totals();
  for (const auto& [key, hours] : hours_) {
    ServiceCostView service;
    service.service = key.first;
    service.gpu_type = key.second;
    if (const auto held = holdings_.find(key); held != holdings_.end()) {
      service.processes = held->second.processes;
      service.gpus = held->second.gpus;
      service.cores = held->second.cores;
    }
    service.used = Priced(key, hours);
    view.services.push_back(std::move(service));
  }
  view.money_per_hour = After(kSecondsPerHour).money - view.used.money;
  return view;
}

CostProjectionView CostMeter::Project(int64_t last_step, const TimeProjection& time) const {
  return {last_step, time, After(time.seconds), After(time.low), After(time.high)};
}

std::string CostMeter::Save() const {
  std::string text;
  for (const auto& [key, hours] : hours_) {
    absl::StrAppendFormat(&text, "%s\t%s\t%.17g\t%.17g\n", key.first, key.second, hours.gpu,
                          hours.core);
  }
  return text;
}

absl::Status CostMeter::Restore(absl::string_view text) {
  std::map<Key, Hours> hours;
  for (const absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    const std::vector<std::string> fields = absl::StrSplit(line, '\t');
    Hours read;
    if (fields.size() != 4 || !absl::SimpleAtod(fields[2], &read.gpu) ||
        !absl::SimpleAtod(fields[3], &read.core) || !(read.gpu >= 0) || !(read.core >= 0)) {
      return absl::DataLossError(absl::StrCat(
          "cost: expected 'service, GPU type, GPU-hours, core-hours', found '", line, "'"));
    }
    hours[{fields[0], fields[1]}] = read;
  }
  hours_ = std::move(hours);
  return absl::OkStatus();
}

}  // namespace crescendo
