#include "deploy/cli/run_watcher.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "deploy/cli/live_view.h"

namespace crescendo {
namespace {

constexpr absl::Duration kPollEvery = absl::Milliseconds(250);
constexpr absl::Duration kCallTimeout = absl::Seconds(1);
constexpr absl::Duration kLastCallTimeout = absl::Seconds(30);
constexpr absl::Duration kSilence = absl::Seconds(5);

// The same cause that lasts a second longer is no news.
std::string WithoutNumbers(std::string text) {
  text.erase(std::remove_if(text.begin(), text.end(), absl::ascii_isdigit), text.end());
  return text;
}

}  // namespace

RunWatcher::RunWatcher(Terminal* terminal, std::string title, bool from_the_beginning)
    : terminal_(terminal), title_(std::move(title)), answered_(from_the_beginning) {}

absl::Status RunWatcher::Poll(RunClient& client, absl::Time now) {
  if (now < next_poll_) return absl::OkStatus();
  if (last_answer_ == absl::InfinitePast()) last_answer_ = now;
  next_poll_ = now + kPollEvery;
  absl::Status status = client.Update(kCallTimeout, &picture_);
  if (status.ok()) {
    last_answer_ = now;
    if (!notice_.empty() && !terminal_->live()) terminal_->Line("the coordinator answers again");
    notice_.clear();
    TellResume();
    TellLines();
  } else if (now - last_answer_ > kSilence) {
    // A log tells it once.
    const bool told = !notice_.empty();
    notice_ = absl::StrCat("no answer for ", absl::ToInt64Seconds(now - last_answer_),
                           " s: ", status.message());
    if (!told && !terminal_->live()) terminal_->Line(notice_);
  }
  Draw();
  return status;
}

absl::Status RunWatcher::FetchAll(RunClient& client) {
  RETURN_IF_ERROR(client.FetchAll(kLastCallTimeout, &picture_));
  TellLines();
  Draw();
  return absl::OkStatus();
}

// A run that is met in its middle is told from there on.
void RunWatcher::TellResume() {
  if (answered_) return;
  answered_ = true;
  const int64_t step = picture_.status.step();
  if (step == 0) return;
  terminal_->Line(absl::StrCat("the run is at step ", step));
  told_step_ = step - 1;
  if (!picture_.evaluations.empty()) told_evaluation_ = picture_.evaluations.rbegin()->first;
  for (const v1::StageStatus& stage : picture_.stages) told_stages_ += stage.last_step() >= 0;
}

void RunWatcher::TellLines() {
  if (terminal_->live()) return;
  told_step_ = std::min(told_step_, picture_.status.step() - 1);  // rolled back
  told_evaluation_ = std::min(told_evaluation_, picture_.status.step());
  const auto tell_evaluations = [&](int64_t up_to) {
    for (auto it = picture_.evaluations.upper_bound(told_evaluation_);
         it != picture_.evaluations.end() && it->first <= up_to; ++it) {
      terminal_->Line(EvaluationLine(it->second));
      const int64_t step = it->first;
      for (auto other = picture_.other_evaluations.lower_bound({step, ""});
           other != picture_.other_evaluations.end() && other->first.first == step; ++other) {
        terminal_->Line(EvaluationLine(other->second));
      }
      told_evaluation_ = it->first;
    }
  };
  for (auto it = picture_.steps.upper_bound(told_step_); it != picture_.steps.end(); ++it) {
    tell_evaluations(it->first);
    terminal_->Line(StepLine(it->second, picture_));
    told_step_ = it->first;
  }
  tell_evaluations(picture_.status.step());
  told_stages_ = std::min(told_stages_, picture_.stages.size());
  for (; told_stages_ < picture_.stages.size() && picture_.stages[told_stages_].last_step() >= 0;
       ++told_stages_) {
    terminal_->Line(StageLine(picture_.stages[told_stages_]));
  }
  const std::string& awaiting = picture_.status.awaiting();
  if (WithoutNumbers(awaiting) != told_awaiting_) {
    told_awaiting_ = WithoutNumbers(awaiting);
    if (!awaiting.empty()) terminal_->Line(absl::StrCat("awaiting: ", awaiting));
  }
}

void RunWatcher::Draw() {
  if (!terminal_->live()) return;
  ViewOptions options;
  options.width = terminal_->width();
  options.color = terminal_->color();
  options.title = title_;
  options.notice = notice_;
  terminal_->Frame(RenderView(picture_, options));
}

}  // namespace crescendo
