// Memory that is read in small scattered pieces is slow in pages of 4 KB: each piece needs a page's
// address first.
#ifndef CRESCENDO_COMMON_OS_HUGE_PAGES_H_
#define CRESCENDO_COMMON_OS_HUGE_PAGES_H_

#include <cstddef>

namespace crescendo {

// Asks Linux to back [memory, memory + bytes) with huge pages, as far as whole ones lie in it; call
// it before the memory is first written. A wish: where it cannot be had, nothing changes.
// Thread-safe.
void AskForHugePages(void* memory, size_t bytes);

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_OS_HUGE_PAGES_H_
