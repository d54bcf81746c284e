#include "common/formats/jsonl.h"

#include <cmath>
#include <memory>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/formats/json.h"

namespace crescendo {
namespace {

// Escapes can double a text, and datasets carry whole solutions beside.
constexpr size_t kLineBytesMax = 4 * (limits::kProblemTextBytesMax + limits::kGoldTextBytesMax);
constexpr size_t kRowsMax = 20'000'000;
constexpr size_t kIdBytesMax = 1024;
constexpr size_t kAnswersMax = 256;

absl::StatusOr<std::string> TextOfAnswer(const Json& value, absl::string_view place) {
  std::string text;
  if (value.is_string()) {
    text = value.get<std::string>();
  } else if (value.is_number_float()) {
    const double number = value.get<double>();
    const bool whole = number == std::floor(number) && std::fabs(number) < 1e15;
    text = whole ? absl::StrCat(static_cast<int64_t>(number)) : value.dump();
  } else if (value.is_number()) {
    text = value.dump();
  } else {
    return absl::InvalidArgumentError(absl::StrCat(
        place, ": field 'answer': expected a string, a number or a list of strings, found ",
        value.type_name()));
  }
  if (absl::StripAsciiWhitespace(text).empty()) {
    return absl::InvalidArgumentError(absl::StrCat(place, ": field 'answer' is empty"));
  }
  if (text.size() > limits::kGoldTextBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat(place, ": field 'answer': expected at most ",
                                                   limits::kGoldTextBytesMax, " bytes, found ",
                                                   text.size()));
  }
  return text;
}

absl::StatusOr<const Json*> Field(const Json& row, const char* name, absl::string_view place) {
  const auto found = row.find(name);
  if (found == row.end() || found->is_null()) {
    return absl::InvalidArgumentError(absl::StrCat(
        place, ": field '", name, "' is missing; a row has at least id, problem and answer"));
  }
  return &*found;
}

}  // namespace

absl::StatusOr<DatasetRow> ParseDatasetRow(absl::string_view line, absl::string_view place) {
  ASSIGN_OR_RETURN(const Json json, ParseJson(line, place));
  if (!json.is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat(place, ": expected an object, found ", json.type_name()));
  }
  DatasetRow row;
  ASSIGN_OR_RETURN(const Json* id, Field(json, "id", place));
  if (id->is_string()) {
    row.id = id->get<std::string>();
  } else if (id->is_number_integer()) {
    row.id = id->dump();
  }
  if (row.id.empty() || row.id.size() > kIdBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat(place, ": field 'id': expected a whole number or a string of 1 to ",
                     kIdBytesMax, " bytes"));
  }
  ASSIGN_OR_RETURN(const Json* problem, Field(json, "problem", place));
  if (!problem->is_string()) {
    return absl::InvalidArgumentError(
        absl::StrCat(place, ": field 'problem': expected a string, found ", problem->type_name()));
  }
  row.problem = problem->get<std::string>();
  if (row.problem.empty() || row.problem.size() > limits::kProblemTextBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat(place, ": field 'problem': expected 1 to ",
                                                   limits::kProblemTextBytesMax, " bytes, found ",
                                                   row.problem.size()));
  }
  ASSIGN_OR_RETURN(const Json* answer, Field(json, "answer", place));
  if (answer->is_array()) {
    if (answer->empty() || answer->size() > kAnswersMax) {
      return absl::InvalidArgumentError(absl::StrCat(place, ": field 'answer': expected 1 to ",
                                                     kAnswersMax, " answers, found ",
                                                     answer->size()));
    }
    for (const Json& one : *answer) {
      ASSIGN_OR_RETURN(std::string text, TextOfAnswer(one, place));
      row.answers.push_back(std::move(text));
    }
  } else {
    ASSIGN_OR_RETURN(std::string text, TextOfAnswer(*answer, place));
    row.answers.push_back(std::move(text));
  }
  const auto level = json.find("level");
  if (level != json.end() && !level->is_null()) {
    if (!level->is_number()) {
      return absl::InvalidArgumentError(
          absl::StrCat(place, ": field 'level': expected a number, found ", level->type_name()));
    }
    row.level = level->get<double>();
  }
  const auto variant_of = json.find("variant_of");
  if (variant_of != json.end() && !variant_of->is_null()) {
    if (!variant_of->is_string() && !variant_of->is_number_integer()) {
      return absl::InvalidArgumentError(
          absl::StrCat(place, ": field 'variant_of': expected the id of another row, found ",
                       variant_of->type_name()));
    }
    row.variant_of = variant_of->is_string() ? variant_of->get<std::string>() : variant_of->dump();
  }
  return row;
}

absl::Status ForEachLine(FileSystem& files, const std::string& path,
                         absl::FunctionRef<absl::Status(size_t, absl::string_view)> take) {
  ASSIGN_OR_RETURN(const std::unique_ptr<MappedFile> map, files.MemoryMap(path));
  absl::string_view rest(map->bytes().data(), map->bytes().size());
  for (size_t number = 1; !rest.empty(); ++number) {
    const absl::string_view line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(rest.size(), line.size() + 1));
    if (line.size() > kLineBytesMax) {
      return absl::InvalidArgumentError(absl::StrCat(path, ":", number,
                                                     ": expected a line of at most ", kLineBytesMax,
                                                     " bytes, found ", line.size()));
    }
    if (absl::StripAsciiWhitespace(line).empty()) continue;
    RETURN_IF_ERROR(take(number, line));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<DatasetRow>> ReadDataset(FileSystem& files, const std::string& path) {
  std::vector<DatasetRow> rows;
  absl::flat_hash_map<std::string, size_t> line_of_id;
  RETURN_IF_ERROR(ForEachLine(files, path, [&](size_t number, absl::string_view line) {
    const std::string place = absl::StrCat(path, ":", number);
    absl::StatusOr<DatasetRow> row = ParseDatasetRow(line, place);
    if (!row.ok()) return row.status();
    const auto [known, is_new] = line_of_id.emplace(row->id, number);
    if (!is_new) {
      return absl::InvalidArgumentError(absl::StrCat(place, ": id '", absl::CHexEscape(row->id),
                                                     "' is the id of line ", known->second,
                                                     " too"));
    }
    if (rows.size() >= kRowsMax) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": expected at most ", kRowsMax, " rows"));
    }
    rows.push_back(*std::move(row));
    return absl::OkStatus();
  }));
  if (rows.empty()) return absl::InvalidArgumentError(absl::StrCat(path, ": holds no rows"));
  return rows;
}

}  // namespace crescendo
