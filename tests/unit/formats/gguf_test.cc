// GGUF files are read to the last field, and no damaged or hostile one gets through.
#include "common/formats/gguf.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "catch2/catch.hpp"
#include "common/base/rng.h"
#include "common/formats/gguf_writer.h"
#include "tests/support/one_file.h"
#include "tests/support/temp_dir.h"

namespace crescendo {
namespace {

template <typename T>
std::string Le(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof(value));
}
std::string Str(const std::string& text) { return Le<uint64_t>(text.size()) + text; }
std::string Header(uint64_t tensors, uint64_t values, uint32_t version = 3) {
  return "GGUF" + Le(version) + Le(tensors) + Le(values);
}
std::string TensorInfo(const std::string& name, std::vector<uint64_t> ne, uint32_t type,
                       uint64_t offset) {
  std::string out = Str(name) + Le<uint32_t>(static_cast<uint32_t>(ne.size()));
  for (const uint64_t n : ne) out += Le(n);
  return out + Le(type) + Le(offset);
}
std::string Padded(std::string bytes, size_t alignment = 32) {
  bytes.resize((bytes.size() + alignment - 1) / alignment * alignment);
  return bytes;
}

std::string ErrorOf(const std::string& bytes) {
  OneFile files(bytes);
  const auto file = GgufFile::Open(files, "input");
  if (file.ok()) return "OK";
  CHECK(file.status().code() == absl::StatusCode::kInvalidArgument);
  const std::string message(file.status().message());
  CHECK(message.substr(0, 5) == "input");
  return message.substr(5);
}

std::string SmallFile() {
  std::string bytes = Header(2, 7);
  bytes += Str("general.architecture") + Le<uint32_t>(8) + Str("llama");
  bytes += Str("n") + Le<uint32_t>(5) + Le<int32_t>(-3);
  bytes += Str("eps") + Le<uint32_t>(6) + Le<float>(0.5f);
  bytes += Str("flag") + Le<uint32_t>(7) + Le<uint8_t>(1);
  bytes +=
      Str("tokens") + Le<uint32_t>(9) + Le<uint32_t>(8) + Le<uint64_t>(2) + Str("a") + Str("bc");
  bytes += Str("types") + Le<uint32_t>(9) + Le<uint32_t>(5) + Le<uint64_t>(2) + Le<int32_t>(1) +
           Le<int32_t>(-1);
  bytes += Str("scores") + Le<uint32_t>(9) + Le<uint32_t>(6) + Le<uint64_t>(1) + Le<float>(1.5f);
  bytes += TensorInfo("w", {2, 3}, 0, 0) + TensorInfo("q", {32, 1}, 8, 32);
  bytes = Padded(bytes);
  std::string w;
  for (int i = 0; i < 6; ++i) w += Le<float>(static_cast<float>(i));
  bytes += Padded(w);
  bytes += Le<uint16_t>(0x3800);  // 0.5
  for (int i = 0; i < 32; ++i) bytes += Le<int8_t>(static_cast<int8_t>(i - 16));
  return bytes;
}

TEST_CASE("metadata and tensors are read with their types and shapes") {
  TempDir dir;
  REQUIRE(dir.files->WriteFile(dir / "m", SmallFile()).ok());
  const auto opened = GgufFile::Open(*dir.files, dir / "m");
  REQUIRE(opened.ok());
  const GgufFile& file = **opened;
  CHECK(*file.GetString("general.architecture") == "llama");
  CHECK(*file.GetInt("n") == -3);
  CHECK(*file.GetFloat("eps") == 0.5);
  CHECK(*file.GetBool("flag"));
  CHECK(**file.GetStrings("tokens") == std::vector<absl::string_view>{"a", "bc"});
  CHECK(**file.GetInts("types") == std::vector<int64_t>{1, -1});
  CHECK(**file.GetFloats("scores") == std::vector<double>{1.5});
  CHECK(file.GetInt("no").status().ToString() ==
        absl::StrCat("NOT_FOUND: ", dir / "m", ": key 'no' is missing"));
  CHECK(std::string(file.GetInt("eps").status().message()) ==
        absl::StrCat(dir / "m", ": key 'eps': expected a whole number"));
  REQUIRE(file.tensors().size() == 2);
  const GgufTensor* w = file.Find("w");
  CHECK(w->shape == std::vector<int64_t>{3, 2});
  std::vector<float> out(6);
  REQUIRE(Dequantize(*w, absl::MakeSpan(out)).ok());
  CHECK(out == std::vector<float>{0, 1, 2, 3, 4, 5});
  const GgufTensor* q = file.Find("q");
  CHECK(q->elements() == 32);
  out.resize(32);
  REQUIRE(Dequantize(*q, absl::MakeSpan(out)).ok());
  CHECK(out[0] == -8.0f);
  CHECK(out[31] == 7.5f);
}

TEST_CASE("hostile headers are refused without allocation") {
  CHECK(ErrorOf("") == ": expected a GGUF file, but it does not start with 'GGUF'");
  CHECK(ErrorOf("GGUX0000") == ": expected a GGUF file, but it does not start with 'GGUF'");
  CHECK(ErrorOf(Header(0, 0, 1)) == ": expected GGUF version 2 or 3 (little-endian), found 1");
  CHECK(ErrorOf(Header(0, 0, 0x03000000)).find("found 50331648") != std::string::npos);
  CHECK(ErrorOf(Header(0, 0, 2)) == "OK");
  CHECK(ErrorOf(Header(1ull << 63, 0)) ==
        ": the file ends (after 24 bytes) inside a tensor's name: cut short or damaged");
  CHECK(ErrorOf(Header(0, 1ull << 63)) ==
        ": the file ends (after 24 bytes) inside a metadata key: cut short or damaged");
  CHECK(ErrorOf(Header(0, 1) + Le<uint64_t>(~0ull)) ==
        ": the file ends (after 32 bytes) inside a metadata key: cut short or damaged");
  CHECK(ErrorOf(Header(0, 1) + Str("k") + Le<uint32_t>(9) + Le<uint32_t>(4) +
                Le<uint64_t>(1ull << 62)) ==
        ": key 'k': a list of 4611686018427387904 elements, but the file ends after 0");
  CHECK(ErrorOf(Header(0, 1) + Str("k") + Le<uint32_t>(9) + Le<uint32_t>(8) +
                Le<uint64_t>(1ull << 62))
            .find(": the file ends (after 49 bytes) inside ") == 0);
}

TEST_CASE("hostile tensors are refused") {
  const auto one = [](const std::string& info, size_t data) {
    return ErrorOf(Padded(Header(1, 0) + info) + std::string(data, 'x'));
  };
  CHECK(one(TensorInfo("t", {2}, 0, 0), 8) == "OK");
  CHECK(one(TensorInfo("t", {2}, 0, 0), 7) ==
        ": tensor 't': its 8 bytes at 0 lie outside the 7 bytes of data (is the file cut short?)");
  CHECK(one(TensorInfo("t", {2}, 0, 1ull << 63), 8).find("lie outside") != std::string::npos);
  CHECK(one(TensorInfo("t", {2}, 0, 4), 64) ==
        ": tensor 't': offset 4 is no multiple of the alignment of 32");
  CHECK(one(TensorInfo("t", {1ull << 62, 8}, 0, 0), 8).find("a shape that is too large") !=
        std::string::npos);
  CHECK(one(TensorInfo("t", {1ull << 63}, 0, 0), 8).find("of size 9223372036854775808") !=
        std::string::npos);
  CHECK(one(TensorInfo("t", {33}, 8, 0), 64).find("no whole blocks of Q8_0") != std::string::npos);
  CHECK(one(TensorInfo("t", {2}, 99, 0), 8) == ": tensor 't': unknown tensor type 99");
  CHECK(one(TensorInfo("t", {1, 1, 1, 1, 1, 1, 1, 1, 1}, 0, 0), 8) ==
        ": tensor 't': expected at most 8 dimensions, found 9");
  const std::string twice = TensorInfo("t", {2}, 0, 0);
  CHECK(ErrorOf(Padded(Header(2, 0) + twice + twice) + std::string(64, 'x')) ==
        ": tensor 't' is there twice");
  CHECK(ErrorOf(Padded(Header(2, 0) + TensorInfo("a", {16}, 0, 0) + TensorInfo("b", {2}, 0, 32)) +
                std::string(64, 'x')) == ": tensors 'a' and 'b' overlap");
}

TEST_CASE("an alignment that is no power of two is refused") {
  const auto with = [](uint32_t alignment) {
    return ErrorOf(Header(0, 1) + Str("general.alignment") + Le<uint32_t>(4) + Le(alignment));
  };
  CHECK(with(64) == "OK");
  CHECK(with(0) == ": key 'general.alignment': expected a power of two up to 1048576, found 0");
  CHECK(with(24) == ": key 'general.alignment': expected a power of two up to 1048576, found 24");
}

TEST_CASE("every cut and many flipped bytes of a small file are either read or refused") {
  const std::string whole = SmallFile();
  REQUIRE(ErrorOf(whole) == "OK");
  for (size_t cut = 0; cut < whole.size(); ++cut) CHECK(ErrorOf(whole.substr(0, cut)) != "OK");
  CounterRng rng(11);
  for (int i = 0; i < 500; ++i) {
    std::string damaged = whole;
    damaged[rng.Below(damaged.size())] = static_cast<char>(rng.Below(256));
    ErrorOf(damaged);
  }
}

TEST_CASE("every type of a block has the size that ggml gives it") {
  CHECK(InfoOf(GgmlType::kQ4_1).block_bytes == 20);
  CHECK(InfoOf(GgmlType::kQ6_K).block_bytes == 210);
  CHECK(FindGgmlType(4) == nullptr);
  GgufTensor tensor;
  tensor.name = "t";
  tensor.type = GgmlType::kQ2_K;
  CHECK(Dequantize(tensor, {}).code() == absl::StatusCode::kUnimplemented);
}

TEST_CASE("what is written reads back") {
  TempDir dir;
  const auto row = [](int64_t index, absl::Span<float> out) {
    for (size_t i = 0; i < out.size(); ++i) {
      out[i] = static_cast<float>(index) + static_cast<float>(i) - 16.0f;
    }
  };
  const std::pair<std::string, GgufWriteValue> metadata[] = {
      {"general.architecture", std::string("llama")},
      {"b", true},
      {"u", uint32_t{7}},
      {"n", int32_t{-7}},
      {"f", 0.5f},
      {"s", std::vector<std::string>{"x", ""}},
      {"l", std::vector<int32_t>{1, -1}}};
  const GgufWriteTensor tensors[] = {
      {"f", GgmlType::kF32, {3}, row},        {"h", GgmlType::kF16, {2, 5}, row},
      {"b", GgmlType::kBF16, {1, 2, 4}, row}, {"q", GgmlType::kQ8_0, {3, 32}, row},
      {"r", GgmlType::kQ4_0, {1, 64}, row},   {"none", GgmlType::kF32, {0, 4}, row}};
  REQUIRE(WriteGguf(*dir.files, dir / "m", metadata, tensors).ok());
  const auto opened = GgufFile::Open(*dir.files, dir / "m");
  INFO(opened.status().ToString());
  REQUIRE(opened.ok());
  const GgufFile& file = **opened;
  CHECK(*file.GetString("general.architecture") == "llama");
  CHECK(*file.GetBool("b"));
  CHECK(*file.GetInt("u") == 7);
  CHECK(*file.GetInt("n") == -7);
  CHECK(*file.GetFloat("f") == 0.5);
  CHECK(**file.GetStrings("s") == std::vector<absl::string_view>{"x", ""});
  CHECK(**file.GetInts("l") == std::vector<int64_t>{1, -1});
  const double tolerances[] = {0,   0, 0, 0.07,
                               3.1, 0};  // half a step of the largest value; Q4_0 clips the top one
  for (size_t t = 0; t < file.tensors().size(); ++t) {
    const GgufTensor& tensor = file.tensors()[t];
    CHECK(tensor.shape == tensors[t].shape);
    std::vector<float> values(static_cast<size_t>(tensor.elements()));
    REQUIRE(Dequantize(tensor, absl::MakeSpan(values)).ok());
    const size_t columns = static_cast<size_t>(tensor.shape.back());
    for (size_t i = 0; i < values.size(); ++i) {
      const double expected =
          static_cast<double>(i / columns) + static_cast<double>(i % columns) - 16.0;
      CHECK(values[i] == Approx(expected).margin(tolerances[t]));
    }
  }
}

TEST_CASE("what cannot be written is refused and leaves nothing") {
  TempDir dir;
  const auto row = [](int64_t, absl::Span<float>) {};
  const auto code = [&](absl::Span<const GgufWriteTensor> tensors) {
    return WriteGguf(*dir.files, dir / "m", {}, tensors).code();
  };
  CHECK(code({{"t", GgmlType::kQ8_0, {33}, row}}) == absl::StatusCode::kInvalidArgument);
  CHECK(code({{"t", GgmlType::kQ4_K, {256}, row}}) == absl::StatusCode::kInvalidArgument);
  CHECK(code({{"t", GgmlType::kF32, {-1}, row}}) == absl::StatusCode::kInvalidArgument);
  CHECK(code({{"t", GgmlType::kF32, {1}, row}, {"t", GgmlType::kF32, {1}, row}}) ==
        absl::StatusCode::kInvalidArgument);
  CHECK(dir.files->ListDir(dir.path())->empty());
}

}  // namespace
}  // namespace crescendo
