// Byte-level byte-pair tokenizers: GPT-2, SmolLM, Qwen2, Llama 3 and DeepSeek's distillations of
// them, from Hugging Face's tokenizer.json or from a GGUF file's metadata. Token ids equal those of
// the PyPI package `tokenizers` (tests/parity/text).
//
// Immutable after it is made; thread-safe.
#ifndef CRESCENDO_COMMON_TEXT_TOKENIZER_H_
#define CRESCENDO_COMMON_TEXT_TOKENIZER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/formats/gguf.h"
#include "common/os/env.h"
#include "common/text/added_tokens.h"
#include "common/text/byte_pairs.h"
#include "common/text/pre_tokenizer.h"

namespace crescendo {

// All that defines a tokenizer, as its file has it.
struct TokenizerSpec {
  std::string source;  // the file, for errors
  std::vector<std::pair<std::string, int32_t>>
      vocabulary;  // bytes written as GPT-2's printable characters
  std::vector<std::pair<std::string, std::string>> merges;  // by rank
  std::vector<AddedToken> added_tokens;
  bool nfc = false;                    // text is brought to normalization form C first
  std::vector<SplitStep> splits;       // before the byte level
  bool add_prefix_space = false;       // a space goes before each part that starts without one
  bool ignore_merges = false;          // a word that is a token stays whole
  bool fuse_unknown = false;           // unknown bytes in a row are one unknown token
  std::optional<std::string> unknown;  // for bytes without a token; without it they vanish
  std::optional<int32_t> bos_id;
  std::optional<int32_t> eos_id;
  std::optional<int32_t> pad_id;
  bool add_bos = false;  // whether the tokenizer's own template puts bos first
};

// From a model's folder (tokenizer.json; tokenizer_config.json, if there, says what bos, eos and
// pad are) or from a tokenizer.json with the other beside it. INVALID_ARGUMENT names file and
// field; UNIMPLEMENTED a kind of tokenizer that is not byte-level BPE.
absl::StatusOr<TokenizerSpec> ReadTokenizerSpec(FileSystem& files, const std::string& path);
absl::StatusOr<TokenizerSpec> ReadTokenizerSpec(const GgufFile& file);

class Tokenizer {
 public:
  // Make(ReadTokenizerSpec(...)).
  static absl::StatusOr<std::unique_ptr<Tokenizer>> FromHuggingFace(FileSystem& files,
                                                                    const std::string& path);
  static absl::StatusOr<std::unique_ptr<Tokenizer>> FromGguf(const GgufFile& file);
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Make(const TokenizerSpec& spec);

  // The tokens of `text`; no bos is added. Any bytes encode: what is not valid UTF-8 byte by byte.
  // With `allow_special` control tokens written in the text are found ("<|im_end|>" is one token),
  // except in `literals` (ascending byte ranges): text from outside that must not act as control.
  // Other added tokens are found always.
  std::vector<int32_t> Encode(absl::string_view text, bool allow_special,
                              absl::Span<const ByteRange> literals = {}) const;

  // Valid UTF-8 always: what is not becomes U+FFFD. Ids without a token give nothing.
  std::string Decode(absl::Span<const int32_t> ids, bool skip_special) const;

  // The largest id of a token, plus one. A model's embedding can have more rows.
  int32_t vocab_size() const { return static_cast<int32_t>(tokens_.size()); }
  std::optional<int32_t> bos_id() const { return bos_id_; }
  std::optional<int32_t> eos_id() const { return eos_id_; }
  std::optional<int32_t> pad_id() const { return pad_id_; }
  bool add_bos() const { return add_bos_; }

  // The token written so in the tokenizer's file ("<|im_end|>", "Ġthe"); nullopt when there is
  // none.
  std::optional<int32_t> TokenId(absl::string_view token) const;
  // How the file writes it; empty for an id without a token.
  absl::string_view TokenText(int32_t id) const;
  // The bytes that it stands for in a text; not always whole characters.
  absl::string_view TokenBytes(int32_t id) const;
  bool IsSpecial(int32_t id) const;

 private:
  struct Token {
    std::string text;
    std::string bytes;
    bool special = false;
  };
  explicit Tokenizer(const TokenizerSpec& spec);
  absl::Status AddTokens(const TokenizerSpec& spec);
  absl::Status MakeEncoder(const TokenizerSpec& spec);
  void EncodeNormalized(absl::string_view raw, std::vector<int32_t>* out) const;
  void EncodePlain(absl::string_view text, std::vector<int32_t>* out) const;

  const bool nfc_;
  const bool add_prefix_space_;
  const bool add_bos_;
  const std::optional<int32_t> bos_id_, eos_id_, pad_id_;
  std::vector<Token> tokens_;
  absl::flat_hash_map<std::string, int32_t> id_of_text_;
  std::unique_ptr<AddedTokenFinder> raw_added_;         // looked for in the raw text
  std::unique_ptr<AddedTokenFinder> normalized_added_;  // looked for in the normalized text
  std::unique_ptr<PreTokenizer> splits_;                // before a prefix space is added
  std::unique_ptr<PreTokenizer> byte_level_split_;      // after
  std::unique_ptr<BytePairEncoder> encoder_;
};

// Turns tokens into text as they come, never emitting a part of a character: the pieces, put
// together, are what Decode makes of all tokens. Not thread-safe; the tokenizer outlives it.
class StreamingDecoder {
 public:
  StreamingDecoder(const Tokenizer* tokenizer, bool skip_special)
      : tokenizer_(tokenizer), skip_special_(skip_special) {}
  // The text that is complete now.
  std::string Push(int32_t id);
  // What is left, as U+FFFD when it is no whole character. Starts anew.
  std::string Finish();

 private:
  const Tokenizer* tokenizer_;
  bool skip_special_;
  std::string pending_;  // the beginning of a character: at most three bytes between calls
};

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_TEXT_TOKENIZER_H_
