#include "services/rollout/completion_front.h"

#include <httplib.h>

#include <deque>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/rng.h"
#include "common/base/status_macros.h"
#include "services/rollout/completion_text.h"
#include "services/rollout/rollout_core.h"

namespace crescendo {
namespace {

constexpr int kRequestsAtOnce = 64;                        // threads: each answers one request
constexpr size_t kConnectionsMax = 64;                     // that wait for a thread
constexpr absl::Duration kTick = absl::Milliseconds(500);  // between looks at stop and deadline
constexpr int kTicksToComment = 20;  // without a token, a comment shows whether the client is there
constexpr int kTextTokens = 16;      // of a completion that names no limit, as OpenAI's
constexpr int kChatTokens = 4096;
constexpr const char* kJson = "application/json";

void Respond(const ApiError& error, httplib::Response& response) {
  response.status = error.status;
  response.set_content(ErrorJson(error), kJson);
}

ApiError FromStatus(const absl::Status& status) {
  const std::string message(status.message());
  switch (status.code()) {
    case absl::StatusCode::kResourceExhausted:
      return {400, message, "", "context_length_exceeded"};
    case absl::StatusCode::kInvalidArgument:
      return {400, message, "", ""};
    case absl::StatusCode::kDeadlineExceeded:
      return {504, message, "", "timeout"};
    case absl::StatusCode::kUnavailable:
      return {503, message, "", "stopping"};
    default:
      return {500, message, "", ""};
  }
}

}  // namespace

class CompletionFront::Mailbox {
 public:
  void Put(const ServedToken& token) {
    absl::MutexLock lock(&mutex_);
    tokens_.push_back(token);
    changed_.Signal();
  }
  void Decide(const absl::Status& status) {
    absl::MutexLock lock(&mutex_);
    ++decided_;
    refusal_.Update(status);
    changed_.Signal();
  }
  // Waits for the core's word on `count` prompts; false when it took longer than a tick.
  bool Decided(int count, absl::Status* refusal) {
    absl::MutexLock lock(&mutex_);
    if (decided_ < count) changed_.WaitWithTimeout(&mutex_, kTick);
    *refusal = refusal_;
    return decided_ >= count;
  }
  // All tokens that are there, after a tick at most.
  std::deque<ServedToken> Take() {
    absl::MutexLock lock(&mutex_);
    if (tokens_.empty()) changed_.WaitWithTimeout(&mutex_, kTick);
    std::deque<ServedToken> tokens;
    tokens.swap(tokens_);
    return tokens;
  }

 private:
  absl::Mutex mutex_;
  absl::CondVar changed_;
  std::deque<ServedToken> tokens_ ABSL_GUARDED_BY(mutex_);  // bounded by the request's limits
  int decided_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status refusal_ ABSL_GUARDED_BY(mutex_);
};

// Used by one thread at a time; ends what it has in the engine when it goes.
class CompletionFront::Answer {
 public:
  Answer(CompletionFront* front, CompletionRequest asked, int prompts)
      : request(std::move(asked)),
        front_(front),
        box_(std::make_shared<Mailbox>()),
        deadline_(front->clock_->Now() + front->options_.timeout),
        first_id_(front->next_id_.fetch_add(static_cast<uint64_t>(prompts))),
        prompts_(prompts),
        open_(prompts * request.n) {
    for (int i = 0; i < open_; ++i) {
      choices_.emplace_back(&front->codec_->tokenizer(), request.sampling.stop);
    }
    head.chat = request.chat;
    head.log_probs = request.log_probs;
    head.top_log_probs = request.top_log_probs;
    head.id = absl::StrFormat("%s-%016x", request.chat ? "chatcmpl" : "cmpl", first_id_);
    head.created_s = absl::ToUnixSeconds(front->clock_->Now());
    head.model = front->options_.model;
  }
  ~Answer() {
    for (int i = 0; i < prompts_; ++i) {
      const uint64_t id = first_id_ + static_cast<uint64_t>(i);
      front_->Forget(id);
      if (open_ > 0) front_->post_([id](RolloutCore& core) { core.StopServing(id); });
    }
    front_->Release(prompts_ * request.n);
  }
  Answer(const Answer&) = delete;
  Answer& operator=(const Answer&) = delete;

