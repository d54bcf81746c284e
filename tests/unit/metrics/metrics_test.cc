// The /metrics port answers, names are as Prometheus wants them, and a port in use is told in
// words.
#include <arpa/inet.h>
#include <prometheus/check_names.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <map>
#include <regex>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "catch2/catch.hpp"
#include "common/base/limits.h"
#include "common/metrics/coordinator_metrics.h"
#include "common/metrics/learner_metrics.h"
#include "common/metrics/life_trace.h"
#include "common/metrics/metrics_server.h"
#include "common/metrics/metrics_table.h"
#include "common/metrics/reward_metrics.h"
#include "common/metrics/rollout_metrics.h"
#include "common/rpc/address.h"
#include "tests/support/step_clock.h"
#include "tests/support/temp_dir.h"

namespace crescendo {
namespace {

std::unique_ptr<MetricsServer> StartServer() {
  auto server = MetricsServer::Start({.address = "127.0.0.1:0", .who = "test"});
  REQUIRE(server.ok());
  return std::move(server).value();
}

std::string HttpGet(const std::string& address, const std::string& path) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in to = {};
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<uint16_t>(ParseAddress(address)->port));
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  REQUIRE(connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof(to)) == 0);
  const std::string request = "GET " + path + " HTTP/1.0\r\n\r\n";
  REQUIRE(write(fd, request.data(), request.size()) == static_cast<ssize_t>(request.size()));
  std::string response;
  char buffer[4096];
  ssize_t got = 0;
  while ((got = read(fd, buffer, sizeof(buffer))) > 0) response.append(buffer, got);
  close(fd);
  return response;
}

TEST_CASE("a scrape gets the values of the metrics and of the process") {
  auto server = StartServer();
  LearnerMetrics metrics(server->registry());
  metrics.steps_total.Increment(3);
  metrics.duplicate_chunks_total.Increment();
  metrics.train_seconds.Observe(0.5);
  const std::string page = HttpGet(server->address(), "/metrics");
  CHECK(absl::StrContains(page, "200 OK"));
  CHECK(absl::StrContains(page, "crescendo_learner_steps_total 3"));
  CHECK(absl::StrContains(page, "crescendo_learner_chunks_total{outcome=\"duplicate\"} 1"));
  CHECK(absl::StrContains(page, "crescendo_learner_train_seconds_count 1"));
  CHECK(absl::StrContains(page, "process_resident_memory_bytes "));
}

TEST_CASE("staleness counts tokens, each in the bucket of its age") {
  prometheus::Registry registry;
  LearnerMetrics metrics(registry);
  metrics.ObserveStaleness(0, 100);
  metrics.ObserveStaleness(2, 10);
  metrics.ObserveStaleness(5, 3);
  metrics.ObserveStaleness(1000, 1);
  const prometheus::ClientMetric::Histogram shown = metrics.staleness_versions.Collect().histogram;
  CHECK(shown.sample_count == 114);
  CHECK(shown.sample_sum == 2 * 10 + 5 * 3 + 1000);
  std::map<double, uint64_t> at_most;
  for (const auto& bucket : shown.bucket) at_most[bucket.upper_bound] = bucket.cumulative_count;
  CHECK(at_most.at(0) == 100);
  CHECK(at_most.at(1) == 100);
  CHECK(at_most.at(2) == 110);
  CHECK(at_most.at(4) == 110);
  CHECK(at_most.at(6) == 113);
  CHECK(at_most.at(32) == 113);
}

TEST_CASE("with a folder, the room on its disk is shown under the service's name") {
  auto server = MetricsServer::Start(
      {.address = "127.0.0.1:0", .who = "learner", .insecure = false, .folder = "."});
  REQUIRE(server.ok());
  for (const std::string& page : {HttpGet((*server)->address(), "/metrics"), (*server)->Text()}) {
    CHECK(std::regex_search(page, std::regex("\ncrescendo_learner_disk_free_bytes [0-9]")));
    CHECK(std::regex_search(page, std::regex("\ncrescendo_learner_disk_size_bytes [1-9]")));
  }
}

TEST_CASE("a port in use and an address off the loopback are refused in words") {
  auto server = StartServer();
  const auto second = MetricsServer::Start({.address = server->address(), .who = "learner"});
  CHECK(second.status().code() == absl::StatusCode::kAlreadyExists);
  CHECK(std::string(second.status().message()) ==
        "learner metrics: cannot listen on " + server->address() +
            ": the port is in use by another process; stop that one or choose another port");
  CHECK(MetricsServer::Start({.address = "0.0.0.0:0", .who = "learner"}).status().code() ==
        absl::StatusCode::kFailedPrecondition);
}

