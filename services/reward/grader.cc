#include "services/reward/grader.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "services/reward/plain_number.h"

namespace crescendo {
namespace {

struct Outcome {
  Verdict verdict;
  ReasonCode reason;
};

std::string Words(absl::string_view text) {
  return absl::AsciiStrToLower(
      absl::StrJoin(absl::StrSplit(text, absl::ByAnyChar(" \t\r\n.,;"), absl::SkipEmpty()), " "));
}

Outcome Compare(absl::string_view gold, absl::string_view answer) {
  gold = absl::StripAsciiWhitespace(gold);
  if (gold.empty()) return {Verdict::kUndecided, ReasonCode::kEmptyGold};
  if (gold == answer) return {Verdict::kCorrect, ReasonCode::kByteMatch};
  const auto gold_number = ParsePlainNumber(gold);
  const auto answer_number = ParsePlainNumber(answer);
  if (gold_number && answer_number) {
    return SameNumber(*gold_number, *answer_number)
               ? Outcome{Verdict::kCorrect, ReasonCode::kNumberEqual}
               : Outcome{Verdict::kIncorrect, ReasonCode::kNumberDiffers};
  }
  if (Words(gold) == Words(answer)) return {Verdict::kCorrect, ReasonCode::kTextMatch};
  if (gold_number) return {Verdict::kUndecided, ReasonCode::kAnswerUnparsable};
  return {Verdict::kUndecided, ReasonCode::kGoldUnparsable};
}

}  // namespace

class Grader::Impl {
 public:
  explicit Impl(GraderOptions options) : options_(std::move(options)) {}

  Grade Evaluate(const GradeQuery& query) {
    const ExtractedAnswer answer = ExtractAnswer(query.response, options_.extractor);
    Outcome outcome = {Verdict::kIncorrect, ReasonCode::kNoAnswer};
    int64_t operations = 1;
    switch (answer.source) {
      case AnswerSource::kNone:
        break;
      case AnswerSource::kUnterminatedBox:
        outcome.reason = ReasonCode::kUnterminatedBox;
        break;
      case AnswerSource::kTooLong:
        outcome = {Verdict::kUndecided, ReasonCode::kAnswerTooLong};
        break;
      case AnswerSource::kBox:
      case AnswerSource::kPlain:
        outcome = CompareAll(query, answer.text, &operations);
        break;
    }
    Grade grade;
    grade.verdict = outcome.verdict;
    grade.reason = outcome.reason;
    grade.reward = outcome.verdict == Verdict::kCorrect     ? options_.reward_correct
                   : outcome.verdict == Verdict::kIncorrect ? options_.reward_incorrect
                                                            : options_.reward_undecided;
    grade.extracted = answer.text.substr(0, kExtractedBytesMax);
    grade.operations = operations;
    return grade;
  }

 private:
  // One acceptable answer suffices; what is undecided about one outweighs what is incorrect about
  // the others.
  Outcome CompareAll(const GradeQuery& query, absl::string_view answer, int64_t* operations) {
    Outcome outcome = {Verdict::kUndecided, ReasonCode::kEmptyGold};
    bool first = true;
    for (absl::string_view gold : query.gold) {
      ++*operations;
      const Outcome one = Compare(gold, answer);
      if (one.verdict == Verdict::kCorrect) return one;
      if (first || one.verdict == Verdict::kUndecided) outcome = one;
      first = false;
    }
    return outcome;
  }

  GraderOptions options_;
};

Grader::Grader(GraderOptions options) : impl_(std::make_unique<Impl>(std::move(options))) {}
Grader::~Grader() = default;

Grade Grader::Evaluate(const GradeQuery& query) { return impl_->Evaluate(query); }

}  // namespace crescendo
