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

std::string Write(RunConfig config, bool digested_only) {
  std::string out;
  for (const ConfigFields& section : FieldsOf(config)) {
    if (digested_only && !section.digested) continue;
    absl::StrAppend(&out, out.empty() ? "" : "\n", "[", section.section, "]\n");
    AppendFields(section.fields, digested_only, out);
    if (absl::string_view(section.section) != "data") continue;
    for (StageSection& stage : config.stages) {
      absl::StrAppend(&out, "\n[[stage]]\n");
      AppendFields(FieldsOfStage(stage), digested_only, out);
    }
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
