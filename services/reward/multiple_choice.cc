#include "services/reward/multiple_choice.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/strip.h"

namespace crescendo {
namespace {

constexpr absl::string_view kFonts[] = {"\\text{",   "\\textbf{", "\\mathrm{", "\\mathbf{",
                                        "\\textrm{", "\\mbox{",   "\\mathit{", "\\rm{"};

absl::string_view Trim(absl::string_view text) {
  const auto blank = [](char c) {
    return absl::ascii_isspace(c) || c == '$' || c == '*' || c == '~';
  };
  while (!text.empty() && blank(text.front())) text.remove_prefix(1);
  while (!text.empty() && blank(text.back())) text.remove_suffix(1);
  return text;
}

bool ConsumeFont(absl::string_view* text) {
  for (absl::string_view font : kFonts) {
    if (absl::ConsumePrefix(text, font)) return true;
  }
  return false;
}

// A label at the front: "(B)", "\textbf{(B)}", or "B)", "B.", "B:". Removes it.
bool ConsumeLabel(absl::string_view* text, char* letter) {
  absl::string_view left = *text;
  const bool font = ConsumeFont(&left);
  left = absl::StripLeadingAsciiWhitespace(left);
  const bool open = absl::ConsumePrefix(&left, "(");
  left = absl::StripLeadingAsciiWhitespace(left);
  if (left.empty() || !absl::ascii_isupper(left[0])) return false;
  *letter = left[0];
  left.remove_prefix(1);
  left = absl::StripLeadingAsciiWhitespace(left);
  bool closed = absl::ConsumePrefix(&left, ")");
  if (open != closed && open) return false;
  if (!closed && !open) closed = absl::ConsumePrefix(&left, ".") || absl::ConsumePrefix(&left, ":");
  left = absl::StripLeadingAsciiWhitespace(left);
  if (font && !absl::ConsumePrefix(&left, "}")) return false;
  if (!closed) return false;
  *text = left;
  return true;
}

// The next label at or behind `from`: where it starts and ends.
struct Label {
  size_t begin = absl::string_view::npos;
  size_t end = 0;
  char letter = '\0';
};

Label NextLabel(absl::string_view problem, size_t from) {
  for (size_t at = from; at < problem.size(); ++at) {
    const char c = problem[at];
    const bool line_start = at == 0 || problem[at - 1] == '\n' || problem[at - 1] == ' ';
    if (c != '(' && c != '\\' && !(line_start && absl::ascii_isupper(c))) continue;
    absl::string_view left = problem.substr(at);
    char letter = '\0';
    if (!ConsumeLabel(&left, &letter)) continue;
    return {at, problem.size() - left.size(), letter};
  }
  return {};
}

}  // namespace

std::optional<Choice> ParseChoice(absl::string_view text) {
  text = Trim(text);
  absl::string_view left = text;
  Choice choice;
  if (ConsumeLabel(&left, &choice.letter)) {
    choice.rest = Trim(left);
    return choice;
  }
  // The bare letter.
  left = text;
  if (ConsumeFont(&left) && !absl::ConsumeSuffix(&left, "}")) return std::nullopt;
  left = Trim(left);
  absl::ConsumeSuffix(&left, ".");
  if (left.size() != 1 || !absl::ascii_isupper(left[0])) return std::nullopt;
  choice.letter = left[0];
  return choice;
}

std::optional<absl::string_view> FindOption(absl::string_view problem, char letter) {
  // A list begins with A; the last list of the problem counts.
  size_t at = 0;
  char expected = 'A';
  int options = 0;
  std::optional<absl::string_view> found;
  Label label = NextLabel(problem, at);
  while (label.begin != absl::string_view::npos) {
    if (label.letter == 'A') {
      expected = 'A';
      options = 0;
    }
    Label next = NextLabel(problem, label.end);
    if (label.letter == expected) {
      ++options;
      ++expected;
      // Up to the next label that goes on with the list.
      Label stop = next;
      while (stop.begin != absl::string_view::npos && stop.letter != expected)
        stop = NextLabel(problem, stop.end);
      const size_t end =
          stop.begin == absl::string_view::npos ? problem.find('\n', label.end) : stop.begin;
      if (label.letter == letter)
        found = problem.substr(label.end, end == absl::string_view::npos ? end : end - label.end);
      if (stop.begin == absl::string_view::npos) break;
      label = stop;
    } else {
      label = next;
    }
  }
  if (!found || options < 2) return std::nullopt;
  absl::string_view option = Trim(*found);
  for (absl::string_view spacing :
       {"\\ ", "\\qquad", "\\quad", "~", "\\;", "\\,", "\\\\", "$", "\\hspace"}) {
    while (absl::ConsumePrefix(&option, spacing) || absl::ConsumeSuffix(&option, spacing))
      option = Trim(option);
  }
  return option;
}

}  // namespace crescendo
