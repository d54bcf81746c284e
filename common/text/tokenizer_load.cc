// Tokenizer's two file formats: Hugging Face's tokenizer.json (the serialization of the Rust crate
// `tokenizers`) and the tokenizer.ggml.* metadata of GGUF.
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/formats/json.h"
#include "common/text/tokenizer.h"

namespace crescendo {
namespace {

constexpr size_t kTokenizerFileBytesMax = 128u << 20;
constexpr size_t kConfigFileBytesMax = 16u << 20;

template <typename... Parts>
absl::Status Bad(absl::string_view place, const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(place, ": ", parts...));
}
template <typename... Parts>
absl::Status Unread(absl::string_view place, const Parts&... parts) {
  return absl::UnimplementedError(absl::StrCat(place, ": ", parts...));
}

// The field, or null (of JSON) when it is not there. Requires an object.
const Json& Member(const Json& object, const char* name) {
  static const Json null;
  const auto found = object.find(name);
  return found == object.end() ? null : *found;
}

bool BoolOr(const Json& object, const char* name, bool otherwise) {
  const Json& value = Member(object, name);
  return value.is_boolean() ? value.get<bool>() : otherwise;
}

std::string StringOr(const Json& object, const char* name, const char* otherwise) {
  const Json& value = Member(object, name);
  return value.is_string() ? value.get<std::string>() : otherwise;
}

absl::StatusOr<int32_t> TokenIdOf(const Json& value, absl::string_view place) {
  if (!value.is_number_unsigned() ||
      value.get<uint64_t>() >= static_cast<uint64_t>(limits::kVocabularyMax)) {
    return Bad(place, "expected a token id below ", limits::kVocabularyMax);
  }
  return value.get<int32_t>();
}

absl::Status ReadMerges(const Json& merges, TokenizerSpec* spec) {
  if (!merges.is_array()) return Bad(spec->source, "model.merges is missing or no list");
  spec->merges.reserve(merges.size());
  for (const Json& merge : merges) {
    const size_t index = spec->merges.size();
    if (merge.is_string()) {
      const std::string& text = merge.get_ref<const std::string&>();
      const size_t space = text.find(' ');
      if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
        return Bad(spec->source, "model.merges[", index,
                   "]: expected two parts with a space between");
      }
      spec->merges.emplace_back(text.substr(0, space), text.substr(space + 1));
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
               merge[1].is_string()) {
      spec->merges.emplace_back(merge[0].get<std::string>(), merge[1].get<std::string>());
    } else {
      return Bad(spec->source, "model.merges[", index, "]: expected a string or a pair of strings");
    }
  }
  return absl::OkStatus();
}

absl::Status ReadModel(const Json& root, TokenizerSpec* spec) {
  const Json& model = Member(root, "model");
  if (!model.is_object()) return Bad(spec->source, "field 'model' is missing or no object");
  const std::string type = StringOr(model, "type", "BPE");
  if (type != "BPE") return Unread(spec->source, "model.type: expected BPE, found ", type);
  for (const char* name : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!StringOr(model, name, "").empty())
      return Unread(spec->source, "model.", name, " is not read");
  }
  if (BoolOr(model, "byte_fallback", false)) {
    return Unread(spec->source, "model.byte_fallback: only byte-level BPE is read");
  }
  const Json& vocabulary = Member(model, "vocab");
  if (!vocabulary.is_object()) return Bad(spec->source, "model.vocab is missing or no object");
  spec->vocabulary.reserve(vocabulary.size());
  for (const auto& [text, id_json] : vocabulary.items()) {
    const absl::StatusOr<int32_t> id = TokenIdOf(id_json, "");
    if (!id.ok()) {
      return Bad(spec->source, "model.vocab: '", absl::Utf8SafeCEscape(text.substr(0, 100)), "'",
                 id.status().message());
    }
    spec->vocabulary.emplace_back(text, *id);
  }
  RETURN_IF_ERROR(ReadMerges(Member(model, "merges"), spec));
  spec->ignore_merges = BoolOr(model, "ignore_merges", false);
  spec->fuse_unknown = BoolOr(model, "fuse_unk", false);
  const Json& unknown = Member(model, "unk_token");
  if (unknown.is_string()) spec->unknown = unknown.get<std::string>();
  return absl::OkStatus();
}

