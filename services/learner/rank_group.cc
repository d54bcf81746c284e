#include "services/learner/rank_group.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/synchronization/mutex.h"
#include "common/base/status_macros.h"
#include "common/model/torch_guard.h"
#include "common/os/posix_env.h"
#include "services/learner/nccl_backend.h"

namespace crescendo {
namespace {

constexpr absl::Duration kBeat = absl::Seconds(1);
constexpr absl::Duration kJoinTry = absl::Seconds(2);  // of one attempt to reach the store
constexpr absl::Duration kJoinAgain = absl::Milliseconds(300);
// Of one wait for an announcement: a rank 0 that ends is seen at once whatever it is, and c10d logs
// two warnings for each that runs out.
constexpr absl::Duration kAnnouncement = absl::Seconds(60);
constexpr absl::Duration kNameDead = absl::Seconds(3);         // a rank that lives beats within it
constexpr absl::Duration kNoteLook = absl::Milliseconds(100);  // between looks for a note
constexpr size_t kTextMax = 2000;                              // of a failure that is passed on
constexpr int kTag = 17;                                       // of messages between two ranks

std::chrono::milliseconds Millis(absl::Duration duration) {
  return std::chrono::milliseconds(std::max<int64_t>(1, absl::ToInt64Milliseconds(duration)));
}

std::vector<uint8_t> BytesOf(absl::string_view text) { return {text.begin(), text.end()}; }
std::string TextOf(const std::vector<uint8_t>& bytes) { return {bytes.begin(), bytes.end()}; }

std::string KeyOf(absl::string_view what, int rank) { return absl::StrCat(what, "/", rank); }

bool IsLoopback(absl::string_view host) {
  return host == "127.0.0.1" || host == "localhost" || host == "::1";
}

std::string Nonce() {
  std::random_device device;
  return absl::StrFormat("%08x%08x", device(), device());
}

c10::intrusive_ptr<c10d::TCPStore> ConnectStore(const RankGroupOptions& options,
                                                absl::Duration timeout) {
  c10d::TCPStoreOptions store;
  store.port = static_cast<uint16_t>(options.ranks.master_port);
  store.isServer = options.ranks.rank == 0;
  store.waitWorkers = false;
  store.timeout = Millis(timeout);
  return c10::make_intrusive<c10d::TCPStore>(options.ranks.master_host, store);
}

// The address that other ranks reach this one at: of the interface that GLOO_SOCKET_IFNAME names,
// loopback when all are on one machine, else that of the host's name.
c10::intrusive_ptr<c10d::ProcessGroupGloo> ConnectGloo(
    const RankGroupOptions& options, const c10::intrusive_ptr<c10d::Store>& store) {
  const auto gloo = c10d::ProcessGroupGloo::Options::create(Millis(options.join_timeout));
  const char* interface = std::getenv("GLOO_SOCKET_IFNAME");
  if (interface != nullptr && *interface != 0) {
    gloo->devices = {c10d::ProcessGroupGloo::createDeviceForInterface(interface)};
  } else if (IsLoopback(options.ranks.master_host)) {
    gloo->devices = {c10d::ProcessGroupGloo::createDeviceForHostname("127.0.0.1")};
  } else {
    gloo->devices = {c10d::ProcessGroupGloo::createDefaultDevice()};
  }
  auto group = c10::make_intrusive<c10d::ProcessGroupGloo>(store, options.ranks.rank,
                                                           options.ranks.size, gloo);
  group->setTimeout(Millis(options.timeout));
  return group;
}

class C10dRankGroup : public RankGroup {
 public:
  C10dRankGroup(const RankGroupOptions& options, c10::intrusive_ptr<c10d::TCPStore> store,
                c10::intrusive_ptr<c10d::ProcessGroupGloo> gloo)
      : RankGroup(options.ranks.rank, options.ranks.size),
        options_(options),
        store_(std::move(store)),
        beats_store_(store_->clone()),
        notes_store_(store_->clone()),
        gloo_(std::move(gloo)),
        beats_(options.ranks.size, 0),
        beaten_at_(options.ranks.size, RealNow()) {
    beating_ = std::thread([this] { Beat(); });
  }
  ~C10dRankGroup() override {
    {
      absl::MutexLock lock(&mutex_);
      closed_ = true;
    }
    beating_.join();
  }

