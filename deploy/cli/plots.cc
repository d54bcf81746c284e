#include "deploy/cli/plots.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "common/base/status_macros.h"
#include "deploy/cli/child_process.h"

namespace crescendo {
namespace {

constexpr const char* kPalette[] = {"#1f6feb", "#d1495b", "#2a9d5c",
                                    "#8a5cd1", "#e09f3e", "#5b6470"};

// Text inside gnuplot's double quotes, without enhanced mode.
std::string Quoted(const std::string& text) {
  return absl::StrCat(
      "\"", absl::StrReplaceAll(text, {{"\\", "\\\\"}, {"\"", "\\\""}, {"\n", " "}, {"`", "'"}}),
      "\"");
}

std::string XmlEscape(const std::string& text) {
  return absl::StrReplaceAll(text, {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}});
}

std::string Number(double value) { return absl::StrFormat("%.10g", value); }

std::string DataBlock(const std::string& name, const PlotSeries& series) {
  std::string out = absl::StrCat("$", name, " << EOD\n");
  for (const PlotPoint& p : series.points) {
    if (!std::isfinite(p.x) || !std::isfinite(p.y)) continue;
    absl::StrAppend(&out, Number(p.x), " ", Number(p.y), " ", Number(p.low), " ", Number(p.high),
                    "\n");
  }
  return out + "EOD\n";
}

std::string Title(const PlotSeries& series) {
  return series.name.empty() ? "notitle" : absl::StrCat("title ", Quoted(series.name));
}

// The parts of the plot command that draw one series.
std::vector<std::string> Draw(const std::string& name, const PlotSeries& series) {
  const std::string color = absl::StrCat("lc rgb '", PaletteColor(series.color), "'");
  const std::string data = absl::StrCat("$", name, " using ");
  const std::string line = absl::StrCat(data, "1:2 with lines ", color, " lw 2 ");
  switch (series.style) {
    case PlotStyle::kLine:
      return {absl::StrCat(line, Title(series))};
    case PlotStyle::kSteps:
      return {absl::StrCat(data, "1:2 with steps ", color, " lw 2 dt 2 ", Title(series))};
    case PlotStyle::kLineWithErrors:
      return {absl::StrCat(line, "notitle"), absl::StrCat(data, "1:2:3:4 with yerrorbars ", color,
                                                          " lw 1.4 pt 7 ps 0.5 ", Title(series))};
    case PlotStyle::kLineWithBand:
      return {absl::StrCat(data, "1:3:4 with filledcurves ", color,
                           " fs transparent solid 0.15 noborder notitle"),
              absl::StrCat(line, Title(series))};
  }
  return {};
}

bool HasPoints(const Plot& plot) {
  return std::any_of(plot.series.begin(), plot.series.end(),
                     [](const PlotSeries& series) { return !series.points.empty(); });
}

std::string Script(const Plot& plot) {
  std::string out = absl::StrFormat(
      "set terminal svg size %d,%d dynamic noenhanced font 'Helvetica,12' name '%s' background "
      "'#ffffff'\nset encoding utf8\nset title %s font ',13'\nset xlabel %s\nset ylabel %s\n"
      "set grid ytics lc rgb '#dddddd' lt 1\nset border 3 lc rgb '#666666'\n"
      "set xtics nomirror\nset ytics nomirror\nset bars 0.5\n"
      "set key at screen 0.53, screen 0.04 center horizontal reverse Left samplen 2\n",
      plot.width, plot.height, plot.id, Quoted(plot.title), Quoted(plot.x_label),
      Quoted(plot.y_label));
  // Room for the key under the axis, where it hides nothing.
  const bool key = std::any_of(plot.series.begin(), plot.series.end(),
                               [](const PlotSeries& series) { return !series.name.empty(); });
  if (key) absl::StrAppend(&out, "set bmargin 5\n");
  // Thousands and millions of tokens as "20k" and "1.5M".
  double largest = 0;
  for (const PlotSeries& series : plot.series) {
    for (const PlotPoint& p : series.points) largest = std::max(largest, p.x);
  }
  if (largest >= 5000) absl::StrAppend(&out, "set format x '%.0s%c'\n");
  if (plot.log_y)
    absl::StrAppend(&out, "set logscale y\nset format y '10^{%L}'\nset format y '%.0e'\n");
  if (plot.y_max > plot.y_min) {
    absl::StrAppend(&out, "set yrange [", Number(plot.y_min), ":", Number(plot.y_max), "]\n");
  } else if (!plot.log_y) {
    absl::StrAppend(&out, "set yrange [0:*]\n");
  }
  for (const PlotMark& mark : plot.marks) {
    absl::StrAppendFormat(
        &out,
        "set arrow from %s, graph 0 to %s, graph 1 nohead dt 3 lc rgb '#666666'\n"
        "set label %s at %s, graph 0.97 offset 0.4,0 tc rgb '#666666' font ',10'\n",
        Number(mark.x), Number(mark.x), Quoted(mark.text), Number(mark.x));
  }
  std::vector<std::string> parts;
  for (size_t i = 0; i < plot.series.size(); ++i) {
    if (plot.series[i].points.empty()) continue;
    const std::string name = absl::StrCat("d", i);
    absl::StrAppend(&out, DataBlock(name, plot.series[i]));
    for (std::string& part : Draw(name, plot.series[i])) parts.push_back(std::move(part));
  }
  return absl::StrCat(out, "plot ", absl::StrJoin(parts, ", "), "\n");
}

}  // namespace

const char* PaletteColor(int index) {
  return kPalette[static_cast<size_t>(index) % (sizeof(kPalette) / sizeof(kPalette[0]))];
}

absl::StatusOr<std::string> DrawPlot(const Plot& plot) {
  if (!HasPoints(plot)) return std::string("<p class=\"empty\">nothing to plot yet</p>");
  ASSIGN_OR_RETURN(const std::string svg, RunTool({"gnuplot"}, Script(plot)));
  const size_t start = svg.find("<svg");
  if (start == std::string::npos) return absl::InternalError("gnuplot gave no SVG");
  // gnuplot's title is the name of the file: what a pointer over the plot shows.
  return absl::StrReplaceAll(svg.substr(start),
                             {{absl::StrCat("<title>", plot.id, "</title>"),
                               absl::StrCat("<title>", XmlEscape(plot.title), "</title>")}});
}

}  // namespace crescendo
