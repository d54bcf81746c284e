// How long it takes until N workers have a policy version, each in a network namespace of its own
// whose link is shaped in both directions (ip netns, veth, tc tbf; needs root):
//
//   weight_broadcast [--receivers 1,2,4,8] [--bytes N] [--mbit R] [--kill I] [--delta WORDS]
//
// One JSON line a number of receivers. --kill ends receiver I (from 1) with SIGKILL half-way: the
// others must be whole all the same. --delta measures the pull of a version of which one word in so
// many differs from the one that all hold (weight_delta of learner_bench: one in 280). Exit 0, 1
// when a receiver was not whole, 77 without root or iproute2. The learner's side is the learner's
// WeightStore and service, a receiver is a worker's WeightsClient, relay and service; the chain is
// the coordinator's.
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/synchronization/notification.h"
#include "common/base/limits.h"
#include "common/base/rng.h"
#include "common/os/posix_env.h"
#include "common/os/process.h"
#include "common/rpc/server.h"
#include "prometheus/registry.h"
#include "services/learner/learner_service.h"
#include "services/learner/weight_store.h"
#include "services/rollout/relay_service.h"
#include "services/rollout/weights_client.h"
#include "tests/support/subprocess.h"

namespace crescendo {
namespace {

constexpr int kPort = 7000;
constexpr absl::Duration kReady = absl::Seconds(60);
// For the receivers to start, on a busy machine too.
constexpr absl::Duration kLead = absl::Seconds(4), kLeadOfOne = absl::Seconds(1);

// One word in `spread` becomes one more, the same ones every time.
void Change(std::vector<TensorData>& tensors, uint64_t spread) {
  CounterRng rng(2);
  for (TensorData& tensor : tensors) {
    const uint64_t words = tensor.bytes.size() / 2;
    for (uint64_t word = rng.Below(spread); word < words; word += 1 + rng.Below(2 * spread - 1)) {
      uint16_t value;
      std::memcpy(&value, tensor.bytes.data() + 2 * word, 2);
      ++value;
      std::memcpy(tensor.bytes.data() + 2 * word, &value, 2);
    }
  }
}

// Serves version 1, and with a `spread` 2 too, until it is stopped: `source ADDRESS BYTES SPREAD`.
int Source(const std::string& address, uint64_t bytes, uint64_t spread) {
  StopSignal stop;
  WeightStore store(2, limits::kWeightChunkBytes, /*deltas=*/true);
  std::vector<TensorData> tensors;
  CounterRng rng(1);
  for (uint64_t done = 0; done < bytes;) {
    const uint64_t size = std::min<uint64_t>(bytes - done, 64u << 20);
    std::string data(size, '\0');
    for (size_t i = 0; i < size; i += 997) data[i] = static_cast<char>(rng.Below(256));
    tensors.push_back(
        {absl::StrCat("t", tensors.size()), "U8", {static_cast<int64_t>(size)}, data});
    done += size;
  }
  if (!store.Publish(PolicyVersion(1), tensors).ok()) return 1;
  if (spread > 0) {
    Change(tensors, spread);
    if (!store.Publish(PolicyVersion(2), std::move(tensors)).ok()) return 1;
  }
  prometheus::Counter sent, sent_deltas;
  WeightsServiceImpl service(
      &store, [] { return std::string("bench"); }, &sent, &sent_deltas);
  auto server = RpcServer::Start({address, "learner", Transport(true)}, {&service});
  if (!server.ok()) {
    std::cerr << server.status() << "\n";
    return 1;
  }
  std::printf("share %.6f\n", (*store.Get(PolicyVersion(-1)))->DeltaRatio());
  std::cout << "ready" << std::endl;
  while (!stop.WaitFor(absl::Minutes(1))) {
  }
  std::printf("sent %.0f\ndeltas %.0f\n", sent.Value(), sent_deltas.Value());
  return 0;
}

// Pulls a version from the given moment on, version 2 when it has pulled version 1 before:
// `receive ADDRESS LEARNER PARENT START_MS VERSION`.
int Receive(const std::vector<std::string>& words) {
  StopSignal stop;
  prometheus::Registry registry;
  RolloutMetrics metrics{registry};
  const auto clock = MakeRealClock();
  StopFlag ended;
  WeightRelay relay;
  RelayServiceImpl service(&relay, &metrics.relayed_weight_bytes_total);
  auto server = RpcServer::Start({words[0], "rollout", Transport(true)}, {&service});
  if (!server.ok()) {
    std::cerr << server.status() << "\n";
    return 1;
  }
  int64_t start_ms = 0, version = 0;
  if (!absl::SimpleAtoi(words[3], &start_ms) || !absl::SimpleAtoi(words[4], &version)) return 2;
  PeerAddresses peers;
  peers.learner = words[1];
  peers.transport = Transport(true);
  const WorkerContext context = {
      .identity = {"receiver", words[0], "bench", 1},
      .peers = peers,
      .post = [](CoreEvent) {},
      .clock = clock.get(),
      .metrics = &metrics,
      .stop = &ended,
      .log = Logger("rollout", words[0], LogLevel::kInfo, clock.get(), StderrSink())};
  std::array<absl::Notification, 3> ready;  // by version
  WeightsClient client(context, uint64_t{1} << 40, &relay,
                       [&](std::unique_ptr<StagedWeights> weights) {
                         ready[static_cast<size_t>(weights->version.value())].Notify();
                       });
  client.SetSources({words[2]});
  const absl::Time start = absl::FromUnixMillis(start_ms);
  client.Start();
  if (version == 2) {
    client.Pull({PolicyVersion(1)});
    if (!ready[1].WaitForNotificationWithTimeout(start - RealNow())) {
      std::cerr << "version 1 was not whole in time\n";
      return 1;
    }
  }
  (void)ended.WaitFor(start - RealNow());
  client.Pull({PolicyVersion(version)});
  ready[static_cast<size_t>(version)].WaitForNotification();
  std::printf("whole %.3f failures %.0f\n", absl::ToDoubleSeconds(RealNow() - start),
              metrics.weight_source_failures_total.Value());
  std::fflush(stdout);
  while (!stop.WaitFor(absl::Minutes(1))) {
  }
  ended.Set();
  std::printf("relayed %.0f\n", metrics.relayed_weight_bytes_total.Value());
  return 0;
}

// Namespaces 0 to `count` - 1 on one bridge, 10.199.0.1 and so on; gone with this object.
class Network {
 public:
  Network(int count, int mbit) : count_(count) {
    Clear();
    Run({"ip", "link", "add", "crescbr", "type", "bridge"});
    Run({"ip", "link", "set", "crescbr", "up"});
    for (int i = 0; i < count; ++i) {
      const std::string name = Name(i), here = absl::StrCat("cresc", i);
      Run({"ip", "netns", "add", name});
      Run({"ip", "link", "add", here, "type", "veth", "peer", "name", "eth0", "netns", name});
      Run({"ip", "link", "set", here, "master", "crescbr", "up"});
      Inside(name, {"ip", "addr", "add", absl::StrCat(Address(i), "/24"), "dev", "eth0"});
      Inside(name, {"ip", "link", "set", "eth0", "up"});
      Inside(name, {"ip", "link", "set", "lo", "up"});
      const std::vector<std::string> shape = {"root",  "tbf", "rate",    absl::StrCat(mbit, "mbit"),
                                              "burst", "1mb", "latency", "20ms"};
      std::vector<std::string> down = {"tc", "qdisc", "add", "dev", here};
      down.insert(down.end(), shape.begin(), shape.end());
      Run(down);
      std::vector<std::string> up = {"tc", "qdisc", "add", "dev", "eth0"};
      up.insert(up.end(), shape.begin(), shape.end());
      Inside(name, up);
    }
  }
  ~Network() { Clear(); }

