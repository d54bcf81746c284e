// The OpenAI-compatible HTTP endpoint of a worker: /v1/completions, /v1/chat/completions (both with
// streaming), /v1/models, /health.
//
// A request holds a thread of the server while it is answered. Bounds: size of a body
// (api_limits), requests at once, connections that wait, samples in the engine, time. A client that
// goes away while it is streamed to ends its samples.
//
// Thread rule: OnToken on the core's thread, before Stop returns or after; the rest from one
// thread.
#ifndef CRESCENDO_SERVICES_ROLLOUT_COMPLETION_FRONT_H_
#define CRESCENDO_SERVICES_ROLLOUT_COMPLETION_FRONT_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <variant>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/rpc/http_server.h"
#include "services/rollout/completion_api.h"
#include "services/rollout/prompt_codec.h"
#include "services/rollout/served_request.h"
#include "services/rollout/worker_context.h"

namespace httplib {
struct Request;
struct Response;
}  // namespace httplib

namespace crescendo {

struct CompletionFrontOptions {
  std::string address;                         // host:port, port 0: any free one
  bool insecure = false;                       // off the loopback
  std::string model;                           // the name that clients ask for
  int tokens_max = 0;                          // prompt and completion that fit the KV pool
  int samples_max = 1024;                      // in the engine at once, over all requests
  uint64_t seed = 1;                           // of requests that bring none
  absl::Duration timeout = absl::Minutes(10);  // of a request
};

class CompletionFront {
 public:
  // `post` reaches the core for as long as the front lives. Errors as of HttpServer::Start.
  static absl::StatusOr<std::unique_ptr<CompletionFront>> Start(
      const CompletionFrontOptions& options, const PromptCodec* codec, Clock* clock,
      PostEvent post);
  ~CompletionFront();

  // A token of the core's, or the core's answer to Serve.
  void OnToken(const ServedToken& token);
  const std::string& address() const { return server_->address(); }
  // Requests under way get an error; no more are taken.
  void Stop();

 private:
  class Mailbox;  // tokens on their way from the core's thread to a request's
  class Answer;   // a request under way

  CompletionFront(const CompletionFrontOptions& options, const PromptCodec* codec, Clock* clock,
                  PostEvent post);
  void Handle(const httplib::Request& http, httplib::Response& response, bool chat);
  // Encodes the prompts and puts them into the engine; the answer, or what it refuses.
  std::variant<std::shared_ptr<Answer>, ApiError> Begin(CompletionRequest request);
  void RespondWhole(Answer& answer, httplib::Response& response);
  void RespondInParts(std::shared_ptr<Answer> answer, httplib::Response& response);
  bool Reserve(int samples);
  void Release(int samples);
  void Register(uint64_t request, std::shared_ptr<Mailbox> box);
  void Forget(uint64_t request);

  const CompletionFrontOptions options_;
  const PromptCodec* const codec_;
  Clock* const clock_;
  const PostEvent post_;
  std::atomic<bool> stopping_{false};
  std::atomic<uint64_t> next_id_{1};
  absl::Mutex mutex_;
  int samples_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::flat_hash_map<uint64_t, std::shared_ptr<Mailbox>> boxes_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<HttpServer> server_;
};

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_ROLLOUT_COMPLETION_FRONT_H_
