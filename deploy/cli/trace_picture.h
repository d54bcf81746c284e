// The traces of services as one picture: Chrome's JSON, which Perfetto (ui.perfetto.dev) opens.
//
// One process of the picture is "groups": every group is a row, from its lease to the step that
// trained it, with its phases inside (prefill, decode, grade, accept, wait for the batch, train).
// Each worker is a process with its samples, the reward service one with its answers (queue,
// grade), the learner one with its steps. Times are microseconds from the earliest moment; where
// the clocks of two machines contradict the order of a life, the later phase begins where the
// earlier one ended.
#ifndef CRESCENDO_DEPLOY_CLI_TRACE_PICTURE_H_
#define CRESCENDO_DEPLOY_CLI_TRACE_PICTURE_H_

#include <string>
#include <vector>

#include "crescendo/v1/trace.pb.h"

namespace crescendo {

std::string TracePicture(const std::vector<v1::Trace>& traces);

}  // namespace crescendo

#endif  // CRESCENDO_DEPLOY_CLI_TRACE_PICTURE_H_
