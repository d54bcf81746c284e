// safetensors files round-trip, a real one is read, and no damaged one gets through.
#include "common/formats/safetensors.h"

#include <cstdlib>
#include <cstring>
#include <limits>

#include "absl/strings/str_cat.h"
#include "catch2/catch.hpp"
#include "common/base/rng.h"
#include "common/formats/half.h"
#include "tests/support/one_file.h"
#include "tests/support/temp_dir.h"

namespace crescendo {
namespace {

std::string FileOf(const std::string& header, const std::string& data) {
  const uint64_t length = header.size();
  std::string out(reinterpret_cast<const char*>(&length), sizeof(length));
  return out + header + data;
}

// The error of opening a file of these bytes, without the path; "OK" when it opens.
std::string ErrorOf(const std::string& bytes) {
  OneFile files(bytes);
  const auto file = SafetensorsFile::Open(files, "input");
  if (file.ok()) return "OK";
  CHECK(file.status().code() == absl::StatusCode::kInvalidArgument);
  const std::string message(file.status().message());
  CHECK(message.substr(0, 5) == "input");
  return message.substr(5);
}

TensorView View(const std::string& name, DType dtype, std::vector<int64_t> shape,
                const std::string& bytes) {
  TensorView view;
  view.name = name;
  view.dtype = dtype;
  view.shape = std::move(shape);
  view.bytes = absl::MakeConstSpan(bytes.data(), bytes.size());
  return view;
}

TEST_CASE("what is written reads back, aligned") {
  TempDir dir;
  const std::string odd(3, 'b'), floats("\x00\x00\x80\x3f\x00\x00\x00\x40", 8), empty,
      one("\x01\x02", 2);
  REQUIRE(WriteSafetensors(
              *dir.files, dir / "m",
              {View("odd", DType::kU8, {3}, odd), View("f \"q\"", DType::kF32, {1, 2}, floats),
               View("none", DType::kI64, {0, 5}, empty), View("scalar", DType::kBF16, {}, one)},
              {{"format", "pt"}})
              .ok());
  const auto file = SafetensorsFile::Open(*dir.files, dir / "m");
  REQUIRE(file.ok());
  CHECK((*file)->tensors().size() == 4);
  CHECK((*file)->metadata().at("format") == "pt");
  const TensorView* f = (*file)->Find("f \"q\"");
  REQUIRE(f != nullptr);
  CHECK(f->dtype == DType::kF32);
  CHECK(f->shape == std::vector<int64_t>{1, 2});
  CHECK(std::string(f->bytes.begin(), f->bytes.end()) == floats);
  CHECK(reinterpret_cast<uintptr_t>(f->bytes.data()) % 64 == 0);
  CHECK((*file)->Find("scalar")->elements() == 1);
  CHECK((*file)->Find("none")->elements() == 0);
  CHECK((*file)->Find("no") == nullptr);
  CHECK((*file)->Get("no").status().ToString() ==
        absl::StrCat("NOT_FOUND: ", dir / "m", ": tensor 'no' is missing"));
}

TEST_CASE("a tensor that does not fit its shape or repeats a name is not written") {
  TempDir dir;
  const std::string bytes(8, 'x');
  CHECK_FALSE(WriteSafetensors(*dir.files, dir / "m", {View("a", DType::kF32, {3}, bytes)}).ok());
  CHECK_FALSE(WriteSafetensors(*dir.files, dir / "m", {View("a", DType::kF32, {-2}, bytes)}).ok());
  CHECK_FALSE(
      WriteSafetensors(*dir.files, dir / "m",
                       {View("a", DType::kF32, {2}, bytes), View("a", DType::kF32, {2}, bytes)})
          .ok());
  CHECK_FALSE(dir.files->Exists(dir / "m"));
}

TEST_CASE("a damaged file is refused with the reason") {
  const auto entry = [](const char* dtype, const char* shape, const char* offsets) {
    return absl::StrCat(R"({"t":{"dtype":)", dtype, R"(,"shape":)", shape, R"(,"data_offsets":)",
                        offsets, "}}");
  };
  CHECK(ErrorOf(FileOf(entry("\"F32\"", "[2]", "[0,8]"), std::string(8, 'x'))) == "OK");
  CHECK(ErrorOf("") == ": expected a safetensors file, found 0 bytes");
  CHECK(ErrorOf(std::string("\xff\xff\xff\xff\xff\xff\xff\xff{}", 10)) ==
        ": the header's length of 18446744073709551615 bytes does not fit the file of 10 bytes (no "
        "safetensors "
        "file, or cut short)");
  CHECK(ErrorOf(FileOf(entry("\"F32\"", "[2]", "[0,8]"), std::string(7, 'x'))) ==
        ": tensor 't': bytes 0 to 8 lie outside the 7 bytes of data (is the file cut short?)");
  CHECK(ErrorOf(FileOf(entry("\"F32\"", "[3]", "[0,8]"), std::string(8, 'x'))) ==
        ": tensor 't': F32 of shape [3] takes 12 bytes, found 8");
  CHECK(ErrorOf(FileOf(entry("\"F99\"", "[2]", "[0,8]"), std::string(8, 'x'))) ==
        ": tensor 't': unknown dtype 'F99'");
  CHECK(ErrorOf(FileOf(entry("\"F32\"", "[4611686018427387904,4]", "[0,0]"), "")) ==
        ": tensor 't': F32 of shape [4611686018427387904, 4] takes too many bytes, found 0");
  CHECK(ErrorOf(FileOf(entry("\"F32\"", "[-1]", "[0,0]"), "")) ==
        ": tensor 't': field 'shape' holds something other than a count");
  CHECK(ErrorOf(FileOf(entry("\"F32\"", "[0]", "[8,0]"), std::string(8, 'x'))) ==
        ": tensor 't': bytes 8 to 0 lie outside the 8 bytes of data (is the file cut short?)");
  CHECK(ErrorOf(FileOf(entry("1", "[0]", "[0,0]"), "")) ==
        ": tensor 't': field 'dtype' is missing or no string");
  CHECK(ErrorOf(FileOf(entry("\"F32\"", "[0]", "[0]"), "")) ==
        ": tensor 't': field 'data_offsets' is missing or not two counts");
  CHECK(ErrorOf(FileOf("[]", "")) == ": header: expected an object");
  CHECK(ErrorOf(FileOf("{\"a\":", "")).find(": header: not valid JSON") == 0);
}

TEST_CASE("overlapping tensors and repeated names are refused") {
  const std::string a = R"("a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]})";
  const std::string b = R"("b":{"dtype":"U8","shape":[4],"data_offsets":[3,7]})";
  CHECK(ErrorOf(FileOf("{" + a + "," + b + "}", std::string(8, 'x'))) ==
        ": tensors 'a' and 'b' overlap");
  CHECK(ErrorOf(FileOf("{" + a + "," + a + "}", std::string(8, 'x'))) ==
        ": header: key 'a' is there twice");
}

