#include "services/reward/grader.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/ascii.h"
#include "services/reward/expression_parser.h"
#include "services/reward/math_equal.h"
#include "services/reward/multiple_choice.h"
#include "services/reward/plain_number.h"

namespace crescendo {
namespace {

constexpr size_t kGoldCacheMax = 2048;      // parsed gold answers
constexpr size_t kGoldBytesMax = 4096;      // longer ones are compared as text only
constexpr size_t kGoldNodesCachedMax = 64;  // larger ones are parsed each time

// A gold answer, taken apart once.
struct Gold {
  absl::string_view text;  // trimmed; of the query
  std::optional<PlainNumber> plain;
  std::optional<Choice> choice;
};

// One side of a comparison in an arena of its own.
struct Parsed {
  ParsedAnswer answer;
  Expressions expressions;
};

}  // namespace

class Grader::Impl {
 public:
  explicit Impl(GraderOptions options) : options_(std::move(options)) {}

  Grade Evaluate(const GradeQuery& query) {
    const ExtractedAnswer answer = ExtractAnswer(query.response, options_.extractor);
    Comparison outcome = {Verdict::kIncorrect, ReasonCode::kNoAnswer};
    WorkBudget budget;
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
        outcome = CompareAll(query, answer.text, &budget);
        break;
    }
    Grade grade;
    grade.verdict = outcome.verdict;
    grade.reason = outcome.reason;
    grade.reward = outcome.verdict == Verdict::kCorrect     ? options_.reward_correct
                   : outcome.verdict == Verdict::kIncorrect ? options_.reward_incorrect
                                                            : options_.reward_undecided;
    grade.extracted = answer.text.substr(0, kExtractedBytesMax);
    grade.operations = budget.used();
    return grade;
  }

  const GraderOptions& options() const { return options_; }

 private:
  // One acceptable answer suffices; what is undecided about one outweighs what is incorrect about
  // the others.
  Comparison CompareAll(const GradeQuery& query, absl::string_view answer, WorkBudget* budget) {
    Comparison outcome = {Verdict::kUndecided, ReasonCode::kEmptyGold};
    bool first = true;
    for (absl::string_view gold : query.gold) {
      budget->Charge(1);
      const Comparison one = CompareOne(gold, answer, query.problem, budget);
      if (one.verdict == Verdict::kCorrect) return one;
      if (first || one.verdict == Verdict::kUndecided) outcome = one;
      first = false;
    }
    return outcome;
  }

  Comparison CompareOne(absl::string_view gold_text, absl::string_view answer,
                        absl::string_view problem, WorkBudget* budget) {
    Gold gold;
    gold.text = absl::StripAsciiWhitespace(gold_text);
    if (gold.text.empty()) return {Verdict::kUndecided, ReasonCode::kEmptyGold};
    if (gold.text == answer) return {Verdict::kCorrect, ReasonCode::kByteMatch};
    gold.plain = ParsePlainNumber(gold.text);
    if (gold.plain) {
      if (const auto number = ParsePlainNumber(answer)) {
        if (SameNumber(*gold.plain, *number)) return {Verdict::kCorrect, ReasonCode::kNumberEqual};
        if (!gold.plain->decimal && !number->decimal)
          return {Verdict::kIncorrect, ReasonCode::kNumberDiffers};
      }
    }
    if (const auto choice = CompareChoice(gold.text, answer, problem, budget)) return *choice;
    return CompareMath(gold.text, answer, budget);
  }

  // Where one of the two is an option's letter; nullopt when it is no question of letters.
  std::optional<Comparison> CompareChoice(absl::string_view gold, absl::string_view answer,
                                          absl::string_view problem, WorkBudget* budget) {
    const auto gold_choice = ParseChoice(gold), answer_choice = ParseChoice(answer);
    if (!gold_choice && !answer_choice) return std::nullopt;
    constexpr Comparison kSame = {Verdict::kCorrect, ReasonCode::kChoiceEqual};
    constexpr Comparison kOther = {Verdict::kIncorrect, ReasonCode::kChoiceDiffers};
    if (gold_choice && answer_choice)
      return gold_choice->letter == answer_choice->letter ? kSame : kOther;
    budget->Charge(static_cast<int64_t>(problem.size() / 16));
    const char letter = gold_choice ? gold_choice->letter : answer_choice->letter;
    const absl::string_view other = gold_choice ? answer : gold;
    absl::string_view option = gold_choice ? gold_choice->rest : answer_choice->rest;
    if (option.empty()) {
      const auto listed = FindOption(problem, letter);
      if (!listed) {  // a letter against something else: only its own value could settle it
        const Comparison same = CompareMath(gold, answer, budget);
        return same.verdict == Verdict::kCorrect
                   ? same
                   : Comparison{Verdict::kUndecided, ReasonCode::kAmbiguous};
      }
      option = *listed;
    }
    const Comparison value =
        gold_choice ? CompareMath(option, other, budget) : CompareMath(other, option, budget);
    if (value.verdict == Verdict::kCorrect) return kSame;
    if (value.verdict == Verdict::kIncorrect) return kOther;
    return value;
  }

