// Every key of the configuration in one table: its section, its type (that of the field it points
// to) and its range. Reading, overriding, writing and the digest all walk this table, so a key is
// named once. Private to common/config.
//
// The table points into the RunConfig it was made from and must not outlive it.
#ifndef CRESCENDO_COMMON_CONFIG_CONFIG_FIELDS_H_
#define CRESCENDO_COMMON_CONFIG_CONFIG_FIELDS_H_

#include <map>
#include <string>
#include <variant>
#include <vector>

#include "absl/strings/string_view.h"
#include "common/config/run_config.h"

namespace crescendo {

using ConfigTarget =
    std::variant<bool*, int*, int64_t*, uint64_t*, double*, std::string*, absl::Duration*,
                 std::vector<int>*, std::map<std::string, double>*>;

// What a text must look like.
enum class TextForm {
  kAny,
  kName,  // [a-z0-9-]{1,63}
  kOptionalName,
  kEndpoint,  // host:port
  kOptionalEndpoint,
  kPath,    // made absolute from the recipe's folder
  kChoice,  // one of `choices`
};

struct ConfigField {
  const char* key;
  ConfigTarget target;
  // Numbers, elements of a list, and durations in seconds: [min, max], or (min, max] when min_open.
  double min = 0;
  double max = 0;
  bool min_open = false;
  TextForm form = TextForm::kAny;
  std::vector<const char*> choices = {};
  bool digested = true;  // part of ConfigDigest, when its section is
};

struct ConfigFields {
  const char* section;
  bool digested = false;  // whether ConfigDigest covers the section
  std::vector<ConfigField> fields;
};

// All sections but the lists ([[stage]], [[evaluation_set]]), in the order of the file that ToToml
// writes.
std::vector<ConfigFields> FieldsOf(RunConfig& config);
// Keys of a stage; behind them, from kStageOwnFields on, those of [objective] that it may override.
std::vector<ConfigField> FieldsOfStage(StageSection& stage);
inline constexpr size_t kStageOwnFields = 10;
std::vector<ConfigField> FieldsOfObjective(ObjectiveSection& objective);
std::vector<ConfigField> FieldsOfEvaluationSet(EvaluationSetSection& set);

// What a field takes, in words: "an integer in [1, 64]".
std::string Expectation(const ConfigField& field);

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_CONFIG_CONFIG_FIELDS_H_
