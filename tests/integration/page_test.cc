// The run's page in headless Chromium: live beside a demo run, and with samples that try to be
// markup. tests/support/page_browser.py opens and uses it, and says what it found.
#include <csignal>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "catch2/catch.hpp"
#include "common/rpc/address.h"
#include "services/coordinator/coordinator_host.h"
#include "services/coordinator/page_server.h"
#include "tests/support/memory_journal.h"
#include "tests/support/temp_dir.h"
#include "tests/support/train_run.h"

namespace crescendo {
namespace {

constexpr absl::Duration kBrowserMax = absl::Seconds(150);
constexpr const char* kHostile =
    "<script>window.injected = 1</script><img src=x onerror='window.injected = 2'>&lt;b&gt;";

// What page_browser.py saw; null when there is no Chromium here.
nlohmann::json Browse(const std::string& url, std::vector<std::string> options) {
  std::vector<std::string> argv = {"/usr/bin/python3", "tests/support/page_browser.py", url};
  argv.insert(argv.end(), options.begin(), options.end());
  const ProgramResult result = RunProgram(argv, kBrowserMax);
  if (result.exit_code == 77) {
    WARN(result.output);
    return nullptr;
  }
  INFO(result.output);
  REQUIRE(result.exit_code == 0);
  auto seen = nlohmann::json::parse(result.output, nullptr, false);
  REQUIRE(seen.is_object());
  return seen;
}

TEST_CASE("A live demo run: curves, stages, workers, cost, samples, and no error") {
  const TempDir dir;
  const auto ports = FreeLoopbackPorts(1);
  REQUIRE(ports.ok());
  const std::string address = absl::StrCat("127.0.0.1:", ports->front());
  std::vector<std::string> overrides = ThreeStages(8, 2, 2);
  overrides.push_back("--steps=100000");
  overrides.push_back("--curriculum.min_steps=1");
  overrides.push_back("--evaluation.problems=32");
  overrides.push_back("--coordinator.page=" + address);
  const auto run = StartDemo(dir.path() + "/run", overrides);
  REQUIRE(run->ReadUntil([](const std::string& line) { return absl::StartsWith(line, "step 6/"); },
                         absl::Seconds(300)));

  const nlohmann::json seen = Browse(absl::StrCat("http://", address, "/"), {"--points", "30"});
  run->Signal(SIGINT);
  if (seen.is_null()) return;
  INFO(seen.dump(2));
  CHECK(seen["errors"].empty());
  for (const char* chart : {"chart-pass", "chart-truncation", "chart-length", "chart-kl",
                            "chart-mismatch", "chart-throughput"}) {
    CHECK(seen["points"][chart].get<int>() >= 6);
  }
  CHECK(seen["marks"] == 2);
  CHECK(seen["stages"] == 3);
  REQUIRE(seen["workers"].size() == 2);
  CHECK(absl::StartsWith(seen["workers"][0].get<std::string>(), "rollout-0"));
  CHECK(absl::StrContains(seen["workers"][0].get<std::string>(), "healthy"));
  CHECK(seen["figures"] == 8);
  CHECK(seen["overflow"] == false);
  CHECK(seen["services"].dump() ==
        R"(["coordinator","learner","reward","rollout","in all","last step"])");
  CHECK(seen["all"]["verdicts"].size() >= 20);
  CHECK(!seen["correct"]["verdicts"].empty());
  CHECK(!seen["incorrect"]["verdicts"].empty());
  CHECK(run->Wait(absl::Seconds(120)) == 130);
}

// One step of one group, whose problem and responses are markup.
class HostileRun {
 public:
  HostileRun() : clock_(MakeRealClock()) {
    CoordinatorOptions options;
    options.run_id = "hostile<b>";
    options.config_digest = "digest";
    options.steps = 3;
    options.stages.resize(1);
    options.stages[0].context_tokens = 48;
    options.stages[0].group_samples = 2;
    options.stages[0].groups_per_step = 1;
    options.problems.push_back({"p<i>", kHostile, RewardSpec{"math", {kHostile}}});
    auto state = CoordinatorState::Create(std::move(options), JournalImage(), clock_->Now());
    REQUIRE(state.ok());
    host_ = std::make_unique<CoordinatorHost>(std::move(*state), std::make_unique<MemoryJournal>(),
                                              nullptr, clock_.get(), NullLogger());
    auto page = PageServer::Start({"127.0.0.1:0", false}, host_.get(), &samples_);
    INFO(page.status().ToString());
    REQUIRE(page.ok());
    page_ = std::move(*page);
  }

