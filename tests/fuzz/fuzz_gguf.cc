// Any bytes as a GGUF file: read whole or refused, its tensors dequantised, its tokenizer made and
// used.
#include <vector>

#include "common/formats/gguf.h"
#include "common/text/chat_template.h"
#include "common/text/tokenizer.h"
#include "tests/support/one_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace crescendo;
  OneFile files(data, size);
  const auto file = GgufFile::Open(files, "input");
  if (!file.ok()) return 0;
  std::vector<float> values;
  for (const GgufTensor& tensor : (*file)->tensors()) {
    values.resize(static_cast<size_t>(tensor.elements()));
    (void)Dequantize(tensor, absl::MakeSpan(values));
  }
  (void)ChatTemplateSource(**file);
  const auto tokenizer = Tokenizer::FromGguf(**file);
  if (!tokenizer.ok()) return 0;
  const auto ids = (*tokenizer)->Encode("a b\xc3\xa9\xff 12 <s>", true);
  (void)(*tokenizer)->Decode(ids, false);
  return 0;
}
