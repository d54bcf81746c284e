#include "services/learner/policy_check.h"

#include <memory>
#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/formats/safetensors.h"
#include "common/model/model_config.h"

namespace crescendo {
namespace {

constexpr size_t kConfigBytesMax = 1 << 20;

}  // namespace

absl::StatusOr<std::string> DescribePolicyFiles(FileSystem& files, const std::string& path) {
  if (!files.Exists(path)) {
    return absl::NotFoundError(
        absl::StrCat("policy.path: ", path,
                     " does not exist; expected a model: a Hugging Face folder or a .gguf file"));
  }
  if (absl::EndsWith(path, ".gguf")) return path;
  ASSIGN_OR_RETURN(const std::string text,
                   files.ReadFile(JoinPath(path, "config.json"), kConfigBytesMax));
  ASSIGN_OR_RETURN(const ModelConfig config, ParseHfConfig(text, std::nullopt, path));
  RETURN_IF_ERROR(SafetensorsFile::OpenModel(files, path).status());
  return absl::StrCat(path, " (", config.parameter_count(), " parameters, ", config.layers,
                      " layers)");
}

}  // namespace crescendo
