// A trained policy as files that others load: a Hugging Face folder (transformers), or a GGUF file
// (llama.cpp).
#ifndef CRESCENDO_DEPLOY_CLI_EXPORT_POLICY_H_
#define CRESCENDO_DEPLOY_CLI_EXPORT_POLICY_H_

#include <string>

#include "absl/status/statusor.h"
#include "common/os/env.h"

namespace crescendo {

struct ExportRequest {
  // A run's folder or its folder of checkpoints (the newest is taken), one checkpoint, a Hugging
  // Face folder or a .gguf file.
  std::string source;
  std::string target;  // a folder, or a .gguf file
  std::string format;  // hf, f16, q8_0, q4_0; empty: hf, or f16 for a target that ends with .gguf
  std::string base;    // of a checkpoint: the policy that training began with; empty: as it says
  std::string dtype = "float32";  // hf: float32 or bfloat16
};

// Writes the target, each file of it atomically; a line for people that says what was written. The
// target of a Hugging Face folder must be new or empty. Errors name the file and what is wrong with
// it; UNIMPLEMENTED when llama.cpp has no equal of the tokenizer.
absl::StatusOr<std::string> ExportPolicy(FileSystem& files, const ExportRequest& request);

}  // namespace crescendo

#endif  // CRESCENDO_DEPLOY_CLI_EXPORT_POLICY_H_
