// Reading JSON lines one by one, from a file or standard input, and the fields that grading needs
// of them.
#ifndef CRESCENDO_SERVICES_REWARD_JSON_LINES_H_
#define CRESCENDO_SERVICES_REWARD_JSON_LINES_H_

#include <cstdint>
#include <istream>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace crescendo {

// Longer lines are malformed.
inline constexpr size_t kJsonLineBytesMax = 24u << 20;

// Reads lines within a bound. Not thread-safe; the stream outlives it.
class LineReader {
 public:
  explicit LineReader(std::istream* in) : in_(*in) {}

  // The next line that is not blank; false at the end. `too_long` lines are cut.
  bool Next(std::string* line, bool* too_long);
  int64_t number() const { return number_; }  // of the line, from 1
  int64_t bytes() const { return bytes_; }    // read so far

 private:
  std::istream& in_;
  int64_t number_ = 0;
  int64_t bytes_ = 0;
};

// One object; InvalidArgument says what it is instead.
absl::StatusOr<nlohmann::json> ParseObject(const std::string& line, bool too_long);

// A string field; "" when it is absent and not `required`.
absl::StatusOr<std::string> StringField(const nlohmann::json& object, const char* key,
                                        bool required);

// "answer" (or "gold"): a string, a number, or a list of those.
absl::StatusOr<std::vector<std::string>> GoldField(const nlohmann::json& object);

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_REWARD_JSON_LINES_H_
