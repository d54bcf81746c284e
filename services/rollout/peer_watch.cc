#include "services/rollout/peer_watch.h"

#include <prometheus/counter.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace crescendo {
namespace {

constexpr absl::Duration kBackOff = absl::Milliseconds(20);
constexpr absl::Duration kBackOffMax = absl::Seconds(1);
constexpr absl::Duration kLogEvery = absl::Seconds(5);

}  // namespace

PeerWatch::PeerWatch(std::string who, Clock* clock, const Logger& log,
                     prometheus::Counter* failures)
    : who_(std::move(who)), clock_(clock), log_(log), failures_(failures) {}

absl::Duration PeerWatch::Failed(absl::string_view what, const absl::Status& status) {
  failures_->Increment();
  const absl::Time now = clock_->Now();
  absl::MutexLock lock(&mutex_);
  what_ = std::string(what);
  if (failed_++ == 0) {
    since_ = logged_ = now;
    log_.Warn("peer does not answer", {{"peer", who_}, {"for", what}, {"status", status}});
  } else if (now - logged_ >= kLogEvery) {
    logged_ = now;
    log_.Warn("peer is still awaited", {{"peer", who_},
                                        {"for", what},
                                        {"since", absl::Trunc(now - since_, absl::Milliseconds(1))},
                                        {"tries", failed_},
                                        {"status", status}});
  }
  return std::min(kBackOffMax, kBackOff * (int64_t{1} << std::min(failed_, 10)));
}

void PeerWatch::Ok() {
  absl::MutexLock lock(&mutex_);
  if (failed_ == 0) return;
  log_.Info("peer is back", {{"peer", who_},
                             {"after", absl::Trunc(clock_->Now() - since_, absl::Milliseconds(1))},
                             {"tries", failed_}});
  failed_ = 0;
}

std::string PeerWatch::Awaiting() const {
  absl::MutexLock lock(&mutex_);
  if (failed_ == 0) return "";
  return absl::StrCat(who_, " ", what_, ", for ",
                      absl::FormatDuration(absl::Trunc(clock_->Now() - since_, absl::Seconds(1))));
}

void StopFlag::Set() {
  absl::MutexLock lock(&mutex_);
  set_ = true;
}

bool StopFlag::IsSet() const {
  absl::MutexLock lock(&mutex_);
  return set_;
}

bool StopFlag::WaitFor(absl::Duration duration) const {
  absl::MutexLock lock(&mutex_);
  return mutex_.AwaitWithTimeout(absl::Condition(&set_), duration);
}

}  // namespace crescendo
