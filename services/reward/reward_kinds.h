// Kinds of reward: what "kind" of a problem's reward specification chooses. Mathematics is one of
// them.
//
// Built in under their own names: math, exact, choice, regex, format, length. A run's rewards file
// (reward_config.h) adds kinds with other settings, weighted sums, and kinds that another server
// grades. Pure, thread-safe once made; the RE2 objects are shared between threads.
#ifndef CRESCENDO_SERVICES_REWARD_REWARD_KINDS_H_
#define CRESCENDO_SERVICES_REWARD_REWARD_KINDS_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "services/reward/grader.h"

namespace re2 {
class RE2;
}

namespace crescendo {

enum class RewardType : uint8_t {
  kMath,
  kExact,     // the answer is a gold answer, byte for byte
  kChoice,    // the answer's letter is the gold's
  kRegex,     // the answer matches the pattern, or else the gold as a pattern, as a whole
  kFormat,    // one thinking part that ends, then an answer in a box that ends
  kLength,    // soft overlong penalty (DAPO, arXiv:2503.14476, equation 13): 0 down to -1
  kSum,       // weighted; the verdict is that of the first part
  kExternal,  // graded by another RewardService
};

struct RewardPart {
  std::string kind;  // one that is not a sum and not external
  double weight = 1;
};

struct RewardKind {
  std::string name;
  RewardType type = RewardType::kMath;
  std::string pattern;                         // kRegex; empty: the gold answers are patterns
  bool ignore_case = false;                    // kExact, kRegex
  uint32_t tokens_max = 0;                     // kLength: L_max; 0: the request's context limit
  uint32_t tokens_buffer = 0;                  // kLength: L_cache, above 0
  std::vector<RewardPart> parts;               // kSum
  std::string address;                         // kExternal: host:port
  bool insecure = false;                       // kExternal: plain text off the loopback
  absl::Duration timeout = absl::Seconds(10);  // kExternal: of one answer
};

inline constexpr size_t kRewardKindsMax = 256;
inline constexpr size_t kRewardPartsMax = 16;
inline constexpr size_t kPatternBytesMax = 4096;

struct RewardQuery {
  GradeQuery grade;
  uint32_t tokens = 0;          // of the completion; 0: not known
  uint32_t context_tokens = 0;  // its limit
  bool truncated = false;
};

class RewardKinds {
 public:
  // Only the kinds that are built in.
  RewardKinds();
  // InvalidArgument names the kind, what was expected and what was found.
  static absl::StatusOr<std::unique_ptr<RewardKinds>> Make(const std::vector<RewardKind>& kinds);
  ~RewardKinds();

  // Does not fail: an unknown or external kind is undecided. Does not block.
  Grade Evaluate(const RewardQuery& query, Grader& grader) const;

  // The kind of that name, "" meaning math; null when there is none.
  const RewardKind* Find(absl::string_view name) const;
  const std::vector<RewardKind>& kinds() const { return kinds_; }

 private:
  absl::Status Add(RewardKind kind);
  Grade EvaluateKind(const RewardKind& kind, const RewardQuery& query, Grader& grader) const;
  Grade EvaluateSum(const RewardKind& kind, const RewardQuery& query, Grader& grader) const;
  Grade EvaluateRegex(const RewardKind& kind, const RewardQuery& query, Grader& grader) const;

  std::vector<RewardKind> kinds_;
  absl::flat_hash_map<std::string, size_t> index_;
  absl::flat_hash_map<std::string, std::unique_ptr<re2::RE2>> patterns_;  // by kind
};

// Equation 13 of DAPO: 0 up to tokens_max - tokens_buffer, then falling to -1 at tokens_max.
double OverlongPenalty(uint32_t tokens, uint32_t tokens_max, uint32_t tokens_buffer);

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_REWARD_REWARD_KINDS_H_
