// A recipe in a folder of its own, removed at the end.
#ifndef CRESCENDO_TESTS_UNIT_CONFIG_TEMP_RECIPE_H_
#define CRESCENDO_TESTS_UNIT_CONFIG_TEMP_RECIPE_H_

#include <string>
#include <vector>

#include "absl/strings/str_replace.h"
#include "catch2/catch.hpp"
#include "common/config/run_config.h"
#include "tests/support/temp_dir.h"

namespace crescendo {

class TempRecipe {
 public:
  explicit TempRecipe(const std::string& text) {
    REQUIRE(dir_.files->WriteFile(file(), text).ok());
  }

  absl::StatusOr<RunConfig> Load(const std::vector<std::string>& overrides) {
    return LoadRunConfig(*dir_.files, file(), overrides);
  }
  const std::string& folder() const { return dir_.path(); }
  std::string file() const { return dir_ / "recipe.toml"; }
  FileSystem& files() { return *dir_.files; }
  std::string WithoutFolder(const std::string& text) const {
    return absl::StrReplaceAll(text, {{folder() + "/", ""}});
  }

 private:
  TempDir dir_;
};

}  // namespace crescendo

#endif  // CRESCENDO_TESTS_UNIT_CONFIG_TEMP_RECIPE_H_
