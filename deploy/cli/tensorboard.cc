#include "deploy/cli/tensorboard.h"

#include <bit>
#include <cstdint>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/crc32c.h"

namespace crescendo {
namespace {

using Json = nlohmann::ordered_json;

// Protobuf's wire format: a key is the field's number and the form of what follows.
enum Form { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

void AppendFixed(uint64_t value, int bytes, std::string* out) {
  for (int i = 0; i < bytes; ++i) out->push_back(static_cast<char>(value >> (8 * i)));
}
void AppendVarint(uint64_t value, std::string* out) {
  for (; value >= 0x80; value >>= 7) out->push_back(static_cast<char>(value | 0x80));
  out->push_back(static_cast<char>(value));
}
void AppendKey(int field, Form form, std::string* out) {
  AppendVarint(static_cast<uint64_t>(field) << 3 | form, out);
}
void AppendBytes(int field, absl::string_view bytes, std::string* out) {
  AppendKey(field, kBytes, out);
  AppendVarint(bytes.size(), out);
  out->append(bytes.data(), bytes.size());
}

// Summary.Value: tag = 1, simple_value = 2.
std::string ScalarValue(absl::string_view tag, float value) {
  std::string out;
  AppendBytes(1, tag, &out);
  AppendKey(2, kFixed32, &out);
  AppendFixed(std::bit_cast<uint32_t>(value), 4, &out);
  return out;
}

// Event: wall_time = 1, step = 2; and file_version = 3 or summary = 5.
std::string Event(absl::Time at, int64_t step, int field, absl::string_view bytes) {
  std::string out;
  AppendKey(1, kFixed64, &out);
  AppendFixed(std::bit_cast<uint64_t>(absl::ToDoubleSeconds(at - absl::UnixEpoch())), 8, &out);
  AppendKey(2, kVarint, &out);
  AppendVarint(static_cast<uint64_t>(step), &out);
  AppendBytes(field, bytes, &out);
  return out;
}

uint32_t Masked(absl::string_view bytes) {
  const uint32_t crc = Crc32c(bytes);
  return ((crc >> 15) | (crc << 17)) + 0xa282ead8u;
}

void AppendRecord(absl::string_view event, std::string* out) {
  std::string length;
  AppendFixed(event.size(), 8, &length);
  absl::StrAppend(out, length);
  AppendFixed(Masked(length), 4, out);
  out->append(event.data(), event.size());
  AppendFixed(Masked(event), 4, out);
}

double Number(const Json& json, const char* key) {
  return json.contains(key) && json[key].is_number() ? json[key].get<double>() : 0;
}

std::string SetName(const Json& json) {
  const bool named = json.contains("set") && json["set"].is_string();
  const std::string name = named ? json["set"].get<std::string>() : "";
  return name.empty() ? "set" : name;
}

}  // namespace

std::string TensorBoardEvents(absl::string_view metrics_jsonl, absl::Time begin) {
  std::string out;
  AppendRecord(Event(begin, 0, 3, "brain.Event:2"), &out);
  double elapsed = 0;
  for (const absl::string_view line : absl::StrSplit(metrics_jsonl, '\n', absl::SkipEmpty())) {
    const Json json = Json::parse(line.begin(), line.end(), nullptr, false);
    if (!json.is_object() || !json.contains("kind")) continue;
    const bool is_step = json["kind"] == "step";
    // An evaluation has no time of its own in the run: it is shown where the step before it ended.
    if (is_step) elapsed = Number(json, "elapsed_seconds");
    const std::string prefix = is_step ? "train/" : absl::StrCat("evaluation/", SetName(json), "/");
    std::string summary;
    for (const auto& [name, value] : json.items()) {
      if (name == "step" || !(value.is_number() || value.is_boolean())) continue;
      const double number = value.is_boolean() ? value.get<bool>() : value.get<double>();
      AppendBytes(1, ScalarValue(prefix + name, static_cast<float>(number)), &summary);
    }
    const int64_t trained = static_cast<int64_t>(Number(json, "step")) + (is_step ? 1 : 0);
    AppendRecord(Event(begin + absl::Seconds(elapsed), trained, 5, summary), &out);
  }
  return out;
}

}  // namespace crescendo
