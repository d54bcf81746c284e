#include "common/os/posix_env.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/status_macros.h"

namespace crescendo {
namespace {

absl::Status ErrnoStatus(absl::string_view operation, absl::string_view path, int error) {
  const std::string message = absl::StrCat(operation, " ", path, ": ", std::strerror(error));
  switch (error) {
    case ENOENT:
    case ENOTDIR:
      return absl::NotFoundError(message);
    case EACCES:
    case EPERM:
    case EROFS:
      return absl::PermissionDeniedError(message);
    case EEXIST:
    case ENOTEMPTY:
      return absl::AlreadyExistsError(message);
    case ENOSPC:
    case EDQUOT:
    case EMFILE:
    case ENFILE:
      return absl::ResourceExhaustedError(message);
    default:
      return absl::UnavailableError(message);
  }
}

// Owns a file descriptor.
class Fd {
 public:
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&&) = delete;
  ~Fd() {
    if (fd_ >= 0) close(fd_);
  }
  int get() const { return fd_; }
  int Release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

absl::StatusOr<Fd> Open(const std::string& path, int flags, absl::string_view operation) {
  while (true) {
    const int fd = open(path.c_str(), flags | O_CLOEXEC, 0644);
    if (fd >= 0) return Fd(fd);
    if (errno != EINTR) return ErrnoStatus(operation, path, errno);
  }
}

absl::Status WriteAll(int fd, absl::string_view bytes, const std::string& path) {
  while (!bytes.empty()) {
    const ssize_t written = write(fd, bytes.data(), std::min<size_t>(bytes.size(), 1u << 30));
    if (written < 0) {
      if (errno == EINTR) continue;
      return ErrnoStatus("write", path, errno);
    }
    bytes.remove_prefix(static_cast<size_t>(written));
  }
  return absl::OkStatus();
}

absl::Status SyncFd(int fd, const std::string& path) {
  return fsync(fd) == 0 ? absl::OkStatus() : ErrnoStatus("fsync", path, errno);
}

absl::Status SyncDir(const std::string& dir) {
  ASSIGN_OR_RETURN(Fd fd, Open(dir, O_RDONLY | O_DIRECTORY, "open folder"));
  return SyncFd(fd.get(), dir);
}

class PosixAppendFile : public AppendFile {
 public:
  PosixAppendFile(std::string path, Fd fd) : path_(std::move(path)), fd_(std::move(fd)) {}
  absl::Status Append(absl::string_view bytes) override {
    return WriteAll(fd_.get(), bytes, path_);
  }
  absl::Status Sync() override {
    return fdatasync(fd_.get()) == 0 ? absl::OkStatus() : ErrnoStatus("fdatasync", path_, errno);
  }

 private:
  const std::string path_;
  Fd fd_;
};

class PosixAtomicFile : public AtomicFile {
 public:
  PosixAtomicFile(std::string path, std::string temporary, Fd fd)
      : path_(std::move(path)), temporary_(std::move(temporary)), fd_(std::move(fd)) {}
  ~PosixAtomicFile() override {
    if (!committed_) unlink(temporary_.c_str());
  }
  absl::Status Append(absl::string_view bytes) override {
    return WriteAll(fd_.get(), bytes, path_);
  }
  absl::Status Commit() override {
    CRESCENDO_CHECK(!committed_);
    RETURN_IF_ERROR(SyncFd(fd_.get(), path_));
    if (close(fd_.Release()) != 0) return ErrnoStatus("close", path_, errno);
    if (rename(temporary_.c_str(), path_.c_str()) != 0) {
      return ErrnoStatus("rename to", path_, errno);
    }
    committed_ = true;
    return SyncDir(DirName(path_));
  }

 private:
  const std::string path_;
  const std::string temporary_;
  Fd fd_;
  bool committed_ = false;
};

class PosixMappedFile : public MappedFile {
 public:
  PosixMappedFile(void* base, size_t size) {
    bytes_ = absl::MakeConstSpan(static_cast<const char*>(base), size);
  }
  ~PosixMappedFile() override {
    if (!bytes_.empty()) munmap(const_cast<char*>(bytes_.data()), bytes_.size());
  }
};

class PosixFileSystem : public FileSystem {
 public:
  absl::StatusOr<std::string> ReadFile(const std::string& path, size_t bytes_max) override {
    ASSIGN_OR_RETURN(Fd fd, Open(path, O_RDONLY, "open"));
    struct stat info;
    if (fstat(fd.get(), &info) != 0) return ErrnoStatus("stat", path, errno);
    if (S_ISDIR(info.st_mode)) return ErrnoStatus("read", path, EISDIR);
    std::string contents;
    // A pipe or a file of /proc has no size: read until its end. One byte above the bound tells
    // "too long".
    size_t capacity =
        std::min<size_t>(static_cast<size_t>(std::max<off_t>(info.st_size, 0)), bytes_max) + 1;
    size_t used = 0;
    while (true) {
      if (used == capacity) {
        if (used > bytes_max) return TooLong(path, bytes_max);
        capacity = std::min(std::max<size_t>(capacity * 2, 64u << 10), bytes_max + 1);
      }
      contents.resize(capacity);
      const ssize_t got = read(fd.get(), contents.data() + used, capacity - used);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return ErrnoStatus("read", path, errno);
      if (got == 0) break;
      used += static_cast<size_t>(got);
    }
    if (used > bytes_max) return TooLong(path, bytes_max);
    contents.resize(used);
    return contents;
  }

