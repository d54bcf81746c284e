#include "services/rollout/serve_command.h"

#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/status_macros.h"
#include "common/config/command_line.h"
#include "common/metrics/metrics_server.h"
#include "common/metrics/rollout_metrics.h"
#include "services/rollout/completion_front.h"
#include "services/rollout/make_runner.h"
#include "services/rollout/prompt_codec.h"
#include "services/rollout/serving_host.h"
#include "services/rollout/worker_options.h"

namespace crescendo {
namespace {

constexpr absl::string_view kName = "crescendo-rollout serve";
constexpr absl::string_view kHelp =
    R"(crescendo-rollout serve --policy.path=MODEL [--config RECIPE] [--section.key=value ...]

Serves a policy (a Hugging Face folder or a .gguf file) over an OpenAI-compatible HTTP endpoint, without
a run around it: /v1/completions, /v1/chat/completions, /v1/models. The first line on standard output is
the endpoint's URL, once it answers; SIGTERM or Ctrl-C ends it.

  --policy.path=MODEL        what to serve; with --config the recipe's, unless given
  --rollout.http=HOST:PORT   where; 127.0.0.1:8000 unless given, port 0 takes any free one
  --config RECIPE            takes [policy], [rollout] and [network] from a recipe
  --section.key=value        any key, such as --rollout.threads=2 or --policy.dtype=bfloat16
)";

struct Arguments {
  std::string recipe;
  std::vector<std::string> overrides;
  bool help = false;
};

absl::StatusOr<Arguments> Parse(int argc, const char* const* argv) {
  Arguments arguments;
  for (int i = 0; i < argc; ++i) {
    absl::string_view rest = argv[i];
    if (rest == "--help" || rest == "-h") {
      arguments.help = true;
    } else if (rest == "--config" && i + 1 < argc) {
      arguments.recipe = argv[++i];
    } else if (absl::ConsumePrefix(&rest, "--config=")) {
      arguments.recipe = std::string(rest);
    } else if (absl::ConsumePrefix(&rest, "--") && absl::StrContains(rest, '.') &&
               absl::StrContains(rest, '=')) {
      arguments.overrides.push_back(std::string(rest));
    } else {
      return absl::InvalidArgumentError(absl::StrCat(
          "expected --config RECIPE or --section.key=value, found '", argv[i], "'; see --help"));
    }
  }
  return arguments;
}

absl::Status Serve(const RunConfig& config, FileSystem& files, Clock* clock, StopSignal& stop) {
  ASSIGN_OR_RETURN(
      const auto metrics_server,
      MetricsServer::Start({config.network.metrics, "rollout", config.network.insecure}));
  RolloutMetrics metrics(metrics_server->registry());
  ASSIGN_OR_RETURN(const auto codec, PromptCodec::Load(files, config.policy));
  ASSIGN_OR_RETURN(const ModelRunnerParts parts,
                   MakeModelRunner(files, config, codec->tokenizer()));
  CompletionFront* front_of_core = nullptr;
  ServingHost host(CoreOptions(config, parts, codec->tokenizer()), parts.runner.get(), clock,
                   &metrics, [&](const ServedToken& token) { front_of_core->OnToken(token); });
  ASSIGN_OR_RETURN(const auto front,
                   CompletionFront::Start(FrontOptions(config, parts), codec.get(), clock,
                                          [&](CoreEvent event) { host.Post(std::move(event)); }));
  front_of_core = front.get();
  host.Start([&stop] { stop.Request(); });
  std::cout << "http://" << front->address() << "/v1" << std::endl;
  std::cerr << "serving " << config.policy.path << " (" << parts.description << ", chat template "
            << std::string(codec->template_name()) << "), metrics at " << metrics_server->address()
            << std::endl;
  while (!stop.WaitFor(absl::Minutes(1))) {
  }
  front->Stop();
  return host.Stop();
}

}  // namespace

int ServeCommand(int argc, const char* const* argv, FileSystem& files, Clock* clock,
                 StopSignal& stop) {
  const absl::StatusOr<Arguments> arguments = Parse(argc, argv);
  if (!arguments.ok()) return ReportError(kName, arguments.status(), std::cerr);
  if (arguments->help) {
    std::cout << std::string(kHelp);
    return kExitOk;
  }
  absl::StatusOr<RunConfig> config =
      arguments->recipe.empty() ? RunConfigWithoutRecipe(arguments->overrides)
                                : LoadRunConfig(files, arguments->recipe, arguments->overrides);
  if (!config.ok()) return ReportError(kName, config.status(), std::cerr);
  if (config->rollout.http.empty()) config->rollout.http = "127.0.0.1:8000";
  const absl::Status status = Serve(*config, files, clock, stop);
  return status.ok() ? kExitOk : ReportError(kName, status, std::cerr);
}

}  // namespace crescendo