TEST_CASE(
    "every name is crescendo_<service>_<noun>_<unit>, counters alone end in _total, help ends") {
  auto server = StartServer();
  const RolloutMetrics rollout(server->registry());
  const RewardMetrics reward(server->registry());
  const CoordinatorMetrics coordinator(server->registry());
  const LearnerMetrics learner(server->registry());
  const std::regex form("crescendo_(rollout|reward|coordinator|learner)(_[a-z0-9]+)+");
  std::set<std::string> names;
  for (const auto& family : server->registry().Collect()) {
    INFO(family.name);
    CHECK(names.insert(family.name).second);
    CHECK(std::regex_match(family.name, form));
    CHECK(prometheus::CheckMetricName(family.name));
    const bool counter = family.type == prometheus::MetricType::Counter;
    CHECK(absl::EndsWith(family.name, "_total") == counter);
    CHECK(absl::EndsWith(family.help, "."));
    CHECK_FALSE(family.metric.empty());
  }
  CHECK(names.size() > 70);
}

TEST_CASE("the table of metrics in the README is the one that the code makes") {
  // CRESCENDO_WRITE_TABLE=1 writes it.
  const std::string path = "common/metrics/README.md";
  std::ifstream in(path);
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  const size_t begin = text.find("\n## ");
  REQUIRE(begin != std::string::npos);
  const std::string table = MetricsTable();
  if (std::getenv("CRESCENDO_WRITE_TABLE") != nullptr) {
    in.close();
    std::ofstream(path) << text.substr(0, begin + 1) << table;
    return;
  }
  CHECK(text.substr(begin + 1) == table);
}

TEST_CASE("Prometheus's own linter has nothing to say about the metrics") {
  if (std::system("command -v promtool > /dev/null") != 0) {
    WARN("promtool is not here (Debian's prometheus): not checked");
    return;
  }
  const TempDir dir;
  std::ofstream(dir / "metrics") << AllMetricsText();
  const std::string command =
      "promtool check metrics < " + (dir / "metrics") + " > " + (dir / "said") + " 2>&1";
  const int status = std::system(command.c_str());
  std::ifstream said(dir / "said");
  INFO(std::string(std::istreambuf_iterator<char>(said), {}));
  CHECK(status == 0);
}

TEST_CASE("moments of groups are kept in order, the oldest go first, and the time between counts") {
  StepClock clock;
  prometheus::Registry registry;
  LifeTrace trace(&clock, registry, "rollout", LifeStagesOf("rollout"));
  trace.Note({.kind = LifeEvent::kLeased, .group = 7});                   // 1 s
  trace.Note({.kind = LifeEvent::kFirstToken, .group = 7, .sample = 0});  // 2 s
  trace.Note({.kind = LifeEvent::kFirstToken, .group = 7, .sample = 1});  // 3 s
  trace.Note({.kind = LifeEvent::kFinished, .group = 7, .sample = 1});    // 4 s
  trace.Note({.kind = LifeEvent::kGraded, .group = 7, .sample = 1});      // 5 s
  trace.Note({.kind = LifeEvent::kCompleted, .group = 7});                // 6 s
  const auto sum = [&](const std::string& stage) {
    for (const auto& family : registry.Collect()) {
      for (const auto& metric : family.metric) {
        if (metric.label.front().value == stage) return metric.histogram.sample_sum;
      }
    }
    return -1.0;
  };
  CHECK(sum("leased_to_first_token") == 1 + 2);
  CHECK(sum("first_token_to_finished") == 1);
  CHECK(sum("finished_to_graded") == 1);
  CHECK(sum("leased_to_completed") == 5);
  REQUIRE(trace.Moments().size() == 6);
  CHECK(trace.Moments()[3].kind == LifeEvent::kFinished);
  for (size_t i = 0; i < limits::kTraceEventsMax; ++i) trace.Note({.group = i});
  const auto moments = trace.Moments();
  REQUIRE(moments.size() == limits::kTraceEventsMax);
  CHECK(moments.front().group == 0);
  CHECK(moments.back().group == limits::kTraceEventsMax - 1);
}

}  // namespace
}  // namespace crescendo
