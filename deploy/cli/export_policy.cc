#include "deploy/cli/export_policy.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/status_macros.h"
#include "common/config/run_config.h"
#include "common/formats/json.h"
#include "common/formats/safetensors.h"
#include "common/model/model_gguf.h"
#include "common/model/policy_model.h"
#include "common/text/chat_template.h"
#include "common/text/tokenizer_save.h"
#include "services/learner/checkpoint_files.h"

namespace crescendo {
namespace {

constexpr size_t kTokenizerBytesMax = 128u << 20;
constexpr size_t kManifestBytesMax = 256u << 20;
constexpr absl::string_view kTokenizerFiles[] = {
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json",
    "merges.txt",     "chat_template.jinja"};

// What `source` names: a policy to load, and the weights of a checkpoint to put over it.
struct Source {
  std::string policy;
  std::string tokenizer;  // a folder, a tokenizer.json or a .gguf
  std::string weights;    // a checkpoint's folder; empty: the policy's own
};

absl::StatusOr<std::string> NewestCheckpoint(FileSystem& files, const std::string& folder) {
  ASSIGN_OR_RETURN(const std::vector<std::string> names, files.ListDir(folder));
  std::string newest;
  for (const std::string& name : names) {
    if (absl::StartsWith(name, "step-")) newest = std::max(newest, name);
  }
  if (newest.empty()) {
    return absl::NotFoundError(absl::StrCat(folder, " holds no checkpoint (step-...)"));
  }
  return JoinPath(folder, newest);
}

// The effective configuration that a checkpoint carries.
absl::StatusOr<RunConfig> ConfigOf(FileSystem& files, const std::string& checkpoint) {
  const std::string path = JoinPath(checkpoint, "checkpoint.json");
  ASSIGN_OR_RETURN(const std::string text, files.ReadFile(path, kManifestBytesMax));
  // The last line is a checksum.
  ASSIGN_OR_RETURN(const Json json, ParseJson(text.substr(0, text.rfind("\ncrc32c ")), path));
  const auto config = json.is_object() ? json.find("config") : json.end();
  if (config == json.end() || !config->is_string()) {
    return absl::DataLossError(absl::StrCat(path, ": expected a text 'config'"));
  }
  return RunConfigFromText(config->get<std::string>(), path);
}

absl::StatusOr<Source> Resolve(FileSystem& files, const ExportRequest& request) {
  std::string place = request.source;
  if (!files.Exists(place)) return absl::NotFoundError(absl::StrCat(place, " does not exist"));
  if (absl::EndsWith(place, ".gguf")) return Source{place, place, ""};
  if (files.Exists(JoinPath(place, "config.json"))) return Source{place, place, ""};
  if (files.IsDirectory(JoinPath(place, "checkpoints"))) place = JoinPath(place, "checkpoints");
  if (!files.Exists(JoinPath(place, "checkpoint.json"))) {
    const auto newest = NewestCheckpoint(files, place);
    if (!newest.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat(request.source,
                       ": expected a run's folder, a checkpoint, a Hugging Face "
                       "folder or a .gguf file; found none of them there"));
    }
    place = *newest;
  }
  Source source{request.base, request.base, place};
  if (source.policy.empty()) {
    ASSIGN_OR_RETURN(const RunConfig config, ConfigOf(files, place));
    source.policy = config.policy.path;
    source.tokenizer =
        config.policy.tokenizer.empty() ? config.policy.path : config.policy.tokenizer;
  }
  if (!files.Exists(source.policy)) {
    return absl::NotFoundError(absl::StrCat(
        place, " was trained from ", source.policy,
        ", which is not there: name the policy that training began with by --base (its shape and "
        "tokenizer are needed)"));
  }
  return source;
}

absl::Status LoadWeights(FileSystem& files, const std::string& folder, PolicyModel& model) {
  const std::string path = JoinPath(folder, "weights.safetensors");
  if (!files.Exists(path)) {  // of several ranks
    ASSIGN_OR_RETURN(const std::vector<TensorData> weights, ReadWeights(files, folder));
    std::vector<TensorBytes> tensors;
    for (const TensorData& tensor : weights) {
      tensors.push_back({tensor.name, tensor.dtype, tensor.shape, tensor.bytes});
    }
    return Annotate(model.LoadState(tensors), folder);
  }
  ASSIGN_OR_RETURN(const auto file, SafetensorsFile::Open(files, path));
  std::vector<TensorBytes> tensors;
  for (const TensorView& tensor : file->tensors()) {
    tensors.push_back({tensor.name, std::string(DTypeName(tensor.dtype)), tensor.shape,
                       absl::string_view(tensor.bytes.data(), tensor.bytes.size())});
  }
  return Annotate(model.LoadState(tensors), path);
}

struct TokenizerParts {
  TokenizerSpec spec;
  std::optional<std::string> chat_template;
};

absl::StatusOr<TokenizerParts> ReadTokenizer(FileSystem& files, const std::string& place) {
  TokenizerParts parts;
  if (absl::EndsWith(place, ".gguf")) {
    ASSIGN_OR_RETURN(const auto file, GgufFile::Open(files, place));
    ASSIGN_OR_RETURN(parts.spec, ReadTokenizerSpec(*file));
    ASSIGN_OR_RETURN(parts.chat_template, ChatTemplateSource(*file));
  } else {
    ASSIGN_OR_RETURN(parts.spec, ReadTokenizerSpec(files, place));
    ASSIGN_OR_RETURN(parts.chat_template,
                     ChatTemplateSource(files, files.IsDirectory(place) ? place : DirName(place)));
  }
  return parts;
}

absl::Status SaveHuggingFace(FileSystem& files, const Source& source, const PolicyModel& model,
                             const std::string& target) {
  if (files.IsDirectory(source.tokenizer)) {
    RETURN_IF_ERROR(model.Save(files, target));
    for (const absl::string_view name : kTokenizerFiles) {
      const std::string from = JoinPath(source.tokenizer, name);
      if (!files.Exists(from)) continue;
      ASSIGN_OR_RETURN(const std::string text, files.ReadFile(from, kTokenizerBytesMax));
      RETURN_IF_ERROR(files.WriteFile(JoinPath(target, name), text));
    }
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const TokenizerParts tokenizer, ReadTokenizer(files, source.tokenizer));
  RETURN_IF_ERROR(model.Save(files, target));
  RETURN_IF_ERROR(
      files.WriteFile(JoinPath(target, "tokenizer.json"), TokenizerJson(tokenizer.spec)));
  return files.WriteFile(JoinPath(target, "tokenizer_config.json"),
                         TokenizerConfigJson(tokenizer.spec, tokenizer.chat_template));
}

absl::StatusOr<GgmlType> TypeOf(absl::string_view format) {
  if (format == "f16") return GgmlType::kF16;
  if (format == "q8_0") return GgmlType::kQ8_0;
  if (format == "q4_0") return GgmlType::kQ4_0;
  return absl::InvalidArgumentError(
      absl::StrCat("--as: expected hf, f16, q8_0 or q4_0, found '", format, "'"));
}

absl::Status CheckTarget(FileSystem& files, const ExportRequest& request, bool folder) {
  const std::string& target = request.target;
  if (target.empty()) return absl::InvalidArgumentError("where to? name a target");
  if (folder == absl::EndsWith(target, ".gguf")) {
    return absl::InvalidArgumentError(
        folder ? absl::StrCat(target, " is to be a folder: a name that does not end with .gguf")
               : absl::StrCat(target, " is to be a file whose name ends with .gguf"));
  }
  if (!files.Exists(target)) return absl::OkStatus();
  if (!folder) {
    if (!files.IsDirectory(target)) return absl::OkStatus();  // replaced at once, when it is whole
    return absl::AlreadyExistsError(absl::StrCat(target, " is a folder"));
  }
  if (!files.IsDirectory(target)) {
    return absl::AlreadyExistsError(absl::StrCat(target, " is a file"));
  }
  ASSIGN_OR_RETURN(const std::vector<std::string> names, files.ListDir(target));
  if (names.empty()) return absl::OkStatus();
  return absl::AlreadyExistsError(
      absl::StrCat(target, " is not empty; a policy is written into a new folder"));
}

}  // namespace

