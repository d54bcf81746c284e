// A recipe in a folder of its own, removed at the end.
#ifndef CRESCENDO_TESTS_UNIT_CONFIG_TEMP_RECIPE_H_
#define CRESCENDO_TESTS_UNIT_CONFIG_TEMP_RECIPE_H_

#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_replace.h"
#include "catch2/catch.hpp"
#include "common/config/run_config.h"
#include "common/os/posix_env.h"

namespace crescendo {

class TempRecipe {
 public:
  explicit TempRecipe(const std::string& text) {
    std::string name = "/tmp/crescendo_config_XXXXXX";
    REQUIRE(mkdtemp(name.data()) != nullptr);
    folder_ = name;
    REQUIRE(files_->WriteFile(file(), text).ok());
  }
  ~TempRecipe() { (void)files_->RemoveTree(folder_); }
  TempRecipe(const TempRecipe&) = delete;
  TempRecipe& operator=(const TempRecipe&) = delete;

  absl::StatusOr<RunConfig> Load(const std::vector<std::string>& overrides) {
    return LoadRunConfig(*files_, file(), overrides);
  }
  const std::string& folder() const { return folder_; }
  std::string file() const { return folder_ + "/recipe.toml"; }
  FileSystem& files() { return *files_; }
  std::string WithoutFolder(const std::string& text) const {
    return absl::StrReplaceAll(text, {{folder_ + "/", ""}});
  }

 private:
  std::unique_ptr<FileSystem> files_ = MakePosixFileSystem();
  std::string folder_;
};

}  // namespace crescendo

#endif  // CRESCENDO_TESTS_UNIT_CONFIG_TEMP_RECIPE_H_
