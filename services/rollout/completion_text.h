// From a sample's tokens to the text that a client gets: whole characters only, and nothing of a
// stop string, not even a beginning that may become one.
//
// Not thread-safe. The tokenizer outlives what is made from it.
#ifndef CRESCENDO_SERVICES_ROLLOUT_COMPLETION_TEXT_H_
#define CRESCENDO_SERVICES_ROLLOUT_COMPLETION_TEXT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "common/text/tokenizer.h"
#include "services/rollout/stop_watch.h"

namespace crescendo {

// Text with stop strings in it, as it grows. Invariant: what Push and Finish gave out, put
// together, is the text up to the first place where a stop string begins (the earliest end wins, of
// those the longest string).
class StopFilter {
 public:
  // No string is empty.
  explicit StopFilter(std::vector<std::string> stop);
  // What can be given out now.
  std::string Push(absl::string_view text);
  // What was held back and did not become a stop string.
  std::string Finish();
  bool stopped() const { return stopped_; }

 private:
  const std::vector<std::string> stop_;
  std::string held_;  // ends with a beginning of a stop string
  bool stopped_ = false;
};

// One sample's text.
class CompletionText {
 public:
  CompletionText(const Tokenizer* tokenizer, std::vector<std::string> stop)
      : decoder_(tokenizer, /*skip_special=*/true), filter_(std::move(stop)) {}
  // What can be given out now; nothing any more once stopped().
  std::string Push(int32_t token);
  std::string Finish();
  bool stopped() const { return filter_.stopped(); }
  // Bytes of text in front of the next token (held back or not), and of text given out.
  size_t decoded() const { return decoded_; }
  size_t given() const { return given_; }

 private:
  StreamingDecoder decoder_;
  StopFilter filter_;
  size_t decoded_ = 0;
  size_t given_ = 0;
};

// The core's watches over stop strings. The tokenizer outlives the watches.
StopWatchFactory WatchStopsWith(const Tokenizer* tokenizer);

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_ROLLOUT_COMPLETION_TEXT_H_