  absl::Status UseDevice(at::Device device) override {
    if (device.is_cpu() || nccl_ != nullptr) return absl::OkStatus();
    ASSIGN_OR_RETURN(const MakeNcclBackend make, LoadNccl());
    return Collective("connecting the ranks' devices", [&] {
      make(c10::make_intrusive<c10d::PrefixStore>("nccl", store_), rank(), size(), device.index(),
           absl::ToInt64Milliseconds(options_.timeout), &nccl_);
    });
  }
  absl::Status Sum(at::Tensor& tensor, absl::string_view what) override {
    return Reduce(tensor, c10d::ReduceOp::SUM, what);
  }
  absl::Status Max(at::Tensor& tensor, absl::string_view what) override {
    return Reduce(tensor, c10d::ReduceOp::MAX, what);
  }
  absl::Status ReduceScatter(at::Tensor& in, at::Tensor& out, absl::string_view what) override {
    return Collective(what, [&] { BackendOf(in)._reduce_scatter_base(out, in)->wait(); });
  }
  // As bytes: Gloo need not know the type.
  absl::Status AllGather(at::Tensor& in, at::Tensor& out, absl::string_view what) override {
    return Collective(what, [&] {
      at::Tensor from = in.view(at::kByte), to = out.view(at::kByte);
      BackendOf(in)._allgather_base(to, from)->wait();
    });
  }
  absl::Status Broadcast(at::Tensor& tensor, int from, absl::string_view what) override {
    return Collective(what, [&] {
      std::vector<at::Tensor> tensors = {tensor.view(-1).view(at::kByte)};
      c10d::BroadcastOptions broadcast;
      broadcast.rootRank = from;
      BackendOf(tensor).broadcast(tensors, broadcast)->wait();
    });
  }

  absl::Status Send(int to, absl::string_view bytes, absl::string_view what) override {
    return Collective(what, [&] {
      SendTensor(to, at::full({1}, static_cast<int64_t>(bytes.size()), at::kLong));
      if (bytes.empty()) return;
      at::Tensor body = at::empty({static_cast<int64_t>(bytes.size())}, at::kByte);
      std::memcpy(body.data_ptr(), bytes.data(), bytes.size());
      SendTensor(to, std::move(body));
    });
  }
  absl::StatusOr<std::string> Receive(int from, size_t bytes_max, absl::string_view what) override {
    std::string bytes;
    int64_t size = 0;
    RETURN_IF_ERROR(Collective(what, [&] {
      at::Tensor head = at::zeros({1}, at::kLong);
      ReceiveTensor(from, head);
      size = head.item<int64_t>();
      if (size <= 0 || static_cast<uint64_t>(size) > bytes_max) return;
      at::Tensor body = at::empty({size}, at::kByte);
      ReceiveTensor(from, body);
      bytes.assign(static_cast<const char*>(body.const_data_ptr()), static_cast<size_t>(size));
    }));
    if (size < 0 || static_cast<uint64_t>(size) > bytes_max) {
      return absl::InvalidArgumentError(absl::StrCat(what, ": expected at most ", bytes_max,
                                                     " bytes of rank ", from, ", found ", size));
    }
    return bytes;
  }

  absl::Status Announce(const std::string& command) override {
    return Collective(absl::StrCat("announcing ", command), [&] {
      store_->set(absl::StrCat("command/", commands_), BytesOf(command));
      // What came before the last was taken by all, for they took part in what followed it.
      if (commands_ >= 2) store_->deleteKey(absl::StrCat("command/", commands_ - 2));
      ++commands_;
    });
  }

  absl::StatusOr<std::string> AwaitAnnouncement() override {
    const std::string key = absl::StrCat("command/", commands_);
    while (true) {
      if (CatchTorch("command", [&] { store_->wait({key}, Millis(kAnnouncement)); }).ok()) {
        break;
      }
      // It was only late, or rank 0 is gone: then nothing answers.
      const absl::Status lives = CatchTorch("command", [&] { (void)store_->check({key}); });
      if (!lives.ok()) return Failed("waiting for rank 0", lives);
    }
    std::string command;
    RETURN_IF_ERROR(Collective("command", [&] { command = TextOf(store_->get(key)); }));
    ++commands_;
    return command;
  }