absl::Status ReadAddedTokens(const Json& root, TokenizerSpec* spec) {
  const Json& tokens = Member(root, "added_tokens");
  if (tokens.is_null()) return absl::OkStatus();
  if (!tokens.is_array()) return Bad(spec->source, "field 'added_tokens' is no list");
  for (const Json& json : tokens) {
    const std::string place =
        absl::StrCat(spec->source, ": added_tokens[", spec->added_tokens.size(), "]");
    if (!json.is_object() || !Member(json, "content").is_string()) {
      return Bad(place, "expected an object with field 'content'");
    }
    AddedToken token;
    token.content = Member(json, "content").get<std::string>();
    ASSIGN_OR_RETURN(token.id, TokenIdOf(Member(json, "id"), absl::StrCat(place, ".id")));
    token.special = BoolOr(json, "special", false);
    token.normalized = BoolOr(json, "normalized", !token.special);
    token.single_word = BoolOr(json, "single_word", false);
    token.lstrip = BoolOr(json, "lstrip", false);
    token.rstrip = BoolOr(json, "rstrip", false);
    spec->added_tokens.push_back(std::move(token));
  }
  return absl::OkStatus();
}

// The elements of a Sequence, or the thing itself. Sequences in sequences are not used by anybody.
std::vector<const Json*> Flatten(const Json& value, const char* elements) {
  std::vector<const Json*> out;
  if (value.is_null()) return out;
  if (value.is_object() && StringOr(value, "type", "") == "Sequence" &&
      Member(value, elements).is_array()) {
    for (const Json& element : Member(value, elements)) out.push_back(&element);
  } else {
    out.push_back(&value);
  }
  return out;
}

absl::Status ReadNormalizer(const Json& root, TokenizerSpec* spec) {
  for (const Json* normalizer : Flatten(Member(root, "normalizer"), "normalizers")) {
    const std::string type = normalizer->is_object() ? StringOr(*normalizer, "type", "") : "";
    if (type != "NFC")
      return Unread(spec->source, "normalizer: expected NFC or none, found '", type, "'");
    spec->nfc = true;
  }
  return absl::OkStatus();
}

absl::Status ReadSplit(const Json& split, TokenizerSpec* spec) {
  const Json& pattern = Member(split, "pattern");
  SplitStep step;
  if (pattern.is_object() && Member(pattern, "Regex").is_string()) {
    step.regex = Member(pattern, "Regex").get<std::string>();
  } else if (pattern.is_object() && Member(pattern, "String").is_string()) {
    for (const char c : Member(pattern, "String").get<std::string>()) {
      const bool plain =
          (c & 0x80) != 0 || absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == ' ';
      absl::StrAppend(&step.regex, plain ? "" : "\\", std::string(1, c));
    }
  } else {
    return Bad(spec->source, "pre_tokenizer: a Split without pattern.Regex or pattern.String");
  }
  if (BoolOr(split, "invert", false))
    return Unread(spec->source, "pre_tokenizer: an inverted Split is not read");
  const std::string behavior = StringOr(split, "behavior", "");
  if (behavior == "Removed") {
    step.removed = true;
  } else if (behavior != "Isolated") {
    return Unread(spec->source,
                  "pre_tokenizer: Split behavior: expected Isolated or Removed, found '", behavior,
                  "'");
  }
  spec->splits.push_back(std::move(step));
  return absl::OkStatus();
}

absl::Status ReadPreTokenizer(const Json& root, TokenizerSpec* spec) {
  bool byte_level = false;
  for (const Json* step : Flatten(Member(root, "pre_tokenizer"), "pretokenizers")) {
    const std::string type = step->is_object() ? StringOr(*step, "type", "") : "";
    if (byte_level)
      return Unread(spec->source, "pre_tokenizer: '", type, "' after ByteLevel is not read");
    if (type == "Split") {
      RETURN_IF_ERROR(ReadSplit(*step, spec));
    } else if (type == "Digits") {
      // Rust's char::is_numeric is the category N.
      spec->splits.push_back(
          {BoolOr(*step, "individual_digits", false) ? R"(\p{N})" : R"(\p{N}+)"});
    } else if (type == "ByteLevel") {
      byte_level = true;
      spec->add_prefix_space = BoolOr(*step, "add_prefix_space", true);
      if (BoolOr(*step, "use_regex", true)) {
        spec->splits.push_back({std::string(kGpt2Regex)});
      } else if (spec->add_prefix_space) {
        spec->splits.push_back(
            {R"([\x{0}-\x{10ffff}]+)"});  // All of it: Make puts the prefix before the last step.
      }
    } else {
      return Unread(spec->source, "pre_tokenizer: expected Split, Digits or ByteLevel, found '",
                    type, "'");
    }
  }
  if (!byte_level)
    return Unread(spec->source, "pre_tokenizer: no ByteLevel; only byte-level BPE is read");
  return absl::OkStatus();
}

