// Mutual TLS, tokens and roles at one server: what is let in, what is refused with which status,
// and that each refusal is counted.
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/security/credentials.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <atomic>
#include <fstream>
#include <map>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "catch2/catch.hpp"
#include "common/base/limits.h"
#include "common/os/posix_env.h"
#include "common/rpc/channel.h"
#include "common/rpc/deadline.h"
#include "common/rpc/server.h"
#include "common/rpc/transport_config.h"
#include "crescendo/v1/coordinator.grpc.pb.h"
#include "crescendo/v1/experience.grpc.pb.h"
#include "crescendo/v1/learner.grpc.pb.h"
#include "crescendo/v1/reward.grpc.pb.h"
#include "crescendo/v1/rollout.grpc.pb.h"
#include "crescendo/v1/trace.grpc.pb.h"
#include "crescendo/v1/weights.grpc.pb.h"
#include "deploy/cli/certificates.h"
#include "tests/support/temp_dir.h"

namespace crescendo {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(20);

std::string ReadText(const std::string& path) {
  std::ifstream in(path);
  return {std::istreambuf_iterator<char>(in), {}};
}
void WriteText(const std::string& path, const std::string& text) { std::ofstream(path) << text; }

class Counters {
 public:
  Counters() {
    for (const Refusal refusal : kRefusals) counts_[refusal] = 0;
  }
  OnRefusal Counter() {
    return [this](Refusal refusal) { ++counts_.at(refusal); };
  }
  int Of(Refusal refusal) const { return counts_.at(refusal); }

 private:
  std::map<Refusal, std::atomic<int>> counts_;
};

// Answers everything that reaches it.
class OpenCoordinator : public v1::CoordinatorService::Service {
 public:
  grpc::Status GetStatus(grpc::ServerContext* context, const v1::GetStatusRequest*,
                         v1::RunStatus* status) override {
    status->set_run_id("run-1");
    saw_token = context->client_metadata().count("authorization") != 0;
    return grpc::Status::OK;
  }
  grpc::Status Leave(grpc::ServerContext*, const v1::LeaveRequest*, v1::LeaveResponse*) override {
    return grpc::Status::OK;
  }
  bool saw_token = false;
};

// Writes without an end to a reader that may take nothing.
class EndlessWeights : public v1::WeightsService::Service {
 public:
  grpc::Status PullChunks(grpc::ServerContext*, const v1::PullChunksRequest*,
                          grpc::ServerWriter<v1::WeightChunk>* writer) override {
    v1::WeightChunk chunk;
    chunk.set_data(std::string(1u << 20, 'w'));
    while (writer->Write(chunk)) {
    }
    ended = true;
    return grpc::Status::OK;
  }
  std::atomic<bool> ended = false;
};

struct World {
  explicit World(size_t buffer_bytes_max = limits::kServerBufferBytesMax) {
    REQUIRE(Make(folder.path(), absl::Hours(1)).ok());
    auto transport = TransportOf(Role::kCoordinator, folder.path());
    REQUIRE(transport.ok());
    RpcServerOptions options{"127.0.0.1:0", "coordinator", *transport, counters.Counter()};
    options.stalled_write_max = absl::Milliseconds(200);
    options.buffer_bytes_max = buffer_bytes_max;
    auto started = RpcServer::Start(options, {&service, &weights});
    REQUIRE(started.ok());
    server = *std::move(started);
  }
  static absl::Status Make(const std::string& path, absl::Duration valid) {
    return MakeCertificates(
               {.folder = path, .names = {}, .force = false, .valid = valid, .now = RealNow()})
        .status();
  }
  absl::StatusOr<Transport> TransportOf(Role role, const std::string& path) {
    SecuritySection security;
    security.directory = path;
    return MakeTransport(security, false, role, files.get());
  }
  std::shared_ptr<grpc::Channel> Channel(const Transport& transport) const {
    auto channel = MakeChannel(server->address(), "coordinator", transport, {Role::kCoordinator});
    REQUIRE(channel.ok());
    return *channel;
  }
  absl::Status GetStatus(const std::shared_ptr<grpc::Channel>& channel) const {
    const auto stub = v1::CoordinatorService::NewStub(channel);
    v1::RunStatus status;
    return Call(kPatience, "the status", [&](grpc::ClientContext* context) {
      return stub->GetStatus(context, {}, &status);
    });
  }
  absl::Status Leave(const std::shared_ptr<grpc::Channel>& channel) const {
    const auto stub = v1::CoordinatorService::NewStub(channel);
    v1::LeaveResponse response;
    return Call(kPatience, "the leave",
                [&](grpc::ClientContext* context) { return stub->Leave(context, {}, &response); });
  }
  std::string File(const std::string& name) const { return folder.path() + "/" + name; }

