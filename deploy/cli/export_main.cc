// crescendo-export, behind `crescendo export`: see export_policy.h.
#include <iostream>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/base/status_macros.h"
#include "common/config/command_line.h"
#include "common/os/posix_env.h"
#include "common/os/process.h"
#include "deploy/cli/export_policy.h"

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

struct Arguments {
  ExportRequest request;
  bool help = false;
};

absl::StatusOr<Arguments> Parse(int argc, char** argv) {
  Arguments out;
  for (int i = 1; i < argc; ++i) {
    absl::string_view rest = argv[i];
    if (rest == "--help" || rest == "-h") {
      out.help = true;
    } else if (absl::ConsumePrefix(&rest, "--")) {
      const std::pair<absl::string_view, absl::string_view> parts =
          absl::StrSplit(rest, absl::MaxSplits('=', 1));
      std::string* value = parts.first == "as"      ? &out.request.format
                           : parts.first == "base"  ? &out.request.base
                           : parts.first == "dtype" ? &out.request.dtype
                                                    : nullptr;
      if (value == nullptr) {
        return absl::InvalidArgumentError(
            absl::StrCat("unknown option '--", parts.first, "'; see --help"));
      }
      const bool apart = !absl::StrContains(rest, '=');
      if (apart && i + 1 >= argc) {
        return absl::InvalidArgumentError(absl::StrCat("--", rest, " needs a value"));
      }
      *value = std::string(apart ? argv[++i] : parts.second);
    } else if (out.request.source.empty()) {
      out.request.source = std::string(rest);
    } else if (out.request.target.empty()) {
      out.request.target = std::string(absl::StripSuffix(rest, "/"));
    } else {
      return absl::InvalidArgumentError(
          absl::StrCat("expected one source and one target, found '", rest, "' too"));
    }
  }
  if (out.request.target.empty() && !out.help) {
    return absl::InvalidArgumentError("expected a source and a target; see --help");
  }
  return out;
}

}  // namespace
}  // namespace crescendo

int main(int argc, char** argv) {
  using crescendo::kName;
  const auto arguments = crescendo::Parse(argc, argv);
  if (!arguments.ok()) return crescendo::ReportError(kName, arguments.status(), std::cerr);
  if (arguments->help) {
    std::cout << std::string(crescendo::kHelp);
    return crescendo::kExitOk;
  }
  const auto files = crescendo::MakePosixFileSystem();
  const auto line = crescendo::ExportPolicy(*files, arguments->request);
  if (!line.ok()) return crescendo::ReportError(kName, line.status(), std::cerr);
  std::cout << *line << std::endl;
  return crescendo::kExitOk;
}
