// The OpenAI-compatible API as text: a request's body into a checked request, results into bodies.
// Pure functions; no socket, no clock. What they refuse is an ApiError: an HTTP status and the JSON
// that OpenAI's clients understand, naming the field, what was expected and what was found.
#ifndef CRESCENDO_SERVICES_ROLLOUT_COMPLETION_API_H_
#define CRESCENDO_SERVICES_ROLLOUT_COMPLETION_API_H_

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/base/domain.h"
#include "common/text/chat_template.h"

namespace crescendo {

namespace api_limits {
inline constexpr size_t kBodyBytesMax = 2u << 20;
inline constexpr int kSamplesMax = 128;  // prompts x n of one request
inline constexpr int kMessagesMax = 1024;
inline constexpr int kStopsMax = 16;
inline constexpr size_t kStopBytesMax = 256;
}  // namespace api_limits

struct ApiError {
  int status = 400;
  std::string message;
  std::string param;  // the field; empty: none
  std::string code;   // "model_not_found"; empty: none
};
// {"error": {"message", "type", "param", "code"}}; the type follows from the status.
std::string ErrorJson(const ApiError& error);

struct ApiPrompt {
  std::string text;
  std::vector<int32_t> tokens;  // instead of the text, when not empty
};

struct CompletionRequest {
  bool chat = false;
  std::string model;                  // empty: whatever is served
  std::vector<ApiPrompt> prompts;     // not chat: at least one
  std::vector<ChatMessage> messages;  // chat: at least one
  SamplingParams sampling;
  std::optional<uint64_t> seed;
  int n = 1;
  std::optional<int> max_tokens;
  bool stream = false;
  bool stream_usage = false;
  bool log_probs = false;
  int top_log_probs = 0;  // with log_probs: of the most probable tokens at each position
};

// The body of POST /v1/completions, or of /v1/chat/completions with `chat`. Any bytes are taken: an
// error has status 400 (413 for a body above kBodyBytesMax).
std::variant<CompletionRequest, ApiError> ParseCompletionRequest(absl::string_view body, bool chat);

struct ApiTopToken {
  std::string bytes;  // of its text
  float log_prob = 0;
};

// One token of a choice as the client sees it.
struct ApiToken {
  std::string bytes;  // of its text
  float log_prob = 0;
  size_t offset = 0;  // bytes of the choice's text in front of it
  std::vector<ApiTopToken> top = {};
};

// A choice, or what is new of it (streaming).
struct ApiChoice {
  int index = 0;
  std::string text;
  FinishReason finish = FinishReason::kUnspecified;
  std::vector<ApiToken> tokens;  // with log_probs
};

struct ApiUsage {
  int64_t prompt_tokens = 0;
  int64_t completion_tokens = 0;
};

// What all bodies of one answer share.
struct ApiAnswer {
  bool chat = false;
  bool log_probs = false;
  int top_log_probs = 0;
  std::string id;
  int64_t created_s = 0;  // Unix time
  std::string model;
  std::string fingerprint;  // the policy's version
};

std::string AnswerJson(const ApiAnswer& answer, absl::Span<const ApiChoice> choices,
                       const ApiUsage& usage);
// One event of a stream, as it goes over the wire ("data: {...}\n\n"). `opens`: a chat choice's
// first.
std::string ChunkEvent(const ApiAnswer& answer, const ApiChoice& part, bool opens);
std::string UsageEvent(const ApiAnswer& answer, const ApiUsage& usage);
std::string ErrorEvent(const ApiError& error);
inline constexpr absl::string_view kDoneEvent = "data: [DONE]\n\n";

// GET /v1/models and /v1/models/ID.
std::string ModelJson(absl::string_view id, int64_t created_s);
std::string ModelListJson(absl::string_view id, int64_t created_s);

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_ROLLOUT_COMPLETION_API_H_
