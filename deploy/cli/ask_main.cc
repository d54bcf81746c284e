// crescendo-ask, behind `crescendo ask`: puts a problem to a policy and shows the answer as it is
// made. Either a worker's endpoint that runs already, or a `crescendo-rollout serve` of its own.
#include <httplib.h>
#include <unistd.h>

#include <filesystem>
#include <iostream>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/base/status_macros.h"
#include "common/config/run_config.h"
#include "common/formats/json.h"
#include "common/os/posix_env.h"
#include "deploy/cli/child_process.h"
#include "deploy/cli/own_program.h"

namespace crescendo {
namespace {

constexpr absl::string_view kName = "crescendo ask";
constexpr absl::string_view kHelp =
    R"(crescendo ask PROBLEM [--policy MODEL | --recipe RECIPE | --url URL] [--max-tokens N]
              [--temperature T] [--seed N] [--section.key=value ...]

Puts a problem to a policy and shows how it reasons, token by token. PROBLEM - is read from standard input.
For example: crescendo ask "What is 17 + 25?" --policy runs/demo/policy

  --policy MODEL     a Hugging Face folder or a .gguf file, such as a run's OUT/policy
  --recipe RECIPE    the policy of a recipe, asked as the run asks it (system prompt, prompt suffix); the
                     recipe smollm2-gsm8k.toml when nothing is named
  --url URL          a worker that serves already, such as http://127.0.0.1:8000/v1
  --max-tokens N     at most so many tokens; unless given the recipe's last context limit, or 1024
  --temperature T    0.6 unless given; 0 always takes the most probable token
  --seed N           the same seed, the same answer
  --section.key=value   of the configuration, such as --rollout.threads=2
)";
constexpr absl::Duration kStartMax = absl::Minutes(5);
constexpr absl::Duration kLook = absl::Milliseconds(20);
constexpr int kAnswerSecondsMax = 600;
constexpr int kTokens = 1024;

struct Arguments {
  std::string problem, policy, recipe, url;
  int max_tokens = 0;  // 0: the recipe's longest, or kTokens
  double temperature = 0.6;
  std::optional<int64_t> seed;
  std::vector<std::string> overrides;
};

absl::Status Set(absl::string_view name, absl::string_view value, Arguments& out) {
  const auto bad = [&](absl::string_view expected) {
    return absl::InvalidArgumentError(
        absl::StrCat("--", name, ": expected ", expected, ", found '", value, "'"));
  };
  if (name == "policy") {
    out.policy = std::string(value);
  } else if (name == "recipe") {
    out.recipe = std::string(value);
  } else if (name == "url") {
    out.url = std::string(absl::StripSuffix(value, "/"));
  } else if (name == "max-tokens") {
    if (!absl::SimpleAtoi(value, &out.max_tokens) || out.max_tokens < 1) {
      return bad("a whole number above 0");
    }
  } else if (name == "temperature") {
    if (!absl::SimpleAtod(value, &out.temperature)) return bad("a number");
  } else if (name == "seed") {
    if (!absl::SimpleAtoi(value, &out.seed.emplace())) return bad("a whole number");
  } else if (absl::StrContains(name, '.')) {
    out.overrides.push_back(absl::StrCat(name, "=", value));
  } else {
    return UnknownOption(name);
  }
  return absl::OkStatus();
}

std::string ProgramFolder() {
  std::error_code error;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  return error ? "." : self.parent_path().string();
}

// A server of our own, and where it answers.
struct Server {
  std::unique_ptr<ChildProcess> process;
  std::string log;
  std::string url;
  ~Server() {
    process.reset();
    std::error_code ignored;
    if (!log.empty()) std::filesystem::remove(log, ignored);
  }
};

absl::Status StartServer(const Arguments& arguments, const std::string& recipe, FileSystem& files,
                         Clock& clock, Server& server) {
  std::vector<std::string> command = {ProgramFolder() + "/crescendo-rollout", "serve",
                                      "--rollout.http=127.0.0.1:0"};
  if (!recipe.empty()) command.push_back("--config=" + recipe);
  if (!arguments.policy.empty()) command.push_back("--policy.path=" + arguments.policy);
  for (const std::string& text : arguments.overrides) command.push_back("--" + text);
  server.log = absl::StrCat(std::filesystem::temp_directory_path().string(), "/crescendo-ask-",
                            getpid(), ".log");
  ASSIGN_OR_RETURN(server.process, ChildProcess::Spawn(command, server.log));
  for (const absl::Time deadline = clock.Now() + kStartMax; clock.Now() < deadline;) {
    const std::optional<ProcessExit> ended = server.process->Poll();
    const auto text = files.ReadFile(server.log, 1 << 20);
    if (text.ok()) {
      for (const absl::string_view line : absl::StrSplit(*text, '\n')) {
        if (!absl::StartsWith(line, "http://")) continue;
        server.url = std::string(line);
        return absl::OkStatus();
      }
    }
    if (ended.has_value()) {
      std::string why = text.ok() ? std::string(absl::StripTrailingAsciiWhitespace(*text)) : "";
      const std::string prefix = "crescendo-rollout serve: error: ";
      if (absl::StartsWith(why, prefix)) why = why.substr(prefix.size());
      return absl::InvalidArgumentError(why);
    }
    clock.SleepFor(kLook);
  }
  return absl::DeadlineExceededError("crescendo-rollout did not start to serve");
}

std::string Body(const Arguments& arguments, const std::optional<RunConfig>& config) {
  Json messages = Json::array();
  std::string problem = arguments.problem;
  if (config.has_value()) {
    if (!config->policy.system_prompt.empty()) {
      messages.push_back({{"role", "system"}, {"content", config->policy.system_prompt}});
    }
    problem += config->policy.prompt_suffix;
  }
  messages.push_back({{"role", "user"}, {"content", problem}});
  int tokens = arguments.max_tokens;
  if (tokens == 0) tokens = config.has_value() ? config->stages.back().context_tokens : kTokens;
  Json body = {{"messages", std::move(messages)},
               {"max_tokens", tokens},
               {"temperature", arguments.temperature},
               {"stream", true},
               {"stream_options", {{"include_usage", true}}}};
  if (arguments.seed.has_value()) body["seed"] = *arguments.seed;
  return body.dump(-1, ' ', false, Json::error_handler_t::replace);
}

// Prints the answer's text as its events come.
class Printer {
 public:
  bool Take(absl::string_view data) {
    pending_.append(data.data(), data.size());
    size_t end;
    while ((end = pending_.find('\n')) != std::string::npos) {
      Line(absl::string_view(pending_).substr(0, end));
      pending_.erase(0, end + 1);
    }
    return true;
  }
  absl::Status status;
  int64_t tokens = 0;
  std::string finish;
  std::string pending_;  // a line that is not whole; the body of an error

