// Our side of the GGUF parity test: writes the named tensors of a file to standard output as raw
// floats.
//
//   dequantize_gguf FILE TENSOR...
#include <cstdio>
#include <iostream>
#include <vector>

#include "common/formats/gguf.h"
#include "common/os/posix_env.h"

int main(int argc, char** argv) {
  using crescendo::GgufFile;
  if (argc < 2) {
    std::cerr << "usage: dequantize_gguf FILE TENSOR...\n";
    return 2;
  }
  const auto files = crescendo::MakePosixFileSystem();
  const auto file = GgufFile::Open(*files, argv[1]);
  if (!file.ok()) {
    std::cerr << file.status() << "\n";
    return 1;
  }
  for (int i = 2; i < argc; ++i) {
    const auto tensor = (*file)->Get(argv[i]);
    if (!tensor.ok()) {
      std::cerr << tensor.status() << "\n";
      return 1;
    }
    std::vector<float> values(static_cast<size_t>((*tensor)->elements()));
    const absl::Status status = crescendo::Dequantize(**tensor, absl::MakeSpan(values));
    if (!status.ok()) {
      std::cerr << status << "\n";
      return 1;
    }
    if (std::fwrite(values.data(), sizeof(float), values.size(), stdout) != values.size()) return 1;
  }
  return 0;
}
