#include "services/learner/experience_buffer.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "common/base/status_macros.h"
#include "services/learner/chunk_checks.h"

namespace crescendo {

namespace {

constexpr uint64_t kEvaluationBit = uint64_t{1} << 63;
constexpr int64_t kGroupBytes = 512;  // of a group and a sample besides their arrays, about
constexpr int64_t kSampleBytes = 160;
constexpr int64_t kTokenBytes = sizeof(int32_t) + sizeof(float);
constexpr int64_t kRunBytes = sizeof(VersionRun);

ChunkAck Ack(const SampleChunk& chunk, ChunkOutcome outcome) {
  ChunkAck ack;
  ack.group = chunk.group;
  ack.sample = chunk.sample;
  ack.outcome = outcome;
  return ack;
}

ChunkAck Refused(const SampleChunk& chunk, const absl::Status& status) {
  ChunkAck ack = Ack(chunk, ChunkOutcome::kRefused);
  ack.message = std::string(status.message());
  return ack;
}

bool SameHeader(const GroupHeader& a, const GroupHeader& b) {
  return a.samples == b.samples && a.context_tokens == b.context_tokens && a.stage == b.stage &&
         a.temperature == b.temperature && a.problem_id == b.problem_id &&
         a.prompt_tokens == b.prompt_tokens;
}

// Appends the runs of a chunk's tokens from its token `skip` on.
void AppendRuns(const std::vector<VersionRun>& runs, size_t skip, std::vector<VersionRun>& out) {
  for (const VersionRun& run : runs) {
    const size_t skipped = std::min<size_t>(skip, run.tokens);
    skip -= skipped;
    const uint32_t tokens = run.tokens - static_cast<uint32_t>(skipped);
    if (tokens == 0) continue;
    if (!out.empty() && out.back().version == run.version) {
      out.back().tokens += tokens;
    } else {
      out.push_back({run.version, tokens});
    }
  }
}

bool SameClose(const SampleClose& close, const SampleExperience& sample) {
  return close.finish == sample.finish && close.verdict == sample.verdict &&
         close.reward == sample.reward && close.total_tokens == sample.tokens.size();
}

}  // namespace

ExperienceBuffer::ExperienceBuffer(const ExperienceOptions& options, Ledger ledger,
                                   PolicyVersion published)
    : options_(options), ledger_(std::move(ledger)), published_(published) {}

ChunkAck ExperienceBuffer::Accept(SampleChunk chunk) {
  ChunkAck ack = Decide(chunk);
  Count(ack);
  return ack;
}

void ExperienceBuffer::Count(const ChunkAck& ack) {
  switch (ack.outcome) {
    case ChunkOutcome::kAccepted:
      ++counters_.chunks_accepted;
      break;
    case ChunkOutcome::kDuplicate:
      ++counters_.chunks_duplicate;
      break;
    case ChunkOutcome::kGap:
      ++counters_.chunks_gap;
      break;
    case ChunkOutcome::kNeedHeader:
      ++counters_.chunks_need_header;
      break;
    case ChunkOutcome::kGroupEnded:
      ++counters_.chunks_group_ended;
      break;
    default:
      ++counters_.chunks_refused;
      break;
  }
}

// What can be said without the group, then the group.
ChunkAck ExperienceBuffer::Decide(SampleChunk& chunk) {
  if (chunk.group.value() & kEvaluationBit) {
    return Refused(chunk, RefuseField("group_id", "an evaluation group is not trained"));
  }
  if (chunk.lease == LeaseId()) {
    return Refused(chunk, RefuseField("lease_id", "expected the lease of the group, found none"));
  }
  if (!secret_.empty() && chunk.lease_key != LeaseKey(secret_, chunk.lease, chunk.group)) {
    return Refused(chunk,
                   RefuseField("lease_key",
                               absl::StrCat("expected the key of lease ", chunk.lease.value(),
                                            " of group ", chunk.group.value(), ", found another")));
  }
  if (groups_end_ > 0 && chunk.group.value() >= groups_end_) {
    return Refused(
        chunk,
        RefuseField("group_id", absl::StrCat("expected a leased group, none from ", groups_end_,
                                             " on can be, found ", chunk.group.value())));
  }
  auto it = groups_.find(chunk.group);
  if (ledger_.Contains(chunk.group) || (it != groups_.end() && it->second.complete())) {
    ChunkAck ack = Ack(chunk, ChunkOutcome::kGroupEnded);
    ack.sample_closed = true;
    ack.group_complete = true;
    return ack;
  }
  absl::Status valid = CheckTokens(chunk, options_.vocabulary_size, published_);
  if (valid.ok() && chunk.has_close) valid = CheckClose(chunk.close);
  if (valid.ok() && chunk.has_header) valid = CheckHeader(chunk.header, options_.vocabulary_size);
  if (!valid.ok()) return Refused(chunk, valid);
  if (it != groups_.end() && chunk.has_header &&
      !SameHeader(chunk.header, it->second.experience.header)) {
    ++counters_.conflicts;
    if (chunk.lease <= it->second.newest_lease) {
      return Refused(chunk, RefuseField("header", "differs from the one that the group has"));
    }
    Drop(chunk.group);
    it = groups_.end();
  }
  if (it != groups_.end()) return DecideKnown(chunk, it->second);
  if (!chunk.has_header) return Ack(chunk, ChunkOutcome::kNeedHeader);
  if (absl::Status bounds = CheckBounds(chunk, chunk.header); !bounds.ok()) {
    return Refused(chunk, bounds);
  }
  if (chunk.has_close && chunk.close.total_tokens != chunk.offset + chunk.tokens.size()) {
    return Refused(chunk, RefuseField("close.total_tokens",
                                      absl::StrCat("expected ", chunk.offset + chunk.tokens.size(),
                                                   ", the end of the chunk, found ",
                                                   chunk.close.total_tokens)));
  }
  if (chunk.offset > 0) return Ack(chunk, ChunkOutcome::kGap);
  Group& group = AddGroup(chunk);
  Placement placement;
  placement.adds = true;
  return Store(chunk, group, placement);
}

ChunkAck ExperienceBuffer::DecideKnown(SampleChunk& chunk, Group& group) {
  if (absl::Status bounds = CheckBounds(chunk, group.experience.header); !bounds.ok()) {
    return Refused(chunk, bounds);
  }
  SampleExperience& sample = group.experience.samples[chunk.sample];
  const size_t held = sample.tokens.size();
  const LeaseId writer = group.writers[chunk.sample];
  ChunkAck ack = Ack(chunk, ChunkOutcome::kDuplicate);
  ack.next_offset = static_cast<uint32_t>(held);
  ack.sample_closed = sample.closed;
  const auto refuse = [&](absl::string_view field, absl::string_view why) {
    ack.outcome = ChunkOutcome::kRefused;
    ack.message = absl::StrCat(field, ": ", why);
    return ack;
  };
  if (chunk.offset > held && !sample.closed) {
    ack.outcome = ChunkOutcome::kGap;
    return ack;
  }
  Placement placement;
  placement.keep = held;
  const size_t common =
      chunk.offset > held ? 0 : std::min(chunk.tokens.size(), held - chunk.offset);
  while (placement.overlap < common &&
         chunk.tokens[placement.overlap] == sample.tokens[chunk.offset + placement.overlap]) {
    ++placement.overlap;
  }
  const size_t chunk_end = chunk.offset + chunk.tokens.size();
  placement.conflict = placement.overlap < common || (chunk.has_close && chunk_end < held);
  placement.adds = placement.overlap < chunk.tokens.size() || chunk.has_close;
  if (sample.closed) {
    const bool repeats = !placement.conflict && chunk_end <= held &&
                         (!chunk.has_close || SameClose(chunk.close, sample));
    if (repeats) return ack;
    ++counters_.conflicts;
    // A newer lease that did not know: the sample is done, it need not be told that it differs.
    if (chunk.lease > writer) return ack;
    return refuse("tokens", "differ from those of the sample, which is closed");
  }
  if (placement.conflict) {
    ++counters_.conflicts;
    if (chunk.lease <= writer) {
      return refuse(absl::StrCat("tokens[", placement.overlap, "]"),
                    absl::StrCat("differs from the token held at offset ",
                                 chunk.offset + placement.overlap, " of lease ", writer.value()));
    }
    placement.keep = chunk.offset + placement.overlap;
  }
  if (!placement.adds) return ack;
  if (chunk.lease < group.newest_lease) {
    return refuse("lease_id", absl::StrCat("lease ", chunk.lease.value(), " was granted again as ",
                                           group.newest_lease.value()));
  }
  if (chunk.has_close && chunk.close.total_tokens != chunk_end) {
    return refuse("close.total_tokens",
                  absl::StrCat("expected ", chunk_end, ", found ", chunk.close.total_tokens));
  }
  return Store(chunk, group, placement);
}

ChunkAck ExperienceBuffer::Store(SampleChunk& chunk, Group& group, const Placement& placement) {
  SampleExperience& sample = group.experience.samples[chunk.sample];
  if (placement.conflict) Truncate(group, sample, placement.keep);
  const size_t added = chunk.tokens.size() - placement.overlap;
  const size_t runs_before = sample.versions.size();
  sample.tokens.insert(sample.tokens.end(), chunk.tokens.begin() + placement.overlap,
                       chunk.tokens.end());
  sample.log_probs.insert(sample.log_probs.end(), chunk.log_probs.begin() + placement.overlap,
                          chunk.log_probs.end());
  AppendRuns(chunk.versions, placement.overlap, sample.versions);
  Charge(group, static_cast<int64_t>(added),
         (static_cast<int64_t>(sample.versions.size()) - static_cast<int64_t>(runs_before)) *
             kRunBytes);
  counters_.tokens_accepted += added;
  group.writers[chunk.sample] = chunk.lease;
  group.newest_lease = std::max(group.newest_lease, chunk.lease);
  if (chunk.has_close) {
    sample.closed = true;
    sample.finish = chunk.close.finish;
    sample.verdict = chunk.close.verdict;
    sample.reward = chunk.close.reward;
    ++group.closed;
  }
  ChunkAck ack = Ack(chunk, ChunkOutcome::kAccepted);
  ack.next_offset = static_cast<uint32_t>(sample.tokens.size());
  ack.sample_closed = sample.closed;
  ack.group_complete = group.complete();
  if (ack.group_complete) {
    ++groups_complete_;
    ++counters_.groups_completed;
  }
  return ack;
}

ExperienceBuffer::Group& ExperienceBuffer::AddGroup(SampleChunk& chunk) {
  Group& group = groups_[chunk.group];
  group.experience.group = chunk.group;
  group.experience.header = std::move(chunk.header);
  group.experience.samples.resize(group.experience.header.samples);
  group.writers.resize(group.experience.header.samples);
  Charge(group, 0,
         kGroupBytes + kSampleBytes * group.experience.header.samples +
             static_cast<int64_t>(sizeof(int32_t) * group.experience.header.prompt_tokens.size()));
  return group;
}

void ExperienceBuffer::Truncate(Group& group, SampleExperience& sample, size_t tokens) {
  const size_t dropped = sample.tokens.size() - tokens;
  const size_t runs_before = sample.versions.size();
  sample.tokens.resize(tokens);
  sample.log_probs.resize(tokens);
  size_t excess = dropped;
  while (excess > 0) {
    VersionRun& last = sample.versions.back();
    const uint32_t cut = static_cast<uint32_t>(std::min<size_t>(excess, last.tokens));
    last.tokens -= cut;
    excess -= cut;
    if (last.tokens == 0) sample.versions.pop_back();
  }
  counters_.tokens_replaced += dropped;
  Charge(group, -static_cast<int64_t>(dropped),
         (static_cast<int64_t>(sample.versions.size()) - static_cast<int64_t>(runs_before)) *
             kRunBytes);
}

void ExperienceBuffer::Charge(Group& group, int64_t tokens, int64_t other_bytes) {
  const int64_t bytes = tokens * kTokenBytes + other_bytes;
  group.tokens += tokens;
  tokens_ += tokens;
  group.bytes += bytes;
  bytes_ += bytes;
}

void ExperienceBuffer::Release(const Group& group) {
  bytes_ -= group.bytes;
  tokens_ -= group.tokens;
  groups_complete_ -= group.complete();
}

bool ExperienceBuffer::HasRoomFor(const SampleChunk& chunk) const {
  const auto it = groups_.find(chunk.group);
  const bool known = it != groups_.end();
  if (ledger_.Contains(chunk.group) || (known && it->second.complete())) return true;
  if (wanted_.contains(chunk.group)) return true;
  if (!known && groups() >= options_.groups_max) return false;
  const int64_t cost = static_cast<int64_t>(chunk.tokens.size()) * kTokenBytes;
  return bytes_ + cost <= options_.bytes_max;
}

ResumeReply ExperienceBuffer::Resume(GroupId group) const {
  ResumeReply reply;
  const auto it = groups_.find(group);
  if (ledger_.Contains(group) || (it != groups_.end() && it->second.complete())) {
    reply.state = ResumeState::kEnded;
    return reply;
  }
  if (it == groups_.end()) {
    reply.state = ResumeState::kUnknown;
    return reply;
  }
  reply.state = ResumeState::kPartial;
  const std::vector<SampleExperience>& samples = it->second.experience.samples;
  for (size_t i = 0; i < samples.size(); ++i) {
    if (samples[i].tokens.empty()) continue;
    PartialSample partial;
    partial.sample = static_cast<uint32_t>(i);
    partial.tokens = samples[i].tokens;
    partial.log_probs = samples[i].log_probs;
    partial.versions = samples[i].versions;
    partial.closed = samples[i].closed;
    reply.samples.push_back(std::move(partial));
  }
  return reply;
}

void ExperienceBuffer::SetWanted(const std::vector<GroupId>& groups) {
  wanted_.clear();
  wanted_.insert(groups.begin(), groups.end());
  if (options_.groups_ahead_max == 0 || groups.empty()) return;
  groups_end_ = std::max_element(groups.begin(), groups.end())->value() + 1 +
                static_cast<uint64_t>(options_.groups_ahead_max);
}

void ExperienceBuffer::BeginLeases(const LeaseSecret& secret) {
  secret_ = secret;
  for (auto& [id, group] : groups_) {
    group.newest_lease = LeaseId();
    std::fill(group.writers.begin(), group.writers.end(), LeaseId());
  }
}

bool ExperienceBuffer::Complete(GroupId group) const {
  const auto it = groups_.find(group);
  return it != groups_.end() && it->second.complete();
}

GroupProgress ExperienceBuffer::Progress(GroupId group) const {
  GroupProgress progress;
  const auto it = groups_.find(group);
  if (it == groups_.end()) return progress;
  progress.known = true;
  progress.samples = it->second.experience.header.samples;
  progress.closed = it->second.closed;
  progress.lease = it->second.newest_lease;
  progress.tokens = static_cast<uint64_t>(it->second.tokens);
  return progress;
}

absl::Status ExperienceBuffer::CheckFit(const StepPlan& plan, const Group& group) const {
  const GroupHeader& header = group.experience.header;
  const std::string name =
      absl::StrCat("step ", plan.step.value(), ": group ", group.experience.group.value());
  if (header.samples != plan.group_samples || header.context_tokens != plan.context_tokens) {
    return absl::FailedPreconditionError(
        absl::StrCat(name, " has ", header.samples, " samples of at most ", header.context_tokens,
                     " tokens; the plan says ", plan.group_samples, " of ", plan.context_tokens));
  }
  const int64_t oldest = plan.step.value() - plan.max_staleness;
  for (size_t i = 0; i < group.experience.samples.size(); ++i) {
    for (const VersionRun& run : group.experience.samples[i].versions) {
      if (run.version.value() < oldest) {
        return absl::FailedPreconditionError(
            absl::StrCat(name, ", sample ", i, " holds a token of version ", run.version.value(),
                         "; expected ", oldest, " or newer"));
      }
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<GroupExperience>> ExperienceBuffer::Take(const StepPlan& plan) {
  for (GroupId id : plan.groups) {
    const auto it = groups_.find(id);
    if (it == groups_.end() || !it->second.complete()) {
      return absl::FailedPreconditionError(
          absl::StrCat("step ", plan.step.value(), ": group ", id.value(), " is not complete"));
    }
    RETURN_IF_ERROR(CheckFit(plan, it->second));
  }
  RETURN_IF_ERROR(ledger_.Record(plan.step, plan.groups));
  std::vector<GroupExperience> out;
  for (GroupId id : plan.groups) {
    auto it = groups_.find(id);
    Release(it->second);
    out.push_back(std::move(it->second.experience));
    groups_.erase(it);
  }
  return out;
}

std::vector<GroupId> ExperienceBuffer::Unfit(const StepPlan& plan) const {
  std::vector<GroupId> out;
  for (GroupId id : plan.groups) {
    const auto it = groups_.find(id);
    if (it != groups_.end() && it->second.complete() && !CheckFit(plan, it->second).ok()) {
      out.push_back(id);
    }
  }
  return out;
}

void ExperienceBuffer::Drop(GroupId group) {
  const auto it = groups_.find(group);
  if (it == groups_.end()) return;
  Release(it->second);
  groups_.erase(it);
}

}  // namespace crescendo
