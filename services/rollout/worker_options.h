// From the configuration to what the worker's core and endpoint take.
#ifndef CRESCENDO_SERVICES_ROLLOUT_WORKER_OPTIONS_H_
#define CRESCENDO_SERVICES_ROLLOUT_WORKER_OPTIONS_H_

#include "common/config/run_config.h"
#include "common/text/tokenizer.h"
#include "services/rollout/completion_front.h"
#include "services/rollout/make_runner.h"
#include "services/rollout/rollout_core.h"

namespace crescendo {

// `tokenizer` outlives the core.
RolloutOptions CoreOptions(const RunConfig& config, const ModelRunnerParts& parts,
                           const Tokenizer& tokenizer);
// Of rollout.http.
CompletionFrontOptions FrontOptions(const RunConfig& config, const ModelRunnerParts& parts);

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_ROLLOUT_WORKER_OPTIONS_H_
