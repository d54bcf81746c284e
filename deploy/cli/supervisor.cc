#include "deploy/cli/supervisor.h"

#include <signal.h>

#include <algorithm>
#include <fstream>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/status_macros.h"
#include "common/config/command_line.h"

namespace crescendo {
namespace {

constexpr size_t kTailLines = 15;
constexpr std::streamoff kTailBytes = 16384;
constexpr absl::Duration kLeftWait = absl::Seconds(3);
constexpr absl::Duration kStopPoll = absl::Milliseconds(20);

}  // namespace

Supervisor::Supervisor(Clock* clock, std::vector<SupervisedService> services,
                       std::string logs_folder, std::function<void(absl::string_view)> tell)
    : clock_(clock), logs_folder_(std::move(logs_folder)), tell_(std::move(tell)) {
  for (SupervisedService& service : services) {
    entries_.emplace_back();
    entries_.back().service = std::move(service);
  }
}

Supervisor::~Supervisor() = default;

std::string Supervisor::LogFile(const std::string& name) const {
  return absl::StrCat(logs_folder_, "/", name, ".log");
}

std::string Supervisor::LogTail(const std::string& name) const {
  std::ifstream file(LogFile(name), std::ios::binary | std::ios::ate);
  const std::streamoff size = file ? static_cast<std::streamoff>(file.tellg()) : 0;
  std::string text(static_cast<size_t>(std::min(size, kTailBytes)), '\0');
  file.seekg(size - static_cast<std::streamoff>(text.size()));
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  std::vector<std::string> lines = absl::StrSplit(text, '\n', absl::SkipEmpty());
  std::string out;
  for (size_t i = lines.size() > kTailLines ? lines.size() - kTailLines : 0; i < lines.size();
       ++i) {
    absl::StrAppend(&out, "  | ", lines[i], "\n");
  }
  return out.empty() ? "  | (empty)\n" : out;
}

pid_t Supervisor::Pid(const std::string& name) const {
  for (const Entry& entry : entries_) {
    if (entry.service.name == name && entry.child != nullptr) return entry.child->pid();
  }
  return 0;
}

absl::Status Supervisor::Start() {
  for (Entry& entry : entries_) RETURN_IF_ERROR(StartOne(entry));
  return absl::OkStatus();
}

absl::Status Supervisor::StartOne(Entry& entry) {
  entry.restart_at = absl::InfiniteFuture();
  ASSIGN_OR_RETURN(entry.child,
                   ChildProcess::Spawn(entry.service.command, LogFile(entry.service.name)));
  entry.started = clock_->Now();
  return absl::OkStatus();
}

absl::Time Supervisor::LastDeathOfOthers(const Entry& entry) const {
  absl::Time last = absl::InfinitePast();
  for (const Entry& other : entries_) {
    if (&other == &entry) continue;
    // One that has just been found dead, or is about to be started again, counts as dying now.
    last = std::max(last, other.child == nullptr && other.restart_at != absl::InfiniteFuture()
                              ? clock_->Now()
                              : other.died);
  }
  return last;
}

absl::Status Supervisor::HandleExit(Entry& entry, const ProcessExit& exit) {
  const std::string& name = entry.service.name;
  const absl::Time now = clock_->Now();
  entry.child = nullptr;
  if (expect_end_) return absl::OkStatus();
  if (!exit.by_signal && exit.number == kExitOk) {
    // It left by itself, as a worker does when the run is finished; most likely we hear of that
    // soon.
    entry.restart_at = now + kLeftWait;
    return absl::OkStatus();
  }
  const RestartDecision decision =
      entry.policy.OnExit(exit, now - entry.started, now - LastDeathOfOthers(entry));
  entry.died = now;
  if (!decision.restart) {
    const std::string message = absl::StrCat(name, " ", decision.reason, ". The end of ",
                                             LogFile(name), ":\n", LogTail(name));
    return !exit.by_signal && exit.number == kExitUser ? absl::InvalidArgumentError(message)
                                                       : absl::AbortedError(message);
  }
  ++restarts_;
  entry.restart_at = now + decision.wait;
  tell_(absl::StrCat(name, " ", DescribeExit(exit), "; it is started again in ",
                     absl::FormatDuration(decision.wait)));
  return absl::OkStatus();
}

absl::Status Supervisor::Poll() {
  for (Entry& entry : entries_) {
    if (entry.child == nullptr) continue;
    if (const auto exit = entry.child->Poll()) RETURN_IF_ERROR(HandleExit(entry, *exit));
  }
  for (Entry& entry : entries_) {
    if (!expect_end_ && entry.restart_at <= clock_->Now()) RETURN_IF_ERROR(StartOne(entry));
  }
  return absl::OkStatus();
}

void Supervisor::Stop() {
  expect_end_ = true;
  std::set<int> ranks;
  for (const Entry& entry : entries_) ranks.insert(entry.service.stop_rank);
  for (const int rank : ranks) StopRank(rank);
}

void Supervisor::StopRank(int rank) {
  const absl::Time start = clock_->Now();
  std::vector<Entry*> waiting;
  for (Entry& entry : entries_) {
    if (entry.service.stop_rank != rank || entry.child == nullptr) continue;
    entry.child->Signal(SIGTERM);
    waiting.push_back(&entry);
  }
  while (!waiting.empty()) {
    for (Entry*& entry : waiting) {
      const bool late = clock_->Now() - start > entry->service.stop_grace;
      if (!late && !entry->child->Poll().has_value()) continue;
      if (late) {
        tell_(absl::StrCat(entry->service.name, " did not stop within ",
                           absl::FormatDuration(entry->service.stop_grace), ": killed"));
      }
      entry->child = nullptr;  // kills it when it still runs
      entry = nullptr;
    }
    waiting.erase(std::remove(waiting.begin(), waiting.end(), nullptr), waiting.end());
    if (!waiting.empty()) clock_->SleepFor(kStopPoll);
  }
}

}  // namespace crescendo