  TempDir folder;
  std::unique_ptr<FileSystem> files = MakePosixFileSystem();
  Counters counters;
  OpenCoordinator service;
  EndlessWeights weights;
  std::unique_ptr<RpcServer> server;
};

TEST_CASE("a role with its certificate and token makes its calls and no others") {
  World w;
  const auto operators = w.TransportOf(Role::kOperator, w.folder.path());
  const auto rollout = w.TransportOf(Role::kRollout, w.folder.path());
  REQUIRE((operators.ok() && rollout.ok()));
  const absl::Status status = w.GetStatus(w.Channel(*operators));
  INFO(status);
  CHECK(status.ok());
  CHECK_FALSE(w.service.saw_token);  // no handler can leak it
  CHECK(w.Leave(w.Channel(*rollout)).ok());
  const absl::Status refused = w.GetStatus(w.Channel(*rollout));
  CHECK(refused.code() == absl::StatusCode::kPermissionDenied);
  CHECK(absl::StrContains(refused.message(), "the role rollout may not call"));
  CHECK(w.Leave(w.Channel(*operators)).code() == absl::StatusCode::kPermissionDenied);
  CHECK(w.counters.Of(Refusal::kWrongRole) == 2);
}

TEST_CASE("a wrong, a missing and another role's token are refused; a rotated one is taken") {
  World w;
  const std::string good = ReadText(w.File("operator.token"));
  TempDir other;
  const auto with_token = [&](const std::string& text) {
    const std::string path = other.path() + "/token";
    WriteText(path, text);
    SecuritySection security;
    security.directory = w.folder.path();
    security.token = path;
    const auto transport = MakeTransport(security, false, Role::kOperator, w.files.get());
    REQUIRE(transport.ok());
    return w.GetStatus(w.Channel(*transport));
  };
  CHECK(with_token(good).ok());
  CHECK(with_token("another-token-of-thirty-two-bytes").code() ==
        absl::StatusCode::kUnauthenticated);
  CHECK(with_token(ReadText(w.File("rollout.token"))).code() == absl::StatusCode::kUnauthenticated);
  CHECK(w.counters.Of(Refusal::kWrongToken) == 2);

  // Without any: TLS alone is not enough.
  grpc::experimental::TlsChannelCredentialsOptions tls;
  tls.set_certificate_provider(std::make_shared<grpc::experimental::FileWatcherCertificateProvider>(
      w.File("operator.key"), w.File("operator.pem"), w.File("ca.pem"), 1));
  tls.watch_root_certs();
  tls.watch_identity_key_cert_pairs();
  const auto bare =
      grpc::CreateChannel(w.server->address(), grpc::experimental::TlsCredentials(tls));
  const absl::Status missing = w.GetStatus(bare);
  CHECK(missing.code() == absl::StatusCode::kUnauthenticated);
  CHECK(w.counters.Of(Refusal::kNoToken) == 1);
  CHECK_FALSE(absl::StrContains(missing.message(), good.substr(0, 16)));

  // The next token stands in the second line where it is accepted before anyone sends it.
  const std::string next = "the-next-token-of-the-operators-1";
  WriteText(w.File("operator.token"), good + next + "\n");
  absl::Status rotated;
  const absl::Time until = RealNow() + kPatience;
  do {
    rotated = with_token(next);
  } while (!rotated.ok() && RealNow() < until);
  CHECK(rotated.ok());
}

TEST_CASE("no certificate, another authority's and an expired one end in the handshake") {
  World w;
  const auto refused = [&](const std::shared_ptr<grpc::ChannelCredentials>& credentials) {
    const auto channel = grpc::CreateChannel(w.server->address(), credentials);
    const absl::Status status = w.GetStatus(channel);
    CHECK(status.code() == absl::StatusCode::kUnavailable);
  };
  refused(grpc::InsecureChannelCredentials());
  grpc::SslCredentialsOptions ssl;
  ssl.pem_root_certs = ReadText(w.File("ca.pem"));
  refused(grpc::SslCredentials(ssl));

  TempDir other;
  REQUIRE(World::Make(other.path(), absl::Hours(1)).ok());
  ssl.pem_private_key = ReadText(other.path() + "/operator.key");
  ssl.pem_cert_chain = ReadText(other.path() + "/operator.pem");
  refused(grpc::SslCredentials(ssl));

  // The same authority, a certificate of an hour ago.
  REQUIRE(w.files->Remove(w.File("operator.pem")).ok());
  REQUIRE(MakeCertificates({.folder = w.folder.path(),
                            .names = {},
                            .force = false,
                            .valid = absl::Minutes(30),
                            .now = RealNow() - absl::Hours(1)})
              .ok());
  ssl.pem_private_key = ReadText(w.File("operator.key"));
  ssl.pem_cert_chain = ReadText(w.File("operator.pem"));
  refused(grpc::SslCredentials(ssl));
  const absl::Time until = RealNow() + kPatience;
  while (w.counters.Of(Refusal::kHandshake) < 3 && RealNow() < until) {
  }
  CHECK(w.counters.Of(Refusal::kHandshake) >= 3);
  // And a service does not start with it.
  const auto expired = w.TransportOf(Role::kOperator, w.folder.path());
  CHECK(absl::StrContains(expired.status().message(), "expired"));
}

TEST_CASE("a client speaks only with a server of the role that it expects") {
  World w;
  const auto transport = w.TransportOf(Role::kRollout, w.folder.path());
  REQUIRE(transport.ok());
  const auto channel = MakeChannel(w.server->address(), "learner", *transport, {Role::kLearner});
  REQUIRE(channel.ok());
  CHECK(w.Leave(*channel).code() == absl::StatusCode::kUnavailable);
}

TEST_CASE("certificates that are replaced are taken without a restart") {
  World w;
  TempDir fresh;
  REQUIRE(World::Make(fresh.path(), absl::Hours(1)).ok());
  // Everything of another authority, under the server's names.
  for (const char* name : {"ca.pem", "coordinator.key", "coordinator.pem", "operator.token"}) {
    REQUIRE(w.files->WriteFile(w.File(name), ReadText(fresh.path() + "/" + name)).ok());
  }
  const auto transport = w.TransportOf(Role::kOperator, fresh.path());
  REQUIRE(transport.ok());
  absl::Status status;
  const absl::Time until = RealNow() + kPatience;
  do {
    status = w.GetStatus(w.Channel(*transport));
  } while (!status.ok() && RealNow() < until);
  INFO(status);
  CHECK(status.ok());
}

constexpr size_t kMiB = 1u << 20;

// How a call of GetStatus with any bytes went.
struct RawCall {
  grpc::Status status;
  int64_t memory = 0;  // bytes that the process, server and client, had more at most
};

int64_t PeakMemory() {
  std::ifstream in("/proc/self/status");
  for (std::string line; std::getline(in, line);) {
    if (absl::StartsWith(line, "VmHWM:")) return std::stoll(line.substr(6)) * 1024;
  }
  return 0;
}

RawCall SendRaw(const std::shared_ptr<grpc::Channel>& channel, const grpc::ByteBuffer& request,
                grpc_compression_algorithm compression = GRPC_COMPRESS_NONE) {
  // Never shut down: it would wait, 10 s, for a thread that looks after large writes.
  static const bool begun = (grpc_init(), true);
  REQUIRE(begun);
  std::ofstream("/proc/self/clear_refs") << "5";  // the peak begins anew
  const int64_t before = PeakMemory();
  grpc::GenericStub stub(channel);
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(RealNow() + kPatience));
  context.set_compression_algorithm(compression);
  grpc::ByteBuffer response;
  grpc::CompletionQueue queue;
  RawCall raw;
  auto call = stub.PrepareUnaryCall(&context, "/crescendo.v1.CoordinatorService/GetStatus", request,
                                    &queue);
  call->StartCall();
  call->Finish(&response, &raw.status, &queue);
  void* tag = nullptr;
  bool ok = false;
  REQUIRE(queue.Next(&tag, &ok));
  raw.memory = PeakMemory() - before;
  return raw;
}

