// Plots as SVG text, drawn by gnuplot.
#ifndef CRESCENDO_DEPLOY_CLI_PLOTS_H_
#define CRESCENDO_DEPLOY_CLI_PLOTS_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

namespace crescendo {

struct PlotPoint {
  double x = 0;
  double y = 0;
  double low = 0;  // of the band or error bar; low == high == y draws none
  double high = 0;
};

enum class PlotStyle {
  kLine,
  kLineWithErrors,  // points, error bars, joined
  kLineWithBand,    // a line in a band from low to high
  kSteps,           // a staircase
};

struct PlotSeries {
  std::string name;  // in the key; empty: not in it
  PlotStyle style = PlotStyle::kLine;
  int color = 0;  // index into the page's palette
  std::vector<PlotPoint> points;
};

struct PlotMark {
  double x = 0;
  std::string text;
};

struct Plot {
  std::string id;  // of the SVG: letters and digits, unique in the page
  std::string title;
  std::string x_label;
  std::string y_label;
  bool log_y = false;
  double y_min = 0, y_max = 0;  // equal: chosen by the data
  std::vector<PlotSeries> series;
  std::vector<PlotMark> marks;    // vertical dashed lines with a word at the top
  int width = 560, height = 300;  // pixels
};

// The SVG element, ready to stand in an HTML page. Blocks for a fraction of a second. Unavailable
// when there is no gnuplot; Internal with its words when it fails.
absl::StatusOr<std::string> DrawPlot(const Plot& plot);

// The same plots' colours, for a page's text: "#1f6feb".
const char* PaletteColor(int index);

}  // namespace crescendo

#endif  // CRESCENDO_DEPLOY_CLI_PLOTS_H_
