// Any bytes as a safetensors file: read whole or refused, and what is handed out can be read to its
// last byte.
#include "common/base/crc32c.h"
#include "common/formats/safetensors.h"
#include "tests/support/one_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace crescendo;
  OneFile files(data, size);
  const auto file = SafetensorsFile::Open(files, "input");
  if (!file.ok()) return 0;
  uint32_t crc = 0;
  for (const TensorView& tensor : (*file)->tensors()) {
    crc = ExtendCrc32c(crc, absl::string_view(tensor.bytes.data(), tensor.bytes.size()));
  }
  return crc == 0x12345678 ? -1 : 0;
}
