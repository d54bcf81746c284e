// What a dry run says of a policy that is there, that is not, and that is broken.
#include "services/learner/policy_check.h"

#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "catch2/catch.hpp"
#include "common/formats/safetensors.h"
#include "common/model/model_config.h"
#include "tests/support/temp_dir.h"

namespace crescendo {
namespace {

TEST_CASE("A policy's files, without its weights") {
  const TempDir dir;
  FileSystem& files = *dir.files;
  const std::string folder = dir.path() + "/policy";
  const auto absent = DescribePolicyFiles(files, folder);
  CHECK(absl::IsNotFound(absent.status()));
  CHECK(absl::StrContains(absent.status().message(), folder + " does not exist"));

  REQUIRE(files.MakeDirs(folder).ok());
  CHECK(absl::StrContains(DescribePolicyFiles(files, folder).status().message(), "config.json"));

  ModelConfig config;
  config.architecture = Architecture::kLlama;
  config.vocab_size = 10;
  config.hidden_size = 8;
  config.layers = 3;
  config.query_heads = 2;
  config.kv_heads = 1;
  config.head_dim = 4;
  config.mlp_size = 16;
  config.max_positions = 64;
  REQUIRE(files.WriteFile(folder + "/config.json", WriteHfConfig(config, "float32")).ok());
  CHECK(absl::StrContains(DescribePolicyFiles(files, folder).status().message(),
                          "model.safetensors"));

  REQUIRE(WriteSafetensors(files, folder + "/model.safetensors", {}, {}).ok());
  const auto there = DescribePolicyFiles(files, folder);
  INFO(there.status());
  REQUIRE(there.ok());
  CHECK(*there == absl::StrCat(folder, " (", config.parameter_count(), " parameters, 3 layers)"));
}

}  // namespace
}  // namespace crescendo
