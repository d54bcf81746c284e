#include "common/text/chat_template.h"

#include <array>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "common/base/status_macros.h"
#include "common/formats/json.h"

namespace crescendo {
namespace {

constexpr size_t kConfigFileBytesMax = 16u << 20;
constexpr absl::string_view kStart = "<|im_start|>";
constexpr absl::string_view kEnd = "<|im_end|>";
constexpr absl::string_view kThinkEnd = "</think>";
constexpr absl::string_view kDeepseekUser = "<\xef\xbd\x9cUser\xef\xbd\x9c>";
constexpr absl::string_view kDeepseekAssistant =
    "<\xef\xbd\x9c"
    "Assistant\xef\xbd\x9c>";
constexpr absl::string_view kDeepseekEnd =
    "<\xef\xbd\x9c"
    "end\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>";

// The system prompts that known ChatML templates put first themselves, as Jinja writes them.
constexpr std::array<absl::string_view, 4> kDefaultSystems = {
    "You are a helpful assistant.",                                               // Qwen1.5, Qwen2
    "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",       // Qwen2.5
    "Please reason step by step, and put your final answer within \\\\boxed{}.",  // Qwen2.5-Math
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face",       // SmolLM2
};

struct Rendered {
  std::string text;
  std::vector<ByteRange> literals;  // where messages' contents lie

