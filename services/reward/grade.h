// What a grade is: three verdicts, each with the reason that led to it.
//
// Invariants: kCorrect is only given with a proof, or with an identity test whose error bound is at
// most 2^-60; kIncorrect only with a certificate (another number, another type, another text, no
// answer at all); everything else is kUndecided. Plain values: thread-compatible, own what they
// hold.
#ifndef CRESCENDO_SERVICES_REWARD_GRADE_H_
#define CRESCENDO_SERVICES_REWARD_GRADE_H_

#include <cstdint>
#include <string>

#include "absl/container/inlined_vector.h"
#include "absl/strings/string_view.h"
#include "common/base/domain.h"

namespace crescendo {

// Why. The first group goes with kCorrect, the second with kIncorrect, the third with kUndecided.
enum class ReasonCode : uint8_t {
  kByteMatch,       // the extracted text is the gold's, byte for byte
  kTextMatch,       // the same words
  kNumberEqual,     // the same rational number
  kExactEqual,      // proven equal: the same normal form, or an algebraic zero test
  kIdentity,        // equal at random points of a finite field, error at most 2^-60
  kRounds,          // a decimal within the stated number of digits
  kChoiceEqual,     // the same option of a multiple choice
  kStructureEqual,  // sets, tuples, intervals, equations: equal part by part
  kRewardRule,      // a rule that is not mathematics (exact, regex, format, length, sum) was met

  kNumberDiffers,     // another rational number
  kCertifiedDiffers,  // balls that do not overlap
  kNotIdentical,      // differs at a point
  kTextDiffers,       // other words
  kTypeDiffers,       // not of the gold's type
  kCountDiffers,      // another number of elements
  kUnitDiffers,       // another unit
  kVariableDiffers,   // an assignment to another variable
  kChoiceDiffers,     // another option
  kNoAnswer,          // nothing that the recipe allows as an answer
  kUnterminatedBox,   // the last box is cut off
  kRewardRuleUnmet,   // a rule that is not mathematics was not met

  kEmptyGold,         // the gold answer is empty
  kGoldUnparsable,    // the gold answer is not understood, and the texts differ
  kAnswerUnparsable,  // the answer is not understood
  kAnswerTooLong,     // longer than is parsed
  kTooLarge,          // a number beyond the limit on magnitude
  kBudget,            // the operations were spent
  kUnproven,          // neither equality nor difference could be proven
  kAmbiguous,         // readings of the answer disagree
  kUnknownKind,       // no grader for this kind of problem
  kRequestInvalid,    // beyond the bounds of a request
  kUnavailable,       // the external reward service could not be reached
};
inline constexpr int kReasonCodes = static_cast<int>(ReasonCode::kUnavailable) + 1;

// Stable names in snake case ("number_equal"), for the wire, logs and metrics.
absl::string_view VerdictName(Verdict verdict);
absl::string_view ReasonName(ReasonCode reason);

// What is asked. The views must outlive the call. `problem` may be empty: then an option of a
// multiple choice is known by its letter only.
struct GradeQuery {
  absl::string_view kind = "math";
  absl::InlinedVector<absl::string_view, 1> gold;  // acceptable answers; one of them suffices
  absl::string_view response;                      // the model's whole text
  absl::string_view problem;
};

struct Grade {
  Verdict verdict = Verdict::kUndecided;
  double reward = 0;
  ReasonCode reason = ReasonCode::kUnproven;
  std::string extracted;   // the answer as found, at most kExtractedBytesMax bytes
  int64_t operations = 0;  // what the grade cost, in the units of WorkBudget
};

inline constexpr size_t kExtractedBytesMax = 4096;

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_REWARD_GRADE_H_