TEST_CASE("every cut and every flipped byte of a small file is either read or refused") {
  TempDir dir;
  const std::string bytes(8, 'x');
  REQUIRE(
      WriteSafetensors(*dir.files, dir / "m",
                       {View("a", DType::kF32, {2}, bytes), View("b", DType::kF16, {2, 2}, bytes)})
          .ok());
  const std::string whole = *dir.files->ReadFile(dir / "m", 1 << 20);
  for (size_t cut = 0; cut < whole.size(); ++cut) CHECK(ErrorOf(whole.substr(0, cut)) != "OK");
  CounterRng rng(7);
  for (int i = 0; i < 300; ++i) {
    std::string damaged = whole;
    damaged[rng.Below(damaged.size())] = static_cast<char>(rng.Below(256));
    ErrorOf(damaged);
  }
}

TEST_CASE("a sharded model is read through its index") {
  TempDir dir;
  const std::string bytes(4, 'x');
  REQUIRE(WriteSafetensors(*dir.files, dir / "s1.safetensors", {View("a", DType::kF32, {1}, bytes)})
              .ok());
  REQUIRE(WriteSafetensors(*dir.files, dir / "s2.safetensors", {View("b", DType::kF32, {1}, bytes)})
              .ok());
  const std::string index = dir / "model.safetensors.index.json";
  const auto open = [&](const std::string& text) {
    REQUIRE(dir.files->WriteFile(index, text).ok());
    const auto file = SafetensorsFile::OpenModel(*dir.files, dir.path());
    if (file.ok()) return absl::StrCat("OK ", (*file)->tensors().size());
    return std::string(file.status().message()).substr(index.size());
  };
  CHECK(open(R"({"weight_map":{"a":"s1.safetensors","b":"s2.safetensors"}})") == "OK 2");
  CHECK(open(R"({"weight_map":{"a":"../s1.safetensors"}})") ==
        ": weight_map: '../s1.safetensors' is no plain file name");
  CHECK(open(R"({"weight_map":{"a":"s2.safetensors","b":"s2.safetensors"}})") ==
        ": weight_map has 2 tensors in s2.safetensors, found 1");
  CHECK(open(R"({"weight_map":{"c":"s1.safetensors"}})") ==
        ": tensor 'a' lies in s1.safetensors, where weight_map has none");
  CHECK(open(R"({"weight_map":[]})") == ": field 'weight_map' is missing or no object");
}

