// RolloutCore: chunks to the learner, answers to the reward service, and what comes back.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "services/rollout/rollout_core.h"

namespace crescendo {
namespace {

// After so many refusals in a row a group is handed back; the waits between double up to a bound.
constexpr int kRefusalsMax = 10;
constexpr absl::Duration kRefusalWait = absl::Milliseconds(50);
constexpr absl::Duration kRefusalWaitMax = absl::Seconds(2);

}  // namespace

// The learner's stream
// ------------------------------------------------------------------------------------

void RolloutCore::OnLearnerReset() { ResetStream(); }

void RolloutCore::ResetStream() {
  ++stream_;
  chunks_in_flight_ = 0;
  backlog_.clear();
  for (const auto& [id, group] : groups_) {
    if (!group->train()) continue;
    bool sent = group->resume_pending || group->completing || group->lease.attempt > 0;
    for (SampleState& sample : group->samples) {
      sent = sent || sample.sent > 0 || sample.close_sent;
      sample.in_backlog = false;
    }
    sent = sent || group->header_sent;
    group->header_sent = false;
    // The learner cannot hold anything of a group of which nothing was ever sent.
    if (sent) {
      AskResume(*group);
    } else {
      FlushGroup(*group, /*force=*/false);
    }
  }
}

void RolloutCore::AskResume(GroupState& group) {
  group.completing = false;
  group.resume_pending = true;
  group.resume_at.reset();
  actions_.push_back(RequestResume{stream_, group.lease.group});
  ++resumes_;
}

void RolloutCore::RetryResumes(absl::Time now) {
  for (const auto& [id, group] : groups_) {
    if (group->resume_at.has_value() && now >= *group->resume_at) AskResume(*group);
  }
}

void RolloutCore::OnResume(uint64_t stream, GroupId id, ResumeReply reply) {
  GroupState* group = Find(id);
  if (stream != stream_ || group == nullptr || !group->resume_pending) return;
  if (group->resume_at.has_value()) return;  // refused since it was asked
  group->resume_pending = false;
  group->learner_incarnation = reply.learner_incarnation;
  if (reply.state == ResumeState::kEnded) return OnGroupEnded(*group);
  for (const PartialSample& held : reply.samples) {
    if (held.sample >= group->samples.size() || held.tokens.size() != held.log_probs.size() ||
        static_cast<int>(held.tokens.size()) > group->lease.context_tokens) {
      return OnRefused(*group, absl::StrCat("the learner holds sample ", held.sample, " with ",
                                            held.tokens.size(), " tokens"));
    }
  }
  if (reply.state == ResumeState::kUnspecified) return OnRefused(*group, "no state in Resume");
  if (reply.state == ResumeState::kUnknown) group->header_sent = false;
  for (SampleState& sample : group->samples) {
    sample.sent = 0;
    sample.acked = 0;
    sample.close_sent = false;
    sample.closed = false;
  }
  bool changed = !group->started;
  for (PartialSample& held : reply.samples) changed |= Adopt(*group, std::move(held));
  if (changed) StartGroup(*group);
  for (uint32_t i = 0; i < group->samples.size(); ++i) {
    const SampleState& sample = group->samples[i];
    if (sample.finished() && !sample.closed && !sample.graded()) QueueGrade(*group, i);
    UpdateFlowControl(*group, i);
  }
  FlushGroup(*group, /*force=*/false);
  FlushGrades();
  CompleteIfDone(*group);
}

FinishReason RolloutCore::FinishOf(const GroupState& group, const SampleState& sample) const {
  if (!sample.tokens.empty() && stop_tokens_.contains(sample.tokens.back())) {
    return FinishReason::kStop;
  }
  bool stopped = false;
  (void)WatchOver(group.lease.sampling, sample.tokens, &stopped);
  if (stopped) return FinishReason::kStop;
  return static_cast<int>(sample.tokens.size()) >= group.lease.context_tokens
             ? FinishReason::kTruncated
             : FinishReason::kUnspecified;
}

// Takes over what the learner holds. True when the engine has to start the sample anew.
bool RolloutCore::Adopt(GroupState& group, PartialSample held) {
  SampleState& sample = group.samples[held.sample];
  const size_t count = held.tokens.size();
  const bool same = sample.tokens.size() >= count &&
                    (!held.closed || sample.tokens.size() == count) &&
                    std::equal(held.tokens.begin(), held.tokens.end(), sample.tokens.begin());
  if (!same) {
    DropGrade(sample);
    sample.Truncate(0);
    sample.tokens = std::move(held.tokens);
    sample.log_probs = std::move(held.log_probs);
    sample.versions = std::move(held.versions);
    sample.finish = FinishOf(group, sample);
    resumed_tokens_ += count;
  }
  bool changed = !same;
  if (held.closed) {
    changed = changed || !sample.finished();
    if (!sample.finished()) sample.finish = FinishReason::kTruncated;
    sample.close_sent = true;
    sample.closed = true;
    DropGrade(sample);
  }
  sample.sent = static_cast<uint32_t>(count);
  sample.acked = sample.sent;
  return changed;
}

void RolloutCore::OnGroupEnded(GroupState& group) {
  if (!group.completing) EmitCompletion(group);
}

// Something that the learner does not take: ask what it holds, after a while, a bounded number of
// times.
void RolloutCore::OnRefused(GroupState& group, absl::string_view why) {
  if (group.resume_pending) return;
  if (++group.refusals > kRefusalsMax) {
    return Abandon(group.lease.group, absl::StrCat("refused by the learner ", kRefusalsMax,
                                                   " times in a row, at last: ", why));
  }
  const absl::Duration wait =
      std::min(kRefusalWait * (int64_t{1} << group.refusals), kRefusalWaitMax);
  group.resume_pending = true;
  group.resume_at = now_ + wait;
}

void RolloutCore::OnChunkAck(uint64_t stream, const ChunkAck& ack) {
  if (stream != stream_) return;
  chunks_in_flight_ = std::max(0, chunks_in_flight_ - 1);
  GroupState* group = Find(ack.group);
  if (group == nullptr || !group->train() || ack.sample >= group->samples.size()) {
    return FlushBacklog();
  }
  SampleState& sample = group->samples[ack.sample];
  if (!ack.learner_incarnation.empty()) group->learner_incarnation = ack.learner_incarnation;
  switch (ack.outcome) {
    case ChunkOutcome::kAccepted:
    case ChunkOutcome::kDuplicate:
      if (group->resume_pending) break;  // its report comes and says all of it
      if (ack.next_offset > sample.sent) {
        AskResume(*group);  // somebody else has sent more of it
        break;
      }
      group->refusals = 0;
      sample.acked = std::max(sample.acked, ack.next_offset);
      sample.closed = sample.closed || (ack.sample_closed && sample.close_sent);
      if (ack.group_complete) {
        OnGroupEnded(*group);
      } else {
        UpdateFlowControl(*group, ack.sample);
        CompleteIfDone(*group);
      }
      break;
    case ChunkOutcome::kGroupEnded:
      OnGroupEnded(*group);
      break;
    case ChunkOutcome::kGap:
    case ChunkOutcome::kNeedHeader:
    case ChunkOutcome::kRefused:
    case ChunkOutcome::kUnspecified:
      OnRefused(*group, ack.message);
      break;
  }
  FlushBacklog();
}

void RolloutCore::FlushGroup(GroupState& group, bool force) {
  for (uint32_t i = 0; i < group.samples.size(); ++i) Flush(group, i, force);
}

// Sends what is due of a sample: full chunks while it decodes, all with the close once the verdict
// is there. `force`: whatever there is, beyond the window too (the worker hands the group over).
void RolloutCore::Flush(GroupState& group, uint32_t index, bool force) {
  SampleState& sample = group.samples[index];
  if (!group.train() || group.resume_pending || group.completing) return;
  while (!sample.close_sent) {
    const uint32_t unsent = static_cast<uint32_t>(sample.tokens.size()) - sample.sent;
    const bool close = sample.finished() && sample.graded();
    const bool due =
        close || unsent >= static_cast<uint32_t>(options_.chunk_tokens) || (force && unsent > 0);
    if (!due) return;
    if (chunks_in_flight_ >= options_.chunks_in_flight_max && !force) {
      if (!sample.in_backlog) backlog_.emplace_back(group.lease.group, index);
      sample.in_backlog = true;
      return;
    }
    const uint32_t tokens = std::min<uint32_t>(unsent, limits::kChunkTokensMax);
    EmitChunk(group, index, tokens, close && tokens == unsent);
  }
}

void RolloutCore::FlushBacklog() {
  while (!backlog_.empty() && chunks_in_flight_ < options_.chunks_in_flight_max) {
    const auto [id, index] = backlog_.front();
    backlog_.pop_front();
    GroupState* group = Find(id);
    if (group == nullptr) continue;
    group->samples[index].in_backlog = false;
    Flush(*group, index, /*force=*/false);
  }
}

void RolloutCore::EmitChunk(GroupState& group, uint32_t index, uint32_t tokens, bool close) {
  SampleState& sample = group.samples[index];
  SendChunk send;
  send.stream = stream_;
  SampleChunk& chunk = send.chunk;
  chunk.group = group.lease.group;
  chunk.lease = group.lease.lease;
  chunk.lease_key = group.lease.key;
  chunk.sample = index;
  if (!group.header_sent) {
    chunk.has_header = true;
    chunk.header = GroupHeader{group.lease.problem_id,
                               group.prompt_tokens,
                               group.lease.samples,
                               group.lease.context_tokens,
                               group.lease.sampling.temperature,
                               group.lease.stage};
    group.header_sent = true;
  }
  chunk.offset = sample.sent;
  chunk.tokens.assign(sample.tokens.begin() + sample.sent,
                      sample.tokens.begin() + sample.sent + tokens);
  chunk.log_probs.assign(sample.log_probs.begin() + sample.sent,
                         sample.log_probs.begin() + sample.sent + tokens);
  chunk.versions = sample.VersionsOf(sample.sent, tokens);
  if (close) {
    chunk.has_close = true;
    chunk.close = SampleClose{sample.finish, sample.verdict, sample.reward,
                              static_cast<uint32_t>(sample.tokens.size())};
    sample.close_sent = true;
  }
  sample.sent += tokens;
  ++chunks_in_flight_;
  actions_.push_back(std::move(send));
}

void RolloutCore::UpdateFlowControl(GroupState& group, uint32_t index) {
  SampleState& sample = group.samples[index];
  if (!group.train() || sample.finished()) return;
  const bool pause =
      sample.tokens.size() - sample.acked > static_cast<size_t>(options_.unacked_tokens_max);
  if (pause == sample.paused) return;
  sample.paused = pause;
  engine_.SetPaused(group.lease.group, index, pause);
}

// Grading
// -----------------------------------------------------------------------------------------------

void RolloutCore::QueueGrade(GroupState& group, uint32_t index) {
  grade_backlog_.emplace_back(group.lease.group, index);
}

void RolloutCore::FlushGrades() {
  while (!grade_backlog_.empty() &&
         static_cast<int>(grades_.size()) < options_.grades_in_flight_max) {
    const auto [id, index] = grade_backlog_.front();
    grade_backlog_.pop_front();
    GroupState* group = Find(id);
    if (group == nullptr) continue;
    SampleState& sample = group->samples[index];
    // It may have been asked for, answered, or cut since it was put here.
    if (!sample.finished() || sample.graded() || sample.closed || sample.grade_id != 0) continue;
    sample.grade_id = next_grade_id_++;
    grades_[sample.grade_id] = Key(id, index);
    RequestGrade request;
    request.id = sample.grade_id;
    request.group = id;
    request.sample = index;
    request.reward = group->lease.reward;
    request.problem = group->lease.problem;
    request.tokens = sample.tokens;
    request.context_tokens = static_cast<uint32_t>(group->lease.context_tokens);
    request.truncated = sample.finish == FinishReason::kTruncated;
    actions_.push_back(std::move(request));
  }
}

void RolloutCore::DropGrade(SampleState& sample) {
  if (sample.grade_id != 0) grades_.erase(sample.grade_id);
  sample.grade_id = 0;
}

void RolloutCore::DropGrades(GroupState& group) {
  for (SampleState& sample : group.samples) DropGrade(sample);
}

void RolloutCore::OnVerdict(uint64_t id, Verdict verdict, double reward, std::string extracted,
                            std::string reason) {
  const auto it = grades_.find(id);
  if (it == grades_.end()) return;
  const auto [group_id, index] = it->second;
  grades_.erase(it);
  GroupState& group = *Find(group_id);
  SampleState& sample = group.samples[index];
  sample.grade_id = 0;
  sample.verdict = verdict == Verdict::kUnspecified ? Verdict::kUndecided : verdict;
  sample.reward = reward;
  sample.extracted = std::move(extracted);
  sample.reason = std::move(reason);
  Flush(group, index, /*force=*/false);
  CompleteIfDone(group);
  FlushGrades();
}

void RolloutCore::OnRewardReset() {
  std::vector<uint64_t> open;
  for (const auto& [id, key] : grades_) open.push_back(id);
  std::sort(open.begin(), open.end());
  for (const uint64_t id : open) {
    const auto [group, index] = grades_[id];
    Find(group)->samples[index].grade_id = 0;
    grade_backlog_.emplace_back(group, index);
  }
  grades_.clear();
  FlushGrades();
}

// The end of a group
// -----------------------------------------------------------------------------------------------

// Other samples in other groups, the same ones whenever the group is generated again.
void RolloutCore::AddShown(const GroupState& group, CompleteGroup* complete) const {
  const std::vector<SampleResult>& results = complete->completion.results;
  const size_t count = std::min(results.size(), static_cast<size_t>(options_.shown_samples));
  for (size_t i = 0; i < count; ++i) {
    const size_t index = (group.lease.group.value() + i) % results.size();
    complete->shown.emplace_back(index, group.samples[results[index].sample].tokens);
  }
}

void RolloutCore::CompleteIfDone(GroupState& group) {
  if (group.completing || group.resume_pending) return;
  const bool done =
      std::all_of(group.samples.begin(), group.samples.end(), [&](const SampleState& sample) {
        return group.train() ? sample.closed : sample.finished() && sample.graded();
      });
  if (done) EmitCompletion(group);
}

void RolloutCore::EmitCompletion(GroupState& group) {
  group.completing = true;
  group.resume_pending = false;
  group.resume_at.reset();
  engine_.RemoveGroup(group.lease.group);
  DropGrades(group);
  GroupCompletion completion;
  completion.lease = group.lease.lease;
  completion.group = group.lease.group;
  completion.purpose = group.lease.purpose;
  if (group.train()) completion.learner_incarnation = group.learner_incarnation;
  bool any = false;
  completion.version_min = completion.version_max = loaded_;
  for (uint32_t i = 0; i < group.samples.size(); ++i) {
    const SampleState& sample = group.samples[i];
    for (const VersionRun& run : sample.versions) {
      completion.version_min = any ? std::min(completion.version_min, run.version) : run.version;
      completion.version_max = any ? std::max(completion.version_max, run.version) : run.version;
      any = true;
    }
    if (!sample.graded()) continue;  // closed by the worker that held the group before
    completion.results.push_back(
        SampleResult{i, sample.verdict, sample.reward, static_cast<uint32_t>(sample.tokens.size()),
                     sample.finish == FinishReason::kTruncated, sample.extracted, sample.reason});
  }
  CompleteGroup complete{std::move(completion), {}};
  AddShown(group, &complete);
  actions_.push_back(std::move(complete));
}

}  // namespace crescendo