// Whether the template for one text starts with a special token, and which.
absl::Status ReadPostProcessor(const Json& root, TokenizerSpec* spec) {
  for (const Json* processor : Flatten(Member(root, "post_processor"), "processors")) {
    const std::string type = processor->is_object() ? StringOr(*processor, "type", "") : "";
    if (type == "ByteLevel") continue;
    if (type != "TemplateProcessing") {
      return Unread(spec->source,
                    "post_processor: expected TemplateProcessing or ByteLevel, found '", type, "'");
    }
    const Json& single = Member(*processor, "single");
    if (!single.is_array() || single.empty() || !single[0].is_object()) continue;
    const Json& first = Member(single[0], "SpecialToken");
    if (!first.is_object() || !Member(first, "id").is_string()) continue;
    const std::string name = Member(first, "id").get<std::string>();
    const Json& known = Member(*processor, "special_tokens");
    const Json& entry = known.is_object() ? Member(known, name.c_str()) : known;
    const Json& ids = entry.is_object() ? Member(entry, "ids") : entry;
    if (!ids.is_array() || ids.size() != 1) {
      return Bad(spec->source, "post_processor: special token '", name, "' has no single id");
    }
    ASSIGN_OR_RETURN(spec->bos_id,
                     TokenIdOf(ids[0], absl::StrCat(spec->source, ": post_processor")));
    spec->add_bos = true;
  }
  return absl::OkStatus();
}

// "<s>" or {"content": "<s>", ...}.
std::optional<int32_t> FindNamed(const Json& token, const TokenizerSpec& spec) {
  std::string content;
  if (token.is_string()) content = token.get<std::string>();
  if (token.is_object()) content = StringOr(token, "content", "");
  if (content.empty()) return std::nullopt;
  for (const AddedToken& added : spec.added_tokens) {
    if (added.content == content) return added.id;
  }
  for (const auto& [text, id] : spec.vocabulary) {
    if (text == content) return id;
  }
  return std::nullopt;
}

// What tokenizer_config.json, if there, says of bos, eos and pad; else tokens named <bos>, <eos>
// and <pad> are those.
absl::Status ReadConfig(FileSystem& files, const std::string& path, TokenizerSpec* spec) {
  Json config = Json::object();
  if (files.Exists(path)) {
    ASSIGN_OR_RETURN(const std::string text, files.ReadFile(path, kConfigFileBytesMax));
    ASSIGN_OR_RETURN(config, ParseJson(text, path));
    if (!config.is_object()) return Bad(path, "expected an object");
  }
  const auto set = [&](std::optional<int32_t>* id, const char* field, const char* name) {
    if (!*id) *id = FindNamed(Member(config, field), *spec);
    if (!*id) *id = FindNamed(Json(name), *spec);
  };
  set(&spec->bos_id, "bos_token", "<bos>");
  set(&spec->eos_id, "eos_token", "<eos>");
  set(&spec->pad_id, "pad_token", "<pad>");
  if (BoolOr(config, "add_bos_token", false)) spec->add_bos = true;
  return absl::OkStatus();
}

