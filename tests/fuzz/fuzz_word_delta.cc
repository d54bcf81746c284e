// Any bytes as what changed in other bytes: refused without a trace, or applied, and then taken
// back and made anew bit for bit.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "common/base/word_delta.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace crescendo;
  if (size == 0) return 0;
  const std::string base(2 * data[0] + data[0] % 2, 'x');
  const absl::string_view delta(reinterpret_cast<const char*>(data) + 1, size - 1);
  std::string next = base;
  if (!ApplyWordDelta(delta, absl::MakeSpan(next))) {
    if (next != base) std::abort();
    return 0;
  }
  const auto again = EncodeWordDelta(base, next, 1 << 20);
  std::string copy = base;
  if (!again.has_value() || again->size() > size || !ApplyWordDelta(*again, absl::MakeSpan(copy)) ||
      copy != next) {
    std::abort();
  }
  UndoWordDelta(delta, absl::MakeSpan(next));
  if (next != base) std::abort();
  return 0;
}
