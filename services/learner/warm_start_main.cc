// crescendo-warm-start: supervised fine-tuning on JSON lines, without services. See --help. Exit
// status: 0 done, 1 failed, 2 usage or bad input.
#include <cstdint>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/status_macros.h"
#include "common/os/posix_env.h"
#include "services/learner/text_encoder.h"
#include "services/learner/warm_start.h"

namespace crescendo {
namespace {

constexpr absl::string_view kHelp =
    R"(crescendo-warm-start: supervised fine-tuning on JSON lines

  crescendo-warm-start --from DIR [--random-weights] --phase PHASE [--phase PHASE ...] --out DIR
      [--seed N] [--threads N] [--microbatch-tokens N]

  --from DIR             a Hugging Face folder: config.json, tokenizer.json, model.safetensors
  --random-weights       starts from weights drawn from --seed (1); DIR needs no model.safetensors
  --phase PHASE          data=FILE,steps=N,batch=N,lr=X and, if wanted, warmup=N (steps),
                         decay=constant|linear|cosine, decay_from=N (step), final=X (times lr),
                         fresh=0|1 (1: the optimizer starts anew). A line of FILE is {"prompt",
                         "response"}, with "ends": false when the response was cut. AdamW
                         (0.9, 0.98), weight decay 0.01, gradients clipped to norm 1; the loss is
                         on the response
  --out DIR              where the policy is written
  --threads N            compute threads (1)
  --microbatch-tokens N  packed into one pass (4096)
)";

struct Arguments {
  WarmStartOptions options;
  bool help = false;
};

absl::Status SetArgument(const std::string& name, const std::string& value,
                         WarmStartOptions& options) {
  bool good = true;
  if (name == "--from") {
    options.from = value;
  } else if (name == "--out") {
    options.out = value;
  } else if (name == "--seed") {
    good = absl::SimpleAtoi(value, &options.seed);
  } else if (name == "--threads") {
    good = absl::SimpleAtoi(value, &options.threads) && options.threads > 0;
  } else if (name == "--microbatch-tokens") {
    good = absl::SimpleAtoi(value, &options.microbatch_tokens) && options.microbatch_tokens > 0;
  } else if (name == "--phase") {
    ASSIGN_OR_RETURN(WarmStartPhase phase, ParseWarmStartPhase(value));
    options.phases.push_back(std::move(phase));
  } else {
    return absl::InvalidArgumentError(absl::StrCat("unknown option '", name, "'"));
  }
  if (good) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("bad value for ", name, ": '", value, "'"));
}

absl::StatusOr<Arguments> ParseArguments(const std::vector<std::string>& words) {
  Arguments arguments;
  for (size_t i = 0; i < words.size(); ++i) {
    if (words[i] == "--help" || words[i] == "-h") {
      arguments.help = true;
    } else if (words[i] == "--random-weights") {
      arguments.options.random_weights = true;
    } else if (i + 1 >= words.size()) {
      return absl::InvalidArgumentError(
          absl::StrCat("'", words[i], "' needs a value, or is unknown"));
    } else {
      RETURN_IF_ERROR(SetArgument(words[i], words[i + 1], arguments.options));
      ++i;
    }
  }
  const WarmStartOptions& options = arguments.options;
  if (!arguments.help && (options.from.empty() || options.out.empty() || options.phases.empty())) {
    return absl::InvalidArgumentError("give --from, --out and at least one --phase");
  }
  return arguments;
}

void Print(const WarmStartProgress& progress) {
  if (progress.step % 25 != 0 && progress.step != progress.steps) return;
  std::cout << absl::StrFormat("phase %d step %d/%d loss %.4f grad_norm %.3f lr %.2e tokens %d",
                               progress.phase + 1, progress.step, progress.steps, progress.loss,
                               progress.grad_norm, progress.learning_rate, progress.tokens)
            << std::endl;
}

int Fail(const absl::Status& status) {
  std::cerr << "crescendo-warm-start: " << status.message() << "\n";
  return absl::IsInvalidArgument(status) || absl::IsNotFound(status) ? 2 : 1;
}

int Main(const std::vector<std::string>& words) {
  const absl::StatusOr<Arguments> arguments = ParseArguments(words);
  if (!arguments.ok()) {
    std::cerr << "crescendo-warm-start: " << arguments.status().message() << " (see --help)\n";
    return 2;
  }
  if (arguments->help) {
    std::cout << kHelp;
    return 0;
  }
  const std::unique_ptr<FileSystem> files = MakePosixFileSystem();
  const auto encoder = TextEncoder::Load(*files, arguments->options.from);
  if (!encoder.ok()) return Fail(encoder.status());
  const absl::Status status = RunWarmStart(*files, **encoder, arguments->options, Print);
  return status.ok() ? 0 : Fail(status);
}

}  // namespace
}  // namespace crescendo

int main(int argc, char** argv) {
  return crescendo::Main(std::vector<std::string>(argv + 1, argv + argc));
}
