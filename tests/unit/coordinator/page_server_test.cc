// The page's HTTP side: its files, the JSON, the headers that keep hostile text harmless, and what
// is refused.
#include "services/coordinator/page_server.h"

#include <httplib.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "catch2/catch.hpp"
#include "common/os/posix_env.h"
#include "tests/unit/coordinator/coordinator_fixture.h"

namespace crescendo {
namespace {

struct ServedPage {
  ServedPage() {
    auto state = CoordinatorState::Create(SmallRun(), JournalImage(), clock->Now());
    REQUIRE(state.ok());
    host = std::make_unique<CoordinatorHost>(std::move(*state), std::make_unique<MemoryJournal>(),
                                             nullptr, clock.get(), NullLogger());
    auto started = PageServer::Start({"127.0.0.1:0", false}, host.get(), &samples);
    INFO(started.status().ToString());
    REQUIRE(started.ok());
    page = std::move(*started);
    const std::string url = page->url();
    client = std::make_unique<httplib::Client>(url.substr(0, url.size() - 1));
  }
  nlohmann::json Json(const std::string& path, int status = 200) {
    auto answer = client->Get(path);
    REQUIRE(answer);
    CHECK(answer->status == status);
    CHECK(answer->get_header_value("Content-Type") == "application/json");
    CHECK(answer->get_header_value("Cache-Control") == "no-store");
    return nlohmann::json::parse(answer->body);
  }

  std::unique_ptr<Clock> clock = MakeRealClock();
  ShownSamples samples{10};
  std::unique_ptr<CoordinatorHost> host;
  std::unique_ptr<PageServer> page;
  std::unique_ptr<httplib::Client> client;
};

TEST_CASE("The page and its parts come with a policy that runs no script but its own") {
  ServedPage run;
  for (const char* path : {"/", "/index.html", "/page.js", "/page.css", "/chart.min.js"}) {
    auto answer = run.client->Get(path);
    REQUIRE(answer);
    CHECK(answer->status == 200);
    CHECK(answer->body.size() > 1000);
    const std::string policy = answer->get_header_value("Content-Security-Policy");
    CHECK(policy.find("default-src 'none'; script-src 'self'; style-src 'self'") == 0);
    CHECK(answer->get_header_value("X-Content-Type-Options") == "nosniff");
  }
  CHECK(run.client->Get("/")->body.find("http://") == std::string::npos);
  CHECK(run.client->Get("/nothing")->status == 404);
}

TEST_CASE("The status of a run that has not begun says what it waits for") {
  ServedPage run;
  const nlohmann::json status = run.Json("/api/status");
  CHECK(status["run_id"] == "small");
  CHECK(status["state"] == "waiting");
  CHECK(status["awaiting"] == "the learner has not attached yet");
  CHECK(status["workers"].empty());
  CHECK(status["last"].is_null());
  CHECK(status["cost"]["run_end"].is_null());
  const nlohmann::json steps = run.Json("/api/steps?from=0");
  CHECK(steps["steps"].empty());
  CHECK(steps["done"] == true);
  CHECK(run.Json("/api/samples")["samples"].empty());
}

TEST_CASE("Samples by verdict, problem and page; bytes that are no UTF-8 do no harm") {
  ServedPage run;
  ShownSample sample;
  sample.problem = "one";
  SampleResult result;
  result.verdict = Verdict::kIncorrect;
  result.response = "bad \xff byte </script>";
  run.samples.Add(sample, {result});
  sample.problem = "two & three";
  result.verdict = Verdict::kCorrect;
  run.samples.Add(sample, {result});
  CHECK(run.Json("/api/samples")["samples"].size() == 2);
  const nlohmann::json wrong = run.Json("/api/samples?verdict=incorrect")["samples"];
  REQUIRE(wrong.size() == 1);
  CHECK(wrong[0]["response"] == "bad \xef\xbf\xbd byte </script>");
  CHECK(run.Json("/api/samples?problem=two%20%26")["samples"].size() == 1);
  CHECK(run.Json("/api/samples?below=2&max=5")["samples"].size() == 1);
}

TEST_CASE("Wrong parameters, other methods and other hosts' names are refused") {
  ServedPage run;
  CHECK(run.Json("/api/samples?verdict=maybe", 400)["error"] ==
        "verdict: expected correct, incorrect or undecided");
  CHECK(run.Json("/api/steps?from=-1", 400).contains("error"));
  CHECK(run.Json("/api/steps?max=999999", 400).contains("error"));
  CHECK(run.client->Post("/api/status", "x", "text/plain")->status == 405);
  CHECK(run.client->Get("/api/status", {{"Host", "rebound.example"}})->status == 403);
  CHECK(run.client->Get("/api/status", {{"Host", "localhost:1"}})->status == 200);
}

TEST_CASE("When the coordinator stops the page says so") {
  ServedPage run;
  run.host->Stop();
  CHECK(run.Json("/api/status", 503)["error"] == "the coordinator is stopping");
}

TEST_CASE("Off the loopback only when asked for by name") {
  ServedPage run;
  const auto page = PageServer::Start({"0.0.0.0:0", false}, run.host.get(), &run.samples);
  CHECK(page.status().code() == absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace crescendo
