// A disk in memory that fails as asked and forgets what was not synced, for tests of what must
// survive a crash.
//
// Names and bytes are kept apart as a disk does: Append changes a file's bytes in the cache, Sync
// (or AtomicFile::Commit) makes them durable; creating, renaming and removing names becomes durable
// with the operation (the FileSystem contract syncs folders). Crash() throws away what was not
// synced, leaving a random prefix of each unsynced tail, as a torn write does.
//
// FailAfter(n): the n-th mutating call from now and all later ones fail with UNAVAILABLE, a failing
// Append having written a random part. Not thread-safe.
#ifndef CRESCENDO_TESTS_SUPPORT_FAULTY_FILES_H_
#define CRESCENDO_TESTS_SUPPORT_FAULTY_FILES_H_

#include <algorithm>
#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/rng.h"
#include "common/base/status_macros.h"
#include "common/os/env.h"

namespace crescendo {

class FaultyFiles : public FileSystem {
 public:
  explicit FaultyFiles(uint64_t seed) : rng_(seed) {}

  // The next `operations` mutating calls work, the one after fails, and so do all behind it.
  void FailAfter(int64_t operations) { left_ = operations; }
  void Heal() { left_ = std::numeric_limits<int64_t>::max(); }
  // Mutating calls so far.
  int64_t operations() const { return operations_; }
  // Power is lost and comes back.
  void Crash() {
    for (auto it = files_.begin(); it != files_.end();) {
      File& file = *it->second;
      const size_t tail = file.bytes.size() - std::min(file.synced, file.bytes.size());
      file.bytes.resize(file.bytes.size() - tail + rng_.Below(tail + 1));
      file.synced = file.bytes.size();
      it = file.temporary ? files_.erase(it) : std::next(it);
    }
    Heal();
  }
  // The bytes of a file, to damage them. The path must exist.
  std::string& Bytes(const std::string& path) {
    CRESCENDO_CHECK(files_.contains(path));
    return files_[path]->bytes;
  }
  std::vector<std::string> Paths() const {
    std::vector<std::string> paths;
    for (const auto& [path, file] : files_) paths.push_back(path);
    return paths;
  }

  absl::StatusOr<std::string> ReadFile(const std::string& path, size_t bytes_max) override {
    ASSIGN_OR_RETURN(const std::shared_ptr<File> file, Find(path));
    if (file->bytes.size() > bytes_max) {
      return absl::ResourceExhaustedError(absl::StrCat("read ", path, ": too long"));
    }
    return file->bytes;
  }
  absl::StatusOr<std::unique_ptr<AtomicFile>> CreateAtomic(const std::string& path) override {
    RETURN_IF_ERROR(Mutate(absl::StrCat("create ", path)));
    return std::unique_ptr<AtomicFile>(new Atomic(this, path));
  }
  absl::StatusOr<std::unique_ptr<AppendFile>> OpenAppend(const std::string& path) override {
    RETURN_IF_ERROR(Mutate(absl::StrCat("open ", path)));
    std::shared_ptr<File>& file = files_[path];
    if (file == nullptr) file = std::make_shared<File>();
    return std::unique_ptr<AppendFile>(new Appender(this, path, file));
  }
  absl::StatusOr<std::unique_ptr<MappedFile>> MemoryMap(const std::string& path) override {
    ASSIGN_OR_RETURN(const std::shared_ptr<File> file, Find(path));
    return std::unique_ptr<MappedFile>(new Mapped(file->bytes));
  }
  absl::Status Rename(const std::string& from, const std::string& to) override {
    RETURN_IF_ERROR(Mutate(absl::StrCat("rename ", from)));
    if (!Exists(from)) return absl::NotFoundError(absl::StrCat("rename ", from, ": not found"));
    if (dirs_.contains(to) && !Inside(to).empty()) {
      return absl::UnavailableError(absl::StrCat("rename to ", to, ": folder not empty"));
    }
    std::map<std::string, std::shared_ptr<File>> moved;
    for (auto it = files_.begin(); it != files_.end();) {
      if (it->first == from || absl::StartsWith(it->first, from + "/")) {
        moved[to + it->first.substr(from.size())] = it->second;
        it = files_.erase(it);
      } else {
        ++it;
      }
    }
    for (auto& [path, file] : moved) files_[path] = file;
    if (dirs_.erase(from) > 0) dirs_.insert(to);
    return absl::OkStatus();
  }
  absl::Status Remove(const std::string& path) override {
    RETURN_IF_ERROR(Mutate(absl::StrCat("remove ", path)));
    if (files_.erase(path) + dirs_.erase(path) > 0) return absl::OkStatus();
    return absl::NotFoundError(absl::StrCat("remove ", path, ": not found"));
  }
  // One mutating call a file: a crash can leave half a tree.
  absl::Status RemoveTree(const std::string& path) override {
    for (const std::string& inside : Inside(path)) RETURN_IF_ERROR(Remove(inside));
    if (!Exists(path)) return absl::OkStatus();
    return Remove(path);
  }
  absl::StatusOr<std::vector<std::string>> ListDir(const std::string& path) override {
    if (!dirs_.contains(path)) return absl::NotFoundError(absl::StrCat("list ", path));
    std::set<std::string> names;
    for (const std::string& inside : Inside(path)) {
      const std::string rest = inside.substr(path.size() + 1);
      names.insert(rest.substr(0, rest.find('/')));
    }
    return std::vector<std::string>(names.begin(), names.end());
  }
  absl::Status MakeDirs(const std::string& path) override {
    if (dirs_.contains(path)) return absl::OkStatus();
    RETURN_IF_ERROR(Mutate(absl::StrCat("make ", path)));
    for (size_t slash = path.find('/', 1); slash != std::string::npos;
         slash = path.find('/', slash + 1)) {
      dirs_.insert(path.substr(0, slash));
    }
    dirs_.insert(path);
    return absl::OkStatus();
  }
  absl::StatusOr<int64_t> FileSize(const std::string& path) override {
    ASSIGN_OR_RETURN(const std::shared_ptr<File> file, Find(path));
    return static_cast<int64_t>(file->bytes.size());
  }
  bool Exists(const std::string& path) override {
    return files_.contains(path) || dirs_.contains(path);
  }
  bool IsDirectory(const std::string& path) override { return dirs_.contains(path); }