  absl::Status Check() override {
    if (!failed_.ok()) return failed_;
    const absl::Time now = RealNow();
    if (now - checked_at_ < kBeat) return absl::OkStatus();
    checked_at_ = now;
    const absl::Status read = CatchTorch("rendezvous", [&] { ReadBeats(now); });
    if (!read.ok()) return Failed("looking for the other ranks", read);
    const std::string told = Told();
    if (!told.empty()) return Failed("looking for the other ranks", absl::UnavailableError(told));
    std::vector<int> silent;
    for (int r = 0; r < size(); ++r) {
      if (r != rank() && now - beaten_at_[r] > options_.silence_max) silent.push_back(r);
    }
    if (silent.empty()) return absl::OkStatus();
    failed_ = absl::AbortedError(
        absl::StrCat("rank ", rank(), " of ", size(), ": rank ", absl::StrJoin(silent, ", "),
                     " gave no sign of life for ", absl::FormatDuration(options_.silence_max)));
    return failed_;
  }

  void Tell(const absl::Status& failure) override {
    (void)CatchTorch("rendezvous", [&] {
      store_->set(KeyOf("failed", rank()),
                  BytesOf(absl::string_view(failure.ToString()).substr(0, kTextMax)));
    });
  }

  absl::Status LeaveNote(const std::string& name, absl::string_view text) override {
    return CatchTorch("leaving a note",
                      [&] { notes_store_->set(NoteOf(rank(), name), BytesOf(text)); });
  }

  absl::StatusOr<std::string> AwaitNote(int from, const std::string& name) override {
    const std::string key = NoteOf(from, name), failed = KeyOf("failed", from);
    const absl::Time begin = RealNow();
    int64_t beat = -1;
    for (absl::Time beaten_at = begin;; Pause(kNoteLook)) {
      std::optional<std::string> text;
      std::string failure;
      const absl::Time now = RealNow();
      RETURN_IF_ERROR(CatchTorch(absl::StrCat("waiting for rank ", from), [&] {
        if (notes_store_->check({key})) {
          text = TextOf(notes_store_->get(key));
          notes_store_->deleteKey(key);
        }
        if (notes_store_->check({failed})) failure = TextOf(notes_store_->get(failed));
        const int64_t beat_now = notes_store_->add(KeyOf("beat", from), 0);
        if (beat_now != std::exchange(beat, beat_now)) beaten_at = now;
      }));
      if (text.has_value()) return *text;
      if (failure.empty() && now - beaten_at > options_.silence_max) failure = "is gone";
      if (failure.empty() && now - begin > options_.timeout) failure = "is late";
      if (!failure.empty()) {
        return absl::AbortedError(absl::StrCat(name, ": rank ", from, " ", failure));
      }
    }
  }

 private:
  static std::string NoteOf(int from, absl::string_view name) {
    return absl::StrCat("note/", from, "/", name);
  }
  c10d::Backend& BackendOf(const at::Tensor& tensor) {
    if (tensor.device().is_cpu()) return *gloo_;
    CRESCENDO_CHECK(nccl_ != nullptr);
    return *nccl_;
  }
  absl::Status Reduce(at::Tensor& tensor, c10d::ReduceOp::RedOpType op, absl::string_view what) {
    return Collective(what, [&] {
      std::vector<at::Tensor> tensors = {tensor};
      c10d::AllreduceOptions reduce;
      reduce.reduceOp = op;
      BackendOf(tensor).allreduce(tensors, reduce)->wait();
    });
  }
  void SendTensor(int to, at::Tensor tensor) {
    std::vector<at::Tensor> tensors = {std::move(tensor)};
    gloo_->send(tensors, to, kTag)->wait(Millis(options_.timeout));
  }
  void ReceiveTensor(int from, const at::Tensor& tensor) {
    std::vector<at::Tensor> tensors = {tensor};
    gloo_->recv(tensors, from, kTag)->wait(Millis(options_.timeout));
  }

  template <typename F>
  absl::Status Collective(absl::string_view what, F&& fn) {
    if (!failed_.ok()) return failed_;
    const absl::Status status = CatchTorch(what, std::forward<F>(fn));
    return status.ok() ? status : Failed(what, status);
  }

  // Who is to blame, in words; blocks for kNameDead.
  absl::Status Failed(absl::string_view what, const absl::Status& status) {
    if (!failed_.ok()) return failed_;
    std::string who = "all ranks live";
    std::vector<int> silent;
    const absl::Status asked = CatchTorch("rendezvous", [&] {
      ReadBeats(RealNow());
      const std::vector<int64_t> before = beats_;
      Pause(kNameDead);
      ReadBeats(RealNow());
      for (int r = 0; r < size(); ++r) {
        if (r != rank() && beats_[r] == before[r]) silent.push_back(r);
      }
    });
    if (!asked.ok()) {
      who = "rank 0 is gone";
    } else if (const std::string told = Told(); !told.empty()) {
      who = told;
    } else if (!silent.empty()) {
      who = absl::StrCat("rank ", absl::StrJoin(silent, ", "), " is gone");
    }
    failed_ = absl::AbortedError(absl::StrCat("rank ", rank(), " of ", size(), ": ", what, ": ",
                                              who, " (", status.message(), ")"));
    return failed_;
  }

