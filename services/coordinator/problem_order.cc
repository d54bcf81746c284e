#include "services/coordinator/problem_order.h"

#include <algorithm>
#include <numeric>
#include <set>
#include <utility>

#include "common/base/rng.h"
#include "common/base/status_macros.h"

namespace crescendo {

namespace {

constexpr uint64_t kOrderStream = 0x6f72646572;  // "order"
constexpr uint64_t kClassStream = 0x636c617373;  // "class"
constexpr uint64_t kSitStream = 0x736974;        // "sit"
constexpr double kUnseenDifficulty = 0.5;

}  // namespace

ProblemOrder::ProblemOrder(ProblemOrderOptions options) : options_(std::move(options)) {
  CRESCENDO_CHECK(options_.classes >= 1);
  const std::vector<ProblemStatistics> none(options_.problems);
  StartEpoch(none);
}

bool ProblemOrder::Restore(const ProblemPosition& position,
                           absl::Span<const ProblemStatistics> statistics) {
  if (position.epoch < 0 || position.cursors.size() != static_cast<size_t>(options_.classes)) {
    return false;
  }
  position_ = position;
  StartEpoch(statistics);
  for (size_t i = 0; i < queues_.size(); ++i) {
    if (position.cursors[i] > queues_[i].size()) return false;
  }
  position_.cursors = position.cursors;
  return true;
}

// The class of each problem, 0 the easiest.
std::vector<int> ProblemOrder::ClassesOf(absl::Span<const ProblemStatistics> statistics) const {
  std::vector<int> classes(options_.problems, 0);
  if (options_.classes == 1) return classes;
  const auto given = [this](uint32_t problem) {
    return problem < options_.levels.size() ? options_.levels[problem] : std::nullopt;
  };
  std::set<double> levels;
  for (uint32_t i = 0; i < options_.problems; ++i) {
    if (given(i)) levels.insert(*given(i));
  }
  const bool by_level = levels.size() == static_cast<size_t>(options_.classes);
  const double middle =
      levels.empty() ? kUnseenDifficulty : *std::next(levels.begin(), (levels.size() - 1) / 2);
  std::vector<double> difficulty(options_.problems, middle);
  for (uint32_t i = 0; i < options_.problems; ++i) {
    if (!levels.empty()) {
      difficulty[i] = given(i).value_or(middle);
    } else if (statistics[i].samples > 0) {
      difficulty[i] = 1 - static_cast<double>(statistics[i].correct) /
                              static_cast<double>(statistics[i].samples);
    }
  }
  if (by_level) {
    for (uint32_t i = 0; i < options_.problems; ++i) {
      classes[i] = static_cast<int>(std::distance(levels.begin(), levels.find(difficulty[i])));
    }
    return classes;
  }
  std::vector<uint32_t> sorted(options_.problems);
  std::iota(sorted.begin(), sorted.end(), 0);
  std::stable_sort(sorted.begin(), sorted.end(),
                   [&difficulty](uint32_t a, uint32_t b) { return difficulty[a] < difficulty[b]; });
  for (uint64_t place = 0; place < sorted.size(); ++place) {
    classes[sorted[place]] =
        static_cast<int>(place * static_cast<uint64_t>(options_.classes) / sorted.size());
  }
  return classes;
}

bool ProblemOrder::SitsOut(uint32_t problem, const ProblemStatistics& statistics) const {
  const bool settled = statistics.groups >= options_.settled_after && statistics.samples > 0 &&
                       (statistics.correct == 0 || statistics.correct == statistics.samples);
  if (!settled || options_.settled_weight >= 1) return false;
  CounterRng rng(MixSeed(MixSeed(options_.seed, position_.epoch), problem), kSitStream);
  return rng.Uniform() >= options_.settled_weight;
}

// Fills the queues for position_.epoch and puts the cursors at their beginning.
void ProblemOrder::StartEpoch(absl::Span<const ProblemStatistics> statistics) {
  CRESCENDO_CHECK(statistics.size() == options_.problems);
  const std::vector<int> classes = ClassesOf(statistics);
  queues_.assign(options_.classes, {});
  for (uint32_t i = 0; i < options_.problems; ++i) {
    if (!SitsOut(i, statistics[i])) queues_[classes[i]].push_back(i);
  }
  const bool empty =
      std::all_of(queues_.begin(), queues_.end(), [](const auto& queue) { return queue.empty(); });
  if (empty) {  // all settled, and all drew to sit out: an epoch has problems
    for (uint32_t i = 0; i < options_.problems; ++i) queues_[classes[i]].push_back(i);
  }
  const uint64_t seed = MixSeed(options_.seed, position_.epoch);
  for (size_t i = 0; i < queues_.size(); ++i) {
    CounterRng rng(seed, kOrderStream + i);
    rng.Shuffle(queues_[i]);
  }
  position_.cursors.assign(options_.classes, 0);
}

// Among the classes that have problems left; those of weight 0 only when no other has any.
std::optional<size_t> ProblemOrder::DrawClass(GroupId group, absl::Span<const int> mix) const {
  std::vector<uint64_t> weights(queues_.size(), 0);
  const auto left = [this](size_t i) { return queues_[i].size() - position_.cursors[i]; };
  for (size_t i = 0; i < queues_.size(); ++i) {
    if (left(i) > 0) weights[i] = mix.empty() ? left(i) : static_cast<uint64_t>(mix[i]);
  }
  uint64_t sum = std::accumulate(weights.begin(), weights.end(), uint64_t{0});
  if (sum == 0) {
    for (size_t i = 0; i < queues_.size(); ++i) sum += weights[i] = left(i);
  }
  if (sum == 0) return std::nullopt;
  if (queues_.size() == 1) return 0;
  CounterRng rng(MixSeed(options_.seed, group.value()), kClassStream);
  uint64_t draw = rng.Below(sum);
  for (size_t i = 0; i < weights.size(); ++i) {
    if (draw < weights[i]) return i;
    draw -= weights[i];
  }
  return std::nullopt;
}

uint32_t ProblemOrder::Next(GroupId group, absl::Span<const int> mix, int64_t trained,
                            absl::Span<const ProblemStatistics> statistics) {
  CRESCENDO_CHECK(options_.problems > 0 && (mix.empty() || mix.size() == queues_.size()));
  std::optional<size_t> drawn = DrawClass(group, mix);
  if (!drawn) {
    ++position_.epoch;
    position_.started_at = trained;
    StartEpoch(statistics);
    drawn = DrawClass(group, mix);
    CRESCENDO_CHECK(drawn.has_value());
  }
  return queues_[*drawn][position_.cursors[*drawn]++];
}

}  // namespace crescendo
