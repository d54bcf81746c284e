// A run's curves as TensorBoard event files. Pure: no TensorFlow is needed to write them.
//
// The file is a list of TFRecords (tensorflow/core/lib/io/record_writer.h: length, masked CRC-32C,
// bytes, masked CRC-32C), each an Event (tensorflow/core/util/event.proto) in protobuf's wire
// format: the first says "brain.Event:2", each other one holds the scalars of one step.
#ifndef CRESCENDO_DEPLOY_CLI_TENSORBOARD_H_
#define CRESCENDO_DEPLOY_CLI_TENSORBOARD_H_

#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace crescendo {

// From the lines of metrics.jsonl: a step's numbers as train/NAME at the number of steps trained,
// an evaluation's as evaluation/SET/NAME. `begin` is when the run would have started had it never
// been stopped; lines that are no objects and values that are no numbers are left out.
std::string TensorBoardEvents(absl::string_view metrics_jsonl, absl::Time begin);

}  // namespace crescendo

#endif  // CRESCENDO_DEPLOY_CLI_TENSORBOARD_H_
