// coordinator_scale: 1,000 simulated workers against one coordinator over real gRPC on the
// loopback, all in this process (so its CPU is shared with the coordinator's), journal on the disk.
//
//   coordinator_scale [--workers 1000] [--seconds 10] [--channels 16] [--dir DIR]
//
// Each worker asks for groups, renews what it holds by heartbeats twice a second, and completes
// each group at the next turn of its loop; a learner's calls keep the steps coming. Prints one JSON
// line: lease operations (leases granted + renewed + completed) a second, calls a second, the
// latency of calls, memory of the whole process and of the coordinator before the workers came.
// Then the time of a restart with 100,000 problems and 10,000 live leases.
#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <ctime>
#include <iostream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <grpcpp/alarm.h>
#include <grpcpp/grpcpp.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/os/posix_env.h"
#include "common/os/process.h"
#include "common/rpc/server.h"
#include "crescendo/v1/coordinator.grpc.pb.h"
#include "services/coordinator/coordinator_host.h"
#include "services/coordinator/coordinator_service.h"
#include "services/coordinator/sqlite_journal.h"

namespace crescendo {
namespace {

struct Arguments {
  int workers = 1000;
  int calls = 7000;  // a second; 0: no pause
  int seconds = 10;
  int channels = 16;
  std::string dir = "/tmp";
};

CoordinatorOptions ScaleRun(int groups_per_step) {
  CoordinatorOptions options;
  options.run_id = "scale";
  options.config_digest = "digest";
  options.steps = 1'000'000;
  options.max_staleness = 1;
  options.stages.resize(1);
  options.stages[0].context_tokens = 8192;
  options.stages[0].group_samples = 8;
  options.stages[0].groups_per_step = groups_per_step;
  options.curriculum.length_rule = false;
  options.curriculum.truncation_rule = false;
  for (int i = 0; i < 100'000; ++i) {
    options.problems.push_back(
        {absl::StrCat("problem-", i), std::string(300, 'x'), RewardSpec{"math", {"42"}}});
  }
  return options;
}

// Counts what the disk takes.
class TimedJournal : public Journal {
 public:
  TimedJournal(std::unique_ptr<Journal> journal, Clock* clock, std::vector<double>* seconds)
      : journal_(std::move(journal)), clock_(*clock), seconds_(*seconds) {}
  absl::StatusOr<JournalImage> Load() override { return journal_->Load(); }
  absl::Status Append(absl::Span<const JournalRecord> records) override {
    const absl::Time begin = clock_.Now();
    const absl::Status status = journal_->Append(records);
    seconds_.push_back(absl::ToDoubleSeconds(clock_.Now() - begin));
    return status;
  }

 private:
  std::unique_ptr<Journal> journal_;
  Clock& clock_;
  std::vector<double>& seconds_;
};

double PercentileMs(std::vector<double>& seconds, double p) {
  if (seconds.empty()) return 0;
  std::sort(seconds.begin(), seconds.end());
  return 1e3 * seconds[static_cast<size_t>(p * static_cast<double>(seconds.size() - 1))];
}

// What all workers have in common.
struct Load {
  Clock* clock = nullptr;
  absl::Time end;
  absl::Time measured_from;  // latencies: behind the burst of a thousand first calls
  absl::Duration pause;      // between two calls of a worker
  std::atomic<int64_t> lease_operations = 0;
  std::atomic<int64_t> calls = 0;
  std::atomic<int64_t> failures = 0;
  std::atomic<int> running = 0;
  absl::Mutex mutex;
  std::vector<double> latencies ABSL_GUARDED_BY(mutex);  // seconds, of calls that do not wait
};

// A worker without a thread: each answer starts its next call.
class LoadWorker {
 public:
  LoadWorker(Load* load, std::shared_ptr<grpc::Channel> channel, int index)
      : load_(*load),
        stub_(v1::CoordinatorService::NewStub(std::move(channel))),
        id_(absl::StrCat("worker-", index)) {}