// What tokenizer.ggml.pre names (llama.cpp, llm_load_vocab).
absl::Status SetGgufPreTokenizer(absl::string_view name, TokenizerSpec* spec) {
  if (name == "gpt-2" || name == "default") {
    spec->splits = {{std::string(kGpt2Regex)}};
  } else if (name == "smollm" || name == "starcoder" || name == "refact" || name == "command-r") {
    spec->splits = {{R"(\p{N})"}, {std::string(kGpt2Regex)}};
  } else if (name == "qwen2" || name == "deepseek-r1-qwen") {
    spec->nfc = true;
    spec->splits = {{std::string(kQwen2Regex)}};
  } else if (name == "llama-bpe" || name == "llama3" || name == "llama-v3" || name == "smaug-bpe") {
    spec->splits = {{std::string(kLlama3Regex)}};
    spec->ignore_merges = true;
  } else {
    return Unread(spec->source,
                  "key 'tokenizer.ggml.pre': expected one of gpt-2, smollm, starcoder, refact, "
                  "command-r, qwen2, deepseek-r1-qwen, llama-bpe; found '",
                  name, "'");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TokenizerSpec> ReadTokenizerSpec(FileSystem& files, const std::string& path) {
  TokenizerSpec spec;
  spec.source = files.IsDirectory(path) ? JoinPath(path, "tokenizer.json") : path;
  ASSIGN_OR_RETURN(const std::string text, files.ReadFile(spec.source, kTokenizerFileBytesMax));
  ASSIGN_OR_RETURN(const Json root, ParseJson(text, spec.source));
  if (!root.is_object()) return Bad(spec.source, "expected an object");
  RETURN_IF_ERROR(ReadModel(root, &spec));
  RETURN_IF_ERROR(ReadAddedTokens(root, &spec));
  RETURN_IF_ERROR(ReadNormalizer(root, &spec));
  RETURN_IF_ERROR(ReadPreTokenizer(root, &spec));
  RETURN_IF_ERROR(ReadPostProcessor(root, &spec));
  RETURN_IF_ERROR(
      ReadConfig(files, JoinPath(DirName(spec.source), "tokenizer_config.json"), &spec));
  return spec;
}

absl::StatusOr<TokenizerSpec> ReadTokenizerSpec(const GgufFile& file) {
  TokenizerSpec spec;
  spec.source = file.path();
  ASSIGN_OR_RETURN(const std::string model, file.GetString("tokenizer.ggml.model"));
  if (model != "gpt2") {
    return Unread(spec.source,
                  "key 'tokenizer.ggml.model': expected gpt2 (byte-level BPE), found '", model,
                  "'");
  }
  ASSIGN_OR_RETURN(const auto* tokens, file.GetStrings("tokenizer.ggml.tokens"));
  ASSIGN_OR_RETURN(const auto* merges, file.GetStrings("tokenizer.ggml.merges"));
  const std::vector<int64_t>* types = nullptr;
  if (file.Has("tokenizer.ggml.token_type")) {
    ASSIGN_OR_RETURN(types, file.GetInts("tokenizer.ggml.token_type"));
    if (types->size() != tokens->size()) {
      return Bad(spec.source, "tokenizer.ggml.token_type: expected ", tokens->size(),
                 " elements, found ", types->size());
    }
  }
  if (tokens->size() > static_cast<size_t>(limits::kVocabularyMax)) {
    return Bad(spec.source, "tokenizer.ggml.tokens: expected at most ", limits::kVocabularyMax,
               " elements, found ", tokens->size());
  }
  constexpr int64_t kControl = 3;
  constexpr int64_t kUserDefined = 4;
  for (size_t i = 0; i < tokens->size(); ++i) {
    const int32_t id = static_cast<int32_t>(i);
    const int64_t type = types != nullptr ? (*types)[i] : 1;
    if (type == kControl || type == kUserDefined) {
      AddedToken token;
      token.content = std::string((*tokens)[i]);
      token.id = id;
      token.special = type == kControl;
      spec.added_tokens.push_back(std::move(token));
    }
    spec.vocabulary.emplace_back((*tokens)[i], id);
  }
  for (const absl::string_view merge : *merges) {
    const size_t space = merge.find(' ', 1);
    if (space == absl::string_view::npos) {
      return Bad(spec.source, "tokenizer.ggml.merges[", spec.merges.size(),
                 "]: expected two parts with a space between");
    }
    spec.merges.emplace_back(merge.substr(0, space), merge.substr(space + 1));
  }
  std::string pre = "default";
  if (file.Has("tokenizer.ggml.pre")) {
    ASSIGN_OR_RETURN(pre, file.GetString("tokenizer.ggml.pre"));
  }
  RETURN_IF_ERROR(SetGgufPreTokenizer(pre, &spec));
  const std::pair<const char*, std::optional<int32_t>*> named[] = {
      {"tokenizer.ggml.bos_token_id", &spec.bos_id},
      {"tokenizer.ggml.eos_token_id", &spec.eos_id},
      {"tokenizer.ggml.padding_token_id", &spec.pad_id}};
  for (const auto& [key, id] : named) {
    if (!file.Has(key)) continue;
    ASSIGN_OR_RETURN(const int64_t value, file.GetInt(key));
    if (value < 0 || value >= static_cast<int64_t>(tokens->size())) {
      return Bad(spec.source, "key '", key, "': expected an id below ", tokens->size(), ", found ",
                 value);
    }
    *id = static_cast<int32_t>(value);
  }
  if (file.Has("tokenizer.ggml.add_bos_token")) {
    ASSIGN_OR_RETURN(spec.add_bos, file.GetBool("tokenizer.ggml.add_bos_token"));
  }
  if (file.Has("tokenizer.ggml.add_space_prefix")) {
    ASSIGN_OR_RETURN(spec.add_prefix_space, file.GetBool("tokenizer.ggml.add_space_prefix"));
  }
  return spec;
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromHuggingFace(FileSystem& files,
                                                                      const std::string& path) {
  ASSIGN_OR_RETURN(const TokenizerSpec spec, ReadTokenizerSpec(files, path));
  return Make(spec);
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromGguf(const GgufFile& file) {
  ASSIGN_OR_RETURN(const TokenizerSpec spec, ReadTokenizerSpec(file));
  return Make(spec);
}

}  // namespace crescendo
