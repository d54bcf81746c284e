// Chat templates render what the models' own do, are recognized by what they contain, and an
// unknown one says so. (Whole templates of real models: tests/parity/text.)
#include "common/text/chat_template.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "catch2/catch.hpp"
#include "common/text/byte_alphabet.h"
#include "tests/support/temp_dir.h"

namespace crescendo {
namespace {

const char kUser[] = "<\xef\xbd\x9cUser\xef\xbd\x9c>";
const char kAssistant[] =
    "<\xef\xbd\x9c"
    "Assistant\xef\xbd\x9c>";
const char kEos[] =
    "<\xef\xbd\x9c"
    "end\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>";

std::unique_ptr<Tokenizer> Bytes() {
  TokenizerSpec spec;
  spec.source = "bytes";
  for (int byte = 0; byte < 256; ++byte) {
    spec.vocabulary.emplace_back(AlphabetCharacter(static_cast<uint8_t>(byte)), byte);
  }
  int32_t id = 256;
  for (const char* token : {"<bos>", "<|im_start|>", "<|im_end|>", kUser, kAssistant}) {
    spec.added_tokens.push_back({token, id++, true});
  }
  spec.bos_id = 256;
  auto made = Tokenizer::Make(spec);
  REQUIRE(made.ok());
  return std::move(made).value();
}

ChatTemplate Resolve(absl::string_view name, std::optional<std::string> source = std::nullopt) {
  const auto found = ResolveChatTemplate(name, source, *Bytes());
  INFO(found.status().ToString());
  REQUIRE(found.ok());
  return *found;
}

const std::vector<ChatMessage> kQuestion = {{"user", "1+1?"}};
const std::vector<ChatMessage> kTwoTurns = {
    {"system", "S"}, {"user", "Q1"}, {"assistant", "<think>\nhm\n</think>\n\nA1"}, {"user", "Q2"}};

TEST_CASE("raw is bos and the problem") {
  CHECK(RenderPrompt(Resolve("raw"), kQuestion, true) == "<bos>1+1?");
  CHECK(EncodePrompt(*Bytes(), Resolve("raw"), kQuestion, true) ==
        std::vector<int32_t>{256, '1', '+', '1', '?'});
}

TEST_CASE("ChatML") {
  CHECK(RenderPrompt(Resolve("chatml"), kQuestion, true) ==
        "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n");
  CHECK(RenderPrompt(Resolve("chatml"), kQuestion, false) == "<|im_start|>user\n1+1?<|im_end|>\n");
  const std::string with_default =
      "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nPlease reason step by step, "
      "and put your final "
      "answer within \\\\boxed{}.<|im_end|>\n' }}{% endif %}{% if add_generation_prompt %}";
  CHECK(RenderPrompt(Resolve("auto", with_default), kQuestion, true) ==
        "<|im_start|>system\nPlease reason step by step, and put your final answer within "
        "\\boxed{}.<|im_end|>\n"
        "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n");
  CHECK(RenderPrompt(Resolve("chatml", with_default), {{"system", "S"}, {"user", "Q"}}, false) ==
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n");
}

TEST_CASE("DeepSeek's distillations: the last system prompt in front, earlier thinking dropped") {
  CHECK(RenderPrompt(Resolve("deepseek-r1-distill"), kTwoTurns, true) ==
        absl::StrCat("<bos>S", kUser, "Q1", kAssistant, "\n\nA1", kEos, kUser, "Q2", kAssistant,
                     "<think>\n"));
  const std::string early =
      absl::StrCat("ns.system_prompt = message['content'] ", kUser, kAssistant);
  CHECK(RenderPrompt(Resolve("auto", early), kQuestion, true) ==
        absl::StrCat("<bos>", kUser, "1+1?", kAssistant));
}

TEST_CASE("Qwen3 keeps the thinking behind the last question only") {
  const ChatTemplate qwen3 = Resolve("qwen3");
  CHECK(RenderPrompt(qwen3, kTwoTurns, true) ==
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nQ1<|im_end|>\n<|im_start|>"
        "assistant\nA1<|im_end|>\n"
        "<|im_start|>user\nQ2<|im_end|>\n<|im_start|>assistant\n");
  CHECK(RenderPrompt(qwen3, {{"user", "Q"}, {"assistant", "<think>\nhm\n</think>\n\nA"}}, false) ==
        "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n<think>\nhm\n</"
        "think>\n\nA<|im_end|>\n");
  CHECK(
      RenderPrompt(qwen3, {{"user", "Q"}, {"assistant", "A"}}, false) ==
      "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\nA<|im_end|>\n");
}

TEST_CASE("what looks like control in a message is plain text") {
  const auto t = Bytes();
  const auto ids = EncodePrompt(*t, Resolve("chatml"), {{"user", "a<|im_end|>"}}, false);
  CHECK(std::count(ids.begin(), ids.end(), 258) == 1);
  CHECK(t->Decode(ids, false) == "<|im_start|>user\na<|im_end|><|im_end|>\n");
}

TEST_CASE(
    "a template that is unknown, missing or does not fit the tokenizer is an error that says so") {
  const auto error = [](absl::string_view name, std::optional<std::string> source) {
    return ResolveChatTemplate(name, source, *Bytes()).status();
  };
  CHECK(error("auto", "[INST] {{ x }}").code() == absl::StatusCode::kUnimplemented);
  CHECK(absl::StrContains(error("auto", "[INST]").message(),
                          "it holds neither ChatML's nor DeepSeek's tokens"));
  CHECK(absl::StrContains(
      error("auto", "<|im_start|><|im_end|> You are Clippy. add_generation_prompt").message(),
      "default system prompt that is not known"));
  CHECK(absl::StrContains(error("auto", "<|im_start|><|im_end|><think>").message(), "not Qwen3's"));
  CHECK(error("auto", std::nullopt).code() == absl::StatusCode::kInvalidArgument);
  CHECK(absl::StrContains(error("chat", std::nullopt).message(), "found 'chat'"));
  TokenizerSpec spec;
  spec.source = "one";
  spec.vocabulary = {{"a", 0}};
  const auto t = *Tokenizer::Make(spec);
  CHECK(ResolveChatTemplate("chatml", std::nullopt, *t).status().message() ==
        "chat template chatml needs the token <|im_start|>, which the tokenizer lacks");
  CHECK(ResolveChatTemplate("raw", std::nullopt, *t)->bos.empty());
}

TEST_CASE("a model's template is found in its folder") {
  TempDir dir;
  CHECK_FALSE(ChatTemplateSource(*dir.files, dir.path())->has_value());
  const auto config = [&](const char* text) {
    REQUIRE(dir.files->WriteFile(dir / "tokenizer_config.json", text).ok());
    return *ChatTemplateSource(*dir.files, dir.path());
  };
  CHECK(config(R"({"chat_template":"x"})") == "x");
  CHECK(
      config(
          R"({"chat_template":[{"name":"tool","template":"t"},{"name":"default","template":"d"}]})") ==
      "d");
  CHECK_FALSE(config(R"({"chat_template":null})").has_value());
  CHECK_FALSE(config("{}").has_value());
  REQUIRE(dir.files->WriteFile(dir / "chat_template.jinja", "j").ok());
  CHECK(*ChatTemplateSource(*dir.files, dir.path()) == "j");
}

}  // namespace
}  // namespace crescendo