absl::StatusOr<std::string> ExportPolicy(FileSystem& files, const ExportRequest& request) {
  std::string format = request.format;
  if (format.empty()) format = absl::EndsWith(request.target, ".gguf") ? "f16" : "hf";
  const bool folder = format == "hf";
  GgmlType type = GgmlType::kF32;
  if (!folder) {
    ASSIGN_OR_RETURN(type, TypeOf(format));
  }
  if (request.dtype != "float32" && request.dtype != "bfloat16") {
    return absl::InvalidArgumentError(
        absl::StrCat("--dtype: expected float32 or bfloat16, found '", request.dtype, "'"));
  }
  RETURN_IF_ERROR(CheckTarget(files, request, folder));
  ASSIGN_OR_RETURN(const Source source, Resolve(files, request));
  LoadOptions load;
  load.dtype = folder && request.dtype == "bfloat16" ? at::kBFloat16 : at::kFloat;
  ASSIGN_OR_RETURN(const auto model, PolicyModel::Load(files, source.policy, load));
  if (!source.weights.empty()) RETURN_IF_ERROR(LoadWeights(files, source.weights, *model));
  if (folder) {
    RETURN_IF_ERROR(SaveHuggingFace(files, source, *model, request.target));
  } else {
    ASSIGN_OR_RETURN(const TokenizerParts parts, ReadTokenizer(files, source.tokenizer));
    ASSIGN_OR_RETURN(const auto tokenizer,
                     GgufTokenizer(parts.spec, model->config().vocab_size, parts.chat_template));
    RETURN_IF_ERROR(SaveGguf(files, request.target, *model, type, tokenizer));
  }
  return absl::StrCat(
      "wrote ", request.target, ": ", ArchitectureName(model->config().architecture), ", ",
      model->config().parameter_count(), " parameters as ", folder ? request.dtype : format,
      ", from ", source.weights.empty() ? source.policy : source.weights);
}

}  // namespace crescendo
