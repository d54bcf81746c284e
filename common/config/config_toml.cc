// The configuration written: ToToml and ConfigDigest.
#include <openssl/evp.h>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/config/config_fields.h"
#include "common/config/config_value.h"
#include "common/config/run_config.h"

namespace crescendo {
namespace {

void AppendFields(const std::vector<ConfigField>& fields, bool digested_only, std::string& out) {
  for (const ConfigField& field : fields) {
    if (digested_only && !field.digested) continue;
    absl::StrAppend(&out, field.key, " = ", FieldToml(field), "\n");
  }
}

// Of [objective]'s keys a stage shows those that it overrides.
void AppendStages(RunConfig& config, bool digested_only, std::string& out) {
  const std::vector<ConfigField> objective = FieldsOfObjective(config.objective);
  for (StageSection& stage : config.stages) {
    absl::StrAppend(&out, "\n[[stage]]\n");
    std::vector<ConfigField> fields = FieldsOfStage(stage);
    for (size_t i = objective.size(); i-- > 0;) {
      const auto at = fields.begin() + static_cast<int64_t>(kStageOwnFields + i);
      if (FieldToml(*at) == FieldToml(objective[i])) fields.erase(at);
    }
    AppendFields(fields, digested_only, out);
  }
}

std::string Write(RunConfig config, bool digested_only) {
  std::string out;
  for (const ConfigFields& section : FieldsOf(config)) {
    if (digested_only && !section.digested) continue;
    absl::StrAppend(&out, out.empty() ? "" : "\n", "[", section.section, "]\n");
    AppendFields(section.fields, digested_only, out);
    if (absl::string_view(section.section) == "evaluation") {
      for (EvaluationSetSection& set : config.evaluation_sets) {
        absl::StrAppend(&out, "\n[[evaluation_set]]\n");
        AppendFields(FieldsOfEvaluationSet(set), digested_only, out);
      }
    }
    if (absl::string_view(section.section) == "data") AppendStages(config, digested_only, out);
  }
  return out;
}

}  // namespace

std::string ToToml(const RunConfig& config) { return Write(config, /*digested_only=*/false); }

std::string ConfigDigest(const RunConfig& config) {
  const std::string text = Write(config, /*digested_only=*/true);
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int bytes = 0;
  CRESCENDO_CHECK(EVP_Digest(text.data(), text.size(), digest, &bytes, EVP_sha256(), nullptr) == 1);
  return absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(digest), bytes));
}

}  // namespace crescendo
