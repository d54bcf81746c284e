#include "common/text/added_tokens.h"

#include <utf8proc.h>

#include <algorithm>

#include "common/text/utf8.h"

namespace crescendo {
namespace {

uint64_t EdgeKey(uint32_t node, unsigned char byte) { return uint64_t{node} << 8 | byte; }

// Rust's char::is_whitespace.
bool IsSpace(uint32_t c) {
  return (c >= 0x9 && c <= 0xd) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f ||
         c == 0x3000;
}

// \w of a Unicode regular expression, near enough: letters, marks, decimal digits, connectors.
bool IsWord(uint32_t c) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      return false;
  }
}

// The character that ends at `end`: its first byte, or `end` when it is not valid.
size_t BeginOfLast(absl::string_view text, size_t end) {
  size_t begin = end;
  while (begin > 0 && end - begin < 4) {
    --begin;
    if ((static_cast<unsigned char>(text[begin]) & 0xc0) != 0x80) break;
  }
  const Utf8Step step = begin < end ? NextUtf8(text.substr(begin, end - begin)) : Utf8Step{};
  return begin < end && step.kind == Utf8Kind::kValid && step.length == end - begin ? begin : end;
}

template <typename Predicate>
bool EndsWith(absl::string_view text, size_t end, Predicate predicate, size_t* begin) {
  *begin = BeginOfLast(text, end);
  return *begin < end && predicate(CodePointOf(text.substr(*begin, end - *begin)));
}

template <typename Predicate>
bool StartsWith(absl::string_view text, size_t begin, Predicate predicate, size_t* end) {
  if (begin >= text.size()) return false;
  const Utf8Step step = NextUtf8(text.substr(begin));
  *end = begin + step.length;
  return step.kind == Utf8Kind::kValid && predicate(CodePointOf(text.substr(begin, step.length)));
}

bool Intersects(ByteRange range, absl::Span<const ByteRange> literals) {
  const auto after = std::lower_bound(literals.begin(), literals.end(), range.first,
                                      [](ByteRange a, size_t begin) { return a.second <= begin; });
  return after != literals.end() && after->first < range.second;
}

}  // namespace

AddedTokenFinder::AddedTokenFinder(absl::Span<const AddedToken> tokens) : token_of_node_{-1} {
  for (const AddedToken& token : tokens) {
    if (token.content.empty()) continue;
    uint32_t node = 0;
    for (const char c : token.content) {
      const auto [edge, is_new] =
          children_.emplace(EdgeKey(node, static_cast<unsigned char>(c)), token_of_node_.size());
      if (is_new) token_of_node_.push_back(-1);
      node = edge->second;
    }
    token_of_node_[node] = static_cast<int>(tokens_.size());
    starts_[static_cast<unsigned char>(token.content[0])] = true;
    tokens_.push_back(token);
  }
}

int AddedTokenFinder::LongestAt(absl::string_view text, size_t begin) const {
  int longest = -1;
  uint32_t node = 0;
  for (size_t i = begin; i < text.size(); ++i) {
    const auto edge = children_.find(EdgeKey(node, static_cast<unsigned char>(text[i])));
    if (edge == children_.end()) break;
    node = edge->second;
    if (token_of_node_[node] >= 0) longest = token_of_node_[node];
  }
  return longest;
}

std::vector<AddedTokenFinder::Match> AddedTokenFinder::Find(
    absl::string_view text, bool allow_special, absl::Span<const ByteRange> literals) const {
  std::vector<Match> matches;
  if (tokens_.empty()) return matches;
  size_t done = 0;
  size_t at = 0;
  while (at < text.size()) {
    const int index = starts_[static_cast<unsigned char>(text[at])] ? LongestAt(text, at) : -1;
    if (index < 0) {
      ++at;
      continue;
    }
    const AddedToken& token = tokens_[static_cast<size_t>(index)];
    size_t begin = at;
    size_t end = at + token.content.size();
    if (token.special && allow_special && Intersects({begin, end}, literals)) {
      ++at;
      continue;
    }
    at = end;
    if (token.special && !allow_special) continue;
    size_t other = 0;
    if (token.single_word &&
        (EndsWith(text, begin, IsWord, &other) || StartsWith(text, end, IsWord, &other))) {
      continue;
    }
    if (token.lstrip) {
      while (begin > done && EndsWith(text, begin, IsSpace, &other)) begin = std::max(other, done);
    }
    if (token.rstrip) {
      while (StartsWith(text, end, IsSpace, &other)) end = other;
      at = std::max(at, end);
    }
    matches.push_back({token.id, {begin, end}});
    done = end;
  }
  return matches;
}

}  // namespace crescendo
