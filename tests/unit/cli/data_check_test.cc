// What crescendo data check finds: on small files made for it, and on the real sets where they are.
#include "deploy/cli/data_check.h"

#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "catch2/catch.hpp"
#include "common/os/posix_env.h"
#include "deploy/cli/leak_index.h"
#include "tests/support/temp_dir.h"

namespace crescendo {
namespace {

constexpr char kWalk[] =
    "Every morning Aya goes for a $9$-kilometer-long walk and stops at a coffee shop afterwards "
    "and drinks a cup of tea with her brother before they go home.";
constexpr char kWalkElse[] =
    "Every morning Aya goes for a \\\\(9\\\\) kilometer long walk, and stops at a coffee shop "
    "afterwards "
    "and drinks a cup of tea with her brother before they go home";

std::string Row(const std::string& id, const std::string& problem, const std::string& answer) {
  return absl::StrCat(R"({"id": ")", id, R"(", "problem": ")", problem, R"(", "answer": ")", answer,
                      "\"}\n");
}

TEST_CASE("texts match whatever their style, and not with another number") {
  const auto same = [](absl::string_view a, absl::string_view b) {
    return TokensHash(ProblemTokens(a)) == TokensHash(ProblemTokens(b));
  };
  CHECK(same("Find $\\dfrac{1}{2}$ of  X.", "find \\(\\frac12\\) of x") ==
        false);  // 1, 2 is not 12
  CHECK(same("Find $\\dfrac{1}{2}$ of  X.", "find \\(\\frac{1}{2}\\) of x"));
  CHECK(same("\\left(a\\right) \\text{and} b", "(a) and b"));
  CHECK(same("Janet\xe2\x80\x99s ducks", "Janet's ducks"));
  CHECK_FALSE(same("7 ducks", "8 ducks"));
  CHECK_FALSE(same("a+b", "a-b"));
}

TEST_CASE("containment is the share of the evaluation problem's n-grams") {
  LeakIndex index;
  std::string problem, half;
  for (int i = 0; i < 32; ++i) absl::StrAppend(&problem, "word", std::string(1 + i, 'x'), " ");
  for (int i = 0; i < 20; ++i) absl::StrAppend(&half, "word", std::string(1 + i, 'x'), " ");
  index.Add(problem);         // 25 grams
  index.Add("Compute 2+2.");  // too short to be told by grams
  const auto matches = index.Find(absl::StrCat("Another beginning. ", half), 0.1);
  REQUIRE(matches.size() == 1);
  CHECK(matches[0].problem == 0);
  CHECK(matches[0].containment == Approx(13.0 / 25));
  CHECK_FALSE(matches[0].exact);
  CHECK(index.Find(half, 0.6).empty());
  REQUIRE(index.Find("compute $2 + 2$", 0.5).size() == 1);
  CHECK(index.Find("compute $2 + 2$", 0.5)[0].exact);
  CHECK(index.Find("Compute 2+2+2.", 0.1).empty());
}

struct Check {
  TempDir dir;
  std::unique_ptr<FileSystem> files = MakePosixFileSystem();
  DataCheckOptions options;