grpc::ByteBuffer Bytes(const std::string& bytes) {
  const grpc::Slice slice(bytes);
  return {&slice, 1};
}

// That many times the same MiB, which the client has once.
grpc::ByteBuffer ManyBytes(size_t mebibytes) {
  const std::vector<grpc::Slice> slices(mebibytes, grpc::Slice(std::string(kMiB, 'x')));
  return {slices.data(), slices.size()};
}

// A channel that sends messages of any size.
std::shared_ptr<grpc::Channel> Unbounded(const World& w,
                                         const std::shared_ptr<grpc::ChannelCredentials>& who) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxSendMessageSize(-1);
  return grpc::CreateCustomChannel(w.server->address(), who, arguments);
}

TEST_CASE("messages that are too large or no messages are refused") {
  World w;
  const auto transport = w.TransportOf(Role::kOperator, w.folder.path());
  REQUIRE(transport.ok());
  const auto channel = Unbounded(w, transport->tls->Channel({Role::kCoordinator}));
  const grpc::Status large =
      SendRaw(channel, Bytes(std::string(limits::kMessageBytesMax + 1, 'x'))).status;
  CHECK(large.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED);
  CHECK(large.error_message() == "message: expected at most 20971520 bytes, found 20971521");
  CHECK(SendRaw(channel, ManyBytes(100)).status.error_code() ==
        grpc::StatusCode::RESOURCE_EXHAUSTED);
  CHECK(w.counters.Of(Refusal::kOversized) == 2);
  // The largest that is taken is refused for what is in it.
  CHECK(
      SendRaw(channel, Bytes(std::string(limits::kMessageBytesMax, '\xff'))).status.error_code() ==
      grpc::StatusCode::INTERNAL);
  const grpc::Status malformed = SendRaw(channel, Bytes("\xff\xff\xff\xff")).status;
  INFO(malformed.error_message());
  CHECK(malformed.error_code() == grpc::StatusCode::INTERNAL);
  CHECK(w.GetStatus(channel).ok());
  CHECK(w.counters.Of(Refusal::kMalformed) == 2);
  CHECK(w.counters.Of(Refusal::kOversized) == 2);
  // Nothing is unpacked: it could become any number of bytes.
  CHECK(SendRaw(channel, ManyBytes(1), GRPC_COMPRESS_GZIP).status.error_code() ==
        grpc::StatusCode::INTERNAL);
  CHECK(w.counters.Of(Refusal::kMalformed) == 3);
}