 private:
  struct File {
    std::string bytes;
    size_t synced = 0;
    bool temporary = false;
  };

  class Appender : public AppendFile {
   public:
    Appender(FaultyFiles* disk, std::string path, std::shared_ptr<File> file)
        : disk_(disk), path_(std::move(path)), file_(std::move(file)) {}
    absl::Status Append(absl::string_view bytes) override {
      return disk_->Append(path_, *file_, bytes);
    }
    absl::Status Sync() override {
      RETURN_IF_ERROR(disk_->Mutate(absl::StrCat("sync ", path_)));
      file_->synced = file_->bytes.size();
      return absl::OkStatus();
    }

   private:
    FaultyFiles* disk_;
    std::string path_;
    std::shared_ptr<File> file_;
  };

  class Atomic : public AtomicFile {
   public:
    Atomic(FaultyFiles* disk, std::string path) : disk_(disk), path_(std::move(path)) {}
    absl::Status Append(absl::string_view bytes) override {
      return disk_->Append(path_, *file_, bytes);
    }
    absl::Status Commit() override {
      RETURN_IF_ERROR(disk_->Mutate(absl::StrCat("commit ", path_)));
      file_->synced = file_->bytes.size();
      disk_->files_[path_] = file_;
      return absl::OkStatus();
    }

   private:
    FaultyFiles* disk_;
    std::string path_;
    std::shared_ptr<File> file_ = std::make_shared<File>();
  };

  class Mapped : public MappedFile {
   public:
    explicit Mapped(std::string bytes) : copy_(std::move(bytes)) {
      bytes_ = absl::Span<const char>(copy_.data(), copy_.size());
    }

   private:
    std::string copy_;
  };

  absl::Status Mutate(absl::string_view what) {
    ++operations_;
    if (left_ > 0) {
      --left_;
      return absl::OkStatus();
    }
    return absl::UnavailableError(absl::StrCat(what, ": the disk failed"));
  }
  absl::Status Append(const std::string& path, File& file, absl::string_view bytes) {
    const absl::Status status = Mutate(absl::StrCat("append to ", path));
    const size_t part = status.ok() ? bytes.size() : rng_.Below(bytes.size() + 1);
    file.bytes.append(bytes.data(), part);
    return status;
  }
  absl::StatusOr<std::shared_ptr<File>> Find(const std::string& path) const {
    const auto it = files_.find(path);
    if (it != files_.end()) return it->second;
    return absl::NotFoundError(absl::StrCat("open ", path, ": not found"));
  }
  // Files and folders below `path`, deepest first.
  std::vector<std::string> Inside(const std::string& path) const {
    std::vector<std::string> inside;
    for (const auto& [name, file] : files_) {
      if (absl::StartsWith(name, path + "/")) inside.push_back(name);
    }
    for (auto it = dirs_.rbegin(); it != dirs_.rend(); ++it) {
      if (absl::StartsWith(*it, path + "/")) inside.push_back(*it);
    }
    return inside;
  }

  CounterRng rng_;
  std::map<std::string, std::shared_ptr<File>> files_;
  std::set<std::string> dirs_;
  int64_t left_ = std::numeric_limits<int64_t>::max();
  int64_t operations_ = 0;
};

}  // namespace crescendo

#endif  // CRESCENDO_TESTS_SUPPORT_FAULTY_FILES_H_
