// A run's curves as files that grow while it runs: metrics.jsonl, and the same for TensorBoard in
// tensorboard/. What is new is appended, so that a reader who follows a file sees it; a run that
// was set back has its files written anew.
#ifndef CRESCENDO_DEPLOY_CLI_CURVE_FILES_H_
#define CRESCENDO_DEPLOY_CLI_CURVE_FILES_H_

#include <cstddef>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/os/env.h"
#include "deploy/cli/run_client.h"

namespace crescendo {

// Not thread-safe. One object writes a folder's curves at a time.
class CurveFiles {
 public:
  // `files` outlives it; nothing is written yet.
  CurveFiles(FileSystem* files, std::string out) : files_(files), out_(std::move(out)) {}

  // Brings the files up to the picture; does nothing when it holds nothing new. `now` tells when
  // the run would have begun had it never been stopped.
  absl::Status Update(const RunPicture& picture, absl::Time now);

 private:
  absl::Status Write(const std::string& path, const std::string& content, size_t written);

  FileSystem* const files_;
  const std::string out_;
  absl::Time begin_ = absl::InfinitePast();
  std::string lines_;  // that are written
  size_t events_ = 0;  // bytes that are written
};

}  // namespace crescendo

#endif  // CRESCENDO_DEPLOY_CLI_CURVE_FILES_H_
