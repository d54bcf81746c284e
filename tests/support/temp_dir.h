// A folder of its own for a test, removed with all inside at the end.
#ifndef CRESCENDO_TESTS_SUPPORT_TEMP_DIR_H_
#define CRESCENDO_TESTS_SUPPORT_TEMP_DIR_H_

#include <cstdlib>
#include <memory>
#include <string>

#include "common/base/status_macros.h"
#include "common/os/posix_env.h"

namespace crescendo {

class TempDir {
 public:
  TempDir() {
    const char* base = std::getenv("TMPDIR");
    path_ = JoinPath(base != nullptr ? base : "/tmp", "crescendo_test_XXXXXX");
    CRESCENDO_CHECK(mkdtemp(path_.data()) != nullptr);
  }
  ~TempDir() { (void)files->RemoveTree(path_); }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  std::string operator/(absl::string_view name) const { return JoinPath(path_, name); }
  const std::string& path() const { return path_; }

  const std::unique_ptr<FileSystem> files = MakePosixFileSystem();

 private:
  std::string path_;
};

}  // namespace crescendo

#endif  // CRESCENDO_TESTS_SUPPORT_TEMP_DIR_H_
