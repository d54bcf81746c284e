// Stands in for all four services in the tests of `crescendo train`: a coordinator that counts a
// step each time that it is asked and keeps the count in its run folder, and idlers. Named by a
// link to it.
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <string>

#include "common/config/command_line.h"
#include "common/os/posix_env.h"
#include "common/os/process.h"
#include "common/rpc/server.h"
#include "crescendo/v1/coordinator.grpc.pb.h"

namespace crescendo {
namespace {

class FakeCoordinator : public v1::CoordinatorService::Service {
 public:
  explicit FakeCoordinator(const RunConfig& config)
      : config_(config), file_(config.run.out + "/fake-steps") {
    std::ifstream(file_) >> step_;
  }
  grpc::Status GetStatus(grpc::ServerContext*, const v1::GetStatusRequest*,
                         v1::RunStatus* status) override {
    if (step_ < config_.run.steps) ++step_;
    std::ofstream(file_) << step_;
    status->set_run_id("fake");
    status->set_state(step_ >= config_.run.steps ? "finished" : "training");
    status->set_step(step_);
    status->set_steps_total(config_.run.steps);
    status->set_elapsed_seconds(static_cast<double>(step_));
    AddStage(status->add_stages());
    return grpc::Status::OK;
  }
  grpc::Status GetHistory(grpc::ServerContext*, const v1::GetHistoryRequest* request,
                          v1::GetHistoryResponse* response) override {
    for (int64_t i = request->from_step(); i < step_; ++i) {
      v1::StepRecord* record = response->add_steps();
      record->set_step(i);
      record->mutable_metrics()->set_reward_mean(0.1 * static_cast<double>(i));
    }
    AddStage(response->add_stages());
    return grpc::Status::OK;
  }

 private:
  static void AddStage(v1::StageStatus* stage) {
    stage->set_context_tokens(48);
    stage->set_last_step(-1);
  }
  const RunConfig config_;
  const std::string file_;
  int64_t step_ = 0;
};

int Main(int argc, char** argv) {
  const StopSignal stop;
  const auto files = MakePosixFileSystem();
  const std::string program = BaseName(argv[0]);
  int exit_code = 0;
  const auto config = ParseServiceCommandLine(argc, argv, {program, "a fake", nullptr}, *files,
                                              std::cout, std::cerr, &exit_code);
  if (!config) return exit_code;
  std::cerr << program << " up\n";
  // What a test asks for, by a file in the run's folder.
  const std::string wish = config->run.out + "/" + program + ".wish";
  std::string what;
  std::ifstream(wish) >> what;
  if (what == "user-error") {
    std::cerr << program << ": error: the model file is cut short\n";
    return 2;
  }
  if (what == "die-once") {
    std::remove(wish.c_str());
    std::raise(SIGKILL);
  }
  if (program == "crescendo-learner") {  // with a policy from the beginning
    const std::string policy = config->run.out + "/policy";
    if (!files->MakeDirs(policy).ok()) return 1;
    if (!files->WriteFile(policy + "/model.safetensors", "fake").ok()) return 1;
  }
  if (program != "crescendo-coordinator") {
    stop.WaitFor(absl::InfiniteDuration());
    return 0;
  }
  FakeCoordinator service(*config);
  auto server =
      RpcServer::Start({.address = config->network.coordinator, .who = "coordinator"}, {&service});
  if (!server.ok()) return ReportError(program, server.status(), std::cerr);
  stop.WaitFor(absl::InfiniteDuration());
  return 0;
}

}  // namespace
}  // namespace crescendo

int main(int argc, char** argv) { return crescendo::Main(argc, argv); }
