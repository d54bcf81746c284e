#include "deploy/cli/terminal.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>

#include "absl/strings/str_cat.h"

namespace crescendo {
namespace {

constexpr absl::string_view kHideCursor = "\x1b[?25l";
constexpr absl::string_view kShowCursor = "\x1b[?25h";

bool IsTerminal() {
  const char* kind = std::getenv("TERM");
  return isatty(STDOUT_FILENO) == 1 && kind != nullptr && absl::string_view(kind) != "dumb";
}

}  // namespace

Terminal::Terminal(bool plain) : live_(!plain && IsTerminal()) {
  if (live_) Write(kHideCursor);
}

Terminal::~Terminal() {
  if (live_) Write(kShowCursor);
}

int Terminal::width() const {
  winsize size = {};
  if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
  return std::clamp<int>(size.ws_col, 40, 120);
}

void Terminal::Write(absl::string_view text) {
  while (!text.empty()) {
    const ssize_t written = write(STDOUT_FILENO, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return;  // nobody reads any more: the run goes on without
    text.remove_prefix(static_cast<size_t>(written));
  }
}

std::string Terminal::Erase() const {
  if (frame_.empty()) return "";
  return absl::StrCat("\x1b[", frame_.size(), "A\r\x1b[J");
}

void Terminal::Line(absl::string_view text) {
  std::string out = absl::StrCat(Erase(), text, "\n");
  for (const std::string& line : frame_) absl::StrAppend(&out, line, "\n");
  Write(out);
}

void Terminal::Frame(const std::vector<std::string>& lines) {
  if (!live_ || lines == frame_) return;
  std::string out = Erase();
  for (const std::string& line : lines) absl::StrAppend(&out, line, "\n");
  Write(out);
  frame_ = lines;
}

void Terminal::KeepFrame() { frame_.clear(); }

}  // namespace crescendo
