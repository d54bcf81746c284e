// Our side of the tokenizer's parity test: reads one JSON string a line from standard input and
// writes, for each, one line {"ids": [...], "text": decoded without special tokens, "raw": decoded
// with them}.
//
//   tokenize_lines hf|gguf PATH [--no-special]
#include <iostream>
#include <string>

#include "absl/strings/string_view.h"
#include "common/base/status_macros.h"
#include "common/formats/json.h"
#include "common/os/posix_env.h"
#include "common/text/tokenizer.h"

namespace crescendo {
namespace {

absl::StatusOr<std::unique_ptr<Tokenizer>> Load(FileSystem& files, absl::string_view kind,
                                                const std::string& path) {
  if (kind == "hf") return Tokenizer::FromHuggingFace(files, path);
  ASSIGN_OR_RETURN(const std::unique_ptr<GgufFile> file, GgufFile::Open(files, path));
  return Tokenizer::FromGguf(*file);
}

int Main(int argc, char** argv) {
  if (argc < 3) {
    std::cerr << "usage: tokenize_lines hf|gguf PATH [--no-special]\n";
    return 2;
  }
  const bool allow_special = argc < 4 || absl::string_view(argv[3]) != "--no-special";
  const auto files = MakePosixFileSystem();
  const auto tokenizer = Load(*files, argv[1], argv[2]);
  if (!tokenizer.ok()) {
    std::cerr << tokenizer.status() << "\n";
    return 1;
  }
  std::ios::sync_with_stdio(false);
  std::string line;
  while (std::getline(std::cin, line)) {
    const auto text = ParseJson(line, "standard input");
    if (!text.ok() || !text->is_string()) {
      std::cerr << "expected a JSON string: " << line << "\n";
      return 1;
    }
    const auto ids = (*tokenizer)->Encode(text->get_ref<const std::string&>(), allow_special);
    const Json out = {{"ids", ids},
                      {"text", (*tokenizer)->Decode(ids, true)},
                      {"raw", (*tokenizer)->Decode(ids, false)}};
    std::cout << out.dump() << "\n";
  }
  return 0;
}

}  // namespace
}  // namespace crescendo

int main(int argc, char** argv) { return crescendo::Main(argc, argv); }
