// CRC-32C (Castagnoli, RFC 3720 appendix B.4), as gRPC, ext4 and leveldb use it. Pure; thread-safe.
#ifndef CRESCENDO_COMMON_BASE_CRC32C_H_
#define CRESCENDO_COMMON_BASE_CRC32C_H_

#include <cstddef>
#include <cstdint>

#include "absl/strings/string_view.h"

namespace crescendo {

// The checksum of `bytes` appended to data whose checksum is `crc` (0 for none). Uses SSE 4.2 where
// the CPU has it.
uint32_t ExtendCrc32c(uint32_t crc, absl::string_view bytes);
inline uint32_t Crc32c(absl::string_view bytes) { return ExtendCrc32c(0, bytes); }

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_BASE_CRC32C_H_
