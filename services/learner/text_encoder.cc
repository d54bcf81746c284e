#include "services/learner/text_encoder.h"

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace crescendo {

absl::StatusOr<std::unique_ptr<TextEncoder>> TextEncoder::Load(FileSystem& files,
                                                               const std::string& folder) {
  ASSIGN_OR_RETURN(auto tokenizer, Tokenizer::FromHuggingFace(files, folder));
  if (!tokenizer->eos_id().has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat(folder, ": the tokenizer names no end token (eos_token)"));
  }
  const int32_t end_token = *tokenizer->eos_id();
  return std::unique_ptr<TextEncoder>(new TextEncoder(std::move(tokenizer), end_token));
}

absl::StatusOr<std::vector<int32_t>> TextEncoder::EncodePrompt(absl::string_view text) {
  std::vector<int32_t> ids = tokenizer_->Encode(text, /*allow_special=*/false);
  if (tokenizer_->add_bos() && tokenizer_->bos_id().has_value()) {
    ids.insert(ids.begin(), *tokenizer_->bos_id());
  }
  return ids;
}

absl::StatusOr<std::vector<int32_t>> TextEncoder::EncodeResponse(absl::string_view text) {
  return tokenizer_->Encode(text, /*allow_special=*/false);
}

}  // namespace crescendo
