// crescendo-export, behind `crescendo export`: see export_policy.h.
#include <iostream>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/status_macros.h"
#include "common/os/posix_env.h"
#include "deploy/cli/export_policy.h"
#include "deploy/cli/own_program.h"

namespace crescendo {
namespace {

constexpr absl::string_view kName = "crescendo export";
constexpr absl::string_view kHelp =
    R"(crescendo export SOURCE TARGET [--as hf|f16|q8_0|q4_0] [--base MODEL] [--dtype float32|bfloat16]

Writes a policy as files that others load. For example:
  crescendo export runs/demo exported               a Hugging Face folder, for transformers
  crescendo export runs/mine policy.gguf --as q8_0  a GGUF file, for llama.cpp

  SOURCE        a run's folder (its newest checkpoint), a checkpoint, a Hugging Face folder, a .gguf file
  TARGET        a new folder, or a file whose name ends with .gguf
  --as FORMAT   hf; or f16, q8_0, q4_0 (GGUF). Unless given: by the target's name, hf or f16
  --base MODEL  the policy that a checkpoint's training began with, where it is not where it was
  --dtype TYPE  of a Hugging Face folder's weights; float32 unless given
)";

absl::Status Set(absl::string_view name, absl::string_view value, ExportRequest& out) {
  std::string* field = name == "as"      ? &out.format
                       : name == "base"  ? &out.base
                       : name == "dtype" ? &out.dtype
                                         : nullptr;
  if (field == nullptr) return UnknownOption(name);
  *field = std::string(value);
  return absl::OkStatus();
}

absl::Status Add(absl::string_view text, ExportRequest& out) {
  if (out.source.empty()) {
    out.source = std::string(text);
  } else if (out.target.empty()) {
    out.target = std::string(absl::StripSuffix(text, "/"));
  } else {
    return absl::InvalidArgumentError(
        absl::StrCat("expected one source and one target, found '", text, "' too"));
  }
  return absl::OkStatus();
}

absl::Status Main(const ExportRequest& request) {
  if (request.target.empty()) {
    return absl::InvalidArgumentError("expected a source and a target; see --help");
  }
  const auto files = MakePosixFileSystem();
  ASSIGN_OR_RETURN(const std::string line, ExportPolicy(*files, request));
  std::cout << line << std::endl;
  return absl::OkStatus();
}

}  // namespace
}  // namespace crescendo

int main(int argc, char** argv) {
  crescendo::ExportRequest request;
  return crescendo::RunOwnProgram(
      argc, argv,
      {crescendo::kName, crescendo::kHelp,
       [&](absl::string_view name, absl::string_view value) {
         return crescendo::Set(name, value, request);
       },
       [&](absl::string_view text) { return crescendo::Add(text, request); },
       [&] { return crescendo::Main(request); }});
}