  void Start() {
    ++load_.running;
    v1::JoinRequest request;
    request.set_protocol_version(limits::kProtocolVersion);
    request.set_worker_id(id_);
    request.set_incarnation("i");
    request.set_address("127.0.0.1:1");
    request.set_slots(64);
    Call<v1::JoinRequest, v1::JoinResponse>(
        request, true,
        [this](auto* context, auto* request, auto* response, auto done) {
          stub_->async()->Join(context, request, response, std::move(done));
        },
        [this](const v1::JoinResponse&) { Turn(); });
  }

 private:
  template <typename Request, typename Response, typename Invoke, typename Then>
  void Call(const Request& request, bool timed, Invoke invoke, Then then) {
    struct State {
      grpc::ClientContext context;
      Request request;
      Response response;
      absl::Time begin;
    };
    auto state = std::make_shared<State>();
    state->request = request;
    state->begin = load_.clock->Now();
    invoke(&state->context, &state->request, &state->response,
           [this, state, timed, then = std::move(then)](const grpc::Status& status) {
             ++load_.calls;
             const absl::Time now = load_.clock->Now();
             if (!status.ok()) ++load_.failures;
             if (timed && state->begin >= load_.measured_from) {
               absl::MutexLock lock(&load_.mutex);
               load_.latencies.push_back(absl::ToDoubleSeconds(now - state->begin));
             }
             if (!status.ok() || now >= load_.end) {
               --load_.running;
               return;
             }
             if (load_.pause <= absl::ZeroDuration()) return then(state->response);
             // From the call's beginning, so that a slow answer does not lower the load.
             const absl::Duration left = load_.pause - (now - state->begin);
             const gpr_timespec span = gpr_time_from_micros(
                 std::max<int64_t>(0, absl::ToInt64Microseconds(left)), GPR_TIMESPAN);
             alarm_.Set(gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), span),
                        [state, then](bool) { then(state->response); });
           });
  }

  // One turn: complete what is held, or heartbeat, or ask for more.
  void Turn() {
    if (!held_.empty() && turns_++ % 2 == 0) return Heartbeat();
    if (!held_.empty()) return Complete();
    Lease();
  }
  void Lease() {
    v1::LeaseRequest request;
    request.set_worker_id(id_);
    request.set_incarnation("i");
    request.set_groups_max(8);
    request.set_max_wait_ms(1000);
    Call<v1::LeaseRequest, v1::LeaseResponse>(
        request, false,
        [this](auto* context, auto* request, auto* response, auto done) {
          stub_->async()->Lease(context, request, response, std::move(done));
        },
        [this](const v1::LeaseResponse& response) {
          load_.lease_operations += response.groups_size();
          held_.assign(response.groups().begin(), response.groups().end());
          turns_ = 0;
          Turn();
        });
  }
  void Heartbeat() {
    v1::HeartbeatRequest request;
    request.set_worker_id(id_);
    request.set_incarnation("i");
    for (const v1::LeasedGroup& group : held_) {
      request.add_leases()->set_lease_id(group.lease_id());
    }
    Call<v1::HeartbeatRequest, v1::HeartbeatResponse>(
        request, true,
        [this](auto* context, auto* request, auto* response, auto done) {
          stub_->async()->Heartbeat(context, request, response, std::move(done));
        },
        [this](const v1::HeartbeatResponse&) {
          load_.lease_operations += static_cast<int64_t>(held_.size());
          Turn();
        });
  }
  void Complete() {
    v1::CompleteGroupRequest request;
    request.set_worker_id(id_);
    request.set_lease_id(held_.back().lease_id());
    request.set_group_id(held_.back().group_id());
    request.set_purpose(held_.back().purpose());
    held_.pop_back();
    Call<v1::CompleteGroupRequest, v1::CompleteGroupResponse>(
        request, true,
        [this](auto* context, auto* request, auto* response, auto done) {
          stub_->async()->CompleteGroup(context, request, response, std::move(done));
        },
        [this](const v1::CompleteGroupResponse&) {
          ++load_.lease_operations;
          turns_ = 1;  // complete all of them in a row
          Turn();
        });
  }

