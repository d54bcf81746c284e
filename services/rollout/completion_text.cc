#include "services/rollout/completion_text.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/match.h"
#include "common/base/status_macros.h"

namespace crescendo {

StopFilter::StopFilter(std::vector<std::string> stop) : stop_(std::move(stop)) {
  for (const std::string& text : stop_) CRESCENDO_CHECK(!text.empty());
}

std::string StopFilter::Push(absl::string_view text) {
  if (stopped_) return "";
  if (stop_.empty()) return std::string(text);
  held_.append(text.data(), text.size());
  size_t begin = std::string::npos;
  size_t end = std::string::npos;
  for (const std::string& stop : stop_) {
    const size_t found = held_.find(stop);
    if (found == std::string::npos) continue;
    const size_t found_end = found + stop.size();
    if (found_end < end || (found_end == end && found < begin)) {
      begin = found;
      end = found_end;
    }
  }
  if (begin != std::string::npos) {
    stopped_ = true;
    std::string out = held_.substr(0, begin);
    held_.clear();
    return out;
  }
  // The longest end that begins a stop string stays.
  size_t kept = 0;
  for (const std::string& stop : stop_) {
    const absl::string_view held = held_;
    for (size_t size = std::min(stop.size() - 1, held.size()); size > kept; --size) {
      if (absl::StartsWith(stop, held.substr(held.size() - size))) kept = size;
    }
  }
  std::string out = held_.substr(0, held_.size() - kept);
  held_.erase(0, out.size());
  return out;
}

std::string StopFilter::Finish() {
  std::string out;
  out.swap(held_);
  return out;
}

std::string CompletionText::Push(int32_t token) {
  if (stopped()) return "";
  const std::string text = decoder_.Push(token);
  decoded_ += text.size();
  std::string out = filter_.Push(text);
  given_ += out.size();
  return out;
}

std::string CompletionText::Finish() {
  if (stopped()) return "";
  const std::string text = decoder_.Finish();
  decoded_ += text.size();
  std::string out = filter_.Push(text);
  out += filter_.Finish();
  given_ += out.size();
  return out;
}

namespace {

class TextWatch : public StopWatch {
 public:
  TextWatch(const Tokenizer* tokenizer, std::vector<std::string> stop)
      : text_(tokenizer, std::move(stop)) {}
  bool Push(int32_t token) override {
    (void)text_.Push(token);
    return text_.stopped();
  }

 private:
  CompletionText text_;
};

}  // namespace

StopWatchFactory WatchStopsWith(const Tokenizer* tokenizer) {
  return [tokenizer](const std::vector<std::string>& stop) -> std::shared_ptr<StopWatch> {
    return std::make_shared<TextWatch>(tokenizer, stop);
  };
}

}  // namespace crescendo
