#include "common/os/env.h"

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace crescendo {

absl::Status FileSystem::WriteFile(const std::string& path, absl::string_view contents) {
  ASSIGN_OR_RETURN(std::unique_ptr<AtomicFile> file, CreateAtomic(path));
  RETURN_IF_ERROR(file->Append(contents));
  return file->Commit();
}

std::string JoinPath(absl::string_view dir, absl::string_view name) {
  if (dir.empty()) return std::string(name);
  return absl::StrCat(dir, dir.back() == '/' ? "" : "/", name);
}

std::string DirName(absl::string_view path) {
  const size_t slash = path.rfind('/');
  if (slash == absl::string_view::npos) return ".";
  return std::string(path.substr(0, slash == 0 ? 1 : slash));
}

std::string BaseName(absl::string_view path) {
  const size_t slash = path.rfind('/');
  return std::string(slash == absl::string_view::npos ? path : path.substr(slash + 1));
}

}  // namespace crescendo
