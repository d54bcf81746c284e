// Any bytes as a request to the HTTP endpoint (the first byte says which): a request within its
// bounds whose answer is valid JSON, or an error with a status, whose body is valid JSON too. What
// is left of a body's text goes through the stop strings in pieces.
#include <string>
#include <variant>

#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/formats/json.h"
#include "services/rollout/completion_api.h"
#include "services/rollout/completion_text.h"

namespace {

using namespace crescendo;

void CheckRequest(const CompletionRequest& request) {
  const SamplingParams& s = request.sampling;
  CRESCENDO_CHECK(s.temperature == 0 || (s.temperature >= 1e-3f && s.temperature <= 100.0f));
  CRESCENDO_CHECK(s.top_p > 0 && s.top_p <= 1 && s.min_p >= 0 && s.min_p < 1 && s.top_k >= 0);
  const size_t prompts = request.chat ? 1 : request.prompts.size();
  CRESCENDO_CHECK(request.n >= 1 && prompts >= 1 &&
                  prompts * static_cast<size_t>(request.n) <= api_limits::kSamplesMax);
  CRESCENDO_CHECK(!request.chat || !request.messages.empty());
  for (const ApiPrompt& prompt : request.prompts) {
    CRESCENDO_CHECK(prompt.text.empty() != prompt.tokens.empty());
  }
  CRESCENDO_CHECK(request.max_tokens.value_or(1) >= 1);
  CRESCENDO_CHECK(s.stop.size() <= api_limits::kStopsMax);
}

// The filter's promise, whatever the pieces.
void CheckStops(absl::string_view text, const std::vector<std::string>& stop, size_t step) {
  StopFilter filter(stop);
  std::string out;
  for (size_t i = 0; i < text.size(); i += step) out += filter.Push(text.substr(i, step));
  out += filter.Finish();
  CRESCENDO_CHECK(out == text.substr(0, out.size()));
  CRESCENDO_CHECK(filter.stopped() || out == text);
  for (const std::string& one : stop) CRESCENDO_CHECK(out.find(one) == out.npos);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const absl::string_view body(reinterpret_cast<const char*>(data) + 1, size - 1);
  const auto parsed = ParseCompletionRequest(body, data[0] % 2 == 1);
  if (const auto* error = std::get_if<ApiError>(&parsed)) {
    CRESCENDO_CHECK(error->status == 400 && !error->message.empty());
    CRESCENDO_CHECK(ParseJson(ErrorJson(*error), "error").ok());
    return 0;
  }
  const auto& request = std::get<CompletionRequest>(parsed);
  CheckRequest(request);
  if (!request.sampling.stop.empty()) {
    for (const size_t step : {size_t{1}, size_t{3}}) CheckStops(body, request.sampling.stop, step);
  }
  ApiAnswer answer;
  answer.chat = request.chat;
  answer.log_probs = request.log_probs;
  answer.model = request.model;
  ApiChoice choice;
  choice.text = std::string(body);
  choice.tokens = {{std::string(body.substr(0, 16)), -1.0f, 0}};
  CRESCENDO_CHECK(ParseJson(AnswerJson(answer, {&choice, 1}, {1, 1}), "answer").ok());
  return 0;
}
