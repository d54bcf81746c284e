#include "services/learner/ledger.h"

#include <algorithm>
#include <iterator>
#include <limits>
#include <tuple>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/status_macros.h"

namespace crescendo {

namespace {

constexpr absl::string_view kFormat = "v1";

}  // namespace

bool Ledger::Overlaps(uint64_t first, uint64_t size) const {
  auto next = runs_.lower_bound(first);
  if (next != runs_.end() && next->first - first < size) return true;
  if (next == runs_.begin()) return false;
  const auto& [key, run] = *std::prev(next);
  return first - key < static_cast<uint64_t>(run.steps) * run.size;
}

// Requires that it overlaps nothing. Extends the run before it where the pattern goes on.
void Ledger::Insert(uint64_t first, const Run& run) {
  groups_ += static_cast<uint64_t>(run.steps) * run.size;
  steps_end_ = std::max(steps_end_, run.step + run.steps);
  auto next = runs_.lower_bound(first);
  if (next != runs_.begin()) {
    auto& [key, before] = *std::prev(next);
    if (before.size == run.size && before.step + before.steps == run.step &&
        key + static_cast<uint64_t>(before.steps) * before.size == first) {
      before.steps += run.steps;
      return;
    }
  }
  runs_[first] = run;
}

absl::Status Ledger::Record(StepId step, std::vector<GroupId> groups) {
  if (step.value() < steps_end_) {
    return absl::FailedPreconditionError(absl::StrCat(
        "ledger: step ", step.value(), " is recorded; expected step ", steps_end_, " or later"));
  }
  std::sort(groups.begin(), groups.end());
  std::vector<std::pair<uint64_t, uint64_t>> intervals;  // first, size
  for (GroupId group : groups) {
    if (Contains(group)) {
      return absl::FailedPreconditionError(
          absl::StrCat("ledger: group ", group.value(), " of step ", step.value(),
                       " was consumed by step ", StepOf(group).value()));
    }
    if (!intervals.empty()) {
      auto& [first, size] = intervals.back();
      const uint64_t place = group.value() - first;
      if (place < size) {
        return absl::FailedPreconditionError(
            absl::StrCat("ledger: group ", group.value(), " stands twice in step ", step.value()));
      }
      if (place == size) {
        ++size;
        continue;
      }
    }
    intervals.emplace_back(group.value(), 1);
  }
  for (const auto& [first, size] : intervals) Insert(first, {step.value(), 1, size});
  return absl::OkStatus();
}

bool Ledger::Contains(GroupId group) const { return Overlaps(group.value(), 1); }

StepId Ledger::StepOf(GroupId group) const {
  CRESCENDO_CHECK(Contains(group));
  const auto& [key, run] = *std::prev(runs_.upper_bound(group.value()));
  return StepId(run.step + static_cast<int64_t>((group.value() - key) / run.size));
}

void Ledger::Truncate(StepId step) {
  absl::btree_map<uint64_t, Run> kept;
  groups_ = 0;
  steps_end_ = 0;
  for (const auto& [first, run] : runs_) {
    if (run.step >= step.value()) continue;
    Run part = run;
    part.steps = std::min(run.steps, step.value() - run.step);
    groups_ += static_cast<uint64_t>(part.steps) * part.size;
    steps_end_ = std::max(steps_end_, part.step + part.steps);
    kept[first] = part;
  }
  runs_ = std::move(kept);
}

std::string Ledger::Serialize() const {
  std::vector<std::pair<uint64_t, Run>> runs(runs_.begin(), runs_.end());
  std::sort(runs.begin(), runs.end(), [](const auto& a, const auto& b) {
    return std::tie(a.second.step, a.first) < std::tie(b.second.step, b.first);
  });
  std::string text(kFormat);
  for (const auto& [first, run] : runs) {
    absl::StrAppend(&text, " ", run.step, ":", run.steps, ":", first, ":", run.size);
  }
  return text;
}

absl::StatusOr<Ledger> Ledger::Parse(absl::string_view text) {
  Ledger ledger;
  const std::vector<absl::string_view> parts = absl::StrSplit(text, ' ');
  if (parts.empty() || parts[0] != kFormat) {
    return absl::InvalidArgumentError(
        absl::StrCat("ledger: expected format \"", kFormat, "\", found \"",
                     parts.empty() ? "" : parts[0].substr(0, 16), "\""));
  }
  for (size_t i = 1; i < parts.size(); ++i) {
    const auto bad = [&](absl::string_view why) {
      return absl::InvalidArgumentError(
          absl::StrCat("ledger: entry ", i, " \"", parts[i].substr(0, 80), "\": ", why));
    };
    const std::vector<absl::string_view> fields = absl::StrSplit(parts[i], ':');
    Run run;
    uint64_t first = 0;
    if (fields.size() != 4 || !absl::SimpleAtoi(fields[0], &run.step) ||
        !absl::SimpleAtoi(fields[1], &run.steps) || !absl::SimpleAtoi(fields[2], &first) ||
        !absl::SimpleAtoi(fields[3], &run.size)) {
      return bad("expected step:steps:first_group:groups_per_step");
    }
    constexpr int64_t kStepsMax = int64_t{1} << 40;
    if (run.step < 0 || run.step > kStepsMax || run.steps <= 0 || run.steps > kStepsMax ||
        run.size == 0 ||
        run.size >
            (std::numeric_limits<uint64_t>::max() - first) / static_cast<uint64_t>(run.steps)) {
      return bad("out of bounds");
    }
    if (ledger.Overlaps(first, static_cast<uint64_t>(run.steps) * run.size)) {
      return bad("its groups stand in another entry too");
    }
    ledger.Insert(first, run);
  }
  return ledger;
}

}  // namespace crescendo
