// The bodies of answers.
#include "services/rollout/completion_api.h"

#include "absl/strings/str_cat.h"
#include "common/formats/json.h"
#include "common/text/utf8.h"

namespace crescendo {
namespace {

// Everything in it is UTF-8; a byte that is not becomes U+FFFD rather than an exception.
std::string Dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}
std::string Event(const Json& json) { return absl::StrCat("data: ", Dump(json), "\n\n"); }

const char* ErrorType(int status) {
  if (status == 404) return "not_found_error";
  if (status == 429) return "rate_limit_error";
  return status >= 500 ? "server_error" : "invalid_request_error";
}

Json ErrorObject(const ApiError& error) {
  const auto text = [](const std::string& value) { return value.empty() ? Json() : Json(value); };
  return {{"error",
           {{"message", error.message},
            {"type", ErrorType(error.status)},
            {"param", text(error.param)},
            {"code", text(error.code)}}}};
}

Json FinishName(FinishReason finish) {
  if (finish == FinishReason::kUnspecified) return Json();
  return finish == FinishReason::kStop ? "stop" : "length";
}

std::string TokenText(const std::string& bytes) {
  std::string text;
  AppendUtf8Lossy(bytes, /*final=*/true, &text);
  return text;
}

// As chat completions name a token.
Json TokenObject(const std::string& token, float log_prob) {
  Json bytes = Json::array();
  for (const char byte : token) bytes.push_back(static_cast<uint8_t>(byte));
  return {{"token", TokenText(token)}, {"logprob", log_prob}, {"bytes", std::move(bytes)}};
}

// As completions do: by its text, the drawn token among them. Of tokens with the same text (parts
// of characters) the most probable counts.
Json TopByText(const ApiToken& token) {
  Json top = Json::object();
  for (const ApiTopToken& one : token.top) top.emplace(TokenText(one.bytes), one.log_prob);
  top.emplace(TokenText(token.bytes), token.log_prob);
  return top;
}

Json LogProbs(const ApiAnswer& answer, const std::vector<ApiToken>& tokens) {
  if (!answer.log_probs) return Json();
  if (answer.chat) {
    Json content = Json::array();
    for (const ApiToken& token : tokens) {
      Json top = Json::array();
      for (const ApiTopToken& one : token.top) top.push_back(TokenObject(one.bytes, one.log_prob));
      Json object = TokenObject(token.bytes, token.log_prob);
      object["top_logprobs"] = std::move(top);
      content.push_back(std::move(object));
    }
    return {{"content", std::move(content)}, {"refusal", Json()}};
  }
  Json texts = Json::array();
  Json values = Json::array();
  Json offsets = Json::array();
  Json tops = answer.top_log_probs > 0 ? Json::array() : Json();
  for (const ApiToken& token : tokens) {
    texts.push_back(TokenText(token.bytes));
    if (tops.is_array()) tops.push_back(TopByText(token));
    values.push_back(token.log_prob);
    offsets.push_back(token.offset);
  }
  return {{"tokens", std::move(texts)},
          {"token_logprobs", std::move(values)},
          {"top_logprobs", std::move(tops)},
          {"text_offset", std::move(offsets)}};
}

Json Head(const ApiAnswer& answer, bool chunk) {
  const char* object = !answer.chat ? "text_completion"
                       : chunk      ? "chat.completion.chunk"
                                    : "chat.completion";
  return {{"id", answer.id},
          {"object", object},
          {"created", answer.created_s},
          {"model", answer.model},
          {"system_fingerprint", answer.fingerprint}};
}

Json UsageObject(const ApiUsage& usage) {
  return {{"prompt_tokens", usage.prompt_tokens},
          {"completion_tokens", usage.completion_tokens},
          {"total_tokens", usage.prompt_tokens + usage.completion_tokens}};
}

Json Model(absl::string_view id, int64_t created_s) {
  return {{"id", std::string(id)},
          {"object", "model"},
          {"created", created_s},
          {"owned_by", "crescendo"}};
}

}  // namespace

std::string ErrorJson(const ApiError& error) { return Dump(ErrorObject(error)); }
std::string ErrorEvent(const ApiError& error) { return Event(ErrorObject(error)); }

std::string AnswerJson(const ApiAnswer& answer, absl::Span<const ApiChoice> choices,
                       const ApiUsage& usage) {
  Json json = Head(answer, /*chunk=*/false);
  json["choices"] = Json::array();
  for (const ApiChoice& choice : choices) {
    Json out = {{"index", choice.index},
                {"finish_reason", FinishName(choice.finish)},
                {"logprobs", LogProbs(answer, choice.tokens)}};
    if (answer.chat) {
      out["message"] = {{"role", "assistant"}, {"content", choice.text}, {"refusal", Json()}};
    } else {
      out["text"] = choice.text;
    }
    json["choices"].push_back(std::move(out));
  }
  json["usage"] = UsageObject(usage);
  return Dump(json);
}

std::string ChunkEvent(const ApiAnswer& answer, const ApiChoice& part, bool opens) {
  Json json = Head(answer, /*chunk=*/true);
  Json choice = {{"index", part.index},
                 {"finish_reason", FinishName(part.finish)},
                 {"logprobs", part.tokens.empty() ? Json() : LogProbs(answer, part.tokens)}};
  if (answer.chat) {
    Json delta = Json::object();
    if (opens) delta["role"] = "assistant";
    if (opens || !part.text.empty()) delta["content"] = part.text;
    choice["delta"] = std::move(delta);
  } else {
    choice["text"] = part.text;
  }
  json["choices"] = Json::array({std::move(choice)});
  return Event(json);
}

std::string UsageEvent(const ApiAnswer& answer, const ApiUsage& usage) {
  Json json = Head(answer, /*chunk=*/true);
  json["choices"] = Json::array();
  json["usage"] = UsageObject(usage);
  return Event(json);
}

std::string ModelJson(absl::string_view id, int64_t created_s) {
  return Dump(Model(id, created_s));
}
std::string ModelListJson(absl::string_view id, int64_t created_s) {
  return Dump({{"object", "list"}, {"data", Json::array({Model(id, created_s)})}});
}

}  // namespace crescendo