  Load& load_;
  std::unique_ptr<v1::CoordinatorService::Stub> stub_;
  std::string id_;
  grpc::Alarm alarm_;
  std::vector<v1::LeasedGroup> held_;
  int turns_ = 0;
};

// Reports a step as soon as its batch is whole, until the load ends.
void RunLearner(const Load& load, CoordinatorHost& host) {
  std::atomic<bool> waiting = false;
  while (load.clock->Now() < load.end) {
    waiting = true;
    CoordinatorHost::Call call;
    call.attempt = [](CoordinatorState& state, absl::Time now, bool) {
      const RunView view = state.View(now);
      if (view.groups_buffered >= 4000) {
        ReportStepEvent event;
        event.step = StepId(state.trained());
        event.incarnation = "L";
        (void)state.ReportStep(event, now);
      }
      return absl::OkStatus();
    };
    call.done = [&waiting](const absl::Status&) { waiting = false; };
    host.Submit(std::move(call));
    load.clock->SleepFor(absl::Milliseconds(20));
    while (waiting) load.clock->SleepFor(absl::Milliseconds(1));
  }
}

absl::Status RunLoad(const Arguments& arguments) {
  const auto clock = MakeRealClock();
  const auto files = MakePosixFileSystem();
  const std::string path = JoinPath(arguments.dir, "coordinator_scale.sqlite");
  for (const char* suffix : {"", "-wal"}) (void)files->Remove(path + suffix);
  ASSIGN_OR_RETURN(auto journal, SqliteJournal::Open(path));
  ASSIGN_OR_RETURN(auto state,
                   CoordinatorState::Create(ScaleRun(4000), JournalImage(), clock->Now()));
  ASSIGN_OR_RETURN(const int64_t rolled,
                   state->AttachLearner({"127.0.0.1:2", "L", 0, "digest"}, clock->Now()));
  (void)rolled;
  std::vector<double> commits;
  CoordinatorHost host(std::move(state),
                       std::make_unique<TimedJournal>(std::move(journal), clock.get(), &commits),
                       nullptr, clock.get(), NullLogger());
  CoordinatorServiceImpl service(&host);
  ASSIGN_OR_RETURN(auto server,
                   RpcServer::Start({"127.0.0.1:0", "coordinator", false}, {&service}));
  const int64_t before = ResidentBytes();

  Load load;
  load.clock = clock.get();
  const absl::Time begin = clock->Now();
  const std::clock_t cpu_begin = std::clock();
  load.end = begin + absl::Seconds(arguments.seconds);
  load.measured_from = begin + absl::Seconds(2);
  if (arguments.calls > 0) load.pause = absl::Seconds(arguments.workers) / arguments.calls;
  std::vector<std::shared_ptr<grpc::Channel>> channels;
  for (int i = 0; i < arguments.channels; ++i) {
    grpc::ChannelArguments options;
    options.SetInt("bench.channel", i);  // a connection of its own
    channels.push_back(
        grpc::CreateCustomChannel(server->address(), grpc::InsecureChannelCredentials(), options));
  }
  std::vector<std::unique_ptr<LoadWorker>> workers;
  for (int i = 0; i < arguments.workers; ++i) {
    workers.push_back(std::make_unique<LoadWorker>(&load, channels[i % channels.size()], i));
    workers.back()->Start();
  }
  RunLearner(load, host);
  const double seconds = absl::ToDoubleSeconds(clock->Now() - begin);
  const double cpu = static_cast<double>(std::clock() - cpu_begin) / CLOCKS_PER_SEC;
  while (load.running > 0) clock->SleepFor(absl::Milliseconds(10));
  host.Stop();
  absl::MutexLock lock(&load.mutex);
  std::cout << absl::StrFormat(
      "{\"bench\": \"coordinator_scale\", \"workers\": %d, \"lease_operations_per_second\": %.0f, "
      "\"calls_per_second\": %.0f, \"cores_used\": %.2f, \"failures\": %d, \"p50_ms\": %.1f, "
      "\"p99_ms\": %.1f, \"commits\": %d, \"commit_p50_ms\": %.1f, \"commit_p99_ms\": %.1f, "
      "\"resident_mb\": %.0f, \"resident_mb_before_workers\": %.0f}\n",
      arguments.workers, static_cast<double>(load.lease_operations) / seconds,
      static_cast<double>(load.calls) / seconds, cpu / seconds, load.failures.load(),
      PercentileMs(load.latencies, 0.5), PercentileMs(load.latencies, 0.99), commits.size(),
      PercentileMs(commits, 0.5), PercentileMs(commits, 0.99),
      static_cast<double>(PeakResidentBytes()) / 1e6, static_cast<double>(before) / 1e6);
  server->Stop(absl::Seconds(1));
  return absl::OkStatus();
}

