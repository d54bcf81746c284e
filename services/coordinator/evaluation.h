// What an evaluation round adds up to.
//
// Pure functions; thread-safe.
#ifndef CRESCENDO_SERVICES_COORDINATOR_EVALUATION_H_
#define CRESCENDO_SERVICES_COORDINATOR_EVALUATION_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/base/domain.h"
#include "services/coordinator/journal.h"

namespace crescendo {

struct PassAtOne {
  double mean = 0;
  double ci95_low = 0;
  double ci95_high = 0;
};

// pass@1: the mean over each problem's samples, then over problems. The interval is the 2.5% and
// 97.5% percentile of the bootstrap over problems; the same for the same seed. Zeros for no
// outcome.
PassAtOne EvaluatePassAtOne(absl::Span<const EvaluationOutcomeRow> outcomes, uint64_t seed);

// pass@k without bias: 1 - C(n - c, k) / C(n, k), averaged over problems (Chen et al., "Evaluating
// large language models trained on code", 2021, eq. 1). NaN when k exceeds the samples of a
// problem.
double EvaluatePassAtK(absl::Span<const EvaluationOutcomeRow> outcomes, int k);

// The whole round as a row, but for its times and the counts of training.
EvaluationRow SummarizeRound(absl::Span<const EvaluationOutcomeRow> outcomes, uint64_t seed);

// The outcome of one group. INVALID_ARGUMENT when the results are not one for each of `samples`
// samples.
absl::StatusOr<EvaluationOutcomeRow> ToOutcome(GroupId group, uint32_t problem, int samples,
                                               absl::Span<const SampleResult> results);

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_COORDINATOR_EVALUATION_H_
