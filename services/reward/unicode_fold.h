// Unicode as it is found in answers, folded to ASCII and LaTeX commands.
//
// Fullwidth forms become ASCII, the many minus signs and spaces become "-" and " ", mathematical
// signs become their LaTeX commands, superscripts become "^{...}". Invalid UTF-8, NUL and other
// control characters become '\x01', which no expression contains. The result is at most 16 times as
// long as the text. Pure, thread-safe.
#ifndef CRESCENDO_SERVICES_REWARD_UNICODE_FOLD_H_
#define CRESCENDO_SERVICES_REWARD_UNICODE_FOLD_H_

#include <string>

#include "absl/strings/string_view.h"

namespace crescendo {

std::string FoldUnicode(absl::string_view text);

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_REWARD_UNICODE_FOLD_H_
