// How a conversation becomes the text of a prompt: the chat templates of the models that are
// trained here.
//
// Models carry their template as a Jinja program. It is not run: the few that matter are known, and
// a model's own is recognized by what it contains; an unknown one is an error that says so. Texts
// equal those of the models' templates as transformers renders them (tests/parity/text). Pure;
// thread-safe.
#ifndef CRESCENDO_COMMON_TEXT_CHAT_TEMPLATE_H_
#define CRESCENDO_COMMON_TEXT_CHAT_TEMPLATE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/formats/gguf.h"
#include "common/os/env.h"
#include "common/text/tokenizer.h"

namespace crescendo {

struct ChatMessage {
  std::string role;  // "system", "user", "assistant"
  std::string content;
};

struct ChatTemplate {
  enum class Kind {
    kRaw,                // bos and the contents, nothing else
    kChatml,             // <|im_start|>role\ncontent<|im_end|>\n; SmolLM2, Qwen2, Qwen2.5
    kDeepseekR1Distill,  // bos, system, <｜User｜>content,
                         // <｜Assistant｜>content<｜end▁of▁sentence｜>
    kQwen3,              // ChatML that keeps the thinking of the last answers only
  };
  Kind kind = Kind::kRaw;
  std::string bos;  // kRaw, kDeepseekR1Distill: what stands in front
  std::optional<std::string>
      default_system;                // kChatml: when the first message is no system message
  bool answer_follows_user = false;  // kChatml: every user message opens an answer, whatever the
                                     // caller asks (Qwen2's first template)
  bool opens_thinking =
      false;  // kDeepseekR1Distill: the prompt for an answer ends with "<think>\n"
  bool drops_thinking =
      true;  // kDeepseekR1Distill: earlier answers lose what stands before "</think>"
};

// "raw", "chatml", "deepseek-r1-distill", "qwen3".
absl::string_view ChatTemplateName(ChatTemplate::Kind kind);

// The Jinja program of a model: tokenizer_config.json's chat_template or chat_template.jinja of its
// folder, or the GGUF's tokenizer.chat_template. nullopt when it has none.
absl::StatusOr<std::optional<std::string>> ChatTemplateSource(FileSystem& files,
                                                              const std::string& dir);
absl::StatusOr<std::optional<std::string>> ChatTemplateSource(const GgufFile& file);

// The template that a configuration names. "auto" recognizes the model's own (`source`);
// INVALID_ARGUMENT when the model has none, UNIMPLEMENTED when it is unknown. Any other name is
// that template, with the default system prompt and the habits of the model's own where that is of
// the same kind.
absl::StatusOr<ChatTemplate> ResolveChatTemplate(absl::string_view name,
                                                 const std::optional<std::string>& source,
                                                 const Tokenizer& tokenizer);

// The text of a conversation. `add_generation_prompt`: it ends where the answer begins.
std::string RenderPrompt(const ChatTemplate& chat_template, absl::Span<const ChatMessage> messages,
                         bool add_generation_prompt);

// Its tokens. Control tokens come from the template only: what looks like one in a message's
// content is plain text.
std::vector<int32_t> EncodePrompt(const Tokenizer& tokenizer, const ChatTemplate& chat_template,
                                  absl::Span<const ChatMessage> messages,
                                  bool add_generation_prompt);

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_TEXT_CHAT_TEMPLATE_H_
