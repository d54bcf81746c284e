#include "common/text/tokenizer_save.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/formats/json.h"

namespace crescendo {
namespace {

// What is not UTF-8 in a vocabulary could not be read back: U+FFFD rather than an exception.
std::string Dump(const Json& json) {
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

Json AddedTokens(const TokenizerSpec& spec) {
  Json list = Json::array();
  for (const AddedToken& token : spec.added_tokens) {
    list.push_back({{"id", token.id},
                    {"content", token.content},
                    {"single_word", token.single_word},
                    {"lstrip", token.lstrip},
                    {"rstrip", token.rstrip},
                    {"normalized", token.normalized},
                    {"special", token.special}});
  }
  return list;
}

Json Splits(const TokenizerSpec& spec) {
  Json steps = Json::array();
  for (const SplitStep& split : spec.splits) {
    steps.push_back({{"type", "Split"},
                     {"pattern", {{"Regex", split.regex}}},
                     {"behavior", split.removed ? "Removed" : "Isolated"},
                     {"invert", false}});
  }
  steps.push_back({{"type", "ByteLevel"},
                   {"add_prefix_space", spec.add_prefix_space},
                   {"trim_offsets", true},
                   {"use_regex", false}});
  return {{"type", "Sequence"}, {"pretokenizers", std::move(steps)}};
}

const std::string* NameOf(const TokenizerSpec& spec, std::optional<int32_t> id) {
  if (!id.has_value()) return nullptr;
  for (const AddedToken& token : spec.added_tokens) {
    if (token.id == *id) return &token.content;
  }
  for (const auto& [text, token_id] : spec.vocabulary) {
    if (token_id == *id) return &text;
  }
  return nullptr;
}

Json PostProcessor(const TokenizerSpec& spec) {
  const std::string* bos = NameOf(spec, spec.bos_id);
  if (!spec.add_bos || bos == nullptr) {
    return {{"type", "ByteLevel"},
            {"add_prefix_space", false},
            {"trim_offsets", true},
            {"use_regex", true}};
  }
  const Json first = {{"SpecialToken", {{"id", *bos}, {"type_id", 0}}}};
  const Json a = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
  const Json b = {{"Sequence", {{"id", "B"}, {"type_id", 1}}}};
  return {
      {"type", "TemplateProcessing"},
      {"single", Json::array({first, a})},
      {"pair", Json::array({first, a, b})},
      {"special_tokens", {{*bos, {{"id", *bos}, {"ids", {*spec.bos_id}}, {"tokens", {*bos}}}}}}};
}

// The name of SetGgufPreTokenizer's splits.
absl::StatusOr<std::string> PreTokenizerName(const TokenizerSpec& spec) {
  std::vector<absl::string_view> steps;
  for (const SplitStep& split : spec.splits) {
    if (split.removed) break;
    steps.push_back(split.regex);
  }
  if (steps.size() == spec.splits.size()) {
    const auto is = [&](std::vector<absl::string_view> wanted) { return steps == wanted; };
    if (is({kGpt2Regex})) return "gpt-2";
    if (is({R"(\p{N})", kGpt2Regex})) return "smollm";
    if (is({kQwen2Regex})) return "qwen2";
    if (is({kLlama3Regex})) return "llama-bpe";
  }
  return absl::UnimplementedError(absl::StrCat(
      spec.source,
      ": llama.cpp has no pre-tokenizer for these splits (it has those of GPT-2, SmolLM, Qwen2 and "
      "Llama 3)"));
}

}  // namespace

std::string TokenizerJson(const TokenizerSpec& spec) {
  Json vocabulary = Json::object();
  for (const auto& [text, id] : spec.vocabulary) vocabulary[text] = id;
  Json merges = Json::array();
  for (const auto& [left, right] : spec.merges) merges.push_back(Json::array({left, right}));
  const Json model = {{"type", "BPE"},
                      {"dropout", Json()},
                      {"unk_token", spec.unknown.has_value() ? Json(*spec.unknown) : Json()},
                      {"continuing_subword_prefix", Json()},
                      {"end_of_word_suffix", Json()},
                      {"fuse_unk", spec.fuse_unknown},
                      {"byte_fallback", false},
                      {"ignore_merges", spec.ignore_merges},
                      {"vocab", std::move(vocabulary)},
                      {"merges", std::move(merges)}};
  return Dump({{"version", "1.0"},
               {"truncation", Json()},
               {"padding", Json()},
               {"added_tokens", AddedTokens(spec)},
               {"normalizer", spec.nfc ? Json{{"type", "NFC"}} : Json()},
               {"pre_tokenizer", Splits(spec)},
               {"post_processor", PostProcessor(spec)},
               {"decoder",
                {{"type", "ByteLevel"},
                 {"add_prefix_space", true},
                 {"trim_offsets", true},
                 {"use_regex", true}}},
               {"model", model}});
}

std::string TokenizerConfigJson(const TokenizerSpec& spec,
                                const std::optional<std::string>& chat_template) {
  Json json = {{"tokenizer_class", "PreTrainedTokenizerFast"},
               {"clean_up_tokenization_spaces", false},
               // Without it the class also makes token_type_ids, which no causal model takes.
               {"model_input_names", {"input_ids", "attention_mask"}},
               {"add_bos_token", spec.add_bos}};
  const auto set = [&](const char* name, std::optional<int32_t> id) {
    if (const std::string* token = NameOf(spec, id)) json[name] = *token;
  };
  set("bos_token", spec.bos_id);
  set("eos_token", spec.eos_id);
  set("pad_token", spec.pad_id);
  if (chat_template.has_value()) json["chat_template"] = *chat_template;
  return Dump(json);
}

absl::StatusOr<std::vector<std::pair<std::string, GgufWriteValue>>> GgufTokenizer(
    const TokenizerSpec& spec, int64_t vocab_size,
    const std::optional<std::string>& chat_template) {
  constexpr int32_t kNormal = 1, kControl = 3, kUserDefined = 4, kUnused = 5;
  ASSIGN_OR_RETURN(const std::string pre, PreTokenizerName(spec));
  std::vector<std::string> tokens(static_cast<size_t>(vocab_size));
  std::vector<int32_t> types(tokens.size(), kUnused);
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = absl::StrCat("[PAD", i, "]");
  const auto set = [&](int32_t id, const std::string& text, int32_t type) -> absl::Status {
    if (id < 0 || id >= vocab_size) {
      return absl::InvalidArgumentError(absl::StrCat(spec.source, ": token ", id,
                                                     " is outside the model's embedding of ",
                                                     vocab_size, " rows"));
    }
    tokens[static_cast<size_t>(id)] = text;
    types[static_cast<size_t>(id)] = type;
    return absl::OkStatus();
  };
  for (const auto& [text, id] : spec.vocabulary) RETURN_IF_ERROR(set(id, text, kNormal));
  for (const AddedToken& token : spec.added_tokens) {
    RETURN_IF_ERROR(set(token.id, token.content, token.special ? kControl : kUserDefined));
  }
  std::vector<std::string> merges;
  for (const auto& [left, right] : spec.merges) merges.push_back(absl::StrCat(left, " ", right));
  std::vector<std::pair<std::string, GgufWriteValue>> out = {
      {"tokenizer.ggml.model", std::string("gpt2")},
      {"tokenizer.ggml.pre", pre},
      {"tokenizer.ggml.tokens", std::move(tokens)},
      {"tokenizer.ggml.token_type", std::move(types)},
      {"tokenizer.ggml.merges", std::move(merges)},
      {"tokenizer.ggml.add_bos_token", spec.add_bos},
      {"tokenizer.ggml.add_space_prefix", spec.add_prefix_space}};
  const std::pair<const char*, std::optional<int32_t>> named[] = {
      {"tokenizer.ggml.bos_token_id", spec.bos_id},
      {"tokenizer.ggml.eos_token_id", spec.eos_id},
      {"tokenizer.ggml.padding_token_id", spec.pad_id}};
  for (const auto& [key, id] : named) {
    if (id.has_value()) out.emplace_back(key, static_cast<uint32_t>(*id));
  }
  if (chat_template.has_value()) out.emplace_back("tokenizer.chat_template", *chat_template);
  return out;
}

}  // namespace crescendo
