// Where the view goes: redrawn in place on a terminal, or as plain log lines.
#ifndef CRESCENDO_DEPLOY_CLI_TERMINAL_H_
#define CRESCENDO_DEPLOY_CLI_TERMINAL_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace crescendo {

// Writes to standard output. Not thread-safe. Destroyed, it leaves the last frame and the cursor as
// a terminal expects them.
class Terminal {
 public:
  // `plain` by wish; it is so too when standard output is no terminal.
  explicit Terminal(bool plain);
  ~Terminal();
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;

  bool live() const { return live_; }
  bool color() const { return live_; }
  int width() const;
  // A line that stays, above the frame.
  void Line(absl::string_view text);
  // Draws the frame in the place of the last one; nothing when not live.
  void Frame(const std::vector<std::string>& lines);
  // The last frame stays where it is; what comes next is written below.
  void KeepFrame();

 private:
  void Write(absl::string_view text);
  std::string Erase() const;

  bool live_;
  std::vector<std::string> frame_;
};

}  // namespace crescendo

#endif  // CRESCENDO_DEPLOY_CLI_TERMINAL_H_
