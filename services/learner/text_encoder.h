// Warm start's view of a model's own tokenizer: prompts as the rollout feeds them without a chat
// template (begin token first where the tokenizer puts one), responses as plain text.
#ifndef CRESCENDO_SERVICES_LEARNER_TEXT_ENCODER_H_
#define CRESCENDO_SERVICES_LEARNER_TEXT_ENCODER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/os/env.h"
#include "common/text/tokenizer.h"
#include "services/learner/warm_start.h"

namespace crescendo {

class TextEncoder : public WarmStartTokenizer {
 public:
  // From a Hugging Face folder. INVALID_ARGUMENT when the tokenizer has no end token.
  static absl::StatusOr<std::unique_ptr<TextEncoder>> Load(FileSystem& files,
                                                           const std::string& folder);

  absl::StatusOr<std::vector<int32_t>> EncodePrompt(absl::string_view text) override;
  absl::StatusOr<std::vector<int32_t>> EncodeResponse(absl::string_view text) override;
  int32_t end_token() const override { return end_token_; }

 private:
  TextEncoder(std::unique_ptr<Tokenizer> tokenizer, int32_t end_token)
      : tokenizer_(std::move(tokenizer)), end_token_(end_token) {}

  std::unique_ptr<Tokenizer> tokenizer_;
  int32_t end_token_;
};

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_LEARNER_TEXT_ENCODER_H_