  static std::string Name(int i) { return absl::StrCat("cresc-", i); }
  static std::string Address(int i) { return absl::StrCat("10.199.0.", i + 1); }
  const std::string& failure() const { return failure_; }

 private:
  void Run(const std::vector<std::string>& command) {
    const ProgramResult result = RunProgram(command, absl::Seconds(10));
    if (result.exit_code != 0) {
      absl::StrAppend(&failure_, absl::StrJoin(command, " "), ": ", result.output);
    }
  }
  void Inside(const std::string& name, std::vector<std::string> command) {
    command.insert(command.begin(), {"ip", "netns", "exec", name});
    Run(command);
  }
  void Clear() {
    for (int i = 0; i < count_; ++i) {
      RunProgram({"ip", "netns", "del", Name(i)}, absl::Seconds(10));
      RunProgram({"ip", "link", "del", absl::StrCat("cresc", i)}, absl::Seconds(10));
    }
    RunProgram({"ip", "link", "del", "crescbr"}, absl::Seconds(10));
  }

  const int count_;
  std::string failure_;
};

struct Settings {
  std::string self;
  uint64_t bytes = 0;
  int mbit = 0;
  int kill = 0;
  uint64_t spread = 0;  // of --delta
};

std::unique_ptr<Subprocess> Start(const Settings& settings, int place,
                                  std::vector<std::string> words) {
  words.insert(words.begin(), {"ip", "netns", "exec", Network::Name(place), settings.self});
  return Subprocess::Start(words);
}

// The number behind `name` in a program's output; -1: it is not there.
double Said(const Subprocess& program, const std::string& name) {
  const size_t at = program.output().find(name + " ");
  return at == std::string::npos ? -1 : std::atof(program.output().c_str() + at + name.size() + 1);
}

bool Measure(const Settings& settings, int receivers) {
  const Network network(receivers + 1, settings.mbit);
  if (!network.failure().empty()) {
    std::cerr << network.failure();
    return false;
  }
  const auto at = [](int i) { return absl::StrCat(Network::Address(i), ":", kPort); };
  const auto source = Start(
      settings, 0, {"source", at(0), absl::StrCat(settings.bytes), absl::StrCat(settings.spread)});
  const auto is_ready = [](const std::string& line) { return line == "ready"; };
  if (!source->ReadUntil(is_ready, kReady)) {
    std::cerr << source->output();
    return false;
  }
  const double bound = static_cast<double>(settings.bytes) * 8 / (settings.mbit * 1e6);
  absl::Time start = RealNow() + kLead + receivers * kLeadOfOne;
  if (settings.spread > 0) start += kLead + absl::Seconds(2 * bound);  // for version 1
  std::vector<std::unique_ptr<Subprocess>> workers;
  for (int i = 1; i <= receivers; ++i) {
    workers.push_back(
        Start(settings, i,
              {"receive", at(i), at(0), i == 1 ? at(0) : at(i - 1),
               absl::StrCat(absl::ToUnixMillis(start)), settings.spread > 0 ? "2" : "1"}));
  }
  if (settings.kill > 0 && settings.kill <= receivers) {
    StopFlag never;
    (void)never.WaitFor(start - RealNow() + absl::Seconds(bound / 2));
    workers[settings.kill - 1]->Signal(SIGKILL);
  }
  double slowest = 0, failures = 0;
  int whole = 0;
  for (int i = 1; i <= receivers; ++i) {
    Subprocess& worker = *workers[i - 1];
    if (i == settings.kill) continue;
    const auto says = [](const std::string& line) { return absl::StartsWith(line, "whole "); };
    if (!worker.ReadUntil(says, start - RealNow() + absl::Seconds(20 + 6 * bound))) {
      std::cerr << "receiver " << i << ":\n" << worker.output();
      continue;
    }
    ++whole;
    slowest = std::max(slowest, Said(worker, "whole"));
    failures += Said(worker, "failures");
    if (Said(worker, "failures") > 0) std::cerr << "receiver " << i << ":\n" << worker.output();
  }
  for (auto& worker : workers) worker->Signal(SIGTERM);
  source->Signal(SIGTERM);
  source->Wait(absl::Seconds(10));
  std::printf(
      "{\"bench\": \"weight_broadcast\", \"receivers\": %d, \"whole\": %d, \"killed\": %d, "
      "\"bytes\": %llu, \"mbit\": %d, \"seconds\": %.3f, \"bound_seconds\": %.3f, "
      "\"ratio\": %.4f, \"source_sent_bytes\": %.0f, \"of_it_delta_bytes\": %.0f, "
      "\"delta_share\": %.5f, \"source_failures\": %.0f}\n",
      receivers, whole, settings.kill > 0 ? 1 : 0, static_cast<unsigned long long>(settings.bytes),
      settings.mbit, slowest, bound, slowest / bound, Said(*source, "sent"),
      Said(*source, "deltas"), Said(*source, "share"), failures);
  std::fflush(stdout);
  // Who was behind the one that was killed must have noticed.
  const bool noticed = settings.kill == 0 || settings.kill >= receivers || failures >= 1;
  return noticed && whole == receivers - (settings.kill > 0 ? 1 : 0);
}

bool Has(const std::string& program, const std::string& word) {
  return RunProgram({program, word}, absl::Seconds(10)).exit_code == 0;
}

int Main(const std::vector<std::string>& arguments, const std::string& self) {
  if (arguments.size() == 4 && arguments[0] == "source") {
    uint64_t bytes = 0, spread = 0;
    const bool good =
        absl::SimpleAtoi(arguments[2], &bytes) && absl::SimpleAtoi(arguments[3], &spread);
    return good ? Source(arguments[1], bytes, spread) : 2;
  }
  if (arguments.size() == 6 && arguments[0] == "receive") {
    return Receive({arguments.begin() + 1, arguments.end()});
  }
  Settings settings{self, uint64_t{512} << 20, 200, 0, 0};
  std::string receivers = "1,2,4,8";
  for (size_t i = 0; i + 1 < arguments.size(); i += 2) {
    const std::string& value = arguments[i + 1];
    bool good = true;
    if (arguments[i] == "--receivers") receivers = value;
    if (arguments[i] == "--bytes") good = absl::SimpleAtoi(value, &settings.bytes);
    if (arguments[i] == "--mbit") good = absl::SimpleAtoi(value, &settings.mbit);
    if (arguments[i] == "--kill") good = absl::SimpleAtoi(value, &settings.kill);
    if (arguments[i] == "--delta") good = absl::SimpleAtoi(value, &settings.spread);
    if (!good) return 2;
  }
  if (geteuid() != 0 || !Has("ip", "-V") || !Has("tc", "-V")) {
    std::cerr << "weight_broadcast: needs root, and ip and tc of iproute2: skipped\n";
    return 77;
  }
  bool all = true;
  for (absl::string_view word : absl::StrSplit(receivers, ',')) {
    int count = 0;
    if (!absl::SimpleAtoi(word, &count) || count < 1 || count > 64) return 2;
    all = Measure(settings, count) && all;
  }
  return all ? 0 : 1;
}

}  // namespace
}  // namespace crescendo

int main(int argc, char** argv) {
  char self[4096] = {};
  if (readlink("/proc/self/exe", self, sizeof(self) - 1) <= 0) return 1;
  return crescendo::Main({argv + 1, argv + argc}, self);
}
