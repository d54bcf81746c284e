// The wire says what the cores say: every field survives the trip, and what does not hold together
// is refused by name.
#include "common/convert/convert.h"

#include <functional>
#include <limits>

#include "absl/strings/match.h"
#include "catch2/catch.hpp"
#include "google/protobuf/util/message_differencer.h"

namespace crescendo {
namespace {

// Sets every field of a message to a value of its own, so that a forgotten one shows.
void FillEveryField(google::protobuf::Message& message, int& next) {
  using google::protobuf::FieldDescriptor;
  const auto* reflection = message.GetReflection();
  for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
    const FieldDescriptor* field = message.GetDescriptor()->field(i);
    ++next;
    const bool repeated = field->is_repeated();
    switch (field->cpp_type()) {
#define FILL(TYPE, Suffix, value)                               \
  case FieldDescriptor::TYPE:                                   \
    repeated ? reflection->Add##Suffix(&message, field, value)  \
             : reflection->Set##Suffix(&message, field, value); \
    break;
      FILL(CPPTYPE_UINT32, UInt32, static_cast<uint32_t>(next))
      FILL(CPPTYPE_UINT64, UInt64, static_cast<uint64_t>(next))
      FILL(CPPTYPE_INT64, Int64, static_cast<int64_t>(next))
      FILL(CPPTYPE_DOUBLE, Double, next + 0.5)
      FILL(CPPTYPE_FLOAT, Float, -static_cast<float>(next))
      FILL(CPPTYPE_BOOL, Bool, true)
      FILL(CPPTYPE_STRING, String, std::to_string(next))
      FILL(CPPTYPE_ENUM, EnumValue, 2)
#undef FILL
      case FieldDescriptor::CPPTYPE_MESSAGE:
        FillEveryField(repeated ? *reflection->AddMessage(&message, field)
                                : *reflection->MutableMessage(&message, field),
                       next);
        break;
      default:
        FAIL("a field type that the test does not fill: " << field->full_name());
    }
  }
}

template <typename T>
T ValueOf(T value) {
  return value;
}
template <typename T>
T ValueOf(absl::StatusOr<T> value) {
  INFO(value.status().ToString());
  REQUIRE(value.ok());
  return *std::move(value);
}

template <typename Proto>
void CheckRoundTrip(const std::function<void(Proto&)>& adjust = [](Proto&) {}) {
  Proto proto;
  int next = 0;
  FillEveryField(proto, next);
  adjust(proto);
  const Proto back = ToProto(ValueOf(FromProto(proto)));
  INFO(Proto::descriptor()->name());
  std::string difference;
  google::protobuf::util::MessageDifferencer differencer;
  differencer.ReportDifferencesToString(&difference);
  const bool same = differencer.Compare(proto, back);
  INFO(difference);
  CHECK(same);
}

void MakeConsistent(v1::SampleChunk& chunk) {
  chunk.mutable_versions(0)->set_tokens(1);
  chunk.mutable_header()->set_temperature(0.5f);
}

TEST_CASE("Every field of every message survives the trip") {
  CheckRoundTrip<v1::SamplingParams>([](auto& m) {
    m.set_temperature(0.7f);
    m.set_top_p(0.9f);
    m.set_min_p(0.1f);
  });
  CheckRoundTrip<v1::RewardSpec>();
  CheckRoundTrip<v1::LeasedGroup>([](auto& m) {
    m.mutable_sampling()->set_temperature(0.7f);
    m.mutable_sampling()->set_top_p(0.9f);
    m.mutable_sampling()->set_min_p(0.1f);
  });
  CheckRoundTrip<v1::CompleteGroupRequest>();
  CheckRoundTrip<v1::StepPlan>([](auto& m) { m.set_learning_rate(1e-6); });
  CheckRoundTrip<v1::GroupOutcome>();
  CheckRoundTrip<v1::StepMetrics>();
  CheckRoundTrip<v1::SampleChunk>(MakeConsistent);
  CheckRoundTrip<v1::ChunkAck>();
  CheckRoundTrip<v1::ResumeResponse>(
      [](auto& m) { m.mutable_samples(0)->mutable_versions(0)->set_tokens(1); });
}

v1::SampleChunk GoodChunk() {
  v1::SampleChunk chunk;
  int next = 0;
  FillEveryField(chunk, next);
  MakeConsistent(chunk);
  return chunk;
}

void CheckRefused(const char* field, const std::function<void(v1::SampleChunk&)>& spoil) {
  v1::SampleChunk chunk = GoodChunk();
  REQUIRE(FromProto(chunk).ok());
  spoil(chunk);
  const absl::Status status = FromProto(chunk).status();
  INFO(field << " -> " << status.ToString());
  CHECK(status.code() == absl::StatusCode::kInvalidArgument);
  CHECK(absl::StrContains(status.message(), field));
}

TEST_CASE("A chunk that does not hold together is refused by the field's name") {
  CheckRefused("sample", [](auto& c) { c.set_sample(1u << 31); });
  CheckRefused("tokens", [](auto& c) { c.set_tokens(0, ~0u); });
  CheckRefused("log_probs: count", [](auto& c) { c.add_log_probs(-1); });
  CheckRefused("log_probs", [](auto& c) { c.set_log_probs(0, 0.5f); });
  CheckRefused("log_probs",
               [](auto& c) { c.set_log_probs(0, std::numeric_limits<float>::quiet_NaN()); });
  CheckRefused("versions: sum", [](auto& c) { c.clear_versions(); });
  CheckRefused("versions.version", [](auto& c) { c.mutable_versions(0)->set_version(-1); });
  CheckRefused("header.samples", [](auto& c) { c.mutable_header()->set_samples(0); });
  CheckRefused("header.prompt_tokens", [](auto& c) { c.mutable_header()->clear_prompt_tokens(); });
  CheckRefused("close.finish",
               [](auto& c) { c.mutable_close()->set_finish(v1::FINISH_REASON_UNSPECIFIED); });
  CheckRefused("verdict", [](auto& c) { c.mutable_close()->set_verdict(v1::Verdict(17)); });
  CheckRefused("close.reward", [](auto& c) {
    c.mutable_close()->set_reward(std::numeric_limits<double>::infinity());
  });
}

}  // namespace
}  // namespace crescendo