  absl::StatusOr<std::unique_ptr<AtomicFile>> CreateAtomic(const std::string& path) override {
    // The process id and a count keep two writers of one name apart; O_EXCL never reuses another's
    // leftovers.
    static_assert(std::atomic<uint64_t>::is_always_lock_free);
    const std::string temporary =
        absl::StrCat(path, ".tmp-", getpid(), "-", temporaries_.fetch_add(1));
    unlink(temporary.c_str());
    ASSIGN_OR_RETURN(Fd fd, Open(temporary, O_WRONLY | O_CREAT | O_EXCL, "create"));
    return std::unique_ptr<AtomicFile>(new PosixAtomicFile(path, temporary, std::move(fd)));
  }

  absl::StatusOr<std::unique_ptr<AppendFile>> OpenAppend(const std::string& path) override {
    const bool existed = Exists(path);
    ASSIGN_OR_RETURN(Fd fd, Open(path, O_WRONLY | O_CREAT | O_APPEND, "open for append"));
    if (!existed) RETURN_IF_ERROR(SyncDir(DirName(path)));
    return std::unique_ptr<AppendFile>(new PosixAppendFile(path, std::move(fd)));
  }

  absl::StatusOr<std::unique_ptr<MappedFile>> MemoryMap(const std::string& path) override {
    ASSIGN_OR_RETURN(Fd fd, Open(path, O_RDONLY, "open"));
    struct stat info;
    if (fstat(fd.get(), &info) != 0) return ErrnoStatus("stat", path, errno);
    if (!S_ISREG(info.st_mode)) {
      return absl::InvalidArgumentError(absl::StrCat("map ", path, ": not a regular file"));
    }
    const size_t size = static_cast<size_t>(info.st_size);
    void* base = nullptr;
    if (size > 0) {
      base = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd.get(), 0);
      if (base == MAP_FAILED) return ErrnoStatus("map", path, errno);
    }
    return std::unique_ptr<MappedFile>(new PosixMappedFile(base, size));
  }

  absl::Status Rename(const std::string& from, const std::string& to) override {
    if (rename(from.c_str(), to.c_str()) != 0) {
      return ErrnoStatus(absl::StrCat("rename ", from, " to"), to, errno);
    }
    return SyncDir(DirName(to));
  }

  absl::Status Remove(const std::string& path) override {
    return remove(path.c_str()) == 0 ? absl::OkStatus() : ErrnoStatus("remove", path, errno);
  }

  absl::Status RemoveTree(const std::string& path) override { return RemoveTreeAt(path, 0); }

  absl::StatusOr<std::vector<std::string>> ListDir(const std::string& path) override {
    DIR* dir = opendir(path.c_str());
    if (dir == nullptr) return ErrnoStatus("list", path, errno);
    std::vector<std::string> names;
    errno = 0;
    while (const dirent* entry = readdir(dir)) {
      const absl::string_view name(entry->d_name);
      if (name != "." && name != "..") names.emplace_back(name);
    }
    const int error = errno;
    closedir(dir);
    if (error != 0) return ErrnoStatus("list", path, error);
    std::sort(names.begin(), names.end());
    return names;
  }

  absl::Status MakeDirs(const std::string& path) override {
    for (size_t slash = path.find('/', 1);; slash = path.find('/', slash + 1)) {
      const std::string prefix = path.substr(0, slash);
      if (mkdir(prefix.c_str(), 0755) != 0 && !IsDirectory(prefix)) {
        return ErrnoStatus("make folder", prefix, errno == EEXIST ? ENOTDIR : errno);
      }
      if (slash == std::string::npos) return absl::OkStatus();
    }
  }

  absl::StatusOr<int64_t> FileSize(const std::string& path) override {
    struct stat info;
    if (stat(path.c_str(), &info) != 0) return ErrnoStatus("stat", path, errno);
    return static_cast<int64_t>(info.st_size);
  }

  bool Exists(const std::string& path) override {
    struct stat info;
    return stat(path.c_str(), &info) == 0;
  }

  bool IsDirectory(const std::string& path) override {
    struct stat info;
    return stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
  }

 private:
  static absl::Status TooLong(const std::string& path, size_t bytes_max) {
    return absl::ResourceExhaustedError(
        absl::StrCat("read ", path, ": longer than the bound of ", bytes_max, " bytes"));
  }

  absl::Status RemoveTreeAt(const std::string& path, int depth) {
    constexpr int kDepthMax = 64;
    if (depth > kDepthMax) {
      return absl::ResourceExhaustedError(
          absl::StrCat("remove ", path, ": folders nested deeper than ", kDepthMax));
    }
    struct stat info;
    if (lstat(path.c_str(), &info) != 0) {
      return errno == ENOENT ? absl::OkStatus() : ErrnoStatus("stat", path, errno);
    }
    if (S_ISDIR(info.st_mode)) {
      ASSIGN_OR_RETURN(const std::vector<std::string> names, ListDir(path));
      for (const std::string& name : names) {
        RETURN_IF_ERROR(RemoveTreeAt(JoinPath(path, name), depth + 1));
      }
    }
    return Remove(path);
  }

  std::atomic<uint64_t> temporaries_{0};
};

class RealClock : public Clock {
 public:
  RealClock() : wall_at_start_(absl::Now()), monotonic_at_start_(Monotonic()) {}
  absl::Time Now() override { return wall_at_start_ + (Monotonic() - monotonic_at_start_); }
  void SleepFor(absl::Duration duration) override { absl::SleepFor(duration); }

 private:
  static absl::Duration Monotonic() {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return absl::DurationFromTimespec(now);
  }
  const absl::Time wall_at_start_;
  const absl::Duration monotonic_at_start_;
};

}  // namespace

std::unique_ptr<FileSystem> MakePosixFileSystem() { return std::make_unique<PosixFileSystem>(); }

absl::Time RealNow() { return absl::Now(); }

std::unique_ptr<Clock> MakeRealClock() { return std::make_unique<RealClock>(); }

}  // namespace crescendo
