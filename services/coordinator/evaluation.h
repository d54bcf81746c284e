// What an evaluation round adds up to.
//
// Pure functions; thread-safe.
#ifndef CRESCENDO_SERVICES_COORDINATOR_EVALUATION_H_
#define CRESCENDO_SERVICES_COORDINATOR_EVALUATION_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

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

// k = 1, 2, 4, ... below the samples of a problem, and the samples, each with its pass@k; as text
// ("1:0.5,2:0.75") and back.
std::string PassAtKText(absl::Span<const EvaluationOutcomeRow> outcomes);
std::vector<std::pair<int, double>> ParsePassAtK(absl::string_view text);

// What is voted for by an answer: its text without the spaces, dollar signs and sizes that mean
// nothing.
std::string VoteOf(absl::string_view extracted);
// Whether the most frequent answer of a group is right: 1, 0, or the share of the right one where
// others are as frequent. Right answers vote together, others by VoteOf; a sample without an answer
// does not vote.
double MajorityOf(absl::Span<const SampleResult> results);

// The outcomes of one set as a row, but for its name, times and the counts of training.
// variant_of[problem] is the place of a problem's original, -1 for none.
EvaluationRow SummarizeSet(absl::Span<const EvaluationOutcomeRow> outcomes,
                           absl::Span<const int64_t> variant_of, uint64_t seed);

// The outcome of one group. INVALID_ARGUMENT when the results are not one for each of `samples`
// samples.
absl::StatusOr<EvaluationOutcomeRow> ToOutcome(GroupId group, uint32_t problem, int samples,
                                               absl::Span<const SampleResult> results);

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_COORDINATOR_EVALUATION_H_