  // Puts the prompts into the engine and waits until it has taken or refused them.
  absl::Status Ask(std::vector<ServedRequest> prompts) {
    for (int i = 0; i < prompts_; ++i) {
      ServedRequest& one = prompts[static_cast<size_t>(i)];
      one.id = first_id_ + static_cast<uint64_t>(i);
      usage.prompt_tokens += static_cast<int64_t>(one.prompt.size());
      front_->Register(one.id, box_);
      front_->post_(
          [box = box_, one = std::move(one)](RolloutCore& core) { box->Decide(core.Serve(one)); });
    }
    absl::Status refusal;
    while (!box_->Decided(prompts_, &refusal)) RETURN_IF_ERROR(CheckTime());
    return refusal;
  }

  // What is new of each choice, after a tick at most. UNAVAILABLE, DEADLINE_EXCEEDED.
  absl::StatusOr<std::vector<ApiChoice>> Next() {
    std::deque<ServedToken> tokens = box_->Take();
    if (tokens.empty()) RETURN_IF_ERROR(CheckTime());
    std::vector<ApiChoice> parts;
    std::vector<int> part_of(choices_.size(), -1);
    for (const ServedToken& token : tokens) {
      const auto index =
          static_cast<size_t>(token.request - first_id_) * static_cast<size_t>(request.n) +
          token.sample;
      if (index >= choices_.size()) continue;
      if (part_of[index] < 0) {
        part_of[index] = static_cast<int>(parts.size());
        parts.emplace_back().index = static_cast<int>(index);
      }
      Add(token, choices_[index], parts[static_cast<size_t>(part_of[index])]);
    }
    return parts;
  }

  bool done() const { return open_ == 0; }
  size_t choices() const { return choices_.size(); }
  // Whether this is the choice's first part.
  bool Opens(int index) {
    bool& opened = choices_[static_cast<size_t>(index)].opened;
    return !std::exchange(opened, true);
  }

  const CompletionRequest request;
  ApiAnswer head;
  ApiUsage usage;

 private:
  struct Choice {
    Choice(const Tokenizer* tokenizer, const std::vector<std::string>& stop)
        : text(tokenizer, stop) {}
    CompletionText text;
    std::deque<ApiToken> pending;  // whose text is not given out yet
    bool opened = false;
  };

  absl::Status CheckTime() const {
    if (front_->stopping_.load()) return absl::UnavailableError("the worker stops");
    if (front_->clock_->Now() < deadline_) return absl::OkStatus();
    return absl::DeadlineExceededError(
        absl::StrCat("not answered within ", absl::FormatDuration(front_->options_.timeout)));
  }

  void Add(const ServedToken& token, Choice& choice, ApiChoice& part) {
    ++usage.completion_tokens;
    head.fingerprint = absl::StrCat("policy-version-", token.version.value());
    if (request.log_probs) {
      const auto bytes = [&](int32_t id) {
        return std::string(front_->codec_->tokenizer().TokenBytes(id));
      };
      ApiToken given{bytes(token.token), token.log_prob, choice.text.decoded()};
      for (const TopToken& top : token.top) given.top.push_back({bytes(top.token), top.log_prob});
      choice.pending.push_back(std::move(given));
    }
    part.text += choice.text.Push(token.token);
    if (token.finish != FinishReason::kUnspecified) {
      part.text += choice.text.Finish();
      part.finish = choice.text.stopped() ? FinishReason::kStop : token.finish;
      --open_;
    }
    while (!choice.pending.empty() && choice.pending.front().offset < choice.text.given()) {
      part.tokens.push_back(std::move(choice.pending.front()));
      choice.pending.pop_front();
    }
  }

