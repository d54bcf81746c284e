// Finds the answer in a model's text.
//
// The conventions: only what follows the thinking part counts; the last box counts, and boxes
// before it that are joined to it by a comma or "and" form one list with it; a last box that does
// not end is no answer, even after an earlier right one; without any box, plain forms ("the answer
// is 42", "#### 42", a line "A: 42") count if the options allow them, the last of them. Time is
// linear in the text with a small constant (1 MB in well under 1 ms), and nothing is allocated that
// is longer than the answer. Pure, thread-safe.
#ifndef CRESCENDO_SERVICES_REWARD_ANSWER_EXTRACTOR_H_
#define CRESCENDO_SERVICES_REWARD_ANSWER_EXTRACTOR_H_

#include <cstddef>
#include <string>

#include "absl/strings/string_view.h"

namespace crescendo {

struct ExtractorOptions {
  std::string think_begin = "<think>";
  std::string think_end = "</think>";  // empty: the whole text is the answer part
  bool allow_plain = true;             // "answer is" and "####", where there is no box
};

enum class AnswerSource : uint8_t {
  kBox,
  kPlain,
  kNone,             // no answer, also when the thinking part never ends
  kUnterminatedBox,  // the last box is cut off
  kTooLong,          // longer than kAnswerBytesMax
};

struct ExtractedAnswer {
  AnswerSource source = AnswerSource::kNone;
  std::string text;  // trimmed; several joined boxes are joined by ", "
  bool joined = false;
};

inline constexpr size_t kAnswerBytesMax = 4096;
inline constexpr int kJoinedBoxesMax = 64;

ExtractedAnswer ExtractAnswer(absl::string_view response, const ExtractorOptions& options);

// The text after the last end of thinking; all of it when there is no thinking part; empty when one
// begins and never ends.
absl::string_view AfterThinking(absl::string_view response, const ExtractorOptions& options);

// The start of the last occurrence of `needle` in `text`, or npos. Requires a needle of 1 byte or
// more.
size_t FindLast(absl::string_view text, absl::string_view needle);

// Without white space, and without markup that carries no meaning at either end ("**", "`", "_").
absl::string_view TrimMarkup(absl::string_view text);

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_REWARD_ANSWER_EXTRACTOR_H_