 private:
  void Line(absl::string_view line) {
    if (!absl::ConsumePrefix(&line, "data: ") || line == "[DONE]") return;
    const absl::StatusOr<Json> event = ParseJson(line, "the endpoint's answer");
    if (!event.ok() || !event->is_object()) return status.Update(event.status());
    if (event->contains("error")) {
      return status.Update(absl::UnavailableError((*event)["error"].value("message", "?")));
    }
    if (event->contains("usage") && (*event)["usage"].is_object()) {
      tokens = (*event)["usage"].value("completion_tokens", int64_t{0});
    }
    if (!event->contains("choices") || !(*event)["choices"].is_array()) return;
    for (const Json& choice : (*event)["choices"]) {
      const auto delta = choice.find("delta");
      if (delta != choice.end() && delta->contains("content") && (*delta)["content"].is_string()) {
        std::cout << (*delta)["content"].get_ref<const std::string&>() << std::flush;
      }
      const auto end = choice.find("finish_reason");
      if (end != choice.end() && end->is_string()) finish = end->get<std::string>();
    }
  }
};

absl::Status Ask(const std::string& url, const std::string& body, Clock& clock) {
  const std::string base = url.substr(0, url.size() - (absl::EndsWith(url, "/v1") ? 3 : 0));
  if (!absl::StartsWith(base, "http://")) {
    return absl::InvalidArgumentError(
        absl::StrCat("--url: expected http://HOST:PORT/v1, found '", url, "'"));
  }
  httplib::Client client(base);
  client.set_read_timeout(kAnswerSecondsMax);
  Printer printer;
  httplib::Request request;
  request.method = "POST";
  request.path = "/v1/chat/completions";
  request.body = body;
  request.set_header("Content-Type", "application/json");
  request.content_receiver = [&printer](const char* data, size_t size, uint64_t, uint64_t) {
    return printer.Take({data, size});
  };
  const absl::Time start = clock.Now();
  const httplib::Result result = client.send(request);
  const double seconds = absl::ToDoubleSeconds(clock.Now() - start);
  if (!result) {
    return absl::UnavailableError(absl::StrCat(url, ": ", httplib::to_string(result.error()),
                                               "; does a worker serve there?"));
  }
  if (result->status != 200) {
    const absl::StatusOr<Json> error = ParseJson(printer.pending_, url);
    const bool known = error.ok() && error->is_object() && error->contains("error");
    return absl::InvalidArgumentError(known ? (*error)["error"].value("message", "?")
                                            : absl::StrCat(url, ": status ", result->status));
  }
  std::cout << std::endl;
  RETURN_IF_ERROR(printer.status);
  std::cerr << "(" << printer.tokens << " tokens in " << static_cast<int>(seconds * 10) / 10.0
            << " s" << (printer.finish == "length" ? ", cut at the limit" : "") << ")" << std::endl;
  return absl::OkStatus();
}

absl::Status Main(Arguments arguments) {
  if (arguments.problem == "-") {
    arguments.problem.assign(std::istreambuf_iterator<char>(std::cin), {});
  }
  if (arguments.problem.empty()) {
    return absl::InvalidArgumentError("what is the problem? crescendo ask \"...\" (see --help)");
  }
  const auto files = MakePosixFileSystem();
  const auto clock = MakeRealClock();
  const int ways = !arguments.policy.empty() + !arguments.recipe.empty() + !arguments.url.empty();
  if (ways > 1) return absl::InvalidArgumentError("one of --policy, --recipe and --url at a time");
  std::string recipe = arguments.recipe;
  if (ways == 0) recipe = ProgramFolder() + "/../../deploy/recipes/smollm2-gsm8k.toml";
  std::optional<RunConfig> config;
  if (!recipe.empty()) {
    ASSIGN_OR_RETURN(config, LoadRunConfig(*files, recipe, arguments.overrides));
  }
  Server server;
  server.url = arguments.url;
  if (server.url.empty()) {
    RETURN_IF_ERROR(StartServer(arguments, recipe, *files, *clock, server));
  }
  return Ask(server.url, Body(arguments, config), *clock);
}

}  // namespace
}  // namespace crescendo

int main(int argc, char** argv) {
  crescendo::Arguments arguments;
  const auto positional = [&](absl::string_view text) {
    if (!arguments.problem.empty()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "one problem is asked at a time: put it in quotes (found '", text, "' too)"));
    }
    arguments.problem = std::string(text);
    return absl::OkStatus();
  };
  return crescendo::RunOwnProgram(argc, argv,
                                  {crescendo::kName, crescendo::kHelp,
                                   [&](absl::string_view name, absl::string_view value) {
                                     return crescendo::Set(name, value, arguments);
                                   },
                                   positional, [&] { return crescendo::Main(arguments); }});
}
