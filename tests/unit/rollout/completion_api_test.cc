// The endpoint's text side: what requests are taken and refused, what is given out of a stream with
// stop strings and characters in parts, what the bodies say.
#include <string>
#include <variant>
#include <vector>

#include "catch2/catch.hpp"
#include "common/formats/json.h"
#include "services/rollout/completion_api.h"
#include "services/rollout/completion_text.h"

namespace crescendo {
namespace {

CompletionRequest Taken(absl::string_view body, bool chat) {
  auto parsed = ParseCompletionRequest(body, chat);
  if (const auto* error = std::get_if<ApiError>(&parsed)) FAIL(error->message);
  return std::get<CompletionRequest>(std::move(parsed));
}

ApiError Refused(absl::string_view body, bool chat) {
  auto parsed = ParseCompletionRequest(body, chat);
  REQUIRE(std::holds_alternative<ApiError>(parsed));
  return std::get<ApiError>(std::move(parsed));
}

TEST_CASE("A request's fields arrive, with OpenAI's defaults for what is not there") {
  const CompletionRequest plain = Taken(R"({"model":"m","prompt":"Once"})", false);
  CHECK(plain.prompts.at(0).text == "Once");
  CHECK(plain.sampling.temperature == 1.0f);
  CHECK(plain.n == 1);
  CHECK_FALSE(plain.max_tokens.has_value());
  CHECK_FALSE(plain.stream);

  const CompletionRequest all = Taken(
      R"({"prompt":[[1,2],[3]],"temperature":0.5,"top_p":0.9,"top_k":40,"min_p":0.1,"seed":-7,"n":3,
          "max_tokens":9,"stop":["a","bc"],"logprobs":20,"stream":true,
          "stream_options":{"include_usage":true},"user":"x","presence_penalty":0})",
      false);
  CHECK(all.prompts.at(1).tokens == std::vector<int32_t>{3});
  CHECK(all.sampling.temperature == 0.5f);
  CHECK(all.sampling.top_p == 0.9f);
  CHECK(all.sampling.top_k == 40);
  CHECK(all.sampling.min_p == 0.1f);
  CHECK(all.sampling.stop == std::vector<std::string>{"a", "bc"});
  CHECK(all.seed == static_cast<uint64_t>(-7));
  CHECK(all.n == 3);
  CHECK(all.max_tokens == 9);
  CHECK(all.log_probs);
  CHECK(all.top_log_probs == 20);
  CHECK((all.stream && all.stream_usage));

  const CompletionRequest chat = Taken(
      R"({"messages":[{"role":"developer","content":"Be brief."},
          {"role":"user","content":[{"type":"text","text":"1+"},{"type":"text","text":"1?"}]}],
          "max_completion_tokens":5,"logprobs":true,"top_logprobs":3,"stop":"END","temperature":0})",
      true);
  REQUIRE(chat.messages.size() == 2);
  CHECK(chat.messages[0].role == "system");
  CHECK(chat.messages[1].content == "1+1?");
  CHECK(chat.max_tokens == 5);
  CHECK(chat.log_probs);
  CHECK(chat.top_log_probs == 3);
}

TEST_CASE("What cannot be served is refused with the field, what was expected and what was found") {
  struct Case {
    const char* body;
    bool chat;
    const char* param;
    const char* message;
  };
  const Case cases[] = {
      {"", false, "", "request body"},
      {"{\"prompt\":\"a\"", false, "", "request body"},
      {"[1]", false, "", "expected an object, found array"},
      {R"({"prompt":"a","prompt":"b"})", false, "", "request body"},
      {R"({})", false, "prompt", "required"},
      {R"({"prompt":""})", false, "prompt", "none empty"},
      {R"({"prompt":[1,-2]})", false, "prompt", "found -2"},
      {R"({"prompt":[1,99999999999999999999]})", false, "prompt", "token ids"},
      {R"({"prompt":{"a":1}})", false, "prompt", "found object"},
      {R"({"prompt":"a","temperature":"hot"})", false, "temperature", "found string"},
      {R"({"prompt":"a","temperature":-1})", false, "temperature", "found -1"},
      {R"({"prompt":"a","temperature":0.0001})", false, "temperature", "0.001"},
      {R"({"prompt":"a","temperature":1e999})", false, "", ""},
      {R"({"prompt":"a","top_p":0})", false, "top_p", "above 0"},
      {R"({"prompt":"a","n":0})", false, "n", "found 0"},
      {R"({"prompt":"a","n":18446744073709551615})", false, "n", "an integer in [1, 128]"},
      {R"({"prompt":["a","b"],"n":100})", false, "n", "2 prompts x 100"},
      {R"({"prompt":"a","max_tokens":0})", false, "max_tokens", "found 0"},
      {R"({"prompt":"a","max_tokens":1.5})", false, "max_tokens", "found 1.5"},
      {R"({"prompt":"a","stop":[""]})", false, "stop", "1 to 256 bytes"},
      {R"({"prompt":"a","stop":[1]})", false, "stop", "found 1"},
      {R"({"prompt":"a","logprobs":21})", false, "logprobs", "[0, 20], found 21"},
      {R"({"prompt":"a","echo":true})", false, "echo", "not supported"},
      {R"({"prompt":"a","best_of":2})", false, "best_of", "not supported"},
      {R"({"prompt":"a","tempreature":1})", false, "tempreature", "unknown field"},
      {R"({"prompt":"a","stream":1})", false, "stream", "true or false"},
      {R"({"prompt":"a","model":7})", false, "model", "a string"},
      {R"({"messages":[]})", true, "messages", "1 to 1024"},
      {R"({"messages":[1]})", true, "messages[0]", "an object"},
      {R"({"messages":[{"role":"tool","content":"x"}]})", true, "messages[0].role", "assistant"},
      {R"({"messages":[{"role":"user"}]})", true, "messages[0].content", "text"},
      {R"({"messages":[{"role":"user","content":[{"type":"image_url"}]}]})", true,
       "messages[0].content", "text"},
      {R"({"messages":[{"role":"user","content":"x"}],"tools":[{"type":"function"}]})", true,
       "tools", "not supported"},
      {R"({"messages":[{"role":"user","content":"x"}],"top_logprobs":3})", true, "top_logprobs",
       "with 'logprobs'"},
      {R"({"messages":[{"role":"user","content":"x"}],"logprobs":true,"top_logprobs":21})", true,
       "top_logprobs", "found 21"},
  };
  for (const Case& one : cases) {
    CAPTURE(one.body);
    const ApiError error = Refused(one.body, one.chat);
    CHECK(error.status == 400);
    CHECK(error.param == one.param);
    CHECK(error.message.find(one.message) != std::string::npos);
    const auto json = ParseJson(ErrorJson(error), "error");
    REQUIRE(json.ok());
    CHECK((*json)["error"]["type"] == "invalid_request_error");
  }
  CHECK(Refused(std::string(api_limits::kBodyBytesMax + 1, ' '), false).status == 413);
}

