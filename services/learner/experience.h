// A group of samples as the learner holds and trains it. Plain values.
#ifndef CRESCENDO_SERVICES_LEARNER_EXPERIENCE_H_
#define CRESCENDO_SERVICES_LEARNER_EXPERIENCE_H_

#include <cstdint>
#include <vector>

#include "common/base/domain.h"
#include "common/base/ids.h"

namespace crescendo {

struct SampleExperience {
  std::vector<int32_t> tokens;       // the completion, end token included
  std::vector<float> log_probs;      // one a token, at the sampling temperature
  std::vector<VersionRun> versions;  // add up to the number of tokens
  bool closed = false;
  FinishReason finish = FinishReason::kUnspecified;  // this and below: once closed
  Verdict verdict = Verdict::kUnspecified;
  double reward = 0;
};

struct GroupExperience {
  GroupId group;
  GroupHeader header;
  std::vector<SampleExperience> samples;  // header.samples of them
};

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_LEARNER_EXPERIENCE_H_