TEST_CASE("what a stranger sends is not read, and what a peer in its role sends has a bound") {
  constexpr size_t kBound = 64 * kMiB;
  World w(kBound);
  grpc::experimental::TlsChannelCredentialsOptions tls;
  tls.set_certificate_provider(std::make_shared<grpc::experimental::FileWatcherCertificateProvider>(
      w.File("operator.key"), w.File("operator.pem"), w.File("ca.pem"), 1));
  tls.watch_root_certs();
  tls.watch_identity_key_cert_pairs();
  const grpc::ByteBuffer flood = ManyBytes(1024);
  const RawCall stranger = SendRaw(Unbounded(w, grpc::experimental::TlsCredentials(tls)), flood);
  CHECK(stranger.status.error_code() == grpc::StatusCode::UNAUTHENTICATED);
  CHECK(stranger.memory < static_cast<int64_t>(32 * kMiB));
  CHECK(w.counters.Of(Refusal::kNoToken) == 1);

  const auto rollout = w.TransportOf(Role::kRollout, w.folder.path());
  const auto operators = w.TransportOf(Role::kOperator, w.folder.path());
  REQUIRE((rollout.ok() && operators.ok()));
  const RawCall other = SendRaw(Unbounded(w, rollout->tls->Channel({Role::kCoordinator})), flood);
  CHECK(other.status.error_code() == grpc::StatusCode::PERMISSION_DENIED);
  CHECK(other.memory < static_cast<int64_t>(32 * kMiB));

  const RawCall peer = SendRaw(Unbounded(w, operators->tls->Channel({Role::kCoordinator})), flood);
  CHECK(peer.status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED);
  CHECK(peer.memory < static_cast<int64_t>(2 * kBound));
  CHECK(w.GetStatus(w.Channel(*operators)).ok());
}