TEST_CASE("Nothing of a stop string is given out, however the text is cut") {
  const std::string text = "ab stoxp sto stop after";
  for (size_t step = 1; step <= text.size(); ++step) {
    StopFilter filter({"stop", "xyz"});
    std::string out;
    for (size_t i = 0; i < text.size(); i += step) {
      out += filter.Push(absl::string_view(text).substr(i, step));
      CHECK(out.size() <= 13);
    }
    out += filter.Finish();
    CHECK(filter.stopped());
    CHECK(out == "ab stoxp sto ");
  }
  StopFilter never({"stop"});
  CHECK(never.Push("a sto") == "a ");
  CHECK(never.Finish() == "sto");
  CHECK_FALSE(never.stopped());
  // The string that ends first wins, and of two that end together the longer one.
  StopFilter two({"bcd", "c"});
  CHECK(two.Push("abcd") == "ab");
  StopFilter nested({"lo", "hello"});
  CHECK(nested.Push("hello") == "");
  StopFilter overlapping({"aab"});
  CHECK(overlapping.Push("aaa") == "a");
  CHECK(overlapping.Push("ab") == "a");
}

TokenizerSpec ByteTokens() {
  TokenizerSpec spec;
  spec.source = "test";
  // "é" is two bytes, C3 A9: GPT-2 writes them as these characters.
  spec.vocabulary = {{"a", 0}, {"b", 1}, {"Ã", 2}, {"©", 3}, {"END", 4}};
  AddedToken eos;
  eos.content = "<eos>";
  eos.id = 5;
  eos.special = true;
  spec.added_tokens = {eos};
  return spec;
}

TEST_CASE("A completion's text never holds half a character, nor control tokens") {
  auto tokenizer = Tokenizer::Make(ByteTokens());
  REQUIRE(tokenizer.ok());
  CompletionText text(tokenizer->get(), {"END"});
  CHECK(text.Push(0) == "a");
  CHECK(text.Push(2) == "");
  CHECK(text.decoded() == 1);
  CHECK(text.Push(3) == "é");
  CHECK(text.Push(5) == "");
  CHECK(text.Push(4) == "");
  CHECK(text.stopped());
  CHECK(text.Push(1) == "");
  CHECK(text.given() == 3);

  CompletionText cut(tokenizer->get(), {});
  CHECK(cut.Push(2) == "");
  CHECK(cut.Finish() == "\xEF\xBF\xBD");

  auto watch = WatchStopsWith(tokenizer->get())({"bEND"});
  CHECK_FALSE(watch->Push(1));
  CHECK(watch->Push(4));
  CHECK(watch->Push(0));
}

TEST_CASE("Bodies are valid JSON whatever bytes a token has") {
  ApiAnswer answer;
  answer.chat = true;
  answer.log_probs = true;
  answer.id = "chatcmpl-1";
  answer.model = "m\"\xff";
  ApiChoice choice;
  choice.text = "é\xc3";
  choice.finish = FinishReason::kTruncated;
  choice.tokens = {{"\xc3", -0.5f, 0}};
  for (const bool chat : {true, false}) {
    answer.chat = chat;
    const auto whole = ParseJson(AnswerJson(answer, {choice}, {3, 4}), "answer");
    REQUIRE(whole.ok());
    CHECK((*whole)["usage"]["total_tokens"] == 7);
    CHECK((*whole)["choices"][0]["finish_reason"] == "length");
    std::string event = ChunkEvent(answer, choice, true);
    REQUIRE(event.substr(0, 6) == "data: ");
    REQUIRE(event.substr(event.size() - 2) == "\n\n");
    CHECK(ParseJson(event.substr(6, event.size() - 8), "event").ok());
  }
}

}  // namespace
}  // namespace crescendo
