// A tokenizer as the files of others: Hugging Face's tokenizer.json with tokenizer_config.json, and
// llama.cpp's metadata. What TokenizerSpec does not hold (decoders of other kinds, offsets) is
// written as byte-level BPE has it. Pure.
#ifndef CRESCENDO_COMMON_TEXT_TOKENIZER_SAVE_H_
#define CRESCENDO_COMMON_TEXT_TOKENIZER_SAVE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "common/formats/gguf_writer.h"
#include "common/text/tokenizer.h"

namespace crescendo {

// Read by transformers' PreTrainedTokenizerFast to the same ids.
std::string TokenizerJson(const TokenizerSpec& spec);
std::string TokenizerConfigJson(const TokenizerSpec& spec,
                                const std::optional<std::string>& chat_template);

// "tokenizer.ggml...", with tokens that stand for nothing up to `vocab_size` (the rows of the
// model's embedding). UNIMPLEMENTED when llama.cpp has no name for the splits.
absl::StatusOr<std::vector<std::pair<std::string, GgufWriteValue>>> GgufTokenizer(
    const TokenizerSpec& spec, int64_t vocab_size, const std::optional<std::string>& chat_template);

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_TEXT_TOKENIZER_SAVE_H_