  CompletionFront* const front_;
  const std::shared_ptr<Mailbox> box_;
  const absl::Time deadline_;
  const uint64_t first_id_;
  const int prompts_;
  int open_;  // choices that go on
  std::vector<Choice> choices_;
};

CompletionFront::CompletionFront(const CompletionFrontOptions& options, const PromptCodec* codec,
                                 Clock* clock, PostEvent post)
    : options_(options), codec_(codec), clock_(clock), post_(std::move(post)) {}

CompletionFront::~CompletionFront() { Stop(); }

absl::StatusOr<std::unique_ptr<CompletionFront>> CompletionFront::Start(
    const CompletionFrontOptions& options, const PromptCodec* codec, Clock* clock, PostEvent post) {
  std::unique_ptr<CompletionFront> front(
      new CompletionFront(options, codec, clock, std::move(post)));
  CompletionFront* raw = front.get();
  HttpServerOptions http;
  http.address = options.address;
  http.who = "rollout.http";
  http.insecure = options.insecure;
  http.threads = kRequestsAtOnce;
  http.connections_max = kConnectionsMax;
  http.body_bytes_max = api_limits::kBodyBytesMax;
  const int64_t created = absl::ToUnixSeconds(clock->Now());
  ASSIGN_OR_RETURN(
      front->server_, HttpServer::Start(http, [&](httplib::Server& routes) {
        routes.Post("/v1/completions",
                    [raw](const httplib::Request& request, httplib::Response& response) {
                      raw->Handle(request, response, /*chat=*/false);
                    });
        routes.Post("/v1/chat/completions",
                    [raw](const httplib::Request& request, httplib::Response& response) {
                      raw->Handle(request, response, /*chat=*/true);
                    });
        routes.Get("/v1/models",
                   [raw, created](const httplib::Request&, httplib::Response& response) {
                     response.set_content(ModelListJson(raw->options_.model, created), kJson);
                   });
        routes.Get(R"(/v1/models/(.+))",
                   [raw, created](const httplib::Request& request, httplib::Response& response) {
                     if (request.matches[1] == raw->options_.model) {
                       response.set_content(ModelJson(raw->options_.model, created), kJson);
                     } else {
                       Respond({404, "no such model", "model", "model_not_found"}, response);
                     }
                   });
        routes.Get("/health", [](const httplib::Request&, httplib::Response& response) {
          response.set_content("{\"status\":\"ok\"}", kJson);
        });
        routes.set_error_handler([](const httplib::Request& request, httplib::Response& response) {
          if (!response.body.empty()) return;
          ApiError error{response.status, "the request cannot be read", "", ""};
          if (error.status == 404) {
            error.message = absl::StrCat("unknown: ", request.method.substr(0, 16), " ",
                                         request.path.substr(0, 256));
          } else if (error.status == 413) {
            error.message = absl::StrCat("the body is longer than ", api_limits::kBodyBytesMax,
                                         " bytes, or is no application/json and longer than 8192");
          }
          Respond(error, response);
        });
      }));
  return front;
}

void CompletionFront::Stop() {
  stopping_.store(true);
  if (server_ != nullptr) server_->Stop();
}

void CompletionFront::OnToken(const ServedToken& token) {
  std::shared_ptr<Mailbox> box;
  {
    absl::MutexLock lock(&mutex_);
    const auto it = boxes_.find(token.request);
    if (it == boxes_.end()) return;
    box = it->second;
  }
  box->Put(token);
}

void CompletionFront::Register(uint64_t request, std::shared_ptr<Mailbox> box) {
  absl::MutexLock lock(&mutex_);
  boxes_[request] = std::move(box);
}

void CompletionFront::Forget(uint64_t request) {
  absl::MutexLock lock(&mutex_);
  boxes_.erase(request);
}

bool CompletionFront::Reserve(int samples) {
  absl::MutexLock lock(&mutex_);
  if (samples_ + samples > options_.samples_max) return false;
  samples_ += samples;
  return true;
}

void CompletionFront::Release(int samples) {
  absl::MutexLock lock(&mutex_);
  samples_ -= samples;
}

std::variant<std::shared_ptr<CompletionFront::Answer>, ApiError> CompletionFront::Begin(
    CompletionRequest request) {
  if (!request.model.empty() && request.model != options_.model) {
    return ApiError{404,
                    absl::StrCat("model '", request.model.substr(0, 128), "' is not served here; '",
                                 options_.model, "' is"),
                    "model", "model_not_found"};
  }
  std::vector<ServedRequest> prompts(request.chat ? 1 : request.prompts.size());
  for (size_t i = 0; i < prompts.size(); ++i) {
    ServedRequest& one = prompts[i];
    absl::StatusOr<std::vector<int32_t>> tokens =
        request.chat                        ? codec_->EncodeChat(request.messages)
        : request.prompts[i].tokens.empty() ? codec_->EncodeText(request.prompts[i].text)
                                            : request.prompts[i].tokens;
    if (!tokens.ok()) return FromStatus(tokens.status());
    for (const int32_t token : *tokens) {
      if (token >= codec_->tokenizer().vocab_size()) {
        return ApiError{400,
                        absl::StrCat("'prompt': token ", token, " is outside the vocabulary of ",
                                     codec_->tokenizer().vocab_size()),
                        "prompt", ""};
      }
    }
    const int room = options_.tokens_max - static_cast<int>(tokens->size());
    one.limit = request.max_tokens.value_or(
        std::max(1, std::min(room, request.chat ? kChatTokens : kTextTokens)));
    one.prompt = *std::move(tokens);
    one.sampling = request.sampling;
    one.samples = request.n;
    one.top_tokens = request.top_log_probs;
    const uint64_t seed =
        request.seed.has_value() ? *request.seed : MixSeed(options_.seed, next_id_.fetch_add(1));
    one.seed = MixSeed(seed, i);
  }
  const int samples = static_cast<int>(prompts.size()) * request.n;
  if (!Reserve(samples)) {
    return ApiError{
        429, absl::StrCat("too much work: ", options_.samples_max, " samples are served at once"),
        "", "overloaded"};
  }
  auto answer =
      std::make_shared<Answer>(this, std::move(request), static_cast<int>(prompts.size()));
  const absl::Status asked = answer->Ask(std::move(prompts));
  if (!asked.ok()) return FromStatus(asked);
  return answer;
}

void CompletionFront::Handle(const httplib::Request& http, httplib::Response& response, bool chat) {
  if (stopping_.load()) return Respond({503, "the worker stops", "", "stopping"}, response);
  std::variant<CompletionRequest, ApiError> parsed = ParseCompletionRequest(http.body, chat);
  if (const auto* error = std::get_if<ApiError>(&parsed)) return Respond(*error, response);
  auto begun = Begin(std::get<CompletionRequest>(std::move(parsed)));
  if (const auto* error = std::get_if<ApiError>(&begun)) return Respond(*error, response);
  auto answer = std::get<std::shared_ptr<Answer>>(std::move(begun));
  if (answer->request.stream) {
    RespondInParts(std::move(answer), response);
  } else {
    RespondWhole(*answer, response);
  }
}

void CompletionFront::RespondWhole(Answer& answer, httplib::Response& response) {
  std::vector<ApiChoice> choices(answer.choices());
  for (size_t i = 0; i < choices.size(); ++i) choices[i].index = static_cast<int>(i);
  while (!answer.done()) {
    absl::StatusOr<std::vector<ApiChoice>> parts = answer.Next();
    if (!parts.ok()) return Respond(FromStatus(parts.status()), response);
    for (ApiChoice& part : *parts) {
      ApiChoice& choice = choices[static_cast<size_t>(part.index)];
      choice.text += part.text;
      if (part.finish != FinishReason::kUnspecified) choice.finish = part.finish;
      for (ApiToken& token : part.tokens) choice.tokens.push_back(std::move(token));
    }
  }
  response.set_content(AnswerJson(answer.head, choices, answer.usage), kJson);
}

void CompletionFront::RespondInParts(std::shared_ptr<Answer> answer, httplib::Response& response) {
  response.set_header("Cache-Control", "no-cache");
  const auto provider = [answer, quiet = 0](size_t, httplib::DataSink& sink) mutable {
    absl::StatusOr<std::vector<ApiChoice>> parts = answer->Next();
    std::string out;
    if (!parts.ok()) {
      out = ErrorEvent(FromStatus(parts.status()));
      (void)sink.write(out.data(), out.size());
      sink.done();
      return true;
    }
    for (const ApiChoice& part : *parts) {
      out += ChunkEvent(answer->head, part, answer->Opens(part.index));
    }
    if (answer->done()) {
      if (answer->request.stream_usage) out += UsageEvent(answer->head, answer->usage);
      out.append(kDoneEvent.data(), kDoneEvent.size());
    }
    quiet = out.empty() ? quiet + 1 : 0;
    if (quiet == kTicksToComment) {
      out = ": waiting\n\n";
      quiet = 0;
    }
    if (!out.empty() && !sink.write(out.data(), out.size())) return false;
    if (answer->done()) sink.done();
    return true;
  };
  response.set_chunked_content_provider("text/event-stream", provider);
}

}  // namespace crescendo
