// ParseCompletionRequest.
#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/limits.h"
#include "common/base/top_token.h"
#include "common/formats/json.h"
#include "services/rollout/completion_api.h"

namespace crescendo {
namespace {

using api_limits::kSamplesMax;

// What a field holds, for messages: a number as it is, anything else by its type.
std::string Found(const Json& value) {
  if (value.is_number() || value.is_boolean()) return value.dump();
  return value.type_name();
}

// Reads the fields of one object; the first error stays.
class Reader {
 public:
  explicit Reader(const Json& object) : object_(object) {}

  const Json* Find(const char* key) const {
    const auto it = object_.find(key);
    return it == object_.end() || it->is_null() ? nullptr : &*it;
  }
  void Fail(const std::string& param, absl::string_view expected, const Json& found) {
    if (!error_)
      error_ = {400, absl::StrCat("'", param, "': expected ", expected, ", found ", Found(found)),
                param, ""};
  }
  void FailWith(const std::string& param, std::string message) {
    if (!error_) error_ = {400, std::move(message), param, ""};
  }
  bool Bool(const char* key, bool fallback) {
    const Json* value = Find(key);
    if (value == nullptr) return fallback;
    if (!value->is_boolean()) Fail(key, "true or false", *value);
    return value->is_boolean() ? value->get<bool>() : fallback;
  }
  std::optional<int64_t> Integer(const char* key, int64_t min, int64_t max) {
    const Json* value = Find(key);
    if (value == nullptr) return std::nullopt;
    const bool integer = value->is_number_integer() &&
                         !(value->is_number_unsigned() &&
                           value->get<uint64_t>() > static_cast<uint64_t>(max < 0 ? 0 : max));
    if (!integer || value->get<int64_t>() < min || value->get<int64_t>() > max) {
      Fail(key, absl::StrCat("an integer in [", min, ", ", max, "]"), *value);
      return std::nullopt;
    }
    return value->get<int64_t>();
  }
  double Number(const char* key, double fallback, double min, double max) {
    const Json* value = Find(key);
    if (value == nullptr) return fallback;
    if (!value->is_number() || !(value->get<double>() >= min && value->get<double>() <= max)) {
      Fail(key, absl::StrCat("a number in [", min, ", ", max, "]"), *value);
      return fallback;
    }
    return value->get<double>();
  }
  // A field of OpenAI's API that changes the result and is not there: fine while it says nothing.
  void Neutral(const char* key, const Json& neutral) {
    const Json* value = Find(key);
    if (value != nullptr && *value != neutral && !(value->is_structured() && value->empty())) {
      FailWith(key, absl::StrCat("'", key, "' is not supported here"));
    }
  }
  const std::optional<ApiError>& error() const { return error_; }

