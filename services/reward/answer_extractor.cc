#include "services/reward/answer_extractor.h"

#include <cstdint>
#include <cstring>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace crescendo {
namespace {

constexpr size_t kNpos = absl::string_view::npos;
using Bytes16 __attribute__((vector_size(16))) = uint8_t;
using Words2 __attribute__((vector_size(16))) = uint64_t;

Bytes16 Load(const char* from) {
  Bytes16 bytes;
  std::memcpy(&bytes, from, sizeof(bytes));
  return bytes;
}

Bytes16 Splat(char value) { return Bytes16{} + static_cast<uint8_t>(value); }

// A box: where its command starts, its content, and where it ends (one past the closing brace).
struct Box {
  size_t begin = kNpos;
  size_t end = kNpos;
  absl::string_view content;
  bool terminated = false;
  bool too_long = false;
};

// A command's start and the end of its name; kNpos for none.
struct Command {
  size_t begin = kNpos;
  size_t end = kNpos;
};

// The last "\\boxed" or "\\fbox" of the text.
Command LastBoxCommand(absl::string_view text) {
  constexpr absl::string_view kBoxed = "\\boxed", kFbox = "\\fbox";
  Command command;
  const size_t boxed = FindLast(text, kBoxed);
  if (boxed != kNpos) command = {boxed, boxed + kBoxed.size()};
  const size_t from = boxed == kNpos ? 0 : boxed;
  const size_t fbox = FindLast(text.substr(from), kFbox);
  if (fbox != kNpos) command = {from + fbox, from + fbox + kFbox.size()};
  return command;
}

// Without a brace, as in "\boxed 5": what stands there up to white space, "$" or a new command.
Box BareBox(absl::string_view text, Command command, size_t from) {
  Box box;
  box.begin = command.begin;
  size_t end = from;
  while (end < text.size() && end - from < 64 &&
         (absl::ascii_isalnum(text[end]) || text[end] == '.' || text[end] == '-'))
    ++end;
  while (end > from && text[end - 1] == '.') --end;
  box.content = text.substr(from, end - from);
  box.end = end;
  box.terminated = end > from;
  return box;
}

// Follows the braces from a command on. Escaped braces (\{ \}) are text.
Box ReadBox(absl::string_view text, Command command) {
  size_t at = command.end;
  while (at < text.size() && absl::ascii_isspace(text[at])) ++at;
  if (at >= text.size()) return {command.begin, text.size(), {}, false, false};
  if (text[at] != '{') return BareBox(text, command, at);
  const size_t start = at + 1;
  int depth = 1;
  for (at = start; at < text.size(); ++at) {
    if (at - start > kAnswerBytesMax) return {command.begin, at, {}, false, true};
    const char c = text[at];
    if (c == '\\') {
      ++at;
    } else if (c == '{') {
      ++depth;
    } else if (c == '}' && --depth == 0) {
      return {command.begin, at + 1, text.substr(start, at - start), true, false};
    }
  }
  return {command.begin, text.size(), {}, false, false};
}

// Whether the text between two boxes only joins them: white space, dollar signs and one comma or
// "and".
bool Joins(absl::string_view between) {
  bool joined = false;
  while (!between.empty()) {
    if (absl::ascii_isspace(between[0]) || between[0] == '$' || between[0] == '*') {
      between.remove_prefix(1);
    } else if (between[0] == ',') {
      joined = true;
      between.remove_prefix(1);
    } else if (absl::ConsumePrefix(&between, "\\text{and}") ||
               absl::ConsumePrefix(&between, "\\text{ and }") ||
               absl::ConsumePrefix(&between, "and")) {
      joined = true;
    } else if (!absl::ConsumePrefix(&between, "\\(") && !absl::ConsumePrefix(&between, "\\)") &&
               !absl::ConsumePrefix(&between, "\\quad") && !absl::ConsumePrefix(&between, "\\,") &&
               !absl::ConsumePrefix(&between, "\\ ")) {
      return false;
    }
  }
  return joined;
}

ExtractedAnswer FromBoxes(absl::string_view text, Command command) {
  ExtractedAnswer answer;
  Box last = ReadBox(text, command);
  if (last.too_long) {
    answer.source = AnswerSource::kTooLong;
    return answer;
  }
  if (!last.terminated) {
    answer.source = AnswerSource::kUnterminatedBox;
    return answer;
  }
  std::vector<absl::string_view> contents = {absl::StripAsciiWhitespace(last.content)};
  size_t begin = last.begin;
  while (contents.size() < kJoinedBoxesMax) {
    // Only a short gap can join: look back no further than one box and a gap.
    const size_t window = begin > kAnswerBytesMax ? begin - kAnswerBytesMax : 0;
    const absl::string_view before = text.substr(window, begin - window);
    const Command earlier = LastBoxCommand(before);
    if (earlier.begin == kNpos) break;
    const Box box = ReadBox(before, earlier);
    if (!box.terminated || !Joins(before.substr(box.end))) break;
    contents.push_back(absl::StripAsciiWhitespace(box.content));
    begin = window + box.begin;
  }
  for (auto content = contents.rbegin(); content != contents.rend(); ++content) {
    if (!answer.text.empty()) answer.text.append(", ");
    answer.text.append(content->data(), content->size());
    if (answer.text.size() > kAnswerBytesMax) {
      return {AnswerSource::kTooLong, "", false};
    }
  }
  answer.joined = contents.size() > 1;
  answer.source = answer.text.empty() ? AnswerSource::kNone : AnswerSource::kBox;
  return answer;
}

// One line, cut where the sentence ends.
absl::string_view Sentence(absl::string_view text) {
  text = text.substr(0, text.find('\n'));
  if (const size_t stop = text.find(". "); stop != kNpos) text = text.substr(0, stop);
  for (absl::string_view word : {" because", " since ", ", which", ", so ", ", as "}) {
    if (const size_t stop = text.find(word); stop != kNpos) text = text.substr(0, stop);
  }
  text = TrimMarkup(text);
  while (!text.empty() && (text.back() == '.' || text.back() == ',' || text.back() == ';')) {
    text = TrimMarkup(text.substr(0, text.size() - 1));
  }
  return text;
}

// What follows "answer" in the forms "answer is X", "answer: X", "answer to the question is X".
absl::string_view AfterAnswerWord(absl::string_view rest) {
  constexpr size_t kGapMax = 80;
  const absl::string_view line = rest.substr(0, rest.find('\n')).substr(0, kGapMax);
  size_t at = kNpos;
  for (absl::string_view form : {" is:", " is", ":", " ="}) {
    const size_t found = line.find(form);
    if (found != kNpos && (at == kNpos || found + form.size() < at)) at = found + form.size();
    if (at != kNpos) break;
  }
  if (at == kNpos) return {};
  rest.remove_prefix(at);
  rest = absl::StripLeadingAsciiWhitespace(TrimMarkup(rest));
  while (!rest.empty() && (rest[0] == ':' || rest[0] == '*')) {
    rest = absl::StripLeadingAsciiWhitespace(rest.substr(1));
  }
  return rest;
}

// The start of the last line that begins with "A:" or "Answer:", as in the GSM8K solutions.
size_t LastAnswerLine(absl::string_view text) {
  while (true) {
    const size_t at = FindLast(text, "A:");
    if (at == kNpos || at == 0 || text[at - 1] == '\n') return at;
    text = text.substr(0, at + 1);
  }
}

ExtractedAnswer FromPlain(absl::string_view text) {
  size_t best = kNpos;
  absl::string_view found;
  const auto offer = [&](size_t at, absl::string_view rest) {
    const absl::string_view sentence = Sentence(rest);
    if (sentence.empty() || (best != kNpos && at < best)) return;
    best = at;
    found = sentence;
  };
  if (const size_t at = FindLast(text, "####"); at != kNpos) offer(at, text.substr(at + 4));
  if (const size_t at = LastAnswerLine(text); at != kNpos) offer(at, text.substr(at + 2));
  for (absl::string_view word : {"nswer", "NSWER"}) {
    if (const size_t at = FindLast(text, word); at != kNpos) {
      offer(at, AfterAnswerWord(text.substr(at + word.size())));
    }
  }
  if (best == kNpos) return {};
  if (found.size() > kAnswerBytesMax) return {AnswerSource::kTooLong, "", false};
  return {AnswerSource::kPlain, std::string(found), false};
}

}  // namespace