  // What other ranks said of themselves before they ended.
  std::string Told() {
    std::vector<std::string> words;
    (void)CatchTorch("rendezvous", [&] {
      for (int r = 0; r < size(); ++r) {
        const std::string key = KeyOf("failed", r);
        if (r == rank() || !store_->check({key})) continue;
        words.push_back(absl::StrCat("rank ", r, ": ", TextOf(store_->get(key))));
      }
    });
    return absl::StrJoin(words, "; ");
  }

  void ReadBeats(absl::Time now) {
    for (int r = 0; r < size(); ++r) {
      if (r == rank()) continue;
      const int64_t beat = store_->add(KeyOf("beat", r), 0);
      if (beat != beats_[r]) beaten_at_[r] = now;
      beats_[r] = beat;
    }
  }

  void Pause(absl::Duration duration) {
    absl::MutexLock lock(&mutex_);
    mutex_.AwaitWithTimeout(absl::Condition(&closed_), duration);
  }
  void Beat() {
    while (true) {
      (void)CatchTorch("beat", [&] { beats_store_->add(KeyOf("beat", rank()), 1); });
      absl::MutexLock lock(&mutex_);
      if (mutex_.AwaitWithTimeout(absl::Condition(&closed_), kBeat)) return;
    }
  }

  const RankGroupOptions options_;
  const c10::intrusive_ptr<c10d::TCPStore> store_;
  const c10::intrusive_ptr<c10d::Store> beats_store_;  // a connection of its own
  const c10::intrusive_ptr<c10d::Store> notes_store_;  // the same
  const c10::intrusive_ptr<c10d::ProcessGroupGloo> gloo_;
  c10::intrusive_ptr<c10d::Backend> nccl_;  // null: no device is used
  absl::Status failed_;
  int64_t commands_ = 0;
  std::vector<int64_t> beats_;
  std::vector<absl::Time> beaten_at_;
  absl::Time checked_at_ = absl::InfinitePast();
  absl::Mutex mutex_;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread beating_;
};

// The rendezvous of one rank.
class Rendezvous {
 public:
  Rendezvous(const RankGroupOptions& options, const std::function<bool()>& stopped)
      : options_(options),
        stopped_(stopped),
        deadline_(RealNow() + options.join_timeout),
        // Size and configuration must be equal everywhere; the nonce tells processes apart.
        mine_(absl::StrCat(options.ranks.size, " ", options.digest)),
        signature_(absl::StrCat(mine_, " ", Nonce())) {}

  absl::StatusOr<c10::intrusive_ptr<c10d::TCPStore>> Meet() {
    return options_.ranks.rank == 0 ? Host() : Visit();
  }

 private:
  absl::StatusOr<c10::intrusive_ptr<c10d::TCPStore>> Host() {
    c10::intrusive_ptr<c10d::TCPStore> store;
    RETURN_IF_ERROR(CatchTorch(Place(), [&] {
      store = ConnectStore(options_, options_.join_timeout);
      store->set("world", BytesOf(mine_));
    }));
    for (int r = 1; r < options_.ranks.size; ++r) {
      ASSIGN_OR_RETURN(const std::string theirs,
                       Await(*store, KeyOf("joined", r), absl::StrCat("rank ", r)));
      RETURN_IF_ERROR(Compare(absl::StrCat("rank ", r),
                              absl::string_view(theirs).substr(0, theirs.rfind(' '))));
    }
    RETURN_IF_ERROR(CatchTorch(Place(), [&] { store->set("go", BytesOf("go")); }));
    return store;
  }

