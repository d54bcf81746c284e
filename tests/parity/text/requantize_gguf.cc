// Our side of the GGUF writer's parity test: writes each tensor of a file once in every type that
// we write, as NAME.TYPE.
//
//   requantize_gguf IN OUT
#include <algorithm>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/formats/gguf.h"
#include "common/formats/gguf_writer.h"
#include "common/os/posix_env.h"

int main(int argc, char** argv) {
  using namespace crescendo;
  if (argc != 3) {
    std::cerr << "usage: requantize_gguf IN OUT\n";
    return 2;
  }
  const auto files = MakePosixFileSystem();
  const auto file = GgufFile::Open(*files, argv[1]);
  if (!file.ok()) {
    std::cerr << file.status() << "\n";
    return 1;
  }
  std::vector<GgufWriteTensor> tensors;
  for (const GgufTensor& tensor : (*file)->tensors()) {
    std::vector<float> values(static_cast<size_t>(tensor.elements()));
    const absl::Status status = Dequantize(tensor, absl::MakeSpan(values));
    if (!status.ok()) {
      std::cerr << status << "\n";
      return 1;
    }
    for (const GgmlType type :
         {GgmlType::kF32, GgmlType::kF16, GgmlType::kBF16, GgmlType::kQ8_0, GgmlType::kQ4_0}) {
      const auto read_row = [values](int64_t index, absl::Span<float> row) {
        std::copy_n(values.begin() + index * static_cast<int64_t>(row.size()), row.size(),
                    row.begin());
      };
      tensors.push_back(
          {absl::StrCat(tensor.name, ".", InfoOf(type).name), type, tensor.shape, read_row});
    }
  }
  const std::vector<std::pair<std::string, GgufWriteValue>> metadata = {
      {"general.architecture", std::string("llama")},
      {"test.words", std::vector<std::string>{"a", "b\xc3\xa9"}},
      {"test.numbers", std::vector<int32_t>{1, -2}},
      {"test.real", 0.25f},
      {"test.flag", true}};
  const absl::Status status = WriteGguf(*files, argv[2], metadata, tensors);
  if (!status.ok()) std::cerr << status << "\n";
  return status.ok() ? 0 : 1;
}