size_t FindLast(absl::string_view text, absl::string_view needle) {
  const size_t n = needle.size();
  if (text.size() < n) return kNpos;
  const char first = needle.front(), middle = needle[n / 2], last = needle.back();
  const Bytes16 firsts = Splat(first), middles = Splat(middle), lasts = Splat(last);
  size_t end = text.size() - n + 1;  // candidates are [0, end)
  while (end >= 16) {
    const char* at = text.data() + end - 16;
    const Bytes16 hits = reinterpret_cast<Bytes16>(Load(at) == firsts) &
                         reinterpret_cast<Bytes16>(Load(at + n / 2) == middles) &
                         reinterpret_cast<Bytes16>(Load(at + n - 1) == lasts);
    const Words2 any = reinterpret_cast<Words2>(hits);
    if ((any[0] | any[1]) != 0) {
      for (size_t i = 16; i-- > 0;) {
        if (hits[i] != 0 && std::memcmp(at + i, needle.data(), n) == 0) return end - 16 + i;
      }
    }
    end -= 16;
  }
  while (end-- > 0) {
    if (std::memcmp(text.data() + end, needle.data(), n) == 0) return end;
  }
  return kNpos;
}

absl::string_view TrimMarkup(absl::string_view text) {
  const auto is_markup = [](char c) {
    return absl::ascii_isspace(c) || c == '*' || c == '`' || c == '_';
  };
  while (!text.empty() && is_markup(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_markup(text.back())) text.remove_suffix(1);
  return text;
}

absl::string_view AfterThinking(absl::string_view response, const ExtractorOptions& options) {
  if (options.think_end.empty()) return response;
  const size_t end = FindLast(response, options.think_end);
  if (end != kNpos) return response.substr(end + options.think_end.size());
  if (!options.think_begin.empty() && FindLast(response, options.think_begin) != kNpos) return {};
  return response;
}

ExtractedAnswer ExtractAnswer(absl::string_view response, const ExtractorOptions& options) {
  const absl::string_view text = AfterThinking(response, options);
  const Command command = LastBoxCommand(text);
  if (command.begin != kNpos) return FromBoxes(text, command);
  return options.allow_plain ? FromPlain(text) : ExtractedAnswer{};
}

}  // namespace crescendo
