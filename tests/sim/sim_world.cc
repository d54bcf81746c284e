#include "tests/sim/sim_world.h"

#include <algorithm>

#include "common/base/status_macros.h"

namespace crescendo::sim {

SimWorld::SimWorld(uint64_t seed) : rng_(seed, /*stream=*/0x51) {}

absl::Duration SimWorld::Between(absl::Duration low, absl::Duration high) {
  return low + (high - low) * rng_.Uniform();
}

ProcessId SimWorld::AddProcess(std::string name, std::function<void()> start,
                               std::function<void()> stop) {
  Process process;
  process.name = std::move(name);
  process.start = std::move(start);
  process.stop = std::move(stop);
  processes_.push_back(std::move(process));
  return static_cast<ProcessId>(processes_.size()) - 1;
}

void SimWorld::Start(ProcessId id) {
  Process& process = processes_[id];
  if (process.alive) return;
  process.alive = true;
  ++process.incarnation;
  process.start();
}

void SimWorld::Crash(ProcessId id) {
  if (!processes_[id].alive) return;
  processes_[id].alive = false;
  processes_[id].stop();
  for (const std::weak_ptr<Stream>& weak : std::vector(streams_)) {
    auto stream = weak.lock();
    if (stream && (stream->ends_[0] == id || stream->ends_[1] == id)) stream->Break();
  }
}

void SimWorld::SetClockOffset(ProcessId id, absl::Duration offset) {
  processes_[id].clock_offset = offset;
}

void SimWorld::Schedule(absl::Time at, ProcessId process, int incarnation,
                        std::function<void()> action) {
  events_.push({at, sequence_++, process, incarnation, std::move(action)});
}

void SimWorld::After(ProcessId process, absl::Duration delay, std::function<void()> action) {
  Schedule(now_ + delay, process, Incarnation(process), std::move(action));
}

void SimWorld::AfterInWorld(absl::Duration delay, std::function<void()> action) {
  Schedule(now_ + delay, -1, 0, std::move(action));
}

bool SimWorld::Step() {
  if (events_.empty()) return false;
  Event event = events_.top();
  events_.pop();
  now_ = event.at;
  if (event.process < 0 ||
      (Alive(event.process) && Incarnation(event.process) == event.incarnation)) {
    event.action();
  }
  return true;
}

void SimWorld::HealAll() { partitions_.clear(); }

void SimWorld::Transmit(ProcessId from, ProcessId to, int to_incarnation,
                        std::function<void()> deliver) {
  if (Chance(faults_.lose)) return;
  Schedule(now_ + Delay(), -1, 0, [this, from, to, to_incarnation, deliver = std::move(deliver)] {
    if (Connected(from, to) && Alive(to) && Incarnation(to) == to_incarnation) deliver();
  });
}

void SimWorld::TransmitToWhoeverLives(ProcessId from, ProcessId to, std::function<void()> deliver,
                                      std::function<void()> refused) {
  if (Chance(faults_.lose)) return;
  const int from_incarnation = Incarnation(from);
  Schedule(now_ + Delay(), -1, 0,
           [this, from, to, from_incarnation, deliver = std::move(deliver),
            refused = std::move(refused)] {
             if (!Connected(from, to)) return;
             if (Alive(to)) {
               deliver();
             } else if (Alive(from) && Incarnation(from) == from_incarnation) {
               refused();
             }
           });
}

std::shared_ptr<SimWorld::Stream> SimWorld::Connect(ProcessId client, ProcessId server,
                                                    std::function<void()> client_broken,
                                                    std::function<void()> server_broken) {
  if (!Alive(server) || !Connected(client, server)) return nullptr;
  auto stream = std::make_shared<Stream>();
  stream->world_ = this;
  stream->self_ = stream;
  stream->ends_[0] = client;
  stream->ends_[1] = server;
  for (int end : {0, 1}) {
    stream->incarnations_[end] = Incarnation(stream->ends_[end]);
    stream->last_arrival_[end] = now_;
  }
  stream->on_broken_[0] = std::move(client_broken);
  stream->on_broken_[1] = std::move(server_broken);
  std::erase_if(streams_, [](const std::weak_ptr<Stream>& weak) { return weak.expired(); });
  streams_.push_back(stream);
  return stream;
}

void SimWorld::Stream::Send(ProcessId from, std::function<void()> deliver) {
  if (broken_) return;
  const int to = from == ends_[0] ? 1 : 0;
  if (world_->Chance(world_->faults_.break_stream)) {
    Break();
    return;
  }
  // In order: no message overtakes the one before it.
  last_arrival_[to] = std::max(last_arrival_[to], world_->Now() + world_->Delay());
  auto self = self_.lock();
  world_->Schedule(last_arrival_[to], -1, 0, [self, to, deliver = std::move(deliver)] {
    if (self->broken_) return;
    // A partition that lasts until a message is due breaks the connection (keepalive).
    if (!self->world_->Connected(self->ends_[0], self->ends_[1])) {
      self->Break();
      return;
    }
    const ProcessId process = self->ends_[to];
    if (self->world_->Alive(process) &&
        self->world_->Incarnation(process) == self->incarnations_[to]) {
      deliver();
    }
  });
}

void SimWorld::Stream::Break() {
  if (std::exchange(broken_, true)) return;
  for (int end : {0, 1}) {
    auto told = std::move(on_broken_[end]);
    on_broken_[end] = nullptr;
    if (!told) continue;
    world_->Schedule(world_->Now() + world_->Delay(), ends_[end], incarnations_[end],
                     std::move(told));
  }
}

}  // namespace crescendo::sim
