// Between the text of problems and answers and the tokens of the policy: the recipe's chat template
// on the way in, plain text on the way out. Immutable; thread-safe.
#ifndef CRESCENDO_SERVICES_ROLLOUT_PROMPT_CODEC_H_
#define CRESCENDO_SERVICES_ROLLOUT_PROMPT_CODEC_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/config/run_config.h"
#include "common/os/env.h"
#include "common/text/chat_template.h"
#include "common/text/tokenizer.h"

namespace crescendo {

class PromptCodec {
 public:
  // The tokenizer and chat template that [policy] names; from policy.tokenizer when given, else
  // from policy.path (a folder or a .gguf file).
  static absl::StatusOr<std::unique_ptr<PromptCodec>> Load(FileSystem& files,
                                                           const PolicySection& policy);

  // The tokens of a problem's prompt. INVALID_ARGUMENT when there are none.
  absl::StatusOr<std::vector<int32_t>> EncodeProblem(absl::string_view problem) const;
  // The tokens of a conversation up to where the answer begins; of a text as it is, behind the
  // tokenizer's own bos. INVALID_ARGUMENT when there are none.
  absl::StatusOr<std::vector<int32_t>> EncodeChat(absl::Span<const ChatMessage> messages) const;
  absl::StatusOr<std::vector<int32_t>> EncodeText(absl::string_view text) const;
  // The text of a completion, control tokens left out, cut to `bytes_max`.
  std::string DecodeAnswer(absl::Span<const int32_t> tokens, size_t bytes_max) const;
  const Tokenizer& tokenizer() const { return *tokenizer_; }
  absl::string_view template_name() const { return ChatTemplateName(template_.kind); }

 private:
  PromptCodec(std::unique_ptr<Tokenizer> tokenizer, ChatTemplate chat_template,
              const PolicySection& policy);
  std::unique_ptr<Tokenizer> tokenizer_;
  ChatTemplate template_;
  std::string system_prompt_;
  std::string prompt_suffix_;
};

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_ROLLOUT_PROMPT_CODEC_H_
