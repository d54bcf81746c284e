// The subcommands of crescendo-reward that need no service: grade, check-dataset, audit.
//
// They read JSON lines and write JSON lines to `out` and words to `err`; a malformed line is
// reported by its number and skipped. A Status that is not OK means that nothing could be read, or
// that the arguments are wrong.
#ifndef CRESCENDO_SERVICES_REWARD_COMMANDS_H_
#define CRESCENDO_SERVICES_REWARD_COMMANDS_H_

#include <functional>
#include <istream>
#include <ostream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/base/clock.h"

namespace crescendo {

struct CommandStreams {
  std::istream* in = nullptr;  // the lines
  std::string name;            // of the input, for messages
  int64_t bytes = 0;           // of the input; 0 when not known
  std::ostream* out = nullptr;
  std::ostream* err = nullptr;
  bool progress = false;  // draw a bar on `err`
};

struct GradeCommandOptions {
  bool allow_plain = true;
};

// {"id", "problem"?, "answer": string or list, "response"} in, {"id", "verdict", "reason",
// "extracted", "micros"} out, in the input's order.
absl::Status RunGrade(const CommandStreams& streams, const GradeCommandOptions& options,
                      Clock* clock);

// {"id"?, "problem", "answer"} in; for each {"line", "id", "type", "parsable"} out, then
// {"duplicate_of"...} for problems that occur again with an answer that is not equal; a summary on
// `err`.
absl::Status RunCheckDataset(const CommandStreams& streams);

// An audit log in (audit_log.h): the reasons by count, then the answers that were undecided.
absl::Status RunAudit(const CommandStreams& streams);

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_REWARD_COMMANDS_H_
