#include "deploy/cli/curve_files.h"

#include <utility>

#include "absl/strings/match.h"
#include "common/base/status_macros.h"
#include "deploy/cli/run_report.h"
#include "deploy/cli/tensorboard.h"

namespace crescendo {

absl::Status CurveFiles::Update(const RunPicture& picture, absl::Time now) {
  std::string lines = MetricsJsonLines(picture);
  if (lines == lines_ && begin_ != absl::InfinitePast()) return absl::OkStatus();
  const std::string folder = JoinPath(out_, "tensorboard");
  if (begin_ == absl::InfinitePast()) {
    begin_ = now - absl::Seconds(picture.status.elapsed_seconds());
    RETURN_IF_ERROR(files_->MakeDirs(folder));
  }
  const bool grown = !lines_.empty() && absl::StartsWith(lines, lines_);
  const std::string events = TensorBoardEvents(lines, begin_);
  RETURN_IF_ERROR(Write(JoinPath(out_, "metrics.jsonl"), lines, grown ? lines_.size() : 0));
  RETURN_IF_ERROR(
      Write(JoinPath(folder, "events.out.tfevents.0.crescendo"), events, grown ? events_ : 0));
  lines_ = std::move(lines);
  events_ = events.size();
  return absl::OkStatus();
}

// The first `written` bytes of `content` are there.
absl::Status CurveFiles::Write(const std::string& path, const std::string& content,
                               size_t written) {
  if (written == 0) return files_->WriteFile(path, content);
  ASSIGN_OR_RETURN(const auto file, files_->OpenAppend(path));
  return file->Append(absl::string_view(content).substr(written));
}

}  // namespace crescendo