TEST_CASE("a real checkpoint is read") {
  const char* env = std::getenv("CRESCENDO_SHARED_DATA");
  const std::string dir =
      JoinPath(env != nullptr ? env : "../shared/data", "models/arithmetic_sequence");
  const auto files = MakePosixFileSystem();
  if (!files->IsDirectory(dir)) {
    WARN("not checked: no folder " << dir);
    return;
  }
  const auto file = SafetensorsFile::OpenModel(*files, dir);
  REQUIRE(file.ok());
  const TensorView* embedding = (*file)->Find("model.embed_tokens.weight");
  REQUIRE(embedding != nullptr);
  CHECK(embedding->dtype == DType::kBF16);
  CHECK(embedding->shape[0] == 16);
}

TEST_CASE("halves convert exactly and round to nearest even") {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const uint16_t half = static_cast<uint16_t>(bits);
    const bool nan = (half & 0x7c00) == 0x7c00 && (half & 0x3ff) != 0;
    if (!nan) REQUIRE(F16FromFloat(FloatFromF16(half)) == half);
    const bool bf16_nan = (half & 0x7f80) == 0x7f80 && (half & 0x7f) != 0;
    if (!bf16_nan) REQUIRE(Bf16FromFloat(FloatFromBf16(half)) == half);
  }
  CHECK(FloatFromF16(0x3c00) == 1.0f);
  CHECK(FloatFromF16(0x0001) == 0x1p-24f);
  CHECK(F16FromFloat(1.0f + 0x1p-11f) == 0x3c00);  // a tie: to even
  CHECK(F16FromFloat(1.0f + 0x3p-11f) == 0x3c02);
  CHECK(F16FromFloat(65519.0f) == 0x7bff);
  CHECK(F16FromFloat(65520.0f) == 0x7c00);
  CHECK(F16FromFloat(0x1p-25f) == 0);
  CHECK(F16FromFloat(0x1.8p-25f) == 1);
  CHECK(Bf16FromFloat(1.0f + 0x1p-8f) == 0x3f80);
  CHECK((F16FromFloat(std::numeric_limits<float>::quiet_NaN()) & 0x7fff) == 0x7e00);
}

}  // namespace
}  // namespace crescendo
