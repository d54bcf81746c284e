// The operating system's files behind one interface, so that a test can put a faulty disk in its
// place. The real one is posix_env.h; a simulated one lives in tests/support.
//
// Paths are as the operating system takes them (relative ones from the working directory). Every
// error names the operation and the path: NOT_FOUND (no such file or folder), PERMISSION_DENIED,
// ALREADY_EXISTS, RESOURCE_EXHAUSTED (disk full, too many open files, or a file above the caller's
// bound), UNAVAILABLE (any other I/O error).
//
// Thread-safe: FileSystem. Not thread-safe: the file handles; one thread at a time. All functions
// block.
#ifndef CRESCENDO_COMMON_OS_ENV_H_
#define CRESCENDO_COMMON_OS_ENV_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/base/clock.h"

namespace crescendo {

// A file whose end grows: journals and logs. What was appended survives a power loss once Sync has
// returned OK.
class AppendFile {
 public:
  virtual ~AppendFile() = default;
  // Appends all bytes or fails; a failure can leave a part of them at the end (a reader must detect
  // that).
  virtual absl::Status Append(absl::string_view bytes) = 0;
  virtual absl::Status Sync() = 0;
};

// A file that appears whole under its name at Commit, or not at all. Destroyed without Commit it
// leaves nothing.
class AtomicFile {
 public:
  virtual ~AtomicFile() = default;
  virtual absl::Status Append(absl::string_view bytes) = 0;
  // Syncs the bytes, gives them the name (replacing a file of that name) and syncs the folder. Call
  // it once, last.
  virtual absl::Status Commit() = 0;
};

// A file's bytes, read-only, for the lifetime of this object. The bytes are those of the time of
// mapping as long as nobody writes to the file in place; AtomicFile and Rename replace a file
// without touching a mapping of the old one.
class MappedFile {
 public:
  virtual ~MappedFile() = default;
  absl::Span<const char> bytes() const { return bytes_; }

 protected:
  absl::Span<const char> bytes_;
};

class FileSystem {
 public:
  virtual ~FileSystem() = default;

  // The whole file; RESOURCE_EXHAUSTED when it is longer than `bytes_max`.
  virtual absl::StatusOr<std::string> ReadFile(const std::string& path, size_t bytes_max) = 0;
  // Replaces the file's contents in one step, durably: temporary name, sync, rename, sync of the
  // folder.
  absl::Status WriteFile(const std::string& path, absl::string_view contents);
  // The same for contents that come in parts.
  virtual absl::StatusOr<std::unique_ptr<AtomicFile>> CreateAtomic(const std::string& path) = 0;
  // Opens for appending; makes the file when it is not there.
  virtual absl::StatusOr<std::unique_ptr<AppendFile>> OpenAppend(const std::string& path) = 0;
  // Maps a regular file. An empty file gives an empty span.
  virtual absl::StatusOr<std::unique_ptr<MappedFile>> MemoryMap(const std::string& path) = 0;

  // Moves a file or folder within one disk, replacing a file or an empty folder, and syncs the
  // folder it lands in.
  virtual absl::Status Rename(const std::string& from, const std::string& to) = 0;
  // Removes a file or an empty folder.
  virtual absl::Status Remove(const std::string& path) = 0;
  // Removes a folder with all inside (links are removed, not followed); OK when it is not there.
  virtual absl::Status RemoveTree(const std::string& path) = 0;
  // The names inside, sorted, without "." and "..".
  virtual absl::StatusOr<std::vector<std::string>> ListDir(const std::string& path) = 0;
  // Makes the folder and those above it; OK when it is there.
  virtual absl::Status MakeDirs(const std::string& path) = 0;
  virtual absl::StatusOr<int64_t> FileSize(const std::string& path) = 0;
  // True for a file or a folder that can be seen; false on every error.
  virtual bool Exists(const std::string& path) = 0;
  virtual bool IsDirectory(const std::string& path) = 0;
};

// `dir` + "/" + `name`, with one slash; `name` alone when `dir` is empty.
std::string JoinPath(absl::string_view dir, absl::string_view name);
// The part before the last slash ("." when there is none), and the part behind it.
std::string DirName(absl::string_view path);
std::string BaseName(absl::string_view path);

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_OS_ENV_H_
