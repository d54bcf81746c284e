#include "services/coordinator/page_server.h"

#include <httplib.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "common/base/status_macros.h"
#include "common/rpc/address.h"
#include "services/coordinator/page_files.h"
#include "services/coordinator/page_json.h"

namespace crescendo {

namespace {

constexpr absl::Duration kAnswerMax = absl::Seconds(5);
constexpr int64_t kStepsMax = 2000;
constexpr int64_t kSamplesMax = 200;
constexpr size_t kFilterBytesMax = 256;
constexpr const char* kPolicy =
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

// What `read` makes of the state, from the core's thread. A caller that has given up leaves nothing
// behind that could be written to.
template <typename T>
absl::StatusOr<T> Ask(CoordinatorHost& host,
                      std::function<T(const CoordinatorState&, absl::Time)> read) {
  struct Answer {
    absl::Notification done;
    absl::Status status;
    T value;
  };
  auto answer = std::make_shared<Answer>();
  CoordinatorHost::Call call;
  call.attempt = [answer, read = std::move(read)](CoordinatorState& state, absl::Time now,
                                                  bool) -> std::optional<absl::Status> {
    answer->value = read(state, now);
    return absl::OkStatus();
  };
  call.done = [answer](const absl::Status& status) {
    answer->status = status;
    answer->done.Notify();
  };
  host.Submit(std::move(call));
  if (!answer->done.WaitForNotificationWithTimeout(kAnswerMax)) {
    return absl::DeadlineExceededError("the coordinator is busy");
  }
  RETURN_IF_ERROR(answer->status);
  return std::move(answer->value);
}

void AnswerJson(const absl::StatusOr<nlohmann::json>& json, httplib::Response& response) {
  response.set_header("Cache-Control", "no-store");
  if (json.ok()) {
    response.set_content(ToText(*json), "application/json");
    return;
  }
  response.status = absl::IsInvalidArgument(json.status()) ? 400 : 503;
  response.set_content(ToText({{"error", std::string(json.status().message())}}),
                       "application/json");
}

// A parameter as an integer in [low, high]; `otherwise` when it is not there.
absl::StatusOr<int64_t> Integer(const httplib::Request& request, const char* name,
                                int64_t otherwise, int64_t low, int64_t high) {
  if (!request.has_param(name)) return otherwise;
  int64_t value = 0;
  const std::string text = request.get_param_value(name);
  if (absl::SimpleAtoi(text, &value) && value >= low && value <= high) return value;
  return absl::InvalidArgumentError(absl::StrCat(name, ": expected an integer of ", low, " to ",
                                                 high, ", found '", text.substr(0, 40), "'"));
}

absl::StatusOr<nlohmann::json> Steps(const httplib::Request& request, CoordinatorHost& host) {
  ASSIGN_OR_RETURN(const int64_t from, Integer(request, "from", 0, 0, INT64_MAX));
  ASSIGN_OR_RETURN(const int64_t max, Integer(request, "max", kStepsMax, 1, kStepsMax));
  ASSIGN_OR_RETURN(const HistoryView history,
                   Ask<HistoryView>(host, [from, max](const CoordinatorState& state, absl::Time) {
                     return state.History(from, static_cast<size_t>(max));
                   }));
  return StepsJson(history, from, static_cast<size_t>(max));
}

absl::StatusOr<SampleQuery> ToQuery(const httplib::Request& request) {
  SampleQuery query;
  const std::string verdict = request.get_param_value("verdict");
  if (verdict == "correct") query.verdict = Verdict::kCorrect;
  if (verdict == "incorrect") query.verdict = Verdict::kIncorrect;
  if (verdict == "undecided") query.verdict = Verdict::kUndecided;
  if (!verdict.empty() && !query.verdict) {
    return absl::InvalidArgumentError("verdict: expected correct, incorrect or undecided");
  }
  const std::string purpose = request.get_param_value("purpose");
  if (purpose == "training") query.purpose = GroupPurpose::kTrain;
  if (purpose == "evaluation") query.purpose = GroupPurpose::kEvaluate;
  if (!purpose.empty() && !query.purpose) {
    return absl::InvalidArgumentError("purpose: expected training or evaluation");
  }
  query.truncated = request.get_param_value("truncated") == "1";
  query.problem = request.get_param_value("problem").substr(0, kFilterBytesMax);
  ASSIGN_OR_RETURN(const int64_t below, Integer(request, "below", INT64_MAX, 0, INT64_MAX));
  query.below = static_cast<uint64_t>(below);
  ASSIGN_OR_RETURN(const int64_t max, Integer(request, "max", 50, 1, kSamplesMax));
  query.max = static_cast<size_t>(max);
  return query;
}

absl::StatusOr<nlohmann::json> Samples(const httplib::Request& request,
                                       const ShownSamples& samples) {
  ASSIGN_OR_RETURN(const SampleQuery query, ToQuery(request));
  return nlohmann::json{{"samples", SamplesJson(samples.Find(query))},
                        {"kept", samples.kept()},
                        {"newest", samples.newest_id()}};
}

const char* ContentType(absl::string_view name) {
  if (absl::EndsWith(name, ".js")) return "text/javascript; charset=utf-8";
  if (absl::EndsWith(name, ".css")) return "text/css; charset=utf-8";
  if (absl::EndsWith(name, ".svg")) return "image/svg+xml";
  return "text/html; charset=utf-8";
}

void AddFiles(httplib::Server& routes) {
  for (const EmbeddedFile& file : PageFiles()) {
    const auto answer = [&file](const httplib::Request&, httplib::Response& response) {
      response.set_header("Cache-Control", "no-cache");
      response.set_content(file.bytes.data(), file.bytes.size(), ContentType(file.name));
    };
    if (file.name == "index.html") routes.Get("/", answer);
    routes.Get(absl::StrCat("/", file.name), answer);
  }
}

// Whether the request's Host is this machine by number or as localhost.
bool NamesLoopback(const httplib::Request& request) {
  std::string host = request.get_header_value("Host");
  if (host.find(':') == std::string::npos || absl::EndsWith(host, "]")) host += ":80";
  const absl::StatusOr<Address> address = ParseAddress(host);
  return address.ok() && IsLoopback(address->host);
}

void Guard(bool loopback, httplib::Server& routes) {
  routes.set_default_headers({{"Content-Security-Policy", kPolicy},
                              {"X-Content-Type-Options", "nosniff"},
                              {"Referrer-Policy", "no-referrer"}});
  routes.set_pre_routing_handler(
      [loopback](const httplib::Request& request, httplib::Response& response) {
        const bool reads = request.method == "GET" || request.method == "HEAD";
        if (reads && (!loopback || NamesLoopback(request))) {
          return httplib::Server::HandlerResponse::Unhandled;
        }
        response.status = reads ? 403 : 405;
        response.set_content(reads ? "this page answers on the loopback only\n" : "GET only\n",
                             "text/plain");
        return httplib::Server::HandlerResponse::Handled;
      });
}

}  // namespace

absl::StatusOr<std::unique_ptr<PageServer>> PageServer::Start(const PageOptions& options,
                                                              CoordinatorHost* host,
                                                              const ShownSamples* samples) {
  std::unique_ptr<PageServer> page(new PageServer());
  ASSIGN_OR_RETURN(const Address address, ParseAddress(options.address));
  HttpServerOptions http;
  http.address = options.address;
  http.who = "coordinator page";
  http.insecure = options.insecure;
  const auto add_routes = [&](httplib::Server& routes) {
    Guard(IsLoopback(address.host), routes);
    AddFiles(routes);
    routes.Get("/api/status", [host](const httplib::Request&, httplib::Response& response) {
      const auto view = Ask<RunView>(
          *host, [](const CoordinatorState& state, absl::Time now) { return state.View(now); });
      AnswerJson(view.ok() ? absl::StatusOr<nlohmann::json>(StatusJson(*view)) : view.status(),
                 response);
    });
    routes.Get("/api/steps", [host](const httplib::Request& request, httplib::Response& response) {
      AnswerJson(Steps(request, *host), response);
    });
    routes.Get("/api/samples",
               [samples](const httplib::Request& request, httplib::Response& response) {
                 AnswerJson(Samples(request, *samples), response);
               });
  };
  ASSIGN_OR_RETURN(page->server_, HttpServer::Start(http, add_routes));
  return page;
}

std::string PageServer::url() const { return absl::StrCat("http://", server_->address(), "/"); }

}  // namespace crescendo
