#include "services/reward/reward_kinds.h"

#include <re2/re2.h>

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "services/reward/answer_extractor.h"
#include "services/reward/multiple_choice.h"

namespace crescendo {
namespace {

constexpr int64_t kRegexMemoryMax =
    8 << 20;  // RE2 then falls back on its slower, still linear engine

RE2::Options RegexOptions(bool ignore_case) {
  RE2::Options options(RE2::Quiet);
  options.set_max_mem(kRegexMemoryMax);
  options.set_case_sensitive(!ignore_case);
  options.set_dot_nl(true);
  return options;
}

// A rule that was met or not, with the grader's rewards.
Grade Ruled(bool met, std::string extracted, const Grader& grader) {
  Grade grade;
  grade.verdict = met ? Verdict::kCorrect : Verdict::kIncorrect;
  grade.reason = met ? ReasonCode::kRewardRule : ReasonCode::kRewardRuleUnmet;
  grade.reward = met ? grader.options().reward_correct : grader.options().reward_incorrect;
  grade.extracted = std::move(extracted);
  return grade;
}

Grade Unruled(ReasonCode reason, std::string extracted, const Grader& grader) {
  Grade grade;
  grade.reason = reason;
  grade.reward = grader.options().reward_undecided;
  grade.extracted = std::move(extracted);
  return grade;
}

bool HasAnswer(const ExtractedAnswer& answer) {
  return answer.source == AnswerSource::kBox || answer.source == AnswerSource::kPlain;
}

bool EmptyGold(const RewardQuery& query) {
  return std::all_of(query.grade.gold.begin(), query.grade.gold.end(), [](absl::string_view gold) {
    return absl::StripAsciiWhitespace(gold).empty();
  });
}

Grade Exact(const RewardKind& kind, const RewardQuery& query, const Grader& grader) {
  ExtractedAnswer answer = ExtractAnswer(query.grade.response, grader.options().extractor);
  if (EmptyGold(query)) return Unruled(ReasonCode::kEmptyGold, std::move(answer.text), grader);
  bool met = false;
  for (absl::string_view gold : query.grade.gold) {
    gold = absl::StripAsciiWhitespace(gold);
    if (gold.empty() || !HasAnswer(answer)) continue;
    met |= kind.ignore_case ? absl::EqualsIgnoreCase(gold, answer.text) : gold == answer.text;
  }
  return Ruled(met, std::move(answer.text), grader);
}

Grade Letter(const RewardQuery& query, const Grader& grader) {
  ExtractedAnswer answer = ExtractAnswer(query.grade.response, grader.options().extractor);
  const auto chosen = ParseChoice(answer.text);
  bool met = false, understood = false;
  for (absl::string_view gold : query.grade.gold) {
    const auto right = ParseChoice(gold);
    understood |= right.has_value();
    met |= right && chosen && HasAnswer(answer) && right->letter == chosen->letter;
  }
  if (!understood) return Unruled(ReasonCode::kGoldUnparsable, std::move(answer.text), grader);
  return Ruled(met, std::move(answer.text), grader);
}

// One thinking part, ended once, then a box that ends.
Grade Format(const RewardQuery& query, const Grader& grader) {
  const ExtractorOptions& options = grader.options().extractor;
  const absl::string_view response = query.grade.response;
  bool thought = true;
  if (!options.think_end.empty()) {
    const size_t end = response.find(options.think_end);
    thought = end != absl::string_view::npos &&
              response.find(options.think_end, end + 1) == absl::string_view::npos;
    // The template may have opened the part already; opened again behind its end it is malformed.
    if (thought && !options.think_begin.empty()) {
      thought = !absl::StrContains(response.substr(end), options.think_begin);
    }
  }
  ExtractorOptions boxes = options;
  boxes.allow_plain = false;
  ExtractedAnswer answer = ExtractAnswer(response, boxes);
  const bool met = thought && answer.source == AnswerSource::kBox;
  return Ruled(met, std::move(answer.text), grader);
}

Grade Length(const RewardKind& kind, const RewardQuery& query) {
  const uint32_t tokens_max = kind.tokens_max != 0 ? kind.tokens_max : query.context_tokens;
  Grade grade;
  if (query.tokens == 0 || tokens_max == 0) {
    grade.reason = ReasonCode::kRequestInvalid;
    return grade;
  }
  const uint32_t buffer =
      kind.tokens_buffer != 0 ? kind.tokens_buffer : std::max<uint32_t>(1, tokens_max / 4);
  grade.reward = OverlongPenalty(query.tokens, tokens_max, std::min(buffer, tokens_max));
  grade.verdict = grade.reward == 0 ? Verdict::kCorrect : Verdict::kIncorrect;
  grade.reason = grade.reward == 0 ? ReasonCode::kRewardRule : ReasonCode::kRewardRuleUnmet;
  return grade;
}

}  // namespace

double OverlongPenalty(uint32_t tokens, uint32_t tokens_max, uint32_t tokens_buffer) {
  const double length = tokens, limit = tokens_max, buffer = tokens_buffer;
  if (length <= limit - buffer) return 0;
  if (length > limit) return -1;
  return ((limit - buffer) - length) / buffer;
}

RewardKinds::~RewardKinds() = default;

RewardKinds::RewardKinds() {
  static constexpr std::pair<const char*, RewardType> kBuiltIn[] = {
      {"math", RewardType::kMath},     {"exact", RewardType::kExact},
      {"choice", RewardType::kChoice}, {"regex", RewardType::kRegex},
      {"format", RewardType::kFormat}, {"length", RewardType::kLength}};
  for (const auto& [name, type] : kBuiltIn) {
    RewardKind kind;
    kind.name = name;
    kind.type = type;
    CRESCENDO_CHECK(Add(std::move(kind)).ok());
  }
}

absl::StatusOr<std::unique_ptr<RewardKinds>> RewardKinds::Make(
    const std::vector<RewardKind>& kinds) {
  auto made = std::make_unique<RewardKinds>();
  if (kinds.size() > kRewardKindsMax) {
    return absl::InvalidArgumentError(absl::StrCat("expected at most ", kRewardKindsMax,
                                                   " kinds of reward, found ", kinds.size()));
  }
  // Sums last: their parts are there then.
  for (const bool sums : {false, true}) {
    for (const RewardKind& kind : kinds) {
      if ((kind.type == RewardType::kSum) != sums) continue;
      RETURN_IF_ERROR(Annotate(made->Add(kind), absl::StrCat("kind \"", kind.name, "\"")));
    }
  }
  return made;
}

absl::Status RewardKinds::Add(RewardKind kind) {
  if (kind.name.empty() || kind.name.size() > 64)
    return absl::InvalidArgumentError("expected a name of 1 to 64 bytes");
  if (kind.type == RewardType::kRegex && !kind.pattern.empty()) {
    if (kind.pattern.size() > kPatternBytesMax) {
      return absl::InvalidArgumentError(
          absl::StrCat("pattern: expected at most ", kPatternBytesMax, " bytes"));
    }
    auto pattern = std::make_unique<RE2>(kind.pattern, RegexOptions(kind.ignore_case));
    if (!pattern->ok())
      return absl::InvalidArgumentError(
          absl::StrCat("pattern: expected a regular expression of RE2: ", pattern->error()));
    patterns_[kind.name] = std::move(pattern);
  }
  if (kind.type == RewardType::kSum) {
    if (kind.parts.empty() || kind.parts.size() > kRewardPartsMax) {
      return absl::InvalidArgumentError(
          absl::StrCat("parts: expected 1 to ", kRewardPartsMax, ", found ", kind.parts.size()));
    }
    for (const RewardPart& part : kind.parts) {
      const RewardKind* found = Find(part.kind);
      if (found == nullptr || found->type == RewardType::kSum ||
          found->type == RewardType::kExternal) {
        return absl::InvalidArgumentError(absl::StrCat(
            "parts: expected kinds that are neither sums nor external, found \"", part.kind, "\""));
      }
    }
  }
  if (kind.type == RewardType::kExternal && kind.address.empty()) {
    return absl::InvalidArgumentError("address: expected host:port, found nothing");
  }
  const auto [at, fresh] = index_.try_emplace(kind.name, kinds_.size());
  if (fresh) {
    kinds_.push_back(std::move(kind));
  } else {
    kinds_[at->second] = std::move(kind);  // a run may set one that is built in
  }
  return absl::OkStatus();
}

const RewardKind* RewardKinds::Find(absl::string_view name) const {
  const auto at = index_.find(name.empty() ? absl::string_view("math") : name);
  return at == index_.end() ? nullptr : &kinds_[at->second];
}

Grade RewardKinds::Evaluate(const RewardQuery& query, Grader& grader) const {
  const RewardKind* kind = Find(query.grade.kind);
  if (kind == nullptr) return Unruled(ReasonCode::kUnknownKind, "", grader);
  return EvaluateKind(*kind, query, grader);
}

Grade RewardKinds::EvaluateKind(const RewardKind& kind, const RewardQuery& query,
                                Grader& grader) const {
  switch (kind.type) {
    case RewardType::kMath:
      return grader.Evaluate(query.grade);
    case RewardType::kExact:
      return Exact(kind, query, grader);
    case RewardType::kChoice:
      return Letter(query, grader);
    case RewardType::kRegex:
      return EvaluateRegex(kind, query, grader);
    case RewardType::kFormat:
      return Format(query, grader);
    case RewardType::kLength:
      return Length(kind, query);
    case RewardType::kSum:
      return EvaluateSum(kind, query, grader);
    case RewardType::kExternal:
      return Unruled(ReasonCode::kUnavailable, "", grader);
  }
  return Unruled(ReasonCode::kUnknownKind, "", grader);
}

Grade RewardKinds::EvaluateSum(const RewardKind& kind, const RewardQuery& query,
                               Grader& grader) const {
  Grade total;
  double reward = 0;
  bool first = true;
  for (const RewardPart& part : kind.parts) {
    Grade one = EvaluateKind(*Find(part.kind), query, grader);
    reward += part.weight * one.reward;
    if (first) total = std::move(one);
    first = false;
  }
  total.reward = reward;
  return total;
}

Grade RewardKinds::EvaluateRegex(const RewardKind& kind, const RewardQuery& query,
                                 Grader& grader) const {
  ExtractedAnswer answer = ExtractAnswer(query.grade.response, grader.options().extractor);
  if (!HasAnswer(answer)) return Ruled(false, std::move(answer.text), grader);
  const re2::StringPiece text(answer.text.data(), answer.text.size());
  const auto configured = patterns_.find(kind.name);
  if (configured != patterns_.end()) {
    const bool met = RE2::FullMatch(text, *configured->second);
    return Ruled(met, std::move(answer.text), grader);
  }
  bool understood = false, met = false;
  for (absl::string_view gold : query.grade.gold) {
    if (gold.empty() || gold.size() > kPatternBytesMax) continue;
    const RE2 pattern(re2::StringPiece(gold.data(), gold.size()), RegexOptions(kind.ignore_case));
    understood |= pattern.ok();
    met |= pattern.ok() && RE2::FullMatch(text, pattern);
  }
  if (!understood) return Unruled(ReasonCode::kGoldUnparsable, std::move(answer.text), grader);
  return Ruled(met, std::move(answer.text), grader);
}

}  // namespace crescendo
