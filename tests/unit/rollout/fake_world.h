// What surrounds a rollout worker, in one thread: a learner that accepts exactly once and checks
// every chunk, a reward service, a coordinator that counts completions. Messages are queued, so
// that a test can lose them.
#ifndef CRESCENDO_TESTS_UNIT_ROLLOUT_FAKE_WORLD_H_
#define CRESCENDO_TESTS_UNIT_ROLLOUT_FAKE_WORLD_H_

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "services/rollout/rollout_core.h"
#include "tests/support/scripted_model.h"

namespace crescendo {

struct FakeSample {
  std::vector<int32_t> tokens;
  std::vector<float> log_probs;
  std::vector<VersionRun> versions;
  std::optional<SampleClose> close;
};

struct FakeGroup {
  GroupHeader header;
  std::map<uint32_t, FakeSample> samples;
  bool complete() const {
    if (static_cast<int>(samples.size()) < header.samples) return false;
    for (const auto& [index, sample] : samples) {
      if (!sample.close.has_value()) return false;
    }
    return true;
  }
};

class FakeWorld {
 public:
  FakeWorld(const RolloutOptions& options, const ScriptedModelOptions& model)
      : scripted(model), model(model), core(options, &this->model), options(options) {}

  static GroupLease Lease(uint64_t id, int samples, int limit) {
    GroupLease lease;
    lease.lease = LeaseId(1000 + id);
    lease.group = GroupId(id);
    lease.problem_id = absl::StrCat("p", id);
    lease.problem = "1+1";
    lease.reward = {"math", {"2"}};
    lease.samples = samples;
    lease.context_tokens = limit;
    lease.seed = 17;
    return lease;
  }
  static LeasedPrompt Leased(GroupLease lease) {
    std::vector<int32_t> prompt;
    for (uint64_t i = 0; i < 3 + lease.group.value() % 7; ++i) prompt.push_back(5 + i);
    return LeasedPrompt{std::move(lease), prompt};
  }

  // One step of the worker; its actions go into the queues.
  bool Step() {
    now += absl::Milliseconds(5);
    const absl::StatusOr<bool> worked = core.Step(now);
    if (!worked.ok()) {
      error = worked.status().ToString();
      return false;
    }
    Collect();
    return *worked;
  }

  void Collect() {
    for (RolloutAction& action : core.TakeActions()) {
      if (auto* ask = std::get_if<AskLeases>(&action)) {
        asked = ask->groups_max;
      } else if (auto* chunk = std::get_if<SendChunk>(&action)) {
        chunks.push_back(std::move(*chunk));
      } else if (auto* resume = std::get_if<RequestResume>(&action)) {
        resumes.push_back(*resume);
      } else if (auto* grade = std::get_if<RequestGrade>(&action)) {
        grades.push_back(std::move(*grade));
      } else if (auto* complete = std::get_if<CompleteGroup>(&action)) {
        completions.push_back(std::move(complete->completion));
      } else if (auto* abandon = std::get_if<AbandonLease>(&action)) {
        abandoned.push_back(std::move(*abandon));
      } else if (auto* pull = std::get_if<PullWeights>(&action)) {
        pulls.push_back(pull->version);
      }
    }
  }

