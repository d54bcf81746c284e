// Where the policy runs, as the configuration asks and the machine allows.
#include "services/rollout/make_runner.h"

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "catch2/catch.hpp"
#include "common/os/posix_env.h"
#include "common/text/tokenizer.h"
#include "services/rollout/make_cuda_runner.h"

namespace crescendo {
namespace {

absl::StatusOr<ModelRunnerParts> Make(std::vector<std::string> overrides) {
  const std::unique_ptr<FileSystem> files = MakePosixFileSystem();
  overrides.insert(overrides.end(), {"rollout.kv_tokens=1024", "rollout.slots=4"});
  const auto config = LoadRunConfig(*files, "deploy/recipes/demo.toml", overrides);
  INFO(config.status());
  REQUIRE(config.ok());
  const auto tokenizer =
      Tokenizer::FromHuggingFace(*files, config->policy.path + "/tokenizer.json");
  INFO(tokenizer.status());
  REQUIRE(tokenizer.ok());
  return MakeModelRunner(*files, *config, **tokenizer);
}

}  // namespace

TEST_CASE("rollout.device = cuda without a device is an error that says what is missing") {
  if (CheckCudaRunner().ok()) {
    WARN("skipped: there is a CUDA device here");
    return;
  }
  const auto parts = Make({"rollout.device=cuda"});
  INFO(parts.status());
  CHECK(absl::IsFailedPrecondition(parts.status()));
  CHECK(absl::StrContains(parts.status().message(), "rollout.device = \"cuda\""));
  CHECK(absl::StrContains(parts.status().message(), "CUDA"));
}

TEST_CASE("rollout.device = auto takes a device where there is one, else the CPU") {
  const auto parts = Make({"rollout.device=auto"});
  INFO(parts.status());
  REQUIRE(parts.ok());
  CHECK(absl::StrContains(parts->description, "on CUDA") == CheckCudaRunner().ok());
}

TEST_CASE("the deterministic mode is the CPU's") {
  const auto refused = Make({"rollout.device=cuda", "policy.deterministic=true"});
  INFO(refused.status());
  CHECK(absl::IsInvalidArgument(refused.status()));
  CHECK(absl::StrContains(refused.status().message(), "policy.deterministic"));
  const auto parts = Make({"rollout.device=auto", "policy.deterministic=true"});
  REQUIRE(parts.ok());
  CHECK_FALSE(absl::StrContains(parts->description, "on CUDA"));
}

}  // namespace crescendo