  void Do(std::function<absl::Status(CoordinatorState&, absl::Time)> what) {
    absl::Notification done;
    absl::Status answered;
    CoordinatorHost::Call call;
    call.attempt = [what = std::move(what)](CoordinatorState& state, absl::Time now, bool) {
      return std::optional<absl::Status>(what(state, now));
    };
    call.done = [&](const absl::Status& status) {
      answered = status;
      done.Notify();
    };
    host_->Submit(std::move(call));
    done.WaitForNotification();
    INFO(answered.ToString());
    REQUIRE(answered.ok());
  }
  void TrainStep() {
    Do([](CoordinatorState& state, absl::Time now) {
      return state.AttachLearner({"learner:1", "L1", 0, "digest"}, now).status();
    });
    Do([](CoordinatorState& state, absl::Time now) {
      return state.Join({"w-1", "<u>host</u>:1", "i1", 8}, now).status();
    });
    Do([](CoordinatorState& state, absl::Time now) {
      const auto leases = state.Lease("w-1", "i1", 1, now);
      if (!leases.ok() || leases->size() != 1) return absl::InternalError("no lease");
      GroupCompletion completion;
      completion.worker_id = "w-1";
      completion.lease = leases->front().lease;
      completion.group = leases->front().group;
      return state.CompleteGroup(completion, now).status();
    });
    Do([](CoordinatorState& state, absl::Time now) {
      ReportStepEvent report;
      report.incarnation = "L1";
      report.metrics.reward_mean = 0.5;
      return state.ReportStep(report, now);
    });
  }
  void AddSamples() {
    ShownSample sample;
    sample.problem_id = "p<i>";
    sample.problem = kHostile;
    sample.gold = {kHostile};
    sample.worker = "w-1";
    for (const Verdict verdict : {Verdict::kCorrect, Verdict::kIncorrect}) {
      SampleResult result;
      result.verdict = verdict;
      result.reason = kHostile;
      result.extracted = kHostile;
      result.response = kHostile;
      samples_.Add(sample, {result});
    }
  }
  std::string url() const { return page_->url(); }

 private:
  std::unique_ptr<Clock> clock_;
  ShownSamples samples_{10};
  std::unique_ptr<CoordinatorHost> host_;
  std::unique_ptr<PageServer> page_;
};

TEST_CASE("A sample that is markup stays text, and runs nothing") {
  HostileRun run;
  run.TrainStep();
  run.AddSamples();
  // On a window as narrow as a phone's.
  const nlohmann::json seen = Browse(
      run.url(), {"--points", "1", "--problem", "<script>window.injected", "--width", "500"});
  if (seen.is_null()) return;
  INFO(seen.dump(2));
  CHECK(seen["errors"].empty());
  CHECK(seen["overflow"] == false);
  CHECK(seen["problem"]["problem"] == kHostile);
  CHECK(seen["problem"]["response"] == kHostile);
  CHECK(seen["problem"]["scripts"] == 0);
  CHECK(seen["problem"]["injected"] == "undefined");
  CHECK(seen["incorrect"]["verdicts"] == nlohmann::json({"incorrect"}));
  CHECK(seen["correct"]["verdicts"] == nlohmann::json({"correct"}));
}

}  // namespace
}  // namespace crescendo
