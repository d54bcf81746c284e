// grade, check-dataset and audit over streams.
#include "services/reward/commands.h"

#include <sstream>
#include <string>

#include "catch2/catch.hpp"
#include "nlohmann/json.hpp"
#include "services/reward/gold_check.h"

namespace crescendo {
namespace {

class StillClock : public Clock {
 public:
  absl::Time Now() override { return absl::UnixEpoch(); }
  void SleepFor(absl::Duration) override {}
};

struct Run {
  std::string out, err;
};

template <typename Command>
Run With(const std::string& input, Command command) {
  std::istringstream in(input);
  std::ostringstream out, err;
  CommandStreams streams;
  streams.in = &in;
  streams.name = "input";
  streams.out = &out;
  streams.err = &err;
  REQUIRE(command(streams).ok());
  return {out.str(), err.str()};
}

TEST_CASE("grade answers in order, and reports malformed lines by number without stopping") {
  StillClock clock;
  const Run run = With(
      "{\"id\":\"a\",\"answer\":\"42\",\"response\":\"\\\\boxed{42}\"}\n"
      "not json\n"
      "\n"
      "{\"id\":2,\"answer\":[\"1\",\"2\"],\"response\":\"\\\\boxed{2}\"}\n"
      "{\"id\":3,\"response\":\"x\"}\n"
      "{\"id\":4,\"answer\":7,\"response\":\"no box\"}",
      [&](const CommandStreams& streams) { return RunGrade(streams, {}, &clock); });
  CHECK(run.out ==
        "{\"extracted\":\"42\",\"id\":\"a\",\"micros\":0,\"reason\":\"byte_match\",\"verdict\":"
        "\"correct\"}\n"
        "{\"extracted\":\"2\",\"id\":2,\"micros\":0,\"reason\":\"byte_match\",\"verdict\":"
        "\"correct\"}\n"
        "{\"extracted\":\"\",\"id\":4,\"micros\":0,\"reason\":\"no_answer\",\"verdict\":"
        "\"incorrect\"}\n");
  CHECK(run.err.find("input:2: ") != std::string::npos);
  CHECK(run.err.find("input:5: \"answer\"") != std::string::npos);
  CHECK(run.err.find("3 graded, 2 malformed") != std::string::npos);
}

TEST_CASE("check-dataset names types and problems that occur again with another answer") {
  const Run run = With(
      "{\"problem\":\"p\",\"answer\":\"0.5\"}\n"
      "{\"problem\":\"p\",\"answer\":\"1/2\"}\n"
      "{\"problem\":\"p\",\"answer\":\"1/3\"}\n"
      "{\"problem\":\"q\",\"answer\":\"\"}\n",
      [](const CommandStreams& streams) { return RunCheckDataset(streams); });
  CHECK(run.out.find("\"type\":\"decimal\"") != std::string::npos);
  CHECK(run.out.find("\"type\":\"rational\"") != std::string::npos);
  CHECK(run.out.find("\"type\":\"empty\"") != std::string::npos);
  CHECK(run.out.find("\"duplicate_of_line\":1,\"line\":3") != std::string::npos);
  CHECK(run.err.find("2 rows repeat a problem: 1 with an equal answer, 1 with another one") !=
        std::string::npos);
}

TEST_CASE("audit counts reasons and shows the undecided") {
  const Run run = With(
      "{\"verdict\":\"correct\",\"reason\":\"exact_equal\"}\n"
      "{\"verdict\":\"correct\",\"reason\":\"exact_equal\"}\n"
      "{\"verdict\":\"undecided\",\"reason\":\"unproven\",\"gold\":[\"x\"],\"extracted\":\"y\"}\n",
      [](const CommandStreams& streams) { return RunAudit(streams); });
  CHECK(run.out.find("        2  correct    exact_equal\n") != std::string::npos);
  CHECK(run.out.find("\"extracted\":\"y\"") != std::string::npos);
}

TEST_CASE("Types of gold answers") {
  CHECK(CheckGold("42").type == "integer");
  CHECK(CheckGold("3/4").type == "rational");
  CHECK(CheckGold("\\sqrt{2}").type == "constant");
  CHECK(CheckGold("x^2").type == "expression");
  CHECK(CheckGold("(1,2)").type == "tuple");
  CHECK(CheckGold("B").type == "choice");
  CHECK(CheckGold("10\\%").type == "percent");
  CHECK(CheckGold("5\\text{ cm}").type == "quantity");
  CHECK_FALSE(CheckGold("\\foo").parsable);
}

}  // namespace
}  // namespace crescendo
