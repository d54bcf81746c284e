// What surrounds a rollout worker, in one thread: a learner (fake_learner.h), a reward service, a
// coordinator that counts completions. Messages are queued, so that a test can lose them.
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
#include "tests/unit/rollout/fake_learner.h"

namespace crescendo {

class FakeWorld : public FakeLearner {
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
    core.OnChunkAck(send.stream, Accept(send.stream, send.chunk));
    Collect();
    return true;
  }
  bool TakeResume() {
    if (resumes.empty()) return false;
    const RequestResume request = resumes.front();
    resumes.pop_front();
    core.OnResume(request.stream, request.group, Resume(request.group));
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

  int asked = 0;
  std::deque<SendChunk> chunks;
  std::deque<RequestResume> resumes;
  std::deque<RequestGrade> grades;
  std::deque<GroupCompletion> completions;
  std::deque<PolicyVersion> pulls;
  std::vector<AbandonLease> abandoned;

  int graded = 0;
  std::map<GroupId, GroupCompletion> done;
};

}  // namespace crescendo

#endif  // CRESCENDO_TESTS_UNIT_ROLLOUT_FAKE_WORLD_H_
