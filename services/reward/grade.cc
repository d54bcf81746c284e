#include "services/reward/grade.h"

namespace crescendo {

absl::string_view VerdictName(Verdict verdict) {
  switch (verdict) {
    case Verdict::kCorrect:
      return "correct";
    case Verdict::kIncorrect:
      return "incorrect";
    case Verdict::kUndecided:
      return "undecided";
    case Verdict::kUnspecified:
      return "unspecified";
  }
  return "undecided";
}

absl::string_view ReasonName(ReasonCode reason) {
  switch (reason) {
    case ReasonCode::kByteMatch:
      return "byte_match";
    case ReasonCode::kTextMatch:
      return "text_match";
    case ReasonCode::kNumberEqual:
      return "number_equal";
    case ReasonCode::kExactEqual:
      return "exact_equal";
    case ReasonCode::kIdentity:
      return "identity";
    case ReasonCode::kRounds:
      return "rounds";
    case ReasonCode::kChoiceEqual:
      return "choice_equal";
    case ReasonCode::kStructureEqual:
      return "structure_equal";
    case ReasonCode::kRewardRule:
      return "reward_rule";
    case ReasonCode::kNumberDiffers:
      return "number_differs";
    case ReasonCode::kCertifiedDiffers:
      return "certified_differs";
    case ReasonCode::kNotIdentical:
      return "not_identical";
    case ReasonCode::kTextDiffers:
      return "text_differs";
    case ReasonCode::kTypeDiffers:
      return "type_differs";
    case ReasonCode::kCountDiffers:
      return "count_differs";
    case ReasonCode::kUnitDiffers:
      return "unit_differs";
    case ReasonCode::kVariableDiffers:
      return "variable_differs";
    case ReasonCode::kChoiceDiffers:
      return "choice_differs";
    case ReasonCode::kNoAnswer:
      return "no_answer";
    case ReasonCode::kUnterminatedBox:
      return "unterminated_box";
    case ReasonCode::kRewardRuleUnmet:
      return "reward_rule_unmet";
    case ReasonCode::kEmptyGold:
      return "empty_gold";
    case ReasonCode::kGoldUnparsable:
      return "gold_unparsable";
    case ReasonCode::kAnswerUnparsable:
      return "answer_unparsable";
    case ReasonCode::kAnswerTooLong:
      return "answer_too_long";
    case ReasonCode::kTooLarge:
      return "too_large";
    case ReasonCode::kBudget:
      return "budget";
    case ReasonCode::kUnproven:
      return "unproven";
    case ReasonCode::kAmbiguous:
      return "ambiguous";
    case ReasonCode::kUnknownKind:
      return "unknown_kind";
    case ReasonCode::kRequestInvalid:
      return "request_invalid";
    case ReasonCode::kUnavailable:
      return "unavailable";
  }
  return "unproven";
}

}  // namespace crescendo
