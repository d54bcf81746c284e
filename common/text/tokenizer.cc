#include "common/text/tokenizer.h"

#include <algorithm>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/text/byte_alphabet.h"
#include "common/text/utf8.h"

namespace crescendo {
namespace {

constexpr size_t kMergesMax = 4 * static_cast<size_t>(limits::kVocabularyMax);
constexpr size_t kTokenBytesMax = 4096;

template <typename... Parts>
absl::Status Bad(absl::string_view place, const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(place, ": ", parts...));
}

}  // namespace

Tokenizer::Tokenizer(const TokenizerSpec& spec)
    : nfc_(spec.nfc),
      add_prefix_space_(spec.add_prefix_space),
      add_bos_(spec.add_bos && spec.bos_id.has_value()),
      bos_id_(spec.bos_id),
      eos_id_(spec.eos_id),
      pad_id_(spec.pad_id) {}

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Make(const TokenizerSpec& spec) {
  std::unique_ptr<Tokenizer> out(new Tokenizer(spec));
  RETURN_IF_ERROR(out->AddTokens(spec));
  RETURN_IF_ERROR(out->MakeEncoder(spec));
  std::vector<AddedToken> raw, normalized;
  for (AddedToken token : spec.added_tokens) {
    // Control tokens are plain enough that normalizing does not change them: found in the raw text,
    // where `literals` says what must not act as control.
    if (token.normalized && !token.special) {
      if (spec.nfc) token.content = ToNfc(token.content);
      normalized.push_back(std::move(token));
    } else {
      raw.push_back(std::move(token));
    }
  }
  out->raw_added_ = std::make_unique<AddedTokenFinder>(raw);
  out->normalized_added_ = std::make_unique<AddedTokenFinder>(normalized);
  // The last step belongs to the byte level, behind the prefix space.
  absl::Span<const SplitStep> splits = spec.splits;
  absl::Span<const SplitStep> last;
  if (spec.add_prefix_space && !splits.empty()) {
    last = splits.subspan(splits.size() - 1);
    splits.remove_suffix(1);
  }
  for (const auto& [steps, target] :
       {std::make_pair(splits, &out->splits_), std::make_pair(last, &out->byte_level_split_)}) {
    auto made = PreTokenizer::Make(steps);
    if (!made.ok()) return Annotate(made.status(), absl::StrCat(spec.source, ": pre_tokenizer"));
    *target = std::move(made).value();
  }
  for (const auto& [name, id] :
       {std::make_pair("bos", out->bos_id_), std::make_pair("eos", out->eos_id_),
        std::make_pair("pad", out->pad_id_)}) {
    if (id && (*id < 0 || *id >= out->vocab_size())) {
      return Bad(spec.source, name, " token: expected an id below ", out->vocab_size(), ", found ",
                 *id);
    }
  }
  return out;
}

absl::Status Tokenizer::AddTokens(const TokenizerSpec& spec) {
  const auto add = [&](const std::string& text, int32_t id) -> absl::StatusOr<Token*> {
    const std::string shown = absl::Utf8SafeCEscape(text.substr(0, 100));
    if (id < 0 || id >= limits::kVocabularyMax) {
      return Bad(spec.source, "token '", shown, "': expected an id below ", limits::kVocabularyMax,
                 ", found ", id);
    }
    if (text.size() > kTokenBytesMax) {
      return Bad(spec.source, "token '", shown, "...': longer than ", kTokenBytesMax, " bytes");
    }
    const size_t index = static_cast<size_t>(id);
    if (index >= tokens_.size()) tokens_.resize(index + 1);
    Token& token = tokens_[index];
    if (!token.text.empty() && token.text != text) {
      return Bad(spec.source, "tokens '", absl::Utf8SafeCEscape(token.text), "' and '", shown,
                 "' have the same id ", id);
    }
    const auto [known, is_new] = id_of_text_.emplace(text, id);
    if (!is_new && known->second != id) {
      return Bad(spec.source, "token '", shown, "' has two ids, ", known->second, " and ", id);
    }
    token.text = text;
    return &token;
  };
  if (spec.vocabulary.empty()) return Bad(spec.source, "the vocabulary is empty");
  for (const auto& [text, id] : spec.vocabulary) {
    ASSIGN_OR_RETURN(Token * token, add(text, id));
    std::optional<std::string> bytes = BytesFromAlphabet(text);
    token->bytes = bytes ? *std::move(bytes) : text;
  }
  for (const AddedToken& added : spec.added_tokens) {
    if (added.content.empty()) continue;
    ASSIGN_OR_RETURN(Token * token, add(added.content, added.id));
    token->bytes = added.content;
    token->special = added.special;
  }
  return absl::OkStatus();
}

