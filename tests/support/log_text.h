// A logger whose lines a test looks at: what they carry, never what the program under test did.
// Thread-safe; outlives the loggers that it makes.
#ifndef CRESCENDO_TESTS_SUPPORT_LOG_TEXT_H_
#define CRESCENDO_TESTS_SUPPORT_LOG_TEXT_H_

#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/synchronization/mutex.h"
#include "common/os/log.h"

namespace crescendo {

class LogText {
 public:
  Logger Make(absl::string_view service, Clock* clock) {
    return Logger(service, "test", LogLevel::kInfo, clock, [this](absl::string_view line) {
      absl::MutexLock lock(&mutex_);
      absl::StrAppend(&text_, line);
    });
  }

  // The last line that says `what`, with a space at its end; empty when there is none.
  std::string LineWith(absl::string_view what) const {
    absl::MutexLock lock(&mutex_);
    std::string last;
    for (const absl::string_view line : absl::StrSplit(text_, '\n')) {
      if (absl::StrContains(line, what)) last = absl::StrCat(line, " ");
    }
    return last;
  }

 private:
  mutable absl::Mutex mutex_;
  std::string text_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace crescendo

#endif  // CRESCENDO_TESTS_SUPPORT_LOG_TEXT_H_
