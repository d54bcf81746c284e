// The samples that people read: the newest are kept, in bounds, training apart from evaluation, and
// found by verdict and problem.
#include "services/coordinator/shown_samples.h"

#include "catch2/catch.hpp"
#include "common/base/limits.h"
#include "common/base/shorten.h"

namespace crescendo {
namespace {

ShownSample Of(uint64_t group, GroupPurpose purpose = GroupPurpose::kTrain) {
  ShownSample sample;
  sample.purpose = purpose;
  sample.group = GroupId(group);
  sample.problem_id = "train-" + std::to_string(group);
  sample.problem = "How much is " + std::to_string(group) + " plus One?";
  sample.gold = {"1"};
  return sample;
}

SampleResult Result(Verdict verdict, const std::string& response, bool truncated = false) {
  SampleResult result;
  result.verdict = verdict;
  result.response = response;
  result.truncated = truncated;
  return result;
}

std::vector<uint64_t> Groups(const ShownSamples& samples, const SampleQuery& query) {
  std::vector<uint64_t> groups;
  for (const auto& sample : samples.Find(query)) groups.push_back(sample->group.value());
  return groups;
}

TEST_CASE("The newest are kept, newest first; results without a text are not") {
  ShownSamples samples(3);
  for (uint64_t group = 1; group <= 5; ++group) {
    samples.Add(Of(group), {Result(Verdict::kCorrect, "text"), Result(Verdict::kCorrect, "")});
  }
  CHECK(Groups(samples, {}) == std::vector<uint64_t>{5, 4, 3});
  CHECK(samples.newest_id() == 5);
  SampleQuery page;
  page.below = 5;
  page.max = 1;
  CHECK(Groups(samples, page) == std::vector<uint64_t>{4});
}

TEST_CASE("An evaluation pushes no sample of training out") {
  ShownSamples samples(2);
  samples.Add(Of(1), {Result(Verdict::kCorrect, "t")});
  for (uint64_t group = 10; group < 20; ++group) {
    samples.Add(Of(group, GroupPurpose::kEvaluate), {Result(Verdict::kIncorrect, "e")});
  }
  CHECK(Groups(samples, {}) == std::vector<uint64_t>{19, 18, 1});
  SampleQuery training;
  training.purpose = GroupPurpose::kTrain;
  CHECK(Groups(samples, training) == std::vector<uint64_t>{1});
}

TEST_CASE("Filters: verdict, cut by the limit, and the problem's id or text in either case") {
  ShownSamples samples(10);
  samples.Add(Of(1), {Result(Verdict::kCorrect, "a")});
  samples.Add(Of(2), {Result(Verdict::kIncorrect, "b", true)});
  samples.Add(Of(12), {Result(Verdict::kIncorrect, "c")});
  SampleQuery query;
  query.verdict = Verdict::kIncorrect;
  CHECK(Groups(samples, query) == std::vector<uint64_t>{12, 2});
  query.truncated = true;
  CHECK(Groups(samples, query) == std::vector<uint64_t>{2});
  query = {};
  query.problem = "2 PLUS one";
  CHECK(Groups(samples, query) == std::vector<uint64_t>{12, 2});
  query.problem = "Train-12";
  CHECK(Groups(samples, query) == std::vector<uint64_t>{12});
  query.problem = "nowhere";
  CHECK(samples.Find(query).empty());
}

TEST_CASE("Bytes are bounded too; with none kept there are none") {
  ShownSamples samples(100, 10'000);
  for (uint64_t group = 0; group < 20; ++group) {
    samples.Add(Of(group), {Result(Verdict::kCorrect, std::string(2000, 'x'))});
  }
  CHECK(Groups(samples, {}).size() == 3);
  ShownSamples off(0);
  off.Add(Of(1), {Result(Verdict::kCorrect, "a")});
  CHECK(off.Find({}).empty());
}

TEST_CASE("A long text loses its middle, at characters, and says how much") {
  CHECK(ShortenMiddle("short", 100) == "short");
  std::string text;
  for (int i = 0; i < 1000; ++i) text += "é";
  const std::string cut = ShortenMiddle(text, 300);
  CHECK(cut.size() <= 300);
  CHECK(cut.substr(0, 2) == "é");
  CHECK(cut.substr(cut.size() - 2) == "é");
  const size_t mark = cut.find("\n[... ");
  REQUIRE(mark != std::string::npos);
  CHECK(mark % 2 == 0);
  const size_t left_out = std::stoul(cut.substr(mark + 6));
  const size_t mark_end = cut.find(" ...]\n") + 6;
  CHECK(mark + left_out + (cut.size() - mark_end) == text.size());
}

}  // namespace
}  // namespace crescendo