 private:
  const Json& object_;
  std::optional<ApiError> error_;
};

constexpr const char* kBothKeys[] = {
    "model", "stream", "stream_options", "temperature", "top_p", "top_k", "min_p", "seed", "n",
    "max_tokens", "stop", "logprobs", "presence_penalty", "frequency_penalty", "logit_bias",
    // Taken and of no effect.
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"};
constexpr const char* kChatKeys[] = {
    "messages",        "max_completion_tokens", "top_logprobs", "tools",           "tool_choice",
    "response_format", "parallel_tool_calls",   "modalities",   "reasoning_effort"};
constexpr const char* kTextKeys[] = {"prompt", "best_of", "echo", "suffix"};

void CheckKeys(const Json& object, bool chat, Reader& reader) {
  const auto known = [&](absl::string_view key) {
    for (const char* name : kBothKeys) {
      if (key == name) return true;
    }
    for (const char* name : kChatKeys) {
      if (chat && key == name) return true;
    }
    for (const char* name : kTextKeys) {
      if (!chat && key == name) return true;
    }
    return false;
  };
  for (const auto& [key, value] : object.items()) {
    if (known(key)) continue;
    const std::string shown = key.substr(0, 64);
    return reader.FailWith(shown, absl::StrCat("unknown field '", shown, "'"));
  }
}

void ReadTokens(const Json& list, Reader& reader, ApiPrompt& prompt) {
  if (list.size() > static_cast<size_t>(limits::kContextTokensMax)) {
    return reader.FailWith("prompt",
                           absl::StrCat("'prompt': ", list.size(), " tokens are more than ",
                                        limits::kContextTokensMax));
  }
  for (const Json& token : list) {
    if (!token.is_number_integer() || token.get<int64_t>() < 0 ||
        token.get<int64_t>() >= limits::kVocabularyMax) {
      return reader.Fail("prompt", "token ids", token);
    }
    prompt.tokens.push_back(token.get<int32_t>());
  }
}

// A string, strings, token ids, or lists of token ids.
void ReadPrompts(Reader& reader, CompletionRequest& request) {
  const Json* value = reader.Find("prompt");
  const auto wrong = [&](const Json& found) {
    reader.Fail("prompt", "a string, strings, token ids or lists of them, none empty", found);
  };
  if (value == nullptr) return reader.FailWith("prompt", "'prompt' is required");
  const auto add = [&](const Json& one) {
    ApiPrompt prompt;
    if (one.is_string() && !one.get_ref<const std::string&>().empty()) {
      prompt.text = one.get<std::string>();
    } else if (one.is_array() && !one.empty()) {
      ReadTokens(one, reader, prompt);
    } else {
      return wrong(one);
    }
    request.prompts.push_back(std::move(prompt));
  };
  if (!value->is_array() || value->empty() || value->front().is_number()) return add(*value);
  if (value->size() > static_cast<size_t>(kSamplesMax)) {
    return reader.FailWith("prompt", absl::StrCat("'prompt': ", value->size(),
                                                  " prompts are more than ", kSamplesMax));
  }
  for (const Json& one : *value) add(one);
}

// Text, or a list of {"type": "text", "text": ...}.
bool ReadContent(const Json& message, std::string& out) {
  const auto it = message.find("content");
  if (it == message.end()) return false;
  if (it->is_string()) {
    out = it->get<std::string>();
    return true;
  }
  if (!it->is_array()) return false;
  for (const Json& part : *it) {
    if (!part.is_object() || !part.contains("type") || part["type"] != "text" ||
        !part.contains("text") || !part["text"].is_string()) {
      return false;
    }
    out += part["text"].get<std::string>();
  }
  return true;
}

void ReadMessages(Reader& reader, CompletionRequest& request) {
  const Json* value = reader.Find("messages");
  if (value == nullptr) return reader.FailWith("messages", "'messages' is required");
  if (!value->is_array() || value->empty() ||
      value->size() > static_cast<size_t>(api_limits::kMessagesMax)) {
    return reader.Fail("messages", absl::StrCat("1 to ", api_limits::kMessagesMax, " messages"),
                       *value);
  }
  for (const Json& message : *value) {
    const std::string place = absl::StrCat("messages[", request.messages.size(), "]");
    ChatMessage out;
    if (!message.is_object()) return reader.Fail(place, "an object", message);
    const auto role = message.find("role");
    if (role == message.end() || !role->is_string()) {
      return reader.FailWith(place + ".role", "'" + place + ".role' is required");
    }
    out.role = role->get<std::string>();
    if (out.role == "developer") out.role = "system";
    if (out.role != "system" && out.role != "user" && out.role != "assistant") {
      return reader.FailWith(place + ".role",
                             "'" + place + ".role': expected system, user or assistant");
    }
    if (!ReadContent(message, out.content)) {
      return reader.FailWith(place + ".content",
                             "'" + place + ".content': expected text, or parts of type text");
    }
    request.messages.push_back(std::move(out));
  }
}

void ReadStop(Reader& reader, CompletionRequest& request) {
  const Json* value = reader.Find("stop");
  if (value == nullptr) return;
  const Json list = value->is_array() ? *value : Json::array({*value});
  if (list.size() > static_cast<size_t>(api_limits::kStopsMax)) {
    return reader.FailWith("stop", absl::StrCat("'stop': at most ", api_limits::kStopsMax,
                                                " strings, found ", list.size()));
  }
  for (const Json& one : list) {
    const bool fits = one.is_string() && !one.get_ref<const std::string&>().empty() &&
                      one.get_ref<const std::string&>().size() <= api_limits::kStopBytesMax;
    if (!fits) {
      return reader.Fail(
          "stop", absl::StrCat("strings of 1 to ", api_limits::kStopBytesMax, " bytes"), one);
    }
    request.sampling.stop.push_back(one.get<std::string>());
  }
}

void ReadSampling(Reader& reader, CompletionRequest& request) {
  SamplingParams& sampling = request.sampling;
  sampling.temperature = static_cast<float>(reader.Number("temperature", 1.0, 0.0, 100.0));
  if (sampling.temperature > 0 && sampling.temperature < 1e-3f) {
    reader.FailWith("temperature", "'temperature': expected 0 (greedy) or at least 0.001");
  }
  sampling.top_p = static_cast<float>(reader.Number("top_p", 1.0, 0.0, 1.0));
  if (!(sampling.top_p > 0)) reader.FailWith("top_p", "'top_p': expected a number above 0");
  sampling.min_p = static_cast<float>(reader.Number("min_p", 0.0, 0.0, 0.999));
  // -1 is off too: others write it so.
  sampling.top_k = static_cast<int32_t>(
      std::max<int64_t>(0, reader.Integer("top_k", -1, limits::kVocabularyMax).value_or(0)));
  const auto seed = reader.Integer("seed", std::numeric_limits<int64_t>::min(),
                                   std::numeric_limits<int64_t>::max());
  if (seed.has_value()) request.seed = static_cast<uint64_t>(*seed);
  request.n = static_cast<int>(reader.Integer("n", 1, kSamplesMax).value_or(1));
  ReadStop(reader, request);
  for (const char* key : {"max_tokens", "max_completion_tokens"}) {
    const auto limit = reader.Integer(key, 1, limits::kContextTokensMax);
    if (limit.has_value()) request.max_tokens = static_cast<int>(*limit);
  }
}

void ReadLogProbs(Reader& reader, CompletionRequest& request) {
  if (request.chat) {
    request.log_probs = reader.Bool("logprobs", false);
    const int64_t top = reader.Integer("top_logprobs", 0, kTopTokensMax).value_or(0);
    if (top > 0 && !request.log_probs) {
      return reader.FailWith("top_logprobs", "'top_logprobs' is only taken with 'logprobs': true");
    }
    request.top_log_probs = static_cast<int>(top);
    return;
  }
  const auto top = reader.Integer("logprobs", 0, kTopTokensMax);
  request.log_probs = top.has_value();
  request.top_log_probs = static_cast<int>(top.value_or(0));
}

void ReadStream(Reader& reader, CompletionRequest& request) {
  request.stream = reader.Bool("stream", false);
  const Json* options = reader.Find("stream_options");
  if (options == nullptr) return;
  if (!options->is_object()) return reader.Fail("stream_options", "an object", *options);
  const auto usage = options->find("include_usage");
  if (usage == options->end() || usage->is_null()) return;
  if (!usage->is_boolean()) {
    return reader.Fail("stream_options.include_usage", "true or false", *usage);
  }
  request.stream_usage = usage->get<bool>();
}

void ReadUnsupported(Reader& reader, bool chat) {
  for (const char* key : {"presence_penalty", "frequency_penalty"}) reader.Neutral(key, 0);
  reader.Neutral("logit_bias", Json::object());
  if (chat) {
    reader.Neutral("tools", Json::array());
    reader.Neutral("tool_choice", "none");
    reader.Neutral("response_format", Json{{"type", "text"}});
    reader.Neutral("modalities", Json::array({"text"}));
  } else {
    reader.Neutral("best_of", 1);
    reader.Neutral("echo", false);
    reader.Neutral("suffix", "");
  }
}

}  // namespace

std::variant<CompletionRequest, ApiError> ParseCompletionRequest(absl::string_view body,
                                                                 bool chat) {
  if (body.size() > api_limits::kBodyBytesMax) {
    return ApiError{413,
                    absl::StrCat("a body of ", body.size(), " bytes: at most ",
                                 api_limits::kBodyBytesMax, " are taken"),
                    "", ""};
  }
  const absl::StatusOr<Json> json = ParseJson(body, "request body");
  if (!json.ok()) return ApiError{400, std::string(json.status().message()), "", ""};
  if (!json->is_object()) {
    return ApiError{400, absl::StrCat("request body: expected an object, found ", Found(*json)), "",
                    ""};
  }
  Reader reader(*json);
  CheckKeys(*json, chat, reader);
  CompletionRequest request;
  request.chat = chat;
  if (const Json* model = reader.Find("model")) {
    if (model->is_string()) {
      request.model = model->get<std::string>();
    } else {
      reader.Fail("model", "a string", *model);
    }
  }
  chat ? ReadMessages(reader, request) : ReadPrompts(reader, request);
  ReadSampling(reader, request);
  ReadLogProbs(reader, request);
  ReadStream(reader, request);
  ReadUnsupported(reader, chat);
  const size_t prompts = chat ? 1 : request.prompts.size();
  if (prompts * static_cast<size_t>(request.n) > static_cast<size_t>(kSamplesMax)) {
    reader.FailWith("n", absl::StrCat("'n': ", prompts, " prompts x ", request.n,
                                      " samples are more than ", kSamplesMax));
  }
  if (reader.error()) return *reader.error();
  return request;
}

}  // namespace crescendo