TEST_CASE("a reader that takes nothing is let go") {
  World w;
  const auto transport = w.TransportOf(Role::kOperator, w.folder.path());
  REQUIRE(transport.ok());
  const auto channel = w.Channel(*transport);
  const auto stub = v1::WeightsService::NewStub(channel);
  grpc::ClientContext context;
  auto reader = stub->PullChunks(&context, {});
  const absl::Time until = RealNow() + kPatience;
  while (!w.weights.ended && RealNow() < until) {
  }
  CHECK(w.weights.ended);
  CHECK(w.counters.Of(Refusal::kSlowReader) == 1);
  CHECK(w.GetStatus(channel).ok());
  context.TryCancel();
}

TEST_CASE("connections that are too many are closed, and those that are in go on") {
  OpenCoordinator service;
  Counters counters;
  RpcServerOptions options{"127.0.0.1:0", "coordinator", false, counters.Counter()};
  options.connections_max = 8;
  const auto server = RpcServer::Start(options, {&service});
  REQUIRE(server.ok());
  const auto call = [](const std::shared_ptr<grpc::Channel>& channel) {
    const auto stub = v1::CoordinatorService::NewStub(channel);
    v1::RunStatus status;
    return Call(kPatience, "the status", [&](grpc::ClientContext* context) {
      context->set_wait_for_ready(true);
      return stub->GetStatus(context, {}, &status);
    });
  };
  const auto early = *MakeChannel((*server)->address(), "coordinator", false);
  CHECK(call(early).ok());
  {
    std::vector<OwnedSocket> idle;
    sockaddr_in to = {};
    to.sin_family = AF_INET;
    to.sin_port = htons(static_cast<uint16_t>((*server)->port()));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    for (int i = 0; i < 200; ++i) {
      idle.emplace_back(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
      REQUIRE(connect(idle.back().fd(), reinterpret_cast<sockaddr*>(&to), sizeof(to)) == 0);
    }
    const absl::Time until = RealNow() + kPatience;
    while (counters.Of(Refusal::kConnections) < 193 && RealNow() < until) {
    }
    CHECK(counters.Of(Refusal::kConnections) == 193);
    CHECK(call(early).ok());
  }
  // They are gone: there is room again.
  CHECK(call(*MakeChannel((*server)->address(), "coordinator", false)).ok());
}

TEST_CASE("a service off the loopback without certificates says what to do") {
  RunConfig config;
  config.network.learner = "0.0.0.0:7071";
  const auto files = MakePosixFileSystem();
  const auto refused = MakeTransport(config, Role::kLearner, files.get());
  CHECK(refused.status().code() == absl::StatusCode::kFailedPrecondition);
  CHECK(absl::StrContains(refused.status().message(), "crescendo certs"));
  config.network.insecure = true;
  CHECK(MakeTransport(config, Role::kLearner, files.get()).ok());
  config.network.insecure = false;
  config.security.certificate = "only-this.pem";
  CHECK(absl::StrContains(MakeTransport(config, Role::kLearner, files.get()).status().message(),
                          "[security] needs ca, certificate, key, token and tokens"));
}

TEST_CASE("the table of roles has every method of the protocol, and nothing else") {
  std::set<std::string> of_protocol;
  // Each names its file so that the linker keeps it.
  for (const auto* file :
       {v1::GetStatusRequest::descriptor()->file(), v1::SampleChunk::descriptor()->file(),
        v1::WeightManifest::descriptor()->file(), v1::GradeRequest::descriptor()->file(),
        v1::WorkerState::descriptor()->file(), v1::CheckpointRequest::descriptor()->file(),
        v1::Trace::descriptor()->file()}) {
    for (int i = 0; i < file->service_count(); ++i) {
      const auto* service = file->service(i);
      for (int j = 0; j < service->method_count(); ++j) {
        of_protocol.insert(
            absl::StrCat("/", service->full_name(), "/", service->method(j)->name()));
      }
    }
  }
  std::set<std::string> of_table;
  for (const absl::string_view method : MethodsOfTable()) {
    if (absl::StartsWith(method, "/crescendo.")) of_table.emplace(method);
  }
  CHECK(of_table == of_protocol);
}

}  // namespace
}  // namespace crescendo
