// Our side of the chat templates' parity test: reads {"messages": [{"role", "content"}], "prompt":
// bool} a line and writes
// {"text": rendered, "ids": its tokens}.
//
//   render_chats hf DIR | gguf FILE
#include <iostream>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "common/base/status_macros.h"
#include "common/formats/json.h"
#include "common/os/posix_env.h"
#include "common/text/chat_template.h"
#include "common/text/tokenizer.h"

namespace crescendo {
namespace {

struct Model {
  std::unique_ptr<Tokenizer> tokenizer;
  ChatTemplate chat_template;
};

absl::StatusOr<Model> Load(FileSystem& files, absl::string_view kind, const std::string& path) {
  Model model;
  std::optional<std::string> source;
  if (kind == "hf") {
    ASSIGN_OR_RETURN(model.tokenizer, Tokenizer::FromHuggingFace(files, path));
    ASSIGN_OR_RETURN(source, ChatTemplateSource(files, path));
  } else {
    ASSIGN_OR_RETURN(const std::unique_ptr<GgufFile> file, GgufFile::Open(files, path));
    ASSIGN_OR_RETURN(model.tokenizer, Tokenizer::FromGguf(*file));
    ASSIGN_OR_RETURN(source, ChatTemplateSource(*file));
  }
  ASSIGN_OR_RETURN(model.chat_template, ResolveChatTemplate("auto", source, *model.tokenizer));
  return model;
}

int Main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: render_chats hf DIR | gguf FILE\n";
    return 2;
  }
  const auto files = MakePosixFileSystem();
  const auto model = Load(*files, argv[1], argv[2]);
  if (!model.ok()) {
    std::cerr << model.status() << "\n";
    return 1;
  }
  std::string line;
  while (std::getline(std::cin, line)) {
    const auto chat = ParseJson(line, "standard input");
    if (!chat.ok()) {
      std::cerr << chat.status() << "\n";
      return 1;
    }
    std::vector<ChatMessage> messages;
    for (const Json& message : chat->at("messages")) {
      messages.push_back(
          {message.at("role").get<std::string>(), message.at("content").get<std::string>()});
    }
    const bool prompt = chat->at("prompt").get<bool>();
    const Json out = {
        {"text", RenderPrompt(model->chat_template, messages, prompt)},
        {"ids", EncodePrompt(*model->tokenizer, model->chat_template, messages, prompt)}};
    std::cout << out.dump() << "\n";
  }
  return 0;
}

}  // namespace
}  // namespace crescendo

int main(int argc, char** argv) { return crescendo::Main(argc, argv); }
