// The reward service's figures, as one JSON line: grading by data set, a 1 MB response, the dearest
// hostile input, and answers a second over gRPC on the loopback.
//
//   reward_bench [SHARED_DATA]     ../shared/data by default; what is absent there is left out
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "common/base/limits.h"
#include "common/os/posix_env.h"
#include "nlohmann/json.hpp"
#include "services/reward/reward_service.h"
#include "tests/unit/reward/hostile_inputs.h"

namespace crescendo {
namespace {

using Json = nlohmann::json;

// Of this thread, so that a busy machine does not count.
double CpuMicros() {
  timespec now = {};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e6 + static_cast<double>(now.tv_nsec) * 1e-3;
}

struct Question {
  std::string gold, response;
};

std::vector<Question> ReadQuestions(const std::string& file) {
  std::ifstream in(file);
  std::vector<Question> questions;
  std::string line;
  while (std::getline(in, line)) {
    const Json row = Json::parse(line, nullptr, false);
    if (!row.is_object()) continue;
    if (row.contains("response")) {
      questions.push_back({row.value("gold", ""), row.value("response", "")});
    } else if (row.contains("answer") && row["answer"].is_string()) {
      // Styled otherwise than the gold, so that the bytes differ and the whole path is taken.
      questions.push_back(
          {row.value("answer", ""), "Thus $\\boxed{ {}" + row.value("answer", "") + "}$"});
    }
  }
  return questions;
}

double MicrosOf(Grader& grader, const Question& question) {
  GradeQuery query;
  query.gold = {question.gold};
  query.response = question.response;
  const double start = CpuMicros();
  grader.Evaluate(query);
  return CpuMicros() - start;
}

Json Percentiles(std::vector<double> micros) {
  std::sort(micros.begin(), micros.end());
  const size_t n = micros.size();
  return {{"answers", n},
          {"median_us", micros[n / 2]},
          {"p99_us", micros[n * 99 / 100]},
          {"max_us", micros[n - 1]}};
}

Json DataSets(const std::string& folder) {
  Json all = Json::object();
  for (const char* name : {"grading/gsm8k_model_solutions", "train/deepscaler", "train/math"}) {
    const std::vector<Question> questions = ReadQuestions(folder + "/" + name + ".jsonl");
    if (questions.empty()) continue;
    Grader grader({});
    std::vector<double> micros;
    for (const Question& question : questions) micros.push_back(MicrosOf(grader, question));
    all[name] = Percentiles(micros);
  }
  return all;
}

double Best(Grader& grader, const Question& question) {
  double best = 1e12;
  for (int i = 0; i < 5; ++i) best = std::min(best, MicrosOf(grader, question));
  return best;
}

Json Hostile() {
  Grader grader({});
  double dearest = 0;
  std::string name;
  for (const HostileInput& input : HostileInputs()) {
    const double micros = Best(grader, {input.gold, input.response});
    if (micros > dearest) name = input.name;
    dearest = std::max(dearest, micros);
  }
  return {{"dearest", name}, {"us", dearest}};
}

// Two streams of plain numbers against a server in this process.
double AnswersPerSecond(Clock* clock, int graders, int streams, int answers) {
  prometheus::Registry registry;
  RewardMetrics metrics(registry);
  GradingPool pool(graders, {});
  RewardServiceImpl service(&pool, &metrics, clock);
  int port = 0;
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(&service);
  const auto server = builder.BuildAndStart();
  const absl::Time start = clock->Now();
  std::vector<std::thread> threads;
  for (int s = 0; s < streams; ++s) {
    threads.emplace_back([&, s] {
      grpc::ChannelArguments arguments;
      arguments.SetInt("stream", s);  // a connection of its own
      const auto stub = v1::RewardService::NewStub(grpc::CreateCustomChannel(
          "127.0.0.1:" + std::to_string(port), grpc::InsecureChannelCredentials(), arguments));
      grpc::ClientContext context;
      const auto stream = stub->Grade(&context);
      std::thread writer([&] {
        v1::GradeRequest request;
        request.mutable_reward()->set_kind("math");
        request.mutable_reward()->add_gold("1234");
        request.set_response("4*308=1232+2=1234 \\boxed{1234}");
        for (int i = 0; i < answers; ++i) {
          request.set_id(i);
          grpc::WriteOptions options;
          if (i % 64 != 63) options.set_buffer_hint();
          stream->Write(request, options);
        }
        stream->WritesDone();
      });
      v1::GradeResponse response;
      while (stream->Read(&response)) {
      }
      writer.join();
      stream->Finish();
    });
  }
  for (std::thread& thread : threads) thread.join();
  const double seconds = absl::ToDoubleSeconds(clock->Now() - start);
  server->Shutdown();
  return streams * answers / seconds;
}

int Main(int argc, char** argv) {
  const auto clock = MakeRealClock();
  Json line = {{"bench", "reward"}};
  line["data"] = DataSets(argc > 1 ? argv[1] : "../shared/data");
  Grader grader({});
  line["megabyte_us"] = Best(grader, {"42", Repeat("Let us think. ", 74899) + "\\boxed{42}"});
  line["megabyte_without_answer_us"] = Best(grader, {"42", Repeat("Let us think. ", 74899)});
  line["hostile"] = Hostile();
  double best = 0;
  for (int i = 0; i < 3; ++i) best = std::max(best, AnswersPerSecond(clock.get(), 1, 1, 200000));
  line["grpc_answers_per_second"] = best;
  std::printf("%s\n", line.dump().c_str());
  return 0;
}

}  // namespace
}  // namespace crescendo

int main(int argc, char** argv) { return crescendo::Main(argc, argv); }
