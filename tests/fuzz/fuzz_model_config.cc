// Any bytes as config.json: a configuration that holds its own rules and survives being written, or
// an error that names the file.
#include "absl/strings/match.h"
#include "common/base/status_macros.h"
#include "common/model/model_config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace crescendo;
  const absl::string_view text(reinterpret_cast<const char*>(data), size);
  const auto config = ParseHfConfig(text, std::nullopt, "input");
  if (!config.ok()) {
    CRESCENDO_CHECK(absl::StartsWith(config.status().message(), "input/config.json"));
    return 0;
  }
  CRESCENDO_CHECK(ValidateModelConfig(*config, "input").ok());
  CRESCENDO_CHECK(config->parameter_count() > 0);
  const std::string written = WriteHfConfig(*config, "float32");
  const auto again = ParseHfConfig(written, WriteHfGenerationConfig(*config), "input");
  CRESCENDO_CHECK(again.ok() && WriteHfConfig(*again, "float32") == written);
  return 0;
}
