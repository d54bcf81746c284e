// A file system in memory that holds one file, under the name "input": for readers under test and
// for fuzzers.
#ifndef CRESCENDO_TESTS_SUPPORT_ONE_FILE_H_
#define CRESCENDO_TESTS_SUPPORT_ONE_FILE_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/os/env.h"

namespace crescendo {

class OneFile : public FileSystem {
 public:
  explicit OneFile(absl::string_view bytes) : bytes_(bytes.begin(), bytes.end()) {}
  // Copies, so that the sanitizer sees a read past the end.
  OneFile(const uint8_t* data, size_t size) : bytes_(data, data + size) {}

  absl::StatusOr<std::string> ReadFile(const std::string& path, size_t bytes_max) override {
    if (!Exists(path) || bytes_.size() > bytes_max) return absl::NotFoundError(path);
    return std::string(bytes_.begin(), bytes_.end());
  }
  absl::StatusOr<std::unique_ptr<MappedFile>> MemoryMap(const std::string& path) override {
    if (!Exists(path)) return absl::NotFoundError(path);
    return std::unique_ptr<MappedFile>(new Map(bytes_));
  }
  bool Exists(const std::string& path) override { return path == "input"; }
  bool IsDirectory(const std::string&) override { return false; }
  absl::StatusOr<int64_t> FileSize(const std::string&) override {
    return static_cast<int64_t>(bytes_.size());
  }

  absl::StatusOr<std::unique_ptr<AtomicFile>> CreateAtomic(const std::string&) override {
    return No();
  }
  absl::StatusOr<std::unique_ptr<AppendFile>> OpenAppend(const std::string&) override {
    return No();
  }
  absl::Status Rename(const std::string&, const std::string&) override { return No(); }
  absl::Status Remove(const std::string&) override { return No(); }
  absl::Status RemoveTree(const std::string&) override { return No(); }
  absl::StatusOr<std::vector<std::string>> ListDir(const std::string&) override { return No(); }
  absl::Status MakeDirs(const std::string&) override { return No(); }

 private:
  class Map : public MappedFile {
   public:
    explicit Map(std::vector<char> bytes) : owned_(std::move(bytes)) { bytes_ = owned_; }

   private:
    const std::vector<char> owned_;
  };
  static absl::Status No() { return absl::UnimplementedError("read-only"); }
  const std::vector<char> bytes_;
};

}  // namespace crescendo

#endif  // CRESCENDO_TESTS_SUPPORT_ONE_FILE_H_
