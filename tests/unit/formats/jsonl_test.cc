// Dataset rows are read as they are, and a bad one is named by file and line.
#include "common/formats/jsonl.h"

#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "catch2/catch.hpp"
#include "common/formats/json.h"
#include "tests/support/temp_dir.h"

namespace crescendo {
namespace {

std::string ErrorOf(const std::string& line) {
  const auto row = ParseDatasetRow(line, "gsm8k.jsonl:17");
  return row.ok() ? "OK" : std::string(row.status().message());
}

TEST_CASE("answers of every shape are read") {
  const auto one = ParseDatasetRow(
      R"({"id": "a", "problem": "p \u00e9", "answer": "7", "level": 3, "solution": []})", "x:1");
  REQUIRE(one.ok());
  CHECK(one->id == "a");
  CHECK(one->problem == "p \xc3\xa9");
  CHECK(one->answers == std::vector<std::string>{"7"});
  CHECK(one->level == 3.0);
  const auto answers = [](const char* json) {
    return ParseDatasetRow(absl::StrCat(R"({"id":1,"problem":"p","answer":)", json, "}"), "x:1")
        ->answers;
  };
  CHECK(answers("204.0") == std::vector<std::string>{"204"});
  CHECK(answers("-12") == std::vector<std::string>{"-12"});
  CHECK(answers("0.5") == std::vector<std::string>{"0.5"});
  CHECK(answers("18446744073709551615") == std::vector<std::string>{"18446744073709551615"});
  CHECK(answers(R"(["1/2", 0.5])") == std::vector<std::string>{"1/2", "0.5"});
}

TEST_CASE("a bad row names file, line and field") {
  CHECK(ErrorOf(R"({"id":"a","problem":"p"})") ==
        "gsm8k.jsonl:17: field 'answer' is missing; a row has at least id, problem and answer");
  CHECK(ErrorOf(R"({"id":"a","answer":"1"})") ==
        "gsm8k.jsonl:17: field 'problem' is missing; a row has at least id, problem and answer");
  CHECK(ErrorOf(R"({"problem":"p","answer":"1"})") ==
        "gsm8k.jsonl:17: field 'id' is missing; a row has at least id, problem and answer");
  CHECK(ErrorOf(R"({"id":"a","problem":3,"answer":"1"})") ==
        "gsm8k.jsonl:17: field 'problem': expected a string, found number");
  CHECK(ErrorOf(R"({"id":"a","problem":"p","answer":{}})") ==
        "gsm8k.jsonl:17: field 'answer': expected a string, a number or a list of strings, found "
        "object");
  CHECK(ErrorOf(R"({"id":"a","problem":"p","answer":" "})") ==
        "gsm8k.jsonl:17: field 'answer' is empty");
  CHECK(ErrorOf(R"({"id":"a","problem":"p","answer":[]})") ==
        "gsm8k.jsonl:17: field 'answer': expected 1 to 256 answers, found 0");
  CHECK(ErrorOf(R"({"id":"a","problem":"p","answer":"1","level":"x"})") ==
        "gsm8k.jsonl:17: field 'level': expected a number, found string");
  CHECK(ErrorOf("[1]") == "gsm8k.jsonl:17: expected an object, found array");
  CHECK(ErrorOf(R"({"id":"a",)") == "gsm8k.jsonl:17: not valid JSON at byte 11, near '\\\"a\\\",'");
  CHECK(ErrorOf(R"({"id":"a","id":"b"})") == "gsm8k.jsonl:17: key 'id' is there twice");
  CHECK(ErrorOf("{\"id\":\"\xff\"}").find("gsm8k.jsonl:17: not valid JSON") == 0);
  CHECK(ErrorOf(std::string(100'000, '[')) == "gsm8k.jsonl:17: nested deeper than 64");
}

TEST_CASE("a file is read in order, blank lines skipped; a repeated id or no row is an error") {
  TempDir dir;
  const std::string row1 = R"({"id":"a","problem":"p","answer":"1"})";
  const std::string row2 = R"({"id":"b","problem":"q","answer":"2"})";
  REQUIRE(dir.files->WriteFile(dir / "d.jsonl", row1 + "\r\n\n" + row2).ok());
  const auto rows = ReadDataset(*dir.files, dir / "d.jsonl");
  REQUIRE(rows.ok());
  REQUIRE(rows->size() == 2);
  CHECK((*rows)[1].problem == "q");
  REQUIRE(dir.files->WriteFile(dir / "d.jsonl", row1 + "\n\n" + row1 + "\n").ok());
  CHECK(std::string(ReadDataset(*dir.files, dir / "d.jsonl").status().message()) ==
        absl::StrCat(dir / "d.jsonl", ":3: id 'a' is the id of line 1 too"));
  REQUIRE(dir.files->WriteFile(dir / "d.jsonl", "\n").ok());
  CHECK(std::string(ReadDataset(*dir.files, dir / "d.jsonl").status().message()) ==
        absl::StrCat(dir / "d.jsonl", ": holds no rows"));
}

TEST_CASE("every dataset of the shared data is read whole or its fault named") {
  const char* env = std::getenv("CRESCENDO_SHARED_DATA");
  const std::string data = env != nullptr ? env : "../shared/data";
  const auto files = MakePosixFileSystem();
  if (!files->IsDirectory(data)) {
    WARN("not checked: no folder " << data);
    return;
  }
  const std::pair<const char*, size_t> expected[] = {
      {"train/deepscaler.jsonl", 40308}, {"train/aime_1983_2023.jsonl", 975},
      {"train/gsm8k.jsonl", 7473},       {"eval/gsm8k.jsonl", 1319},
      {"eval/aime24.jsonl", 30},         {"eval/aime25.jsonl", 30},
      {"eval/amc23.jsonl", 83},          {"eval/math500.jsonl", 500},
      {"eval/minerva.jsonl", 272},       {"eval/olympiad_bench.jsonl", 675}};
  for (const auto& [name, count] : expected) {
    const auto rows = ReadDataset(*files, JoinPath(data, name));
    INFO(name << ": " << rows.status().ToString());
    REQUIRE(rows.ok());
    CHECK(rows->size() == count);
  }
  // Four rows of this one have no answer; the first is named.
  CHECK(std::string(ReadDataset(*files, JoinPath(data, "train/math.jsonl")).status().message()) ==
        JoinPath(data,
                 "train/math.jsonl:887: field 'answer' is missing; a row has at least id, "
                 "problem and answer"));
}

}  // namespace
}  // namespace crescendo
