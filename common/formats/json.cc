#include "common/formats/json.h"

#include <string>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace crescendo {
namespace {

constexpr int kDepthMax = 64;
constexpr size_t kQuoteBytesMax = 80;

// Checks nesting and keys, and remembers where the parser stopped. The DOM is made by a second
// pass: nlohmann's own DOM builder is not for public use.
class Checker : public nlohmann::json_sax<Json> {
 public:
  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(std::size_t) override {
    keys_.emplace_back();
    return Deeper();
  }
  bool key(string_t& name) override {
    if (keys_.back().insert(name).second) return true;
    error =
        absl::StrCat("key '", absl::CHexEscape(name.substr(0, kQuoteBytesMax)), "' is there twice");
    return false;
  }
  bool end_object() override {
    keys_.pop_back();
    --depth_;
    return true;
  }
  bool start_array(std::size_t) override { return Deeper(); }
  bool end_array() override {
    --depth_;
    return true;
  }
  bool parse_error(std::size_t position, const std::string& last_token,
                   const nlohmann::detail::exception&) override {
    error = absl::StrCat("not valid JSON at byte ", position, ", near '",
                         absl::CHexEscape(last_token.substr(0, kQuoteBytesMax)), "'");
    return false;
  }

  std::string error;

 private:
  bool Deeper() {
    if (++depth_ <= kDepthMax) return true;
    error = absl::StrCat("nested deeper than ", kDepthMax);
    return false;
  }
  int depth_ = 0;
  std::vector<absl::flat_hash_set<std::string>> keys_;
};

}  // namespace

absl::StatusOr<Json> ParseJson(absl::string_view text, absl::string_view place) {
  Checker checker;
  const char* const begin = text.data();
  const char* const end = text.data() + text.size();
  if (!Json::sax_parse(begin, end, &checker)) {
    return absl::InvalidArgumentError(absl::StrCat(place, ": ", checker.error));
  }
  return Json::parse(begin, end, nullptr, false);
}

}  // namespace crescendo
