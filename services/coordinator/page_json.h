// What the page asks for, as JSON. The fields are those of coordinator.proto, in words of the page.
// Pure.
#ifndef CRESCENDO_SERVICES_COORDINATOR_PAGE_JSON_H_
#define CRESCENDO_SERVICES_COORDINATOR_PAGE_JSON_H_

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "services/coordinator/run_view.h"
#include "services/coordinator/shown_samples.h"

namespace crescendo {

nlohmann::json StatusJson(const RunView& view);
// "next" is the step to ask for after these; "done" whether there are no more now.
nlohmann::json StepsJson(const HistoryView& history, int64_t from, size_t max);
nlohmann::json SamplesJson(const std::vector<std::shared_ptr<const ShownSample>>& samples);

// As one line; bytes that are no UTF-8 become U+FFFD, numbers that are no number null.
std::string ToText(const nlohmann::json& json);

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_COORDINATOR_PAGE_JSON_H_
