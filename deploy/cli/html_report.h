// report.html: a run as one page that needs nothing else: figures, plots, stages, configuration.
#ifndef CRESCENDO_DEPLOY_CLI_HTML_REPORT_H_
#define CRESCENDO_DEPLOY_CLI_HTML_REPORT_H_

#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "deploy/cli/run_client.h"

namespace crescendo {

// The page. `report` is ReportJson's. Draws its plots with gnuplot (blocks for a second or two);
// where there is no gnuplot the page says so in their place.
std::string HtmlReport(const std::string& name, const RunPicture& run,
                       const nlohmann::ordered_json& report, const std::string& config_toml);

// The parts that other pages share.
std::string HtmlEscape(absl::string_view text);
std::string HtmlPage(absl::string_view title, absl::string_view body);
// A row of figures: (name, value).
std::string HtmlFigures(const std::vector<std::pair<std::string, std::string>>& figures);
// The first row is the head.
std::string HtmlTable(const std::vector<std::vector<std::string>>& rows);

}  // namespace crescendo

#endif  // CRESCENDO_DEPLOY_CLI_HTML_REPORT_H_
