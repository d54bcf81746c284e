// Any bytes as a tokenizer.json: refused, or a tokenizer that encodes and decodes any text, the
// file's own included.
#include <algorithm>
#include <string>

#include "common/base/status_macros.h"
#include "common/text/tokenizer.h"
#include "tests/support/one_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace crescendo;
  OneFile files(data, size);
  const auto tokenizer = Tokenizer::FromHuggingFace(files, "input");
  if (!tokenizer.ok()) return 0;
  const std::string own(reinterpret_cast<const char*>(data), std::min<size_t>(size, 1024));
  for (const std::string& text :
       {std::string("a6b*9= \xc3\xa9\xff\xe2\x82 <bos>\\boxed{12}\n"), own}) {
    const auto ids = (*tokenizer)->Encode(text, true);
    StreamingDecoder stream(tokenizer->get(), true);
    std::string streamed;
    for (const int32_t id : ids) {
      CRESCENDO_CHECK(id >= 0 && id < (*tokenizer)->vocab_size());
      streamed += stream.Push(id);
    }
    CRESCENDO_CHECK(streamed + stream.Finish() == (*tokenizer)->Decode(ids, true));
  }
  return 0;
}