  // The learner takes the oldest chunk and answers it.
  bool TakeChunk() {
    while (!chunks.empty() && chunks.front().stream != core.stream()) chunks.pop_front();
    if (chunks.empty()) return false;
    const SendChunk send = std::move(chunks.front());
    chunks.pop_front();
    core.OnChunkAck(send.stream, Accept(send));
    Collect();
    return true;
  }
  ChunkAck Accept(const SendChunk& send) {
    const SampleChunk& chunk = send.chunk;
    ++chunks_accepted;
    ChunkAck ack;
    ack.group = chunk.group;
    ack.sample = chunk.sample;
    if (ended.count(chunk.group) > 0) {
      ack.outcome = ChunkOutcome::kGroupEnded;
      return ack;
    }
    if (chunk.has_header) {
      held[chunk.group].header = chunk.header;
      headers.insert({send.stream, chunk.group});
    }
    if (headers.count({send.stream, chunk.group}) == 0) {
      ack.outcome = ChunkOutcome::kNeedHeader;
      return ack;
    }
    FakeGroup& group = held[chunk.group];
    FakeSample& sample = group.samples[chunk.sample];
    const size_t have = sample.tokens.size();
    ack.next_offset = static_cast<uint32_t>(have);
    uint32_t runs = 0;
    for (const VersionRun& run : chunk.versions) {
      runs += run.tokens;
      if (run.version.value() > published) {
        ack.outcome = ChunkOutcome::kRefused;
        ack.message = "a version that is not published";
        return ack;
      }
    }
    if (runs != chunk.tokens.size() || chunk.tokens.size() != chunk.log_probs.size()) {
      error = "lengths of a chunk disagree";
    }
    if (chunk.offset > have) {
      ack.outcome = ChunkOutcome::kGap;
      return ack;
    }
    size_t added = 0;
    for (size_t i = 0; i < chunk.tokens.size(); ++i) {
      const size_t at = chunk.offset + i;
      if (at < sample.tokens.size()) {
        if (sample.tokens[at] == chunk.tokens[i]) continue;
        ack.outcome = ChunkOutcome::kRefused;
        ack.message = absl::StrCat("a different token at ", at);
        return ack;
      }
      if (sample.close.has_value()) error = "tokens behind the close";
      sample.tokens.push_back(chunk.tokens[i]);
      sample.log_probs.push_back(chunk.log_probs[i]);
      ++added;
    }
    AddVersions(chunk, added, &sample);
    if (chunk.has_close) {
      if (chunk.close.total_tokens != sample.tokens.size()) error = "total_tokens is wrong";
      if (chunk.close.verdict == Verdict::kUnspecified) error = "a close without verdict";
      sample.close = chunk.close;
    }
    ack.outcome = added > 0 || chunk.has_close ? ChunkOutcome::kAccepted : ChunkOutcome::kDuplicate;
    ack.next_offset = static_cast<uint32_t>(sample.tokens.size());
    ack.sample_closed = sample.close.has_value();
    ack.group_complete = group.complete();
    return ack;
  }
  static void AddVersions(const SampleChunk& chunk, size_t added, FakeSample* sample) {
    size_t skip = chunk.tokens.size() - added;
    for (const VersionRun& run : chunk.versions) {
      const uint32_t use = run.tokens > skip ? run.tokens - static_cast<uint32_t>(skip) : 0;
      skip -= run.tokens - use;
      if (use > 0) sample->versions.push_back({run.version, use});
    }
  }
  bool TakeResume() {
    if (resumes.empty()) return false;
    const RequestResume request = resumes.front();
    resumes.pop_front();
    ResumeReply reply;
    const auto it = held.find(request.group);
    if (ended.count(request.group) > 0 || (it != held.end() && it->second.complete())) {
      reply.state = ResumeState::kEnded;
    } else if (it == held.end()) {
      reply.state = ResumeState::kUnknown;
    } else {
      reply.state = ResumeState::kPartial;
      for (const auto& [index, sample] : it->second.samples) {
        if (sample.tokens.empty()) continue;
        reply.samples.push_back(PartialSample{index, sample.tokens, sample.log_probs,
                                              sample.versions, sample.close.has_value()});
      }
    }
    core.OnResume(request.stream, request.group, std::move(reply));
    Collect();
    return true;
  }
  bool TakeGrade() {
    if (grades.empty()) return false;
    const RequestGrade grade = std::move(grades.front());
    grades.pop_front();
    ++graded;
    core.OnVerdict(grade.id, VerdictOf(grade.tokens), grade.tokens[0] % 2, "x");
    Collect();
    return true;
  }
  static Verdict VerdictOf(const std::vector<int32_t>& tokens) {
    return tokens[0] % 2 == 1 ? Verdict::kCorrect : Verdict::kIncorrect;
  }
  bool TakeCompletion() {
    if (completions.empty()) return false;
    const GroupCompletion completion = std::move(completions.front());
    completions.pop_front();
    done[completion.group] = completion;
    core.OnCompleted(completion.lease);
    Collect();
    return true;
  }
  bool TakePull(const std::string& incarnation) {
    if (pulls.empty()) return false;
    const PolicyVersion version = pulls.front();
    pulls.pop_front();
    if (version.value() > published) {
      core.OnWeightsUnavailable(version, "not held");
    } else {
      core.OnWeightsReady(version, incarnation);
    }
    Collect();
    return true;
  }
  // Everything answers until nothing moves.
  void Settle(const std::string& incarnation = "l0", int rounds = 20000) {
    for (int i = 0; i < rounds && error.empty(); ++i) {
      bool moved = Step();
      while (TakeChunk()) moved = true;
      while (TakeResume()) moved = true;
      while (TakeGrade()) moved = true;
      while (TakeCompletion()) moved = true;
      while (TakePull(incarnation)) moved = true;
      if (!moved && core.stats().groups == 0) return;
    }
  }
  void ResetLearner() {
    resumes.clear();
    core.OnLearnerReset();
    Collect();
  }

  ScriptedModelOptions scripted;
  ScriptedModel model;
  RolloutCore core;
  RolloutOptions options;
  absl::Time now = absl::UnixEpoch();
  std::string error;

  int asked = 0;
  std::deque<SendChunk> chunks;
  std::deque<RequestResume> resumes;
  std::deque<RequestGrade> grades;
  std::deque<GroupCompletion> completions;
  std::deque<PolicyVersion> pulls;
  std::vector<AbandonLease> abandoned;

  int64_t published = 0;
  int chunks_accepted = 0;
  int graded = 0;
  std::map<GroupId, FakeGroup> held;
  std::set<GroupId> ended;
  std::set<std::pair<uint64_t, GroupId>> headers;
  std::map<GroupId, GroupCompletion> done;
};

}  // namespace crescendo

#endif  // CRESCENDO_TESTS_UNIT_ROLLOUT_FAKE_WORLD_H_
