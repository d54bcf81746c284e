#include "common/model/kernels.h"

#include <cstring>
#include <initializer_list>

namespace crescendo::kernels {

const Table& GenericTable();
#if defined(__x86_64__)
const Table& Avx2Table();
const Table& Avx512Table();
#endif

const Table* KernelsFor(const char* instruction_set) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (std::strcmp(instruction_set, "avx512") == 0) {
    const bool has = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                     __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    return has ? &Avx512Table() : nullptr;
  }
  if (std::strcmp(instruction_set, "avx2") == 0) {
    const bool has = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    return has ? &Avx2Table() : nullptr;
  }
#endif
  return std::strcmp(instruction_set, "generic") == 0 ? &GenericTable() : nullptr;
}

const Table& Kernels() {
  static const Table& best = []() -> const Table& {
    for (const char* name : {"avx512", "avx2"}) {
      if (const Table* table = KernelsFor(name)) return *table;
    }
    return GenericTable();
  }();
  return best;
}

namespace {
int64_t RoundUp(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }
}  // namespace

int64_t PagedScratchFloats(int64_t context, int32_t group, int32_t head_dim, int32_t block_size) {
  const int64_t rows = RoundUp(kTileRows, group) + group;
  const int64_t scores = rows * RoundUp(context, block_size < 64 ? 64 : block_size);
  return scores + 2 * rows * RoundUp(head_dim, 16) + rows + 64;
}

int64_t PackedScratchFloats(int64_t length, int32_t head_dim, bool backward) {
  const int64_t keys = RoundUp(length, 32);
  const int64_t dim = RoundUp(head_dim, 8);
  const int64_t tile = kTileRows * (keys + 3 * dim + 8);
  // Forward: K^T and V. Backward besides: K, V^T, dK, dV, and a second tile of scores.
  return backward ? 6 * keys * dim + 2 * tile + 256 : 2 * keys * dim + tile + 256;
}

}  // namespace crescendo::kernels
