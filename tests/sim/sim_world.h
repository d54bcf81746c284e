// A seeded, one-thread world: simulated time, processes that crash and come back, and a network
// that delays, loses, duplicates, reorders, partitions. Everything that happens is drawn from one
// seed, so a run replays exactly.
//
// A process is a name with an incarnation: what was scheduled for one incarnation never reaches the
// next. Closures given to After and Call run only while the incarnation that gave them lives.
#ifndef CRESCENDO_TESTS_SIM_SIM_WORLD_H_
#define CRESCENDO_TESTS_SIM_SIM_WORLD_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <queue>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/rng.h"

namespace crescendo::sim {

using ProcessId = int;

// How bad the network is while faults are on. Each probability is for one message.
struct NetworkFaults {
  double lose = 0;
  double duplicate = 0;
  double break_stream = 0;
  absl::Duration delay_min = absl::Microseconds(100);
  absl::Duration delay_max = absl::Milliseconds(3);
};

class SimWorld {
 public:
  explicit SimWorld(uint64_t seed);

  absl::Time Now() const { return now_; }
  // What the process's own clock shows: it may be off, by another amount in each incarnation.
  absl::Time LocalNow(ProcessId process) const { return now_ + processes_[process].clock_offset; }
  CounterRng& rng() { return rng_; }
  bool Chance(double probability) { return probability > 0 && rng_.Uniform() < probability; }
  absl::Duration Between(absl::Duration low, absl::Duration high);

  // Processes
  // --------------------------------------------------------------------------------------- `start`
  // makes the process's state anew (what survives lies outside it), `stop` destroys it.
  ProcessId AddProcess(std::string name, std::function<void()> start, std::function<void()> stop);
  void Start(ProcessId process);
  // As SIGKILL: everything in memory is gone at once; streams break.
  void Crash(ProcessId process);
  bool Alive(ProcessId process) const { return processes_[process].alive; }
  int Incarnation(ProcessId process) const { return processes_[process].incarnation; }
  const std::string& Name(ProcessId process) const { return processes_[process].name; }
  void SetClockOffset(ProcessId process, absl::Duration offset);

  // Time
  // ----------------------------------------------------------------------------------------------
  // Runs `action` in the process after `delay`, if that incarnation is still alive.
  void After(ProcessId process, absl::Duration delay, std::function<void()> action);
  // The world's own events (faults); no process.
  void AfterInWorld(absl::Duration delay, std::function<void()> action);
  // Runs the next event. False when there is none.
  bool Step();

  // Network
  // --------------------------------------------------------------------------------------------
  void SetFaults(const NetworkFaults& faults) { faults_ = faults; }
  void Partition(ProcessId a, ProcessId b) { partitions_.insert(std::minmax(a, b)); }
  void Heal(ProcessId a, ProcessId b) { partitions_.erase(std::minmax(a, b)); }
  void HealAll();
  bool Connected(ProcessId a, ProcessId b) const {
    return !partitions_.contains(std::minmax(a, b));
  }

  // A unary call with a deadline. `serve` runs in the server when the request arrives (twice when
  // the network duplicates it) and answers through its argument, at once or later; `done` runs in
  // the client exactly once, with UNAVAILABLE when the server is down, DEADLINE_EXCEEDED when no
  // reply came.
  template <typename Reply>
  void Call(ProcessId client, ProcessId server, absl::Duration timeout,
            std::function<void(std::function<void(absl::StatusOr<Reply>)>)> serve,
            std::function<void(absl::StatusOr<Reply>)> done) {
    auto finished = std::make_shared<bool>(false);
    auto finish = [finished, done](absl::StatusOr<Reply> reply) {
      if (std::exchange(*finished, true)) return;
      done(std::move(reply));
    };
    const int incarnation = Incarnation(client);
    After(client, timeout, [finish, this, server] {
      finish(absl::DeadlineExceededError("no reply from " + Name(server)));
    });
    auto reply_to = [this, client, incarnation, server, finish](absl::StatusOr<Reply> reply) {
      Transmit(server, client, incarnation, [finish, reply] { finish(reply); });
    };
    auto refused = [this, client, finish, server] {
      After(client, absl::Milliseconds(1),
            [finish, this, server] { finish(absl::UnavailableError(Name(server) + " is down")); });
    };
    const int copies = Chance(faults_.duplicate) ? 2 : 1;
    for (int i = 0; i < copies; ++i) {
      TransmitToWhoeverLives(
          client, server, [serve, reply_to] { serve(reply_to); }, refused);
    }
  }

  // An ordered, reliable connection until it breaks; both ends are told once (`broken`), each while
  // its incarnation lives.
  class Stream {
   public:
    // Runs `deliver` at the other end, in order. Dropped when the stream has broken.
    void Send(ProcessId from, std::function<void()> deliver);
    void Break();
    bool broken() const { return broken_; }

   private:
    friend class SimWorld;
    SimWorld* world_ = nullptr;
    ProcessId ends_[2] = {0, 0};
    int incarnations_[2] = {0, 0};
    absl::Time last_arrival_[2];
    std::function<void()> on_broken_[2];
    bool broken_ = false;
    std::weak_ptr<Stream> self_;
  };
  // Null when the server is down or cut off.
  std::shared_ptr<Stream> Connect(ProcessId client, ProcessId server,
                                  std::function<void()> client_broken,
                                  std::function<void()> server_broken);

 private:
  struct Process {
    std::string name;
    std::function<void()> start;
    std::function<void()> stop;
    bool alive = false;
    int incarnation = 0;
    absl::Duration clock_offset = absl::ZeroDuration();
  };
  struct Event {
    absl::Time at;
    uint64_t sequence;
    ProcessId process;  // -1: the world's own
    int incarnation;
    std::function<void()> action;
  };
  struct Later {
    bool operator()(const Event& a, const Event& b) const {
      return a.at != b.at ? a.at > b.at : a.sequence > b.sequence;
    }
  };

  void Schedule(absl::Time at, ProcessId process, int incarnation, std::function<void()> action);
  void Transmit(ProcessId from, ProcessId to, int to_incarnation, std::function<void()> deliver);
  void TransmitToWhoeverLives(ProcessId from, ProcessId to, std::function<void()> deliver,
                              std::function<void()> refused);
  absl::Duration Delay() { return Between(faults_.delay_min, faults_.delay_max); }

  CounterRng rng_;
  absl::Time now_ = absl::UnixEpoch() + absl::Hours(24 * 365 * 50);
  uint64_t sequence_ = 0;
  std::priority_queue<Event, std::vector<Event>, Later> events_;
  std::vector<Process> processes_;
  NetworkFaults faults_;
  std::set<std::pair<ProcessId, ProcessId>> partitions_;
  std::vector<std::weak_ptr<Stream>> streams_;
};

}  // namespace crescendo::sim

#endif  // CRESCENDO_TESTS_SIM_SIM_WORLD_H_