  template <typename... Parts>
  void Template(const Parts&... parts) {
    absl::StrAppend(&text, parts...);
  }
  void Content(absl::string_view content) {
    if (content.empty()) return;
    literals.emplace_back(text.size(), text.size() + content.size());
    absl::StrAppend(&text, content);
  }
};

void RenderRaw(const ChatTemplate& t, absl::Span<const ChatMessage> messages, Rendered* out) {
  out->Template(t.bos);
  for (const ChatMessage& message : messages) out->Content(message.content);
}

void ChatmlMessage(absl::string_view role, absl::string_view content, Rendered* out) {
  out->Template(kStart, role, "\n");
  out->Content(content);
  out->Template(kEnd, "\n");
}

// Qwen2's first template: the system prompt once, and an answer opened behind every user message.
void RenderAnswerFollowsUser(const ChatTemplate& t, absl::Span<const ChatMessage> messages,
                             Rendered* out) {
  if (!messages.empty() && messages[0].role == "system") {
    ChatmlMessage("system", messages[0].content, out);
  } else if (t.default_system) {
    ChatmlMessage("system", *t.default_system, out);
  }
  for (const ChatMessage& message : messages) {
    if (message.role == "user") {
      ChatmlMessage("user", message.content, out);
      out->Template(kStart, "assistant\n");
    } else if (message.role == "assistant") {
      out->Content(message.content);
      out->Template(kEnd, "\n");
    }
  }
}

void RenderChatml(const ChatTemplate& t, absl::Span<const ChatMessage> messages,
                  bool add_generation_prompt, Rendered* out) {
  if (t.default_system && (messages.empty() || messages[0].role != "system")) {
    ChatmlMessage("system", *t.default_system, out);
  }
  for (const ChatMessage& message : messages) ChatmlMessage(message.role, message.content, out);
  if (add_generation_prompt) out->Template(kStart, "assistant\n");
}

// What stands behind the last "</think>"; all of it when there is none.
absl::string_view AfterThinking(absl::string_view content) {
  const size_t end = content.rfind(kThinkEnd);
  return end == absl::string_view::npos ? content : content.substr(end + kThinkEnd.size());
}

void RenderDeepseek(const ChatTemplate& t, absl::Span<const ChatMessage> messages,
                    bool add_generation_prompt, Rendered* out) {
  out->Template(t.bos);
  absl::string_view system;
  for (const ChatMessage& message : messages) {
    if (message.role == "system") system = message.content;
  }
  out->Content(system);
  for (const ChatMessage& message : messages) {
    if (message.role == "user") {
      out->Template(kDeepseekUser);
      out->Content(message.content);
    } else if (message.role == "assistant") {
      out->Template(kDeepseekAssistant);
      out->Content(t.drops_thinking ? AfterThinking(message.content) : message.content);
      out->Template(kDeepseekEnd);
    }
  }
  if (add_generation_prompt) out->Template(kDeepseekAssistant, t.opens_thinking ? "<think>\n" : "");
}

absl::string_view StripNewlines(absl::string_view text, bool front, bool back) {
  while (front && !text.empty() && text.front() == '\n') text.remove_prefix(1);
  while (back && !text.empty() && text.back() == '\n') text.remove_suffix(1);
  return text;
}

// An answer behind the last question keeps its thinking; an earlier one loses it.
void RenderQwen3Answer(const ChatMessage& message, bool behind_last_question, bool last,
                       Rendered* out) {
  absl::string_view content = message.content;
  absl::string_view thinking;
  if (absl::StrContains(content, kThinkEnd)) {
    thinking = StripNewlines(content.substr(0, content.find(kThinkEnd)), false, true);
    const size_t begin = thinking.rfind("<think>");
    if (begin != absl::string_view::npos) thinking.remove_prefix(begin + 7);
    thinking = StripNewlines(thinking, true, false);
    content = StripNewlines(AfterThinking(content), true, false);
  }
  out->Template(kStart, message.role, "\n");
  if (behind_last_question && (last || !thinking.empty())) {
    out->Template("<think>\n");
    out->Content(StripNewlines(thinking, true, true));
    out->Template("\n</think>\n\n");
    content = StripNewlines(content, true, false);
  }
  out->Content(content);
  out->Template(kEnd, "\n");
}

void RenderQwen3(absl::Span<const ChatMessage> messages, bool add_generation_prompt,
                 Rendered* out) {
  size_t last_question = messages.empty() ? 0 : messages.size() - 1;
  for (size_t i = messages.size(); i-- > 0;) {
    const ChatMessage& message = messages[i];
    if (message.role == "user" && !(absl::StartsWith(message.content, "<tool_response>") &&
                                    absl::EndsWith(message.content, "</tool_response>"))) {
      last_question = i;
      break;
    }
  }
  for (size_t i = 0; i < messages.size(); ++i) {
    if (messages[i].role == "user" || messages[i].role == "system") {
      ChatmlMessage(messages[i].role, messages[i].content, out);
    } else if (messages[i].role == "assistant") {
      RenderQwen3Answer(messages[i], i > last_question, i + 1 == messages.size(), out);
    }
  }
  if (add_generation_prompt) out->Template(kStart, "assistant\n");
}

Rendered Render(const ChatTemplate& t, absl::Span<const ChatMessage> messages,
                bool add_generation_prompt) {
  Rendered out;
  switch (t.kind) {
    case ChatTemplate::Kind::kRaw:
      RenderRaw(t, messages, &out);
      break;
    case ChatTemplate::Kind::kChatml:
      if (t.answer_follows_user) {
        RenderAnswerFollowsUser(t, messages, &out);
      } else {
        RenderChatml(t, messages, add_generation_prompt, &out);
      }
      break;
    case ChatTemplate::Kind::kDeepseekR1Distill:
      RenderDeepseek(t, messages, add_generation_prompt, &out);
      break;
    case ChatTemplate::Kind::kQwen3:
      RenderQwen3(messages, add_generation_prompt, &out);
      break;
  }
  return out;
}

absl::Status Unknown(absl::string_view why) {
  return absl::UnimplementedError(
      absl::StrCat("the model's chat template is not one of the known ones (chatml, "
                   "deepseek-r1-distill, qwen3): ",
                   why, ". Name the one to use in the configuration instead of 'auto'"));
}

// Whether a ChatML template seems to write a system prompt of its own: words behind the system's
// header, or a sentence as such prompts begin.
bool HoldsSystemPrompt(absl::string_view source) {
  if (absl::StrContains(absl::AsciiStrToLower(source), "you are")) return true;
  const std::string header = absl::StrCat(kStart, "system");
  for (size_t at = source.find(header); at != absl::string_view::npos;
       at = source.find(header, at + 1)) {
    absl::string_view rest = source.substr(at + header.size());
    if (absl::ConsumePrefix(&rest, "\n") || absl::ConsumePrefix(&rest, "\\n")) {
      if (!rest.empty() && rest[0] != '\'' && rest[0] != '"') return true;
    }
  }
  return false;
}

absl::StatusOr<ChatTemplate> DetectChatml(absl::string_view source) {
  ChatTemplate out;
  out.kind = ChatTemplate::Kind::kChatml;
  for (const absl::string_view system : kDefaultSystems) {
    // The longest that the template holds: one default is the end of another.
    if (!absl::StrContains(source, system)) continue;
    if (!out.default_system || out.default_system->size() < system.size())
      out.default_system = std::string(system);
  }
  if (!out.default_system && HoldsSystemPrompt(source)) {
    return Unknown("ChatML with a default system prompt that is not known");
  }
  if (out.default_system) absl::StrReplaceAll({{"\\\\", "\\"}}, &*out.default_system);
  if (!absl::StrContains(source, "add_generation_prompt")) {
    if (!absl::StrContains(source, "<|im_start|>assistant"))
      return Unknown("ChatML without a prompt for the answer");
    out.answer_follows_user = true;
  }
  return out;
}

// By what the Jinja program contains. `source` writes line feeds as they are or as Jinja's "\n".
absl::StatusOr<ChatTemplate> Detect(absl::string_view source) {
  if (absl::StrContains(source, kDeepseekAssistant) && absl::StrContains(source, kDeepseekUser)) {
    if (!absl::StrContains(source, "ns.system_prompt = message['content']")) {
      return Unknown("DeepSeek's, but not that of the R1 distillations");
    }
    ChatTemplate out;
    out.kind = ChatTemplate::Kind::kDeepseekR1Distill;
    out.opens_thinking = absl::StrContains(source, absl::StrCat(kDeepseekAssistant, "<think>"));
    out.drops_thinking = absl::StrContains(source, "content.split('</think>')");
    return out;
  }
  if (absl::StrContains(source, kStart) && absl::StrContains(source, kEnd)) {
    if (!absl::StrContains(source, "think>")) return DetectChatml(source);
    if (!absl::StrContains(source, "last_query_index") ||
        !absl::StrContains(source, "reasoning_content")) {
      return Unknown("ChatML with thinking, but not Qwen3's");
    }
    ChatTemplate out;
    out.kind = ChatTemplate::Kind::kQwen3;
    return out;
  }
  return Unknown("it holds neither ChatML's nor DeepSeek's tokens");
}

// A string, or a list of {"name": ..., "template": ...} with one named "default".
std::optional<std::string> SourceOf(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (!value.is_array()) return std::nullopt;
  for (const Json& entry : value) {
    if (!entry.is_object() || entry.value("name", Json()) != "default") continue;
    const auto source = entry.find("template");
    if (source != entry.end() && source->is_string()) return source->get<std::string>();
  }
  return std::nullopt;
}

}  // namespace

absl::string_view ChatTemplateName(ChatTemplate::Kind kind) {
  switch (kind) {
    case ChatTemplate::Kind::kRaw:
      return "raw";
    case ChatTemplate::Kind::kChatml:
      return "chatml";
    case ChatTemplate::Kind::kDeepseekR1Distill:
      return "deepseek-r1-distill";
    case ChatTemplate::Kind::kQwen3:
      return "qwen3";
  }
  return "unknown";
}

absl::StatusOr<std::optional<std::string>> ChatTemplateSource(FileSystem& files,
                                                              const std::string& dir) {
  const std::string jinja = JoinPath(dir, "chat_template.jinja");
  if (files.Exists(jinja)) {
    ASSIGN_OR_RETURN(std::string source, files.ReadFile(jinja, kConfigFileBytesMax));
    return std::optional<std::string>(std::move(source));
  }
  const std::string path = JoinPath(dir, "tokenizer_config.json");
  if (!files.Exists(path)) return std::optional<std::string>();
  ASSIGN_OR_RETURN(const std::string text, files.ReadFile(path, kConfigFileBytesMax));
  ASSIGN_OR_RETURN(const Json config, ParseJson(text, path));
  const auto found = config.is_object() ? config.find("chat_template") : config.end();
  if (!config.is_object() || found == config.end()) return std::optional<std::string>();
  return SourceOf(*found);
}

absl::StatusOr<std::optional<std::string>> ChatTemplateSource(const GgufFile& file) {
  if (!file.Has("tokenizer.chat_template")) return std::optional<std::string>();
  ASSIGN_OR_RETURN(std::string source, file.GetString("tokenizer.chat_template"));
  return std::optional<std::string>(std::move(source));
}

absl::StatusOr<ChatTemplate> ResolveChatTemplate(absl::string_view name,
                                                 const std::optional<std::string>& source,
                                                 const Tokenizer& tokenizer) {
  ChatTemplate out;
  const absl::StatusOr<ChatTemplate> own =
      source ? Detect(*source)
             : absl::StatusOr<ChatTemplate>(
                   absl::InvalidArgumentError("the model has no chat template of its own. Name one "
                                              "in the configuration (raw, chatml, "
                                              "deepseek-r1-distill, qwen3) instead of 'auto'"));
  if (name == "auto") {
    if (!own.ok()) return own.status();
    out = *own;
  } else {
    bool known = false;
    for (const ChatTemplate::Kind kind :
         {ChatTemplate::Kind::kRaw, ChatTemplate::Kind::kChatml,
          ChatTemplate::Kind::kDeepseekR1Distill, ChatTemplate::Kind::kQwen3}) {
      if (name != ChatTemplateName(kind)) continue;
      known = true;
      out.kind = kind;
      out.opens_thinking = kind == ChatTemplate::Kind::kDeepseekR1Distill;
    }
    if (!known) {
      return absl::InvalidArgumentError(absl::StrCat(
          "chat template: expected auto, raw, chatml, deepseek-r1-distill or qwen3, found '", name,
          "'"));
    }
    if (own.ok() && own->kind == out.kind) out = *own;
  }
  if (tokenizer.bos_id()) out.bos = std::string(tokenizer.TokenText(*tokenizer.bos_id()));
  const bool chatml =
      out.kind == ChatTemplate::Kind::kChatml || out.kind == ChatTemplate::Kind::kQwen3;
  for (const absl::string_view token :
       {chatml ? kStart : absl::string_view(), chatml ? kEnd : absl::string_view(),
        out.kind == ChatTemplate::Kind::kDeepseekR1Distill ? kDeepseekAssistant
                                                           : absl::string_view()}) {
    if (!token.empty() && !tokenizer.TokenId(token)) {
      return absl::InvalidArgumentError(absl::StrCat("chat template ", ChatTemplateName(out.kind),
                                                     " needs the token ", token,
                                                     ", which the tokenizer lacks"));
    }
  }
  return out;
}

std::string RenderPrompt(const ChatTemplate& chat_template, absl::Span<const ChatMessage> messages,
                         bool add_generation_prompt) {
  return Render(chat_template, messages, add_generation_prompt).text;
}

std::vector<int32_t> EncodePrompt(const Tokenizer& tokenizer, const ChatTemplate& chat_template,
                                  absl::Span<const ChatMessage> messages,
                                  bool add_generation_prompt) {
  const Rendered rendered = Render(chat_template, messages, add_generation_prompt);
  return tokenizer.Encode(rendered.text, /*allow_special=*/true, rendered.literals);
}

}  // namespace crescendo