  Comparison CompareMath(absl::string_view gold_text, absl::string_view answer_text,
                         WorkBudget* budget) {
    if (gold_text.size() > kGoldBytesMax) return {Verdict::kUndecided, ReasonCode::kGoldUnparsable};
    const Parsed& gold = ParseGold(gold_text, budget);
    // The gold's nodes, then the answer's beside them: equal parts are one node.
    expressions_ = gold.expressions;
    const ParsedAnswer answer = ParseAnswer(answer_text, {}, budget, &expressions_);
    if (!gold.answer.canonical.empty() && gold.answer.canonical == answer.canonical) {
      return {Verdict::kCorrect, ReasonCode::kTextMatch};
    }
    if (answer.failure == ParseFailure::kEmpty) return {Verdict::kIncorrect, ReasonCode::kNoAnswer};
    if (answer.failure == ParseFailure::kTooLong)
      return {Verdict::kUndecided, ReasonCode::kAnswerTooLong};
    if (gold.answer.root == kNoNode) return {Verdict::kUndecided, ReasonCode::kGoldUnparsable};
    if (answer.root == kNoNode) return {Verdict::kUndecided, ReasonCode::kAnswerUnparsable};
    MathComparer comparer(&expressions_, budget);
    const Comparison outcome = comparer.Compare(gold.answer.root, answer.root);
    if (outcome.verdict == Verdict::kCorrect ||
        (!gold.answer.grouped_commas && !answer.grouped_commas))
      return outcome;
    return CompareSeparated(gold_text, answer_text, outcome, budget);
  }

  // "121,242" may be two numbers: the other reading, of one side and of both.
  Comparison CompareSeparated(absl::string_view gold_text, absl::string_view answer_text,
                              Comparison outcome, WorkBudget* budget) {
    ParseOptions separate;
    separate.commas_separate = true;
    expressions_.Clear();
    const ParsedAnswer gold = ParseAnswer(gold_text, separate, budget, &expressions_);
    const ParsedAnswer answer = ParseAnswer(answer_text, separate, budget, &expressions_);
    if (gold.root == kNoNode || answer.root == kNoNode) return outcome;
    const Comparison other = MathComparer(&expressions_, budget).Compare(gold.root, answer.root);
    return other.verdict == Verdict::kCorrect ? other : outcome;
  }

  const Parsed& ParseGold(absl::string_view text, WorkBudget* budget) {
    const auto found = golds_.find(text);
    if (found != golds_.end()) {
      // What parsing would have cost is charged again: a grade does not depend on what was graded
      // before.
      budget->Charge(found->second.cost);
      return found->second.parsed;
    }
    if (golds_.size() >= kGoldCacheMax) golds_.clear();
    Cached cached;
    const int64_t before = budget->used();
    cached.parsed.answer = ParseAnswer(text, {}, budget, &cached.parsed.expressions);
    cached.cost = budget->used() - before;
    if (cached.parsed.expressions.size() > kGoldNodesCachedMax) {
      large_ = std::move(cached.parsed);
      return large_;
    }
    return golds_.emplace(text, std::move(cached)).first->second.parsed;
  }

  struct Cached {
    Parsed parsed;
    int64_t cost = 0;
  };

  GraderOptions options_;
  absl::flat_hash_map<std::string, Cached> golds_;
  Parsed large_;
  Expressions expressions_;
};

Grader::Grader(GraderOptions options) : impl_(std::make_unique<Impl>(std::move(options))) {}
Grader::~Grader() = default;

const GraderOptions& Grader::options() const { return impl_->options(); }

Grade Grader::Evaluate(const GradeQuery& query) { return impl_->Evaluate(query); }

}  // namespace crescendo