// 100,000 problems, 10,000 live leases, and 200 trained steps behind them.
absl::Status RunRestart(const Arguments& arguments) {
  const auto clock = MakeRealClock();
  const auto files = MakePosixFileSystem();
  const std::string path = JoinPath(arguments.dir, "coordinator_restart.sqlite");
  for (const char* suffix : {"", "-wal"}) (void)files->Remove(path + suffix);
  CoordinatorOptions options = ScaleRun(10'000);
  {
    ASSIGN_OR_RETURN(auto journal, SqliteJournal::Open(path));
    ASSIGN_OR_RETURN(auto state, CoordinatorState::Create(options, JournalImage(), clock->Now()));
    RETURN_IF_ERROR(state->AttachLearner({"a", "L", 0, "digest"}, clock->Now()).status());
    for (int step = 0; step < 20; ++step) {
      ReportStepEvent event;
      event.step = StepId(step);
      event.incarnation = "L";
      RETURN_IF_ERROR(state->ReportStep(event, clock->Now()));
    }
    for (int worker = 0; worker < 1000; ++worker) {
      const std::string id = absl::StrCat("worker-", worker);
      RETURN_IF_ERROR(state->Join({id, "a", "i", 80}, clock->Now()).status());
    }
    int64_t leased = 0;
    for (int worker = 0; worker < 1000; ++worker) {
      ASSIGN_OR_RETURN(const auto leases,
                       state->Lease(absl::StrCat("worker-", worker), "i", 10, clock->Now()));
      leased += static_cast<int64_t>(leases.size());
    }
    CRESCENDO_CHECK(leased == 10'000);
    RETURN_IF_ERROR(journal->Append(state->TakeRecords()));
  }
  const absl::Time begin = clock->Now();
  ASSIGN_OR_RETURN(auto journal, SqliteJournal::Open(path));
  ASSIGN_OR_RETURN(const JournalImage image, journal->Load());
  ASSIGN_OR_RETURN(auto state, CoordinatorState::Create(std::move(options), image, clock->Now()));
  std::cout << absl::StrFormat(
      "{\"bench\": \"coordinator_restart\", \"problems\": 100000, \"leases\": %d, "
      "\"consumed_groups\": %d, \"seconds\": %.3f}\n",
      state->View(clock->Now()).groups_leased, image.outcomes.size(),
      absl::ToDoubleSeconds(clock->Now() - begin));
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  Arguments arguments;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string name = argv[i];
    if (name == "--workers") arguments.workers = std::atoi(argv[i + 1]);
    if (name == "--calls") arguments.calls = std::atoi(argv[i + 1]);
    if (name == "--seconds") arguments.seconds = std::atoi(argv[i + 1]);
    if (name == "--channels") arguments.channels = std::atoi(argv[i + 1]);
    if (name == "--dir") arguments.dir = argv[i + 1];
  }
  for (const auto run : {RunLoad, RunRestart}) {
    const absl::Status status = run(arguments);
    if (status.ok()) continue;
    std::cerr << "coordinator_scale: " << status << "\n";
    return 1;
  }
  return 0;
}

}  // namespace
}  // namespace crescendo

int main(int argc, char** argv) { return crescendo::Main(argc, argv); }
