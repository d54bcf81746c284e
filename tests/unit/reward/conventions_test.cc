// The conventions of services/reward/README.md, one case each: a gold answer, an answer, a verdict.
#include <string>
#include <vector>

#include "catch2/catch.hpp"
#include "services/reward/grader.h"

namespace crescendo {
namespace {

struct Case {
  const char* gold;
  const char* answer;
  const char* problem = "";
};

Grade Ask(const Case& each) {
  Grader grader({});
  const std::string response = std::string("\\boxed{") + each.answer + "}";
  GradeQuery query;
  query.gold = {each.gold};
  query.response = response;
  query.problem = each.problem;
  return grader.Evaluate(query);
}

void Expect(Verdict verdict, const std::vector<Case>& cases) {
  for (const Case& each : cases) {
    const Grade grade = Ask(each);
    INFO("gold " << each.gold << "   answer " << each.answer << "   reason "
                 << std::string(ReasonName(grade.reason)));
    CHECK(grade.verdict == verdict);
  }
}

constexpr Verdict kRight = Verdict::kCorrect;
constexpr Verdict kWrong = Verdict::kIncorrect;
constexpr Verdict kOpen = Verdict::kUndecided;

TEST_CASE("Numbers") {
  Expect(kRight, {{"42", "42.0"},
                  {"1000000", "1,000,000"},
                  {"1000000", "1\\,000\\,000"},
                  {"5040", "5,\\!040"},
                  {"1/2", "0.5"},
                  {"\\frac12", "\\dfrac{1}{2}"},
                  {"\\frac{98}5", "19.6"},
                  {"70 \\frac{1}{3}", "211/3"},
                  {"1 1/2", "\\frac{3}{2}"},
                  {"3/4", "\\frac{6}{8}"},
                  {"-\\frac{1}{2}", "\\frac{-1}{2}"},
                  {"6.88\\times 10^{-7}", "0.000000688"},
                  {"2000", "2e3"},
                  {"2000", "2\\cdot 10^3"},
                  {"\\frac{1}{3}", "0.\\overline{3}"},
                  {"\\frac{1}{6}", "0.1\\overline{6}"},
                  {"1/3", "0.333\\ldots"},
                  {".155", "0.155"},
                  {"2", "+2"},
                  {"\\frac{433.5}{3.25}", "\\frac{1734}{13}"},
                  {"2^{10}", "1024"},
                  {"2^10", "1024"},
                  {"4", "\\mbox{four}"},
                  {"four", "4"},
                  {"21", "twenty-one"},
                  {"13 \\frac{1}{2}", "13.5"},
                  {"7", "{7}"},
                  {"12", "$12$"},
                  {"1234567890123456789012", "1,234,567,890,123,456,789,012"}});
  Expect(kWrong, {{"12345", "12346"},
                  {"50", "0.5"},
                  {"1/3", "0.333"},
                  {"1/3", "1/4"},
                  {"2", "-2"},
                  {"123456789012345678901234567890", "123456789012345678901234567891"},
                  {"7", "1/7"},
                  {"42", "42.1"}});
}

TEST_CASE(
    "Decimals: equal, or twelve correct digits; a decimal gold is matched to its own precision") {
  Expect(kRight, {{"1/3", "0.333333333333"},
                  {"\\pi", "3.14159265359"},
                  {"\\sqrt{2}", "1.41421356237"},
                  {"0.33", "1/3"},
                  {"1.41", "\\sqrt{2}"},
                  {"583.33\\pi", "\\frac{1750\\pi}{3}"},
                  {"44.44\\%", "\\frac{4}{9}"}});
  Expect(kWrong, {{"\\pi", "3.14159"},
                  {"\\sqrt{2}", "1.414"},
                  {"0.33", "0.34"},
                  {"1.41", "\\sqrt{3}"},
                  {"0.34", "1/3"}});
  Expect(kOpen, {{"0.33", "0.333"}});
}

TEST_CASE("Percent") {
  Expect(kRight, {{"10\\%", "10"},
                  {"10\\%", "1/10"},
                  {"10\\%", "0.1"},
                  {"10", "10\\%"},
                  {"0.1", "10%"},
                  {"10%", "10 percent"},
                  {"76\\%", "76\\%"}});
  Expect(kWrong, {{"50", "0.5"}, {"10\\%", "1000\\%"}, {"50\\%", "0.05"}});
}

TEST_CASE(
    "Units: others of the same dimension are equal, a missing one is forgiven, a wrong one is "
    "not") {
  Expect(kRight, {{"2\\text{ m}", "200\\text{ cm}"},
                  {"75\\text{ cents}", "\\$0.75"},
                  {"\\$53.00", "53"},
                  {"60^\\circ", "\\frac{\\pi}{3}"},
                  {"60^\\circ", "60"},
                  {"60^{\\circ}", "60\\text{ degrees}"},
                  {"20 seconds", "20\\text{ s}"},
                  {"72.6 \\mathrm{~m}", "72.6"},
                  {"42", "42\\text{ cm}"},
                  {"34\\text{ sq. units}", "34"},
                  {"114\\text{ square units}", "114\\text{ units}^2"},
                  {"24\\text{ in}^{3}", "24\\text{ cubic inches}"},
                  {"3 \\text{ feet/s}", "3\\text{ feet per second}"},
                  {"240\\text{ ways.}", "240"},
                  {"7 \\text{ distinct integers}", "7"},
                  {"480 + 480\\sqrt{3}\\text{ feet}", "480(1+\\sqrt3)"},
                  {"7 minutes and 5 seconds", "425\\text{ seconds}"},
                  {"\\$306,\\!956.63", "306956.63"},
                  {"5\\text{ m}", "5 m"},
                  {"$1.15", "1.15"},
                  {"1\\text{ hour}", "60\\text{ minutes}"},
                  {"6\\frac{1}{6}\\text{ feet}", "\\frac{37}{6}"},
                  {"164 \\pi \\mbox{ square feet}", "164\\pi"},
                  {"21\\text{ dogs}", "21\\text{ dog}"},
                  {"1\\text{ gallon}", "4\\text{ quarts}"}});
  Expect(kWrong, {{"20\\text{ miles}", "20\\text{ km}"},
                  {"20\\text{ miles}", "20\\text{ hours}"},
                  {"3\\text{ cm}^2", "3\\text{ cm}"},
                  {"60^\\circ", "\\frac{\\pi}{4}"},
                  {"75\\text{ cents}", "0.75"},
                  {"20\\text{ miles}", "20\\text{ apples}"}});
  Expect(kOpen, {{"21\\text{ dogs}", "21\\text{ cats}"}});
}

TEST_CASE("A letter that may be a unit is one beside a quantity, and open beside a number") {
  Expect(kRight, {{"2 m", "200\\text{ cm}"},
                  {"2 m", "200 cm"},
                  {"5 kg", "5000 g"},
                  {"5 g", "0.005 kg"},
                  {"10 m/s", "36 km/h"},
                  {"2 m^2", "20000 cm^2"},
                  {"90 s", "1.5 minutes"},
                  {"3 L", "3000 mL"},
                  {"7", "7 m"}});
  Expect(kWrong, {{"2 m", "2 kg"}, {"2 m", "2 cm"}, {"2 m", "3"}, {"2m^2", "2 m"}, {"2x", "2"}});
  Expect(kOpen, {{"2 m", "2"}, {"10 m/s", "10"}});
}

TEST_CASE("Bases") {
  Expect(kRight, {{"1011_2", "11"},
                  {"56_8", "46"},
                  {"997_{16}", "2455"},
                  {"\\text{A5}_{11}", "115"},
                  {"12", "1100_{2}"},
                  {"51_{(10)}", "201_{(5)}"},
                  {"10200_3", "10200_{3}"},
                  {"1011_2", "1011_{\\text{two}}"}});
  Expect(kWrong, {{"1011_2", "1011_3"}, {"56_8", "47"}});
  Expect(kOpen, {{"56_8", "56"}});
}

TEST_CASE("Radicals and other constants") {
  Expect(kRight, {{"\\sqrt{12}", "2\\sqrt{3}"},
                  {"\\frac{1}{\\sqrt{2}}", "\\frac{\\sqrt{2}}{2}"},
                  {"\\sqrt[3]{-8}", "-2"},
                  {"\\sqrt{3+2\\sqrt{2}}", "1+\\sqrt{2}"},
                  {"\\frac{4}{\\sqrt{5}-1}", "\\sqrt 5+1"},
                  {"5^{1/7}", "\\sqrt[7]{5}"},
                  {"3^{\\frac{1}{3}} \\times 8^{\\frac{1}{8}}", "\\sqrt[3]{3}\\cdot 2^{3/8}"},
                  {"\\sqrt13", "\\sqrt{13}"},
                  {"12\\sqrt 3", "\\frac{36}{\\sqrt{3}}"},
                  {"\\sqrt[4]{27}", "27^{1/4}"},
                  {"\\sin 30^\\circ", "0.5"},
                  {"\\sin\\frac{\\pi}{12}", "\\frac{\\sqrt6-\\sqrt2}{4}"},
                  {"\\cos 36^\\circ", "\\frac{1+\\sqrt5}{4}"},
                  {"\\tan 60^\\circ", "\\sqrt{3}"},
                  {"2\\ln 2", "\\ln 4"},
                  {"\\ln\\frac{3}{2}", "\\ln 3-\\ln 2"},
                  {"\\log_2 8", "3"},
                  {"e^{-3}", "\\frac{1}{e^3}"},
                  {"\\frac{1 - e}{1 + e}", "-\\frac{e-1}{e+1}"},
                  {"\\arctan 1", "\\pi/4"},
                  {"54\\sqrt{3}-18\\pi", "18(3\\sqrt3-\\pi)"},
                  {"3+\\ln{2}", "\\ln 2 + 3"},
                  {"\\frac{2009! + 1}{2009!}", "1+\\frac{1}{2009!}"},
                  {"\\binom{10}{3}", "120"},
                  {"5!", "120"},
                  {"{10 \\choose 3}", "120"},
                  {"\\lfloor 3.7 \\rfloor", "3"},
                  {"|3-\\pi|", "\\pi-3"},
                  {"2 + i", "i+2"},
                  {"\\frac{1}{i}", "-i"},
                  {"e^{i\\pi/3}", "\\frac{1+\\sqrt{3}i}{2}"},
                  {"\\sqrt{-4}", "2i"},
                  {"\\frac{1}{2}\\log_2 3", "\\log_4 3"},
                  {"9^{9^{9^9}}", "9^{9^{9^{9}}}"},
                  {"2 \\sqrt{\\frac{3}{4}}", "\\sqrt3"},
                  {"\\sqrt{\\pi^2}", "\\pi"},
                  {"\\cosh 0", "1"}});
  Expect(kWrong, {{"\\sqrt{2}", "\\sqrt{3}"},
                  {"1-\\frac{1}{e}", "1+\\frac{1}{e}"},
                  {"\\pi", "\\frac{22}{7}"},
                  {"|4-\\pi|", "\\pi-4"},
                  {"\\sqrt{2}+\\sqrt{3}", "\\sqrt{5}"},
                  {"\\ln 2", "\\ln 3"},
                  {"2+i", "2-i"},
                  {"3^{100}", "3^{101}"},
                  {"e^\\pi", "\\pi^e"},
                  {"(10^9)!", "(10^9+1)!"}});
  Expect(kOpen, {{"\\ln 2", "\\log 2"}, {"9^{9^{9^9}}", "8^{9^{9^9}}"}});
}

TEST_CASE("Expressions in variables") {
  Expect(kRight,
         {{"x^2-1", "(x-1)(x+1)"},
          {"\\frac{x^2-y^2}{xy}", "\\frac{x}{y}-\\frac{y}{x}"},
          {"2x+y+2015", "y+2x+2015"},
          {"(t-11)(t+11)", "t^2-121"},
          {"2^{n+1}", "2\\cdot 2^n"},
          {"4^n", "2^{2n}"},
          {"2^{n-2}", "\\frac{2^n}{4}"},
          {"n(\\sqrt{2} + 1)", "n\\sqrt2+n"},
          {"(2n)! \\cdot 2^{n^2}", "2^{n^2}(2n)!"},
          {"(n+1)!", "(n+1)n!"},
          {"\\frac{2}{5} \\cdot 9^n - \\frac{2}{5} \\cdot (-1)^n", "\\frac{2(9^n-(-1)^n)}{5}"},
          {"\\frac{1}{2}(180-A)", "90-\\frac{A}{2}"},
          {"x^{100}-1", "(x^{50}-1)(x^{50}+1)"},
          {"e^{x+1}", "e\\cdot e^x"},
          {"\\sqrt{a^2+b^2}", "\\sqrt{b^2+a^2}"},
          {"ab", "ba"},
          {"\\sin x", "\\sin(x)"},
          {"F_{n+1}", "F_{n+1}"},
          {"x_1+x_2", "x_2+x_1"},
          {"\\frac{n(n+1)}{2}", "\\binom{n+1}{2}"},
          {"a\\sqrt{2}", "\\frac{2a}{\\sqrt{2}}"}});
  Expect(kWrong, {{"2^{x+1}", "2^x+1"},
                  {"x^2-1", "x^2+1"},
                  {"x+y", "x-y"},
                  {"x", "y"},
                  {"5n+1", "5n-1"},
                  {"\\sin x", "\\cos x"},
                  {"\\sqrt{x}", "x"}});
}

// Where a point proves nothing: each of these agrees at every whole, or every large, or every
// positive number.
TEST_CASE("What agrees at many points is not yet equal") {
  for (const Case& each : std::vector<Case>{{"|x-1|", "x-1"},
                                            {"|x|", "x"},
                                            {"\\lfloor x \\rfloor", "x"},
                                            {"\\lceil x \\rceil", "\\lfloor x \\rfloor"},
                                            {"\\gcd(n,2)", "1"},
                                            {"\\max(x,1)", "x"},
                                            {"\\sqrt{x^2}", "x"},
                                            {"\\sin(\\pi n)", "0"},
                                            {"(-1)^n", "1"},
                                            {"x+2305843009213693951", "x"},
                                            {"x^{2305843009213693951}", "x"},
                                            {"|x-\\pi|", "x-\\pi"},
                                            {"\\sqrt{x}\\sqrt{y}", "\\sqrt{-x}\\sqrt{-y}"}}) {
    INFO(each.gold << "   " << each.answer);
    CHECK(Ask(each).verdict != kRight);
  }
  Expect(kRight, {{"|x-1|", "|1-x|"}, {"|x|+1", "1+|x|"}, {"\\gcd(n,2)", "\\gcd(n,2)+0"}});
}

TEST_CASE("Trigonometric identities, the line, words around an answer") {
  Expect(kRight, {{"\\sin 2x", "2\\sin x\\cos x"},
                  {"\\cos 2x", "2\\cos^2 x-1"},
                  {"1-\\cos^2 x", "\\sin^2 x"},
                  {"\\tan x", "\\frac{\\sin x}{\\cos x}"},
                  {"\\sin(x+y)", "\\sin x\\cos y+\\cos x\\sin y"},
                  {"\\cos(x+\\frac{\\pi}{2})", "-\\sin x"},
                  {"\\sin(-x)", "-\\sin x"},
                  {"\\sec^2 x", "1+\\tan^2 x"},
                  {"\\mathbb{R}", "(-\\infty,\\infty)"},
                  {"\\text{all real numbers}", "(-\\infty,\\infty)"},
                  {"5", "\\text{The answer is } 5"},
                  {"f(x)=x^2+1", "f(x)=1+x^2 \\text{ for all } x"},
                  {"p \\equiv 1 \\pmod 4", "p\\equiv1\\pmod{4}"}});
  Expect(kWrong, {{"\\sin 2x", "2\\sin x"},
                  {"\\sin(x+y)", "\\sin x+\\sin y"},
                  {"\\cos(x+\\pi)", "\\cos x"},
                  {"\\mathbb{R}", "(0,\\infty)"}});
}

TEST_CASE("Forms that textbooks use") {
  Expect(kRight, {{"2:30 \\text{ PM}", "2:30"},
                  {"2:30 \\text{ PM}", "2:30\\text{ p.m.}"},
                  {"6 \\frac{2}{3} \\%", "\\frac{20}{3}\\%"},
                  {"\\frac{5}{6} \\mathrm{~hr}", "50\\text{ minutes}"},
                  {"1,500,000", "1.5\\text{ million}"},
                  {"C_{10}^{3}", "120"},
                  {"\\frac{1}{2}", "{1 \\over 2}"},
                  {"\\frac{1}{2}", "\\nicefrac{1}{2}"},
                  {"x = 2k\\pi + \\frac{\\pi}{6}, k \\in \\mathbb{Z}", "2k\\pi+\\frac{\\pi}{6}"},
                  {"x = 2k\\pi + \\frac{\\pi}{6} (k \\in \\mathbb{Z})",
                   "x=\\frac{\\pi}{6}+2k\\pi, k\\in\\mathbb{Z}"},
                  {"n \\in \\{1,2,3\\}", "1,2,3"},
                  {"\\left[\\begin{array}{cc}1&2\\\\3&4\\end{array}\\right]",
                   "\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}"},
                  {"\\{0, \\pm 1\\}", "\\{-1,0,1\\}"},
                  {"90 \\text{ km/hr}", "25\\text{ m/s}"}});
  Expect(kWrong, {{"2:30 \\text{ PM}", "2:30\\text{ a.m.}"},
                  {"x = 2k\\pi, k \\in \\mathbb{Z}", "k\\pi"},
                  {"1,500,000", "1.5"}});
}

TEST_CASE("Equations and assignments") {
  Expect(kRight, {{"5", "x = 5"},
                  {"x = 5", "5"},
                  {"n=3", "n = 3.0"},
                  {"f(x) = 2x", "2x"},
                  {"2x", "f(x)=2x"},
                  {"x^2 + y^2 = 3", "y^2+x^2=3"},
                  {"12x - 4y + 3z - 169 = 0", "169 = 12x-4y+3z"},
                  {"y = -\\frac{5}{2} x - \\frac{29}{4}", "10x+4y+29=0"},
                  {"y=2x", "x = y/2"},
                  {"51_{(10)} = 201_{(5)}", "51"},
                  {"7", "3+4=7"}});
  Expect(kWrong,
         {{"x = 5", "y = 5"}, {"x=5", "x=6"}, {"x^2+y^2=3", "x^2+y^2=4"}, {"y=2x", "y=3x"}});
  Expect(kOpen, {{"5", "x^2 = 5"}});
}

TEST_CASE("Sets, tuples, intervals, unions") {
  Expect(kRight, {{"\\{1,2,3\\}", "\\{3,2,1\\}"},
                  {"\\{1,2\\}", "1, 2"},
                  {"(1,2)", "\\left(1, 2\\right)"},
                  {"[1,2]", "1 \\le x \\le 2"},
                  {"0 \\leq r \\leq \\frac{1}{2}", "[0, 0.5]"},
                  {"-1 < x < 11", "(-1,11)"},
                  {"(-\\infty,2) \\cup (2,4)", "(2,4)\\cup(-\\infty,2)"},
                  {"(-\\infty,3) \\cup (3,\\infty)", "\\mathbb{R}\\setminus\\{3\\}"},
                  {"x > 3", "(3, \\infty)"},
                  {"x>3", "3<x"},
                  {"x<1 \\text{ or } x>2", "(-\\infty,1)\\cup(2,\\infty)"},
                  {"\\begin{pmatrix} 7 \\\\ 5 \\end{pmatrix}", "(7,5)"},
                  {"(2, \\frac{7 \\pi}{4})", "(2, 7\\pi/4)"},
                  {"(1,2)", "\\langle 1,2 \\rangle"},
                  {"\\begin{pmatrix} 6 & -5 \\\\ 0 & 2 \\end{pmatrix}",
                   "\\begin{bmatrix}6&-5\\\\0&2\\end{bmatrix}"},
                  {"\\{4\\}", "4"},
                  {"(16,4,1),(1,16,4)", "(1,16,4), (16,4,1)"},
                  {"\\emptyset", "\\text{no solution}"},
                  {"\\{1,1,2\\}", "\\{1,2\\}"},
                  {"[1,2) \\cup [2,3]", "[1,3]"},
                  {"(2,3)", "(2,3)"},
                  {"n \\ge 0", "n \\geq 0"},
                  {"x \\in [2,5]", "[2,5]"},
                  {"\\{x : x > 3\\}", "(3,\\infty)"},
                  {"n\\geq4", "[4,\\infty)"},
                  {"(0, 3] \\cup [\\tfrac72, \\infty)", "(0,3] \\cup [3.5, \\infty)"},
                  {"s^2 \\le 8r^2", "8r^2 \\ge s^2"}});
  Expect(kWrong, {{"[1,2]", "(1,2)"},
                  {"(1,2)", "[1,2]"},
                  {"(1,2)", "(2,1)"},
                  {"\\{1,2\\}", "\\{1,3\\}"},
                  {"\\{1,2\\}", "\\{1,2,3\\}"},
                  {"x>3", "x \\ge 3"},
                  {"x > 3", "y > 3"},
                  {"(1,2)", "\\{1,2\\}"},
                  {"(1,2,3)", "(1,2)"},
                  {"\\begin{pmatrix} 7 \\\\ 5 \\end{pmatrix}", "(5,7)"},
                  {"[0,1)", "[0,1]"}});
}

TEST_CASE("Lists and both signs") {
  Expect(kRight, {{"2, 3, 4", "4, 3, 2"},
                  {"2 \\text{ and } 3", "3, 2"},
                  {"\\pm 2", "2, -2"},
                  {"-2 \\text{ or } 2", "x = \\pm 2"},
                  {"1 \\pm \\sqrt{2}", "1+\\sqrt2, 1-\\sqrt2"},
                  {"7 and 8", "7, 8"},
                  {"x=1, x=2", "1, 2"},
                  {"\\pm 1 \\pm \\sqrt 2", "\\pm\\sqrt2 \\pm 1"},
                  {"2,-\\frac{1}{4}", "-0.25, 2"},
                  {"121,242", "121, 242"},
                  {"0, 12", "12 \\text{ and } 0"},
                  {"I and II", "II and I"},
                  {"-3\\text{ and }5", "\\{-3,5\\}"}});
  Expect(kWrong, {{"2, 3", "2"},
                  {"2,3", "2,4"},
                  {"\\pm 2", "2"},
                  {"2, 3, 4", "2,3"},
                  {"2", "2, 3"},
                  {"1\\pm\\sqrt2", "1\\pm\\sqrt3"}});
}

TEST_CASE("Multiple choice, ratios, words") {
  const char* problem =
      "What is 2+2? \\textbf{(A)}\\ 3 \\qquad \\textbf{(B)}\\ 4 \\qquad \\textbf{(C)}\\ 5";
  Expect(kRight, {{"B", "(B)"},
                  {"\\text{(A)}", "A"},
                  {"B", "B. 4"},
                  {"B", "4", problem},
                  {"4", "B", problem},
                  {"4", "\\textbf{(B)}", problem},
                  {"(B) 4", "4"},
                  {"2:5", "4:10"},
                  {"1 : 14", "1:14"},
                  {"2:5", "\\frac{2}{5}"},
                  {"12:40", "12:40"},
                  {"\\text{Tuesday}", "Tuesday"},
                  {"\\text{orange}", "orange."},
                  {"odd", "\\text{Odd}"},
                  {"Blue whale", "blue whale"},
                  {"LQSX", "\\text{LQSX}"},
                  {"NNNYYY", "NNNYYY"}});
  Expect(kWrong, {{"B", "(C)"},
                  {"B", "5", problem},
                  {"4", "C", problem},
                  {"2:5", "5:2"},
                  {"\\text{Tuesday}", "Wednesday"},
                  {"CBAD", "ABCD"},
                  {"odd", "even"}});
  Expect(kOpen, {{"B", "4"}, {"42", "banana"}, {"12:40", "3:10"}});
}

TEST_CASE("Styling never matters") {
  Expect(kRight, {{"-5", "\xe2\x88\x92\x35"},
                  {"42", "\xef\xbc\x94\xef\xbc\x92"},
                  {"\\frac{1}{2}", "\\displaystyle\\frac{1}{2}"},
                  {"(1,2)", "\\big(1,\\,2\\big)"},
                  {"5", "5."},
                  {"5", "\\mathbf{5}"},
                  {"1000",
                   "1\xe2\x80\x89"
                   "000"},
                  {"\\sqrt{2}", "\xe2\x88\x9a\x32"},
                  {"2\\pi", "2\xcf\x80"},
                  {"x^2", "x\xc2\xb2"},
                  {"\\frac{1}{2}", "\xc2\xbd"},
                  {"1979", "\\[ 1979 \\]"},
                  {"\\[\\boxed{N=197}\\]", "197"},
                  {"x \\le 5", "x \xe2\x89\xa4 5"},
                  {"\\frac{a}{b}", "a/b"},
                  {"2\\\\sqrt{3}", "2\\sqrt{3}"},
                  {"60^\\circ", "60\xc2\xb0"}});
}

TEST_CASE("What is not understood is undecided, never correct") {
  Expect(kOpen, {{"42", "\\foo{42}"},
                 {"\\int_0^1 x", "\\frac{1}{2}"},
                 {"42", "42 43"},
                 {"42", "((((42"},
                 {"42", "\\frac{42}"},
                 {"42", "__import__('os')"}});
}

}  // namespace
}  // namespace crescendo
