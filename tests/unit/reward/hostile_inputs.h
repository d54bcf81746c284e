// Answers that mean no good: each must get a verdict within its budget. Shared by the test and the
// bench.
#ifndef CRESCENDO_TESTS_UNIT_REWARD_HOSTILE_INPUTS_H_
#define CRESCENDO_TESTS_UNIT_REWARD_HOSTILE_INPUTS_H_

#include <string>
#include <utility>
#include <vector>

namespace crescendo {

struct HostileInput {
  std::string name;
  std::string gold;
  std::string response;
};

inline std::string Repeat(const std::string& text, int times) {
  std::string all;
  all.reserve(text.size() * static_cast<size_t>(times));
  for (int i = 0; i < times; ++i) all += text;
  return all;
}

inline std::string Boxed(const std::string& answer) { return "So it is \\boxed{" + answer + "}."; }

// Nested k times: prefix^k core suffix^k.
inline std::string Nest(const std::string& prefix, const std::string& core,
                        const std::string& suffix, int k) {
  return Repeat(prefix, k) + core + Repeat(suffix, k);
}

inline std::vector<HostileInput> HostileInputs() {
  std::vector<HostileInput> all;
  const auto add = [&](std::string name, std::string gold, std::string response) {
    all.push_back({std::move(name), std::move(gold), std::move(response)});
  };
  for (const std::string& tower : std::vector<std::string>{"9^{9^{9^9}}",
                                                           "10^{10^{10}}",
                                                           "(10^9)!",
                                                           "((10^9)!)!",
                                                           "2^{2^{2^{2^{2^2}}}}",
                                                           "9!!!!!!",
                                                           "(9^{99})^{99}",
                                                           "(((2^{64})^{64})^{64})^{64}",
                                                           "\\sqrt{9^{9^{9}}}",
                                                           "e^{e^{e^{e^{e}}}}",
                                                           "\\ln(9^{9^9})",
                                                           "0^{-1}",
                                                           "\\frac{1}{0}",
                                                           "\\binom{10^{12}}{5\\cdot 10^{11}}",
                                                           "\\binom{4000}{2000}",
                                                           "\\sin(10^{1000})",
                                                           "\\sin(10^{9999})",
                                                           "\\lfloor e^{1000} \\rfloor",
                                                           "1e9999",
                                                           "1e-9999",
                                                           "(1+10^{-30})^{10^{30}}",
                                                           "(x+1)^{1000}",
                                                           "(x+y)^{99999}",
                                                           "x^{x^{x^{x}}}",
                                                           "((x+1)^{999}+1)^{999}"}) {
    add("tower " + tower, "42", Boxed(tower));
    add("tower against itself " + tower, tower, Boxed(tower + "+0"));
  }
  const std::string digits = Repeat("7", 1000000);
  add("10^6 digits", "7", Boxed(digits));
  add("4000 digits", Repeat("7", 4000), Boxed("0" + Repeat("7", 4000)));
  add("4000 digits of a decimal", "\\pi", Boxed("3." + Repeat("14", 1900)));
  add("power of many digits", "1", Boxed(Repeat("9", 1000) + "^{" + Repeat("9", 1000) + "}"));
  add("10^5 boxes", "1", Repeat("\\boxed{1}, ", 100000));
  add("10^5 open boxes", "1", Repeat("\\boxed{", 100000));
  add("10^5 closed boxes", "1", Nest("\\boxed{", "1", "}", 100000));
  add("10^5 braces", "1", Boxed(Nest("{", "1", "}", 100000)));
  add("1800 braces", "1", Boxed(Nest("{", "1", "}", 1800)));
  add("400 parentheses", "1", Boxed(Nest("(", "1", ")", 400)));
  add("2000 parentheses that stay open", "1", Boxed(Repeat("(", 2000)));
  add("60 parentheses", "1", Boxed(Nest("(", "1", ")", 60)));
  add("nested fractions", "1", Boxed(Nest("\\frac{1}{1+", "1", "}", 50)));
  add("nested roots", "1", Boxed(Nest("\\sqrt{1+", "1", "}", 50)));
  add("nested roots 12", "\\sqrt{2}", Boxed(Nest("\\sqrt{1+", "2", "}", 12)));
  add("nested cube roots", "1", Boxed(Nest("\\sqrt[3]{7+", "2", "}", 8)));
  add("sum of 9 roots",
      "\\sqrt{2}+\\sqrt{3}+\\sqrt{5}+\\sqrt{7}+\\sqrt{11}+\\sqrt{13}+\\sqrt{17}+\\sqrt{19}+\\sqrt{"
      "23}",
      Boxed("\\sqrt{23}+\\sqrt{19}+\\sqrt{17}+\\sqrt{13}+\\sqrt{11}+\\sqrt{7}+\\sqrt{5}+\\sqrt{3}+"
            "\\sqrt{2}+10^{-200}"));
  add("many roots that cancel", "0",
      Boxed("(\\sqrt{2}+\\sqrt{3}+\\sqrt{5}+\\sqrt{7}+\\sqrt{11})^2-28-2(\\sqrt6+\\sqrt{10}+\\sqrt{"
            "14}+\\sqrt{22}+\\sqrt{15}+\\sqrt{21}+\\sqrt{33}+\\sqrt{35}+\\sqrt{55}+\\sqrt{77})"));
  add("near miss of roots", "\\sqrt{10^{40}+1}", Boxed("10^{20}+\\frac{1}{2\\cdot 10^{20}}"));
  add("near miss of pi", "\\pi", Boxed("\\pi+10^{-300}"));
  add("near miss of e", "e^{\\pi\\sqrt{163}}", Boxed("262537412640768744"));
  add("logarithms", "\\ln 2+\\ln 3+\\ln 5+\\ln 7", Boxed("\\ln(210+10^{-200})"));
  add("logarithms of roots", "\\ln(\\sqrt{2}+\\sqrt{3})+\\ln(\\sqrt{3}-\\sqrt{2})", Boxed("0"));
  add("sines", "\\sin 1\\cdot\\sin 1+\\cos 1\\cdot\\cos 1", Boxed("1"));
  add("arctangents", "\\arctan\\frac12+\\arctan\\frac13", Boxed("\\frac{\\pi}{4}"));
  add("Machin", "16\\arctan\\frac15-4\\arctan\\frac1{239}", Boxed("\\pi"));
  add("sine of many degrees", "\\sin 1^\\circ\\sin 3^\\circ\\sin 5^\\circ\\sin 7^\\circ",
      Boxed("\\cos 89^\\circ\\cos 87^\\circ\\cos 85^\\circ\\cos 83^\\circ"));
  add("trigonometric identity", "\\sin^2 x+\\cos^2 x", Boxed("1"));
  add("exponentials", "e^{\\ln 2+\\ln 3}", Boxed("6"));
  add("tower of roots and logs", "\\ln(1+\\sqrt{1+\\ln(1+\\sqrt{2})})",
      Boxed("\\ln(1+\\sqrt{1+\\ln(\\sqrt{2}+1)})+0"));
  add("Denest", "\\sqrt{5+2\\sqrt{6}}+\\ln 2", Boxed("\\sqrt2+\\sqrt3+\\ln 2"));
  add("acos of roots", "\\arccos\\frac{\\sqrt{6}+\\sqrt{2}}{4}", Boxed("\\frac{\\pi}{12}"));
  add("power of e", "e^{\\frac{1}{2}\\ln 2}", Boxed("\\sqrt 2"));
  add("complex power", "(1+i)^{20}", Boxed("-1024"));
  add("i to the i", "i^i", Boxed("e^{-\\pi/2}"));
  std::string list, other, union_text, sum, product, plus_minus;
  for (int i = 0; i < 900; ++i) {
    list += (i ? "," : "") + std::to_string(i * 7 % 10);
    other += (i ? ", " : "") + std::to_string(i * 3 % 10);
  }
  for (int i = 0; i < 120; ++i) {
    union_text += (i ? "\\cup" : "") + std::string("(") + std::to_string(1000 - 3 * i) + "," +
                  std::to_string(1001 - 3 * i) + ")";
    sum += (i ? "+" : "") + std::string("\\sqrt{") + std::to_string(i + 2) + "}";
    product += "(x-" + std::to_string(i) + ")";
    plus_minus += (i ? "\\pm " : "") + std::to_string(i + 1);
  }
  add("900 elements", list, Boxed(other));
  std::string roots_a, roots_b;
  for (int i = 0; i < 100; ++i) {
    roots_a += (i ? "," : "") + std::string("\\sqrt{") + std::to_string(i + 2) + "}+\\pi";
    roots_b +=
        (i ? "," : "") + std::string("\\sqrt{") + std::to_string(103 - i) + "}+\\pi+10^{-60}";
  }
  add("100 roots without order", "\\{" + roots_a + "\\}", Boxed("\\{" + roots_b + "\\}"));
  add("unions", union_text, Boxed(union_text + "\\cup(0,1)"));
  add("sum of 120 roots", sum, Boxed(sum + "+10^{-50}"));
  add("product of 120 factors", product, Boxed(product + "+1"));
  add("signs", plus_minus, Boxed(plus_minus + "+1"));
  add("symbols", Repeat("x_{1}y_{2}z_{3}+", 100) + "1",
      Boxed(Repeat("y_{2}x_{1}z_{3}+", 100) + "2"));
  add("symbols with powers", "(a+b+c+d+e_1+f+g+h)^{60}", Boxed("(h+g+f+e_1+d+c+b+a)^{60}+1"));
  add("exponents in variables", "2^{3^{n}}\\cdot 6^{n^{2}}\\cdot 15^{n}",
      Boxed("15^{n}2^{3^n}6^{n^2}+1"));
  add("equation", "x^{50}+y^{50}=1", Boxed("2x^{50}+2y^{50}=2+10^{-9}"));
  add("large equation", "(x+y)^{200}=(x-y)^{199}", Boxed("(x-y)^{199}-(x+y)^{200}=0"));
  add("invalid UTF-8", "1", Boxed("\xff\xfe\xc0\x80\xed\xa0\x80\xf5"));
  add("invalid UTF-8 everywhere", "1", Repeat("\xff\\boxed{\xc3", 10000));
  add("NULs", "1", Boxed(std::string(1000, '\0')));
  add("code", "1", Boxed("__import__('os').system('rm -rf /')"));
  add("more code", "1", Boxed("eval(compile('while True: pass','','exec'))"));
  add("commands", "1", Boxed("\\def\\x{\\x\\x}\\x \\input{/etc/passwd}"));
  add("unknown commands", "1", Boxed(Repeat("\\foo", 1000)));
  add("signs in a row", "1", Boxed(Repeat("-", 4000) + "1"));
  add("commas", "1", Boxed(Repeat(",", 4000)));
  add("carets", "1", Boxed(Repeat("2^", 2000) + "2"));
  add("factorials", "1", Boxed("3" + Repeat("!", 4000)));
  add("subscripts", "1", Boxed("a" + Repeat("_a", 2000)));
  add("bars", "1", Boxed(Repeat("|", 4000)));
  add("bars around", "1", Boxed(Nest("|", "x", "|", 60)));
  add("matrix", "1", Boxed("\\begin{pmatrix}" + Repeat("1&", 900) + "1\\end{pmatrix}"));
  add("open matrix", "1", Boxed("\\begin{pmatrix}" + Repeat("1\\\\", 900)));
  add("open matrices", "1", Boxed(Repeat("\\begin{pmatrix}", 200)));
  add("words", "apple", Boxed(Repeat("apple ", 650)));
  add("units", "1\\text{ m}", Boxed("1\\text{ " + Repeat("m ", 1000) + "}"));
  add("thousands", "1", Boxed("1" + Repeat(",000", 900)));
  add("answer words", "1", Repeat("the answer is ", 70000));
  add("answer lines", "1", Repeat("A:A:A:\n", 140000));
  add("backslashes", "1", Repeat("\\", 1000000));
  add("almost boxes", "1", Repeat("box", 333333));
  add("1 MB without an answer", "1", Repeat("Let us think. ", 71429));
  return all;
}

}  // namespace crescendo

#endif  // CRESCENDO_TESTS_UNIT_REWARD_HOSTILE_INPUTS_H_