  absl::StatusOr<c10::intrusive_ptr<c10d::TCPStore>> Visit() {
    absl::Status last;
    while (RealNow() < deadline_) {
      if (stopped_()) return absl::CancelledError("stopped while waiting for the other ranks");
      c10::intrusive_ptr<c10d::TCPStore> store;
      std::string joined;
      last = CatchTorch(Place(), [&] {
        store = ConnectStore(options_, kJoinTry);
        store->wait({"world"}, Millis(kJoinTry));
        joined = TextOf(
            store->compareSet(KeyOf("joined", options_.ranks.rank), {}, BytesOf(signature_)));
        // An earlier process of this rank: those that still wait for it have to end first.
        if (joined != signature_) {
          store->set(KeyOf("failed", options_.ranks.rank), BytesOf("was started again"));
        }
      });
      if (last.ok() && joined == signature_) {
        std::string world;
        RETURN_IF_ERROR(CatchTorch(Place(), [&] { world = TextOf(store->get("world")); }));
        RETURN_IF_ERROR(Compare("rank 0", world));
        const absl::StatusOr<std::string> go = Await(*store, "go", "the other ranks");
        if (go.ok()) return store;
        last = go.status();
        if (absl::IsCancelled(last)) return last;
      } else if (last.ok()) {
        last = absl::FailedPreconditionError(absl::StrCat(
            Place(), ": the ranks still wait for the process that was rank ", options_.ranks.rank));
      }
      absl::MutexLock lock(&mutex_);
      mutex_.AwaitWithTimeout(absl::Condition(&never_), kJoinAgain);
    }
    return absl::DeadlineExceededError(
        absl::StrCat("rank ", options_.ranks.rank, " of ", options_.ranks.size, ": ", Place(),
                     ": no group within ", absl::FormatDuration(options_.join_timeout), " (",
                     last.message(), ")"));
  }

  // The value of a key that `whom` sets.
  absl::StatusOr<std::string> Await(c10d::Store& store, const std::string& key,
                                    absl::string_view whom) {
    while (true) {
      if (stopped_()) return absl::CancelledError("stopped while waiting for the other ranks");
      std::string value;
      bool there = false;
      RETURN_IF_ERROR(CatchTorch(absl::StrCat(Place(), ": waiting for ", whom), [&] {
        there = store.check({key});
        if (there) value = TextOf(store.get(key));
      }));
      if (there) return value;
      if (RealNow() >= deadline_) {
        return absl::DeadlineExceededError(absl::StrCat(
            "rank ", options_.ranks.rank, " of ", options_.ranks.size, ": ", whom,
            " did not come to ", Place(), " within ", absl::FormatDuration(options_.join_timeout)));
      }
      absl::MutexLock lock(&mutex_);
      mutex_.AwaitWithTimeout(absl::Condition(&never_), kJoinAgain / 10);
    }
  }

  absl::Status Compare(absl::string_view whom, absl::string_view theirs) const {
    if (theirs == mine_) return absl::OkStatus();
    return absl::FailedPreconditionError(absl::StrCat(
        "rank ", options_.ranks.rank, ": WORLD_SIZE and configuration: expected those of ", whom,
        ", \"", theirs, "\", found \"", mine_, "\""));
  }
  std::string Place() const {
    return absl::StrCat("rendezvous at ", options_.ranks.master_host, ":",
                        options_.ranks.master_port);
  }

  const RankGroupOptions& options_;
  const std::function<bool()>& stopped_;
  const absl::Time deadline_;
  const std::string mine_;
  const std::string signature_;
  absl::Mutex mutex_;
  bool never_ = false;
};

}  // namespace

absl::StatusOr<std::unique_ptr<RankGroup>> RankGroup::Join(const RankGroupOptions& options,
                                                           const std::function<bool()>& stopped) {
  Rendezvous rendezvous(options, stopped);
  ASSIGN_OR_RETURN(c10::intrusive_ptr<c10d::TCPStore> store, rendezvous.Meet());
  return CatchTorch("connecting the ranks", [&]() -> absl::StatusOr<std::unique_ptr<RankGroup>> {
    auto gloo = ConnectGloo(options, c10::make_intrusive<c10d::PrefixStore>("gloo", store));
    return std::unique_ptr<RankGroup>(
        new C10dRankGroup(options, std::move(store), std::move(gloo)));
  });
}

absl::Status RankGroup::Sum(absl::Span<double> values, absl::string_view what) {
  at::Tensor tensor =
      at::from_blob(values.data(), {static_cast<int64_t>(values.size())}, at::kDouble);
  return Sum(tensor, what);
}

absl::Status RankGroup::Max(absl::Span<double> values, absl::string_view what) {
  at::Tensor tensor =
      at::from_blob(values.data(), {static_cast<int64_t>(values.size())}, at::kDouble);
  return Max(tensor, what);
}

}  // namespace crescendo
