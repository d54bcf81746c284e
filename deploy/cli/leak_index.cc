#include "deploy/cli/leak_index.h"

#include <algorithm>
#include <array>
#include <map>
#include <set>
#include <string>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/ascii.h"
#include "common/base/rng.h"

namespace crescendo {

namespace {

// Commands of LaTeX that say how something looks.
constexpr std::array<absl::string_view, 28> kStyle = {
    "left",   "right",        "big",       "bigg",   "text",   "mathrm",   "mathbf",
    "mathit", "mathbb",       "textbf",    "textit", "textrm", "mbox",     "rm",
    "bf",     "it",           "quad",      "qquad",  "limits", "nolimits", "displaystyle",
    "emph",   "operatorname", "textstyle", "hspace", "vspace", "par",      "underline"};

bool IsStyle(absl::string_view word) {
  return std::find(kStyle.begin(), kStyle.end(), word) != kStyle.end();
}

absl::string_view OneName(absl::string_view command) {
  if (command == "dfrac" || command == "tfrac" || command == "cfrac") return "frac";
  if (command == "le" || command == "leqslant") return "leq";
  if (command == "ge" || command == "geqslant") return "geq";
  if (command == "ldots" || command == "cdots" || command == "dotsc") return "dots";
  if (command == "times" || command == "cdot") return "*";
  return command;
}

bool IsWord(char c) { return absl::ascii_isalpha(static_cast<unsigned char>(c)) || (c & 0x80); }
bool IsDigit(char c) { return absl::ascii_isdigit(static_cast<unsigned char>(c)); }
bool IsSign(char c) { return absl::string_view("+-*/^=<>").find(c) != absl::string_view::npos; }

uint64_t HashOf(absl::string_view token) {
  uint64_t hash = 0xcbf29ce484222325;  // FNV-1a
  for (const char c : token) {
    hash ^= static_cast<unsigned char>(absl::ascii_tolower(static_cast<unsigned char>(c)));
    hash *= 0x100000001b3;
  }
  return MixSeed(hash, token.size());
}

size_t RunEnd(absl::string_view text, size_t from, bool (*belongs)(char)) {
  while (from < text.size() && belongs(text[from])) ++from;
  return from;
}

// The quotes and dashes of typography are punctuation (U+2010 to U+203A), not parts of words.
size_t PunctuationAt(absl::string_view text, size_t at) {
  const bool general = text.size() - at >= 3 && text[at] == '\xe2' && text[at + 1] == '\x80';
  const bool no_break = text.size() - at >= 2 && text[at] == '\xc2' && text[at + 1] == '\xa0';
  return general ? 3 : no_break ? 2 : 0;
}

bool IsPlainWord(char c) { return absl::ascii_isalpha(static_cast<unsigned char>(c)); }

// "9-kilometer-long": no minus.
bool IsHyphen(absl::string_view text, size_t at) {
  return text[at] == '-' && at + 2 < text.size() && IsPlainWord(text[at + 1]) &&
         IsPlainWord(text[at + 2]);
}

}  // namespace

std::vector<uint64_t> ProblemTokens(absl::string_view text) {
  std::vector<uint64_t> tokens;
  for (size_t i = 0; i < text.size();) {
    const size_t skipped = PunctuationAt(text, i);
    if (skipped > 0) {
      i += skipped;
    } else if (text[i] == '\\') {
      const size_t end = RunEnd(text, i + 1, IsPlainWord);
      const absl::string_view command = text.substr(i + 1, end - i - 1);
      if (!command.empty() && !IsStyle(command)) tokens.push_back(HashOf(OneName(command)));
      i = std::max(end, i + 2);
    } else if (IsWord(text[i])) {
      size_t end = i + 1;
      while (end < text.size() && IsWord(text[end]) && PunctuationAt(text, end) == 0) ++end;
      tokens.push_back(HashOf(text.substr(i, end - i)));
      i = end;
    } else if (IsDigit(text[i])) {
      const size_t end = RunEnd(text, i, IsDigit);
      tokens.push_back(HashOf(text.substr(i, end - i)));
      i = end;
    } else {
      if (IsSign(text[i]) && !IsHyphen(text, i)) tokens.push_back(HashOf(text.substr(i, 1)));
      ++i;
    }
  }
  return tokens;
}

uint64_t TokensHash(const std::vector<uint64_t>& tokens) {
  uint64_t hash = tokens.size();
  for (const uint64_t token : tokens) hash = MixSeed(hash, token);
  return hash;
}

namespace {

// The distinct n-grams of a text; none when it is too short to be told by them.
absl::flat_hash_set<uint64_t> GramsOf(const std::vector<uint64_t>& tokens) {
  absl::flat_hash_set<uint64_t> grams;
  if (tokens.size() < LeakIndex::kGramTokens) return grams;
  for (size_t i = 0; i + LeakIndex::kGramTokens <= tokens.size(); ++i) {
    uint64_t hash = LeakIndex::kGramTokens;
    for (size_t j = 0; j < LeakIndex::kGramTokens; ++j) hash = MixSeed(hash, tokens[i + j]);
    grams.insert(hash);
  }
  return grams;
}

}  // namespace

void LeakIndex::Add(absl::string_view problem) {
  const std::vector<uint64_t> tokens = ProblemTokens(problem);
  const uint32_t number = size();
  by_text_[TokensHash(tokens)].push_back(number);
  grams_of_.push_back(0);
  if (tokens.size() < kTokensMin) return;
  const absl::flat_hash_set<uint64_t> grams = GramsOf(tokens);
  grams_of_.back() = static_cast<uint32_t>(grams.size());
  for (const uint64_t gram : grams) by_gram_[gram].push_back(number);
}

std::vector<LeakMatch> LeakIndex::Find(absl::string_view text, double containment_min) const {
  const std::vector<uint64_t> tokens = ProblemTokens(text);
  std::map<uint32_t, uint32_t> shared;  // by problem
  for (const uint64_t gram : GramsOf(tokens)) {
    const auto found = by_gram_.find(gram);
    if (found == by_gram_.end()) continue;
    for (const uint32_t problem : found->second) ++shared[problem];
  }
  std::map<uint32_t, LeakMatch> matches;
  for (const auto& [problem, count] : shared) {
    const double containment = static_cast<double>(count) / grams_of_[problem];
    if (containment >= containment_min) matches[problem] = {problem, containment, false};
  }
  const auto same = by_text_.find(TokensHash(tokens));
  if (same != by_text_.end()) {
    for (const uint32_t problem : same->second) matches[problem] = {problem, 1.0, true};
  }
  std::vector<LeakMatch> out;
  out.reserve(matches.size());
  for (const auto& [problem, match] : matches) out.push_back(match);
  return out;
}

}  // namespace crescendo
