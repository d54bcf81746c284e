// Random expressions against rewritten equal ones and against perturbed ones: the first are never
// incorrect, the second never correct. 10^5 cases each run (RC_PARAMS in CMakeLists.txt);
// rapidcheck prints the seed and shrinks what fails.
//
// A case is a sequence of choices, from which the expression and the rewriting are read: so every
// sequence is a case, and a shorter sequence a simpler one.
#include <rapidcheck.h>

#include <string>
#include <vector>

#include "catch2/catch.hpp"
#include "services/reward/grader.h"

namespace crescendo {
namespace {

class Choices {
 public:
  explicit Choices(const std::vector<uint8_t>& values) : values_(values) {}
  // Below `bound`; 0 once the sequence is used up.
  int Below(int bound) { return at_ < values_.size() ? values_[at_++] % bound : 0; }

 private:
  const std::vector<uint8_t>& values_;
  size_t at_ = 0;
};

std::string N(int value) { return std::to_string(value); }
std::string Braced(const std::string& x) { return "{" + x + "}"; }
std::string Paren(const std::string& x) { return "\\left(" + x + "\\right)"; }

// An expression, and one that is equal to it by construction.
struct Pair {
  std::string plain, rewritten;
};

Pair Leaf(Choices& choices, bool variables) {
  const int n = choices.Below(30) + 1, k = choices.Below(8) + 2;
  switch (choices.Below(variables ? 12 : 10)) {
    case 0:
      return {N(n), Paren(N(n + k) + "-" + N(k))};
    case 1:
      return {"\\frac" + Braced(N(n)) + Braced(N(k)),
              "\\dfrac" + Braced(N(3 * n)) + Braced(N(3 * k))};
    case 2:
      return {"\\sqrt" + Braced(N(n)), "\\frac{\\sqrt" + Braced(N(n * k * k)) + "}" + Braced(N(k))};
    case 3:
      return {"\\pi", "\\frac{" + N(k) + "\\pi}{" + N(k) + "}"};
    case 4:
      return {"\\ln " + Braced(N(n + 1)),
              Paren("\\ln " + Braced(N((n + 1) * k)) + "-\\ln " + Braced(N(k)))};
    case 5:
      return {"\\sqrt[3]" + Braced(N(n)),
              "\\frac{\\sqrt[3]" + Braced(N(n * k * k * k)) + "}" + Braced(N(k))};
    case 6:
      return {Paren("-" + N(n)), Paren(N(k) + "-" + N(n + k))};
    case 7:
      return {"e", "\\frac{e^2}{e}"};
    case 8:
      return {"\\frac{\\sqrt3}{2}", "\\sin 60^\\circ"};
    case 9:
      return {"\\frac{1+\\sqrt5}{2}", "2\\cos\\frac{\\pi}{5}"};
    case 10:
      return {"x", "\\frac{x^2}{x}"};
    default:
      return {"y", Paren("2y-y")};
  }
}

Pair Expression(Choices& choices, int depth, bool variables) {
  if (depth == 0) return Leaf(choices, variables);
  const int operation = choices.Below(8);
  if (operation == 0) return Leaf(choices, variables);
  const Pair a = Expression(choices, depth - 1, variables);
  if (operation == 1) {  // a square
    return {Paren(a.plain) + "^2", Paren(a.rewritten) + "\\cdot " + Paren(a.rewritten)};
  }
  const Pair b = Expression(choices, depth - 1, variables);
  const int variant = choices.Below(3);
  switch (operation) {
    case 2:
    case 3: {
      const std::string sum = b.rewritten + "+" + a.rewritten;
      if (variant == 0) return {Paren(a.plain + "+" + b.plain), Paren(sum)};
      if (variant == 1)
        return {Paren(a.plain + "+" + b.plain),
                Paren("-" + Paren("-" + Paren(b.rewritten) + "-" + Paren(a.rewritten)))};
      return {Paren(a.plain + "+" + b.plain), Paren("\\frac{2" + Paren(sum) + "}{2}")};
    }
    case 4:
      return {Paren(a.plain + "-" + Paren(b.plain)),
              Paren("-" + Paren(b.rewritten + "-" + Paren(a.rewritten)))};
    case 5:
    case 6: {
      const std::string left = Paren(a.plain) + "\\cdot " + Paren(b.plain);
      if (variant == 0) return {left, Paren(b.rewritten) + Paren(a.rewritten)};
      // a (b + 1) - a
      if (variant == 1)
        return {left,
                Paren(Paren(a.rewritten) + Paren(b.rewritten + "+1") + "-" + Paren(a.rewritten))};
      return {left,
              "\\frac{" + Paren(a.rewritten) + "\\times 6 \\times " + Paren(b.rewritten) + "}{6}"};
    }
    default:
      return {"\\frac" + Braced(a.plain) + Braced(b.plain),
              Paren(a.rewritten) + "/" + Paren(b.rewritten)};
  }
}

Grade Ask(Grader& grader, const std::string& gold, const std::string& answer) {
  const std::string response = "\\boxed{" + answer + "}";
  GradeQuery query;
  query.gold = {gold};
  query.response = response;
  return grader.Evaluate(query);
}

struct Counts {
  int correct = 0, incorrect = 0, undecided = 0;
  void Add(Verdict verdict) {
    correct += verdict == Verdict::kCorrect;
    incorrect += verdict == Verdict::kIncorrect;
    undecided += verdict == Verdict::kUndecided;
  }
};

TEST_CASE("Equal by construction is never incorrect, perturbed never correct", "[rewriting]") {
  Grader grader({});
  Counts equal, perturbed;
  const bool held = rc::check("rewriting and perturbing", [&](const std::vector<uint8_t>& values) {
    Choices choices(values);
    const bool variables = choices.Below(3) == 0;
    const Pair pair = Expression(choices, 1 + choices.Below(3), variables);
    const Grade same = Ask(grader, pair.plain, pair.rewritten);
    equal.Add(same.verdict);
    static const char* kPerturbations[] = {"+1",         "-\\frac{1}{7}", "+10^{-9}",
                                           "+\\sqrt{2}", "-\\pi",         "+10^{-25}"};
    const Grade other = Ask(grader, pair.plain, pair.rewritten + kPerturbations[choices.Below(6)]);
    perturbed.Add(other.verdict);
    if (same.verdict == Verdict::kIncorrect || other.verdict == Verdict::kCorrect) {
      RC_FAIL(pair.plain + "   against   " + pair.rewritten);
    }
  });
  CHECK(held);
  WARN("equal: " << equal.correct << " correct, " << equal.undecided << " undecided; perturbed: "
                 << perturbed.incorrect << " incorrect, " << perturbed.undecided << " undecided");
  // The grader that says "undecided" to everything would hold the above.
  CHECK(equal.correct > 0.9 * (equal.correct + equal.undecided));
  CHECK(perturbed.incorrect > 0.9 * (perturbed.incorrect + perturbed.undecided));
}

TEST_CASE("The same query gets the same grade, whatever was graded before", "[determinism]") {
  Grader used({});
  rc::check("determinism", [&](const std::vector<uint8_t>& values) {
    Choices choices(values);
    const Pair pair = Expression(choices, 2, true);
    Grader fresh({});
    const Grade a = Ask(used, pair.plain, pair.rewritten),
                b = Ask(fresh, pair.plain, pair.rewritten),
                c = Ask(used, pair.plain, pair.rewritten);
    RC_ASSERT(a.verdict == b.verdict);
    RC_ASSERT(a.reason == b.reason);
    RC_ASSERT(a.operations == b.operations);
    RC_ASSERT(a.operations == c.operations);
  });
}

}  // namespace
}  // namespace crescendo
