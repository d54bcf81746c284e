// A step's request as bytes, from rank 0 to another rank of the same build. Pure; thread-safe.
#ifndef CRESCENDO_SERVICES_LEARNER_RANK_WIRE_H_
#define CRESCENDO_SERVICES_LEARNER_RANK_WIRE_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "services/learner/trainer.h"

namespace crescendo {

std::string EncodeTrainRequest(const TrainRequest& request);
// INVALID_ARGUMENT when the bytes are not a whole request.
absl::StatusOr<TrainRequest> DecodeTrainRequest(absl::string_view bytes);

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_LEARNER_RANK_WIRE_H_