absl::Status Tokenizer::MakeEncoder(const TokenizerSpec& spec) {
  absl::flat_hash_map<absl::string_view, int32_t> vocabulary;
  vocabulary.reserve(spec.vocabulary.size());
  for (const auto& [text, id] : spec.vocabulary) vocabulary.emplace(text, id);
  std::array<int32_t, 256> byte_ids;
  for (size_t byte = 0; byte < byte_ids.size(); ++byte) {
    const auto found = vocabulary.find(AlphabetCharacter(static_cast<uint8_t>(byte)));
    byte_ids[byte] = found == vocabulary.end() ? BytePairEncoder::kNone : found->second;
  }
  if (spec.merges.size() > kMergesMax) {
    return Bad(spec.source, "merges: expected at most ", kMergesMax, ", found ",
               spec.merges.size());
  }
  std::vector<BytePairEncoder::Merge> merges;
  merges.reserve(spec.merges.size());
  for (size_t i = 0; i < spec.merges.size(); ++i) {
    const auto& [left, right] = spec.merges[i];
    const auto left_id = vocabulary.find(left);
    const auto right_id = vocabulary.find(right);
    const auto result_id = vocabulary.find(absl::StrCat(left, right));
    if (left_id == vocabulary.end() || right_id == vocabulary.end() ||
        result_id == vocabulary.end()) {
      return Bad(spec.source, "merge ", i, " ('", absl::Utf8SafeCEscape(left.substr(0, 100)), "' '",
                 absl::Utf8SafeCEscape(right.substr(0, 100)),
                 "'): a part or the result is not in the vocabulary");
    }
    merges.push_back({left_id->second, right_id->second, result_id->second});
  }
  int32_t unknown_id = BytePairEncoder::kNone;
  if (spec.unknown) {
    const std::optional<int32_t> id = TokenId(*spec.unknown);
    if (!id)
      return Bad(spec.source, "the unknown token '", *spec.unknown, "' is not in the vocabulary");
    unknown_id = *id;
  }
  absl::flat_hash_map<std::string, int32_t> whole_words;
  if (spec.ignore_merges) {
    for (const auto& [text, id] : spec.vocabulary) {
      std::optional<std::string> bytes = BytesFromAlphabet(text);
      if (bytes) whole_words.emplace(*std::move(bytes), id);
    }
  }
  encoder_ = std::make_unique<BytePairEncoder>(byte_ids, unknown_id, spec.fuse_unknown, merges,
                                               std::move(whole_words));
  return absl::OkStatus();
}

std::vector<int32_t> Tokenizer::Encode(absl::string_view text, bool allow_special,
                                       absl::Span<const ByteRange> literals) const {
  std::vector<int32_t> out;
  out.reserve(text.size() / 3 + 4);
  size_t done = 0;
  for (const AddedTokenFinder::Match& match : raw_added_->Find(text, allow_special, literals)) {
    EncodeNormalized(text.substr(done, match.bytes.first - done), &out);
    out.push_back(match.id);
    done = match.bytes.second;
  }
  EncodeNormalized(text.substr(done), &out);
  return out;
}

// Normalizes the valid parts of `raw`, looks for added tokens there, and encodes the rest.
void Tokenizer::EncodeNormalized(absl::string_view raw, std::vector<int32_t>* out) const {
  while (!raw.empty()) {
    size_t valid = 0;
    Utf8Step step{Utf8Kind::kValid, 0};
    while (valid < raw.size()) {
      step = NextUtf8(raw.substr(valid));
      if (step.kind != Utf8Kind::kValid) break;
      valid += step.length;
    }
    if (valid > 0) {
      std::string storage;
      absl::string_view text = raw.substr(0, valid);
      if (nfc_) {
        storage = ToNfc(text);
        text = storage;
      }
      size_t done = 0;
      for (const AddedTokenFinder::Match& match : normalized_added_->Find(text, false, {})) {
        EncodePlain(text.substr(done, match.bytes.first - done), out);
        out->push_back(match.id);
        done = match.bytes.second;
      }
      EncodePlain(text.substr(done), out);
      raw.remove_prefix(valid);
    }
    if (!raw.empty()) {
      encoder_->Encode(raw.substr(0, step.length), out);
      raw.remove_prefix(step.length);
    }
  }
}

void Tokenizer::EncodePlain(absl::string_view text, std::vector<int32_t>* out) const {
  const auto encode = [this, out](absl::string_view word) { encoder_->Encode(word, out); };
  if (!add_prefix_space_) {
    splits_->Split(text, encode);
    return;
  }
  splits_->Split(text, [&](absl::string_view part) {
    if (part[0] == ' ') {
      byte_level_split_->Split(part, encode);
    } else {
      byte_level_split_->Split(absl::StrCat(" ", part), encode);
    }
  });
}

std::string Tokenizer::Decode(absl::Span<const int32_t> ids, bool skip_special) const {
  std::string bytes;
  for (const int32_t id : ids) {
    if (skip_special && IsSpecial(id)) continue;
    absl::StrAppend(&bytes, TokenBytes(id));
  }
  std::string out;
  out.reserve(bytes.size());
  AppendUtf8Lossy(bytes, /*final=*/true, &out);
  return out;
}

std::optional<int32_t> Tokenizer::TokenId(absl::string_view token) const {
  const auto found = id_of_text_.find(token);
  if (found == id_of_text_.end()) return std::nullopt;
  return found->second;
}

absl::string_view Tokenizer::TokenText(int32_t id) const {
  return id >= 0 && id < vocab_size() ? tokens_[static_cast<size_t>(id)].text : absl::string_view();
}

absl::string_view Tokenizer::TokenBytes(int32_t id) const {
  return id >= 0 && id < vocab_size() ? tokens_[static_cast<size_t>(id)].bytes
                                      : absl::string_view();
}

bool Tokenizer::IsSpecial(int32_t id) const {
  return id >= 0 && id < vocab_size() && tokens_[static_cast<size_t>(id)].special;
}

std::string StreamingDecoder::Push(int32_t id) {
  if (skip_special_ && tokenizer_->IsSpecial(id)) return "";
  absl::StrAppend(&pending_, tokenizer_->TokenBytes(id));
  std::string out;
  pending_.erase(0, AppendUtf8Lossy(pending_, /*final=*/false, &out));
  return out;
}

std::string StreamingDecoder::Finish() {
  std::string out;
  AppendUtf8Lossy(pending_, /*final=*/true, &out);
  pending_.clear();
  return out;
}

}  // namespace crescendo