  std::string Write(const std::string& name, const std::string& text) {
    const std::string path = JoinPath(dir.path(), name);
    REQUIRE(files->WriteFile(path, text).ok());
    return path;
  }
  DataCheck Run() {
    auto check = CheckData(*files, options);
    INFO(check.status());
    REQUIRE(check.ok());
    return *std::move(check);
  }
};

TEST_CASE("each row is dropped for the reason that holds, and the rest is written byte for byte") {
  Check c;
  const std::string good = Row("good", "What is the sum of one and two?", "3");
  const std::string odd = "{\"id\":\"odd\",  \"problem\":\"Nine?\",\"answer\":9}\n";
  c.options.train = {c.Write("train.jsonl",
                             good +                                                        // line 1
                                 "not json\n" +                                            // 2
                                 Row("good", "Another problem with that id", "4") +        // 3
                                 Row("unclosed", "What is odd here?", "\\\\frac{1}{") +    // 4
                                 "\n" + odd +                                              // 6
                                 Row("again", "What is the sum of  one and two", "3.0") +  // 7
                                 Row("leak", kWalkElse, "204") +                           // 8
                                 Row("twice", "Five or six?", "5") +                       // 9
                                 Row("twice-2", "five or six", "6"))};                     // 10
  c.options.eval = {c.Write("eval.jsonl", Row("aime-1", kWalk, "204"))};
  const DataCheck check = c.Run();
  std::vector<std::string> found;
  for (const DroppedRow& row : check.dropped) {
    found.push_back(absl::StrCat(row.line, " ", DropReasonName(row.reason)));
  }
  CHECK(found == std::vector<std::string>{"2 malformed", "3 repeated_id", "4 gold", "7 duplicate",
                                          "8 leak_exact", "9 conflict", "10 conflict"});
  CHECK(check.dropped[0].detail.find("train.jsonl:2") != std::string::npos);
  CHECK(check.rows_in_all() == 9);
  const std::string out = JoinPath(c.dir.path(), "clean.jsonl");
  REQUIRE(WriteFiltered(*c.files, c.options, check, out).ok());
  CHECK(*c.files->ReadFile(out, 1 << 20) == good + odd);
  const auto manifest =
      nlohmann::json::parse(*c.files->ReadFile(out + ".manifest.json", 1 << 20), nullptr, false);
  REQUIRE(manifest.is_object());
  CHECK(manifest["rows_kept"] == 2);
  CHECK(manifest["dropped"]["conflict"] == 2);
  CHECK(manifest["dropped_rows"][4]["detail"] == "eval.jsonl aime-1, the same gold");
  CHECK(DataCheckText(c.options, check).find("2 of 9 rows stay") != std::string::npos);
}

TEST_CASE("a wrong evaluation set is an error with its line") {
  Check c;
  c.options.train = {c.Write("train.jsonl", Row("a", "b", "1"))};
  c.options.eval = {c.Write("eval.jsonl", Row("a", "b", "1") + "{}\n")};
  const auto check = CheckData(*c.files, c.options);
  REQUIRE_FALSE(check.ok());
  CHECK(check.status().message().find("eval.jsonl:2") != absl::string_view::npos);
}

// The figures that the README tells.
TEST_CASE("DeepScaleR against AIME 2024, AIME 2025 and MATH-500") {
  const char* from_environment = std::getenv("CRESCENDO_SHARED_DATA");
  const std::string data = from_environment == nullptr ? "../shared/data" : from_environment;
  Check c;
  c.options.train = {data + "/train/deepscaler.jsonl"};
  c.options.eval = {data + "/eval/aime24.jsonl", data + "/eval/aime25.jsonl",
                    data + "/eval/math500.jsonl"};
  c.options.unrelated = {data + "/eval/gsm8k.jsonl", data + "/eval/minerva.jsonl"};
  if (!c.files->Exists(c.options.train[0])) {
    WARN("no " << c.options.train[0] << ": not checked");
    return;
  }
  const DataCheck check = c.Run();
  INFO(DataCheckText(c.options, check));
  CHECK(check.rows_in_all() == 40308);
  REQUIRE(check.leaks.size() == 3);
  const auto at_half = [&](size_t set) { return check.leaks[set].problems_at[2]; };
  CHECK(check.leaks[0].exact == 0);  // AIME 2024
  CHECK(at_half(0) == 0);
  CHECK(check.leaks[1].exact == 0);  // AIME 2025, which is younger than the data
  CHECK(check.leaks[1].problems_at[0] == 0);
  CHECK(check.leaks[2].exact == 9);  // MATH-500
  CHECK(at_half(2) == 35);
  for (const LeakCount& count : check.unrelated) CHECK(count.pairs_at[0] == 0);
}

}  // namespace
}  // namespace crescendo
