#include "services/rollout/prompt_codec.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/formats/gguf.h"

namespace crescendo {
namespace {

// What a user gets wrong first, said in words of the configuration.
absl::Status CheckPlace(FileSystem& files, const PolicySection& policy) {
  if (!files.Exists(policy.path)) {
    return absl::NotFoundError(
        absl::StrCat("policy.path: ", policy.path,
                     " does not exist; expected a Hugging Face folder or a .gguf file"));
  }
  if (!files.IsDirectory(policy.path) && !absl::EndsWith(policy.path, ".gguf")) {
    return absl::InvalidArgumentError(
        absl::StrCat("policy.path: ", policy.path,
                     " is a file; expected a Hugging Face folder or a .gguf file"));
  }
  if (!policy.tokenizer.empty()) {
    if (files.Exists(policy.tokenizer)) return absl::OkStatus();
    return absl::NotFoundError(absl::StrCat("policy.tokenizer: ", policy.tokenizer,
                                            " does not exist; expected a folder or a file"));
  }
  if (files.IsDirectory(policy.path) && !files.Exists(JoinPath(policy.path, "tokenizer.json"))) {
    return absl::NotFoundError(absl::StrCat("policy.path: ", policy.path,
                                            " holds no tokenizer.json; put it there, or name "
                                            "another tokenizer with policy.tokenizer"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<PromptCodec>> PromptCodec::Load(FileSystem& files,
                                                               const PolicySection& policy) {
  const std::string& place = policy.tokenizer.empty() ? policy.path : policy.tokenizer;
  RETURN_IF_ERROR(CheckPlace(files, policy));
  std::unique_ptr<Tokenizer> tokenizer;
  std::optional<std::string> source;
  if (absl::EndsWith(place, ".gguf")) {
    ASSIGN_OR_RETURN(const std::unique_ptr<GgufFile> file, GgufFile::Open(files, place));
    ASSIGN_OR_RETURN(tokenizer, Tokenizer::FromGguf(*file));
    ASSIGN_OR_RETURN(source, ChatTemplateSource(*file));
  } else {
    ASSIGN_OR_RETURN(tokenizer, Tokenizer::FromHuggingFace(files, place));
    const std::string folder = files.IsDirectory(place) ? place : DirName(place);
    ASSIGN_OR_RETURN(source, ChatTemplateSource(files, folder));
  }
  const absl::StatusOr<ChatTemplate> chat_template =
      ResolveChatTemplate(policy.chat_template, source, *tokenizer);
  if (!chat_template.ok()) {
    return Annotate(chat_template.status(), absl::StrCat("policy.chat_template of ", place));
  }
  return std::unique_ptr<PromptCodec>(
      new PromptCodec(std::move(tokenizer), *chat_template, policy));
}

PromptCodec::PromptCodec(std::unique_ptr<Tokenizer> tokenizer, ChatTemplate chat_template,
                         const PolicySection& policy)
    : tokenizer_(std::move(tokenizer)),
      template_(std::move(chat_template)),
      system_prompt_(policy.system_prompt),
      prompt_suffix_(policy.prompt_suffix) {}

absl::StatusOr<std::vector<int32_t>> PromptCodec::EncodeProblem(absl::string_view problem) const {
  std::vector<ChatMessage> messages;
  if (!system_prompt_.empty()) messages.push_back({"system", system_prompt_});
  messages.push_back({"user", absl::StrCat(problem, prompt_suffix_)});
  std::vector<int32_t> tokens = EncodePrompt(*tokenizer_, template_, messages, true);
  if (tokens.empty()) return absl::InvalidArgumentError("the problem's prompt has no token");
  return tokens;
}

absl::StatusOr<std::vector<int32_t>> PromptCodec::EncodeChat(
    absl::Span<const ChatMessage> messages) const {
  std::vector<int32_t> tokens = EncodePrompt(*tokenizer_, template_, messages, true);
  if (tokens.empty()) return absl::InvalidArgumentError("the messages have no token");
  return tokens;
}

absl::StatusOr<std::vector<int32_t>> PromptCodec::EncodeText(absl::string_view text) const {
  std::vector<int32_t> tokens = tokenizer_->Encode(text, /*allow_special=*/true);
  const std::optional<int32_t> bos = tokenizer_->bos_id();
  if (tokenizer_->add_bos() && bos.has_value()) tokens.insert(tokens.begin(), *bos);
  if (tokens.empty()) return absl::InvalidArgumentError("the prompt has no token");
  return tokens;
}

std::string PromptCodec::DecodeAnswer(absl::Span<const int32_t> tokens, size_t bytes_max) const {
  std::string text = tokenizer_->Decode(tokens, /*skip_special=*/true);
  if (text.size() > bytes_max) text.resize(bytes_max);
  return text;
}

}  // namespace crescendo
