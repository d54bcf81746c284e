#include "common/formats/gguf_quant.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "common/base/status_macros.h"
#include "common/formats/half.h"

namespace crescendo {
namespace {

constexpr std::array<GgmlTypeInfo, 20> kTypes = {{
    {GgmlType::kF32, "F32", 1, 4, true},       {GgmlType::kF16, "F16", 1, 2, true},
    {GgmlType::kQ4_0, "Q4_0", 32, 18, true},   {GgmlType::kQ4_1, "Q4_1", 32, 20, true},
    {GgmlType::kQ5_0, "Q5_0", 32, 22, true},   {GgmlType::kQ5_1, "Q5_1", 32, 24, true},
    {GgmlType::kQ8_0, "Q8_0", 32, 34, true},   {GgmlType::kQ8_1, "Q8_1", 32, 36, false},
    {GgmlType::kQ2_K, "Q2_K", 256, 84, false}, {GgmlType::kQ3_K, "Q3_K", 256, 110, false},
    {GgmlType::kQ4_K, "Q4_K", 256, 144, true}, {GgmlType::kQ5_K, "Q5_K", 256, 176, true},
    {GgmlType::kQ6_K, "Q6_K", 256, 210, true}, {GgmlType::kQ8_K, "Q8_K", 256, 292, false},
    {GgmlType::kI8, "I8", 1, 1, false},        {GgmlType::kI16, "I16", 1, 2, false},
    {GgmlType::kI32, "I32", 1, 4, false},      {GgmlType::kI64, "I64", 1, 8, false},
    {GgmlType::kF64, "F64", 1, 8, false},      {GgmlType::kBF16, "BF16", 1, 2, true},
}};

using Byte = unsigned char;

uint16_t Load16(const Byte* p) { return static_cast<uint16_t>(p[0] | (p[1] << 8)); }
float LoadHalf(const Byte* p) { return FloatFromF16(Load16(p)); }
float Signed(Byte byte) { return static_cast<float>(static_cast<int8_t>(byte)); }

// Each function below turns one block at `b` into floats at `y`. Within the small blocks, byte j
// holds elements j (low nibble) and j + 16 (high nibble).

void Q4_0(const Byte* b, float* y) {
  const float d = LoadHalf(b);
  const Byte* q = b + 2;
  for (int j = 0; j < 16; ++j) {
    y[j] = d * static_cast<float>((q[j] & 0xf) - 8);
    y[j + 16] = d * static_cast<float>((q[j] >> 4) - 8);
  }
}

void Q4_1(const Byte* b, float* y) {
  const float d = LoadHalf(b);
  const float m = LoadHalf(b + 2);
  const Byte* q = b + 4;
  for (int j = 0; j < 16; ++j) {
    y[j] = d * static_cast<float>(q[j] & 0xf) + m;
    y[j + 16] = d * static_cast<float>(q[j] >> 4) + m;
  }
}

// The fifth bits of a block of 32, element i in bit i.
uint32_t FifthBits(const Byte* p) {
  return static_cast<uint32_t>(Load16(p)) | (static_cast<uint32_t>(Load16(p + 2)) << 16);
}

void Q5_0(const Byte* b, float* y) {
  const float d = LoadHalf(b);
  const uint32_t high = FifthBits(b + 2);
  const Byte* q = b + 6;
  for (int j = 0; j < 16; ++j) {
    const int low = static_cast<int>((q[j] & 0xf) | (((high >> j) & 1) << 4));
    const int top = static_cast<int>((q[j] >> 4) | (((high >> (j + 16)) & 1) << 4));
    y[j] = d * static_cast<float>(low - 16);
    y[j + 16] = d * static_cast<float>(top - 16);
  }
}

void Q5_1(const Byte* b, float* y) {
  const float d = LoadHalf(b);
  const float m = LoadHalf(b + 2);
  const uint32_t high = FifthBits(b + 4);
  const Byte* q = b + 8;
  for (int j = 0; j < 16; ++j) {
    y[j] = d * static_cast<float>((q[j] & 0xf) | (((high >> j) & 1) << 4)) + m;
    y[j + 16] = d * static_cast<float>((q[j] >> 4) | (((high >> (j + 16)) & 1) << 4)) + m;
  }
}

void Q8_0(const Byte* b, float* y) {
  const float d = LoadHalf(b);
  for (int j = 0; j < 32; ++j) y[j] = d * Signed(b[2 + j]);
}

// Scale and minimum number `j` of the eight in a K-block: six bits each, packed in twelve bytes.
void ScaleAndMin(const Byte* s, int j, int* scale, int* min) {
  if (j < 4) {
    *scale = s[j] & 63;
    *min = s[j + 4] & 63;
  } else {
    *scale = (s[j + 4] & 0xf) | ((s[j - 4] >> 6) << 4);
    *min = (s[j + 4] >> 4) | ((s[j] >> 6) << 4);
  }
}

void Q4_K(const Byte* b, float* y) {
  const float d = LoadHalf(b);
  const float dmin = LoadHalf(b + 2);
  const Byte* scales = b + 4;
  const Byte* q = b + 16;
  for (int part = 0; part < 8; ++part) {
    int scale, min;
    ScaleAndMin(scales, part, &scale, &min);
    const float d_part = d * static_cast<float>(scale);
    const float m_part = dmin * static_cast<float>(min);
    const Byte* bytes = q + part / 2 * 32;
    const int shift = part % 2 * 4;
    for (int l = 0; l < 32; ++l) {
      *y++ = d_part * static_cast<float>((bytes[l] >> shift) & 0xf) - m_part;
    }
  }
}

void Q5_K(const Byte* b, float* y) {
  const float d = LoadHalf(b);
  const float dmin = LoadHalf(b + 2);
  const Byte* scales = b + 4;
  const Byte* high = b + 16;
  const Byte* q = b + 48;
  for (int part = 0; part < 8; ++part) {
    int scale, min;
    ScaleAndMin(scales, part, &scale, &min);
    const float d_part = d * static_cast<float>(scale);
    const float m_part = dmin * static_cast<float>(min);
    const Byte* bytes = q + part / 2 * 32;
    const int shift = part % 2 * 4;
    for (int l = 0; l < 32; ++l) {
      const int value = ((bytes[l] >> shift) & 0xf) | (((high[l] >> part) & 1) << 4);
      *y++ = d_part * static_cast<float>(value) - m_part;
    }
  }
}

void Q6_K(const Byte* b, float* y) {
  const Byte* low = b;
  const Byte* high = b + 128;
  const Byte* scales = b + 192;
  const float d = LoadHalf(b + 208);
  for (int half = 0; half < 2; ++half) {
    for (int quarter = 0; quarter < 4; ++quarter) {
      const Byte* bytes = low + half * 64 + quarter % 2 * 32;
      const int shift = quarter / 2 * 4;
      for (int l = 0; l < 32; ++l) {
        const int value =
            ((bytes[l] >> shift) & 0xf) | (((high[half * 32 + l] >> (2 * quarter)) & 3) << 4);
        const float scale = d * Signed(scales[half * 8 + quarter * 2 + l / 16]);
        *y++ = scale * static_cast<float>(value - 32);
      }
    }
  }
}

// The other way: each function appends the block of the 32 floats at `x`.

void Store16(uint16_t value, std::string* out) {
  out->push_back(static_cast<char>(value & 0xff));
  out->push_back(static_cast<char>(value >> 8));
}

void ToQ8_0(const float* x, std::string* out) {
  float largest = 0;
  for (int j = 0; j < 32; ++j) largest = std::max(largest, std::fabs(x[j]));
  const float d = largest / 127.0f;
  const float inverse = d == 0.0f ? 0.0f : 1.0f / d;
  Store16(F16FromFloat(d), out);
  for (int j = 0; j < 32; ++j) out->push_back(static_cast<char>(std::lround(x[j] * inverse)));
}

void ToQ4_0(const float* x, std::string* out) {
  float extreme = x[0];  // the value of largest magnitude, with its sign: it becomes -8 exactly
  for (int j = 1; j < 32; ++j) {
    if (std::fabs(x[j]) > std::fabs(extreme)) extreme = x[j];
  }
  const float d = extreme / -8.0f;
  const float inverse = d == 0.0f ? 0.0f : 1.0f / d;
  Store16(F16FromFloat(d), out);
  const auto level = [&](int j) {
    const double value = static_cast<double>(x[j]) * static_cast<double>(inverse) + 8.5;
    return static_cast<unsigned>(std::clamp(value, 0.0, 15.0));
  };
  for (int j = 0; j < 16; ++j) out->push_back(static_cast<char>(level(j) | level(j + 16) << 4));
}

using BlockFunction = void (*)(const Byte*, float*);

BlockFunction FunctionOf(GgmlType type) {
  switch (type) {
    case GgmlType::kF32:
      return [](const Byte* b, float* y) { std::memcpy(y, b, sizeof(float)); };
    case GgmlType::kF16:
      return [](const Byte* b, float* y) { *y = LoadHalf(b); };
    case GgmlType::kBF16:
      return [](const Byte* b, float* y) { *y = FloatFromBf16(Load16(b)); };
    case GgmlType::kQ4_0:
      return Q4_0;
    case GgmlType::kQ4_1:
      return Q4_1;
    case GgmlType::kQ5_0:
      return Q5_0;
    case GgmlType::kQ5_1:
      return Q5_1;
    case GgmlType::kQ8_0:
      return Q8_0;
    case GgmlType::kQ4_K:
      return Q4_K;
    case GgmlType::kQ5_K:
      return Q5_K;
    case GgmlType::kQ6_K:
      return Q6_K;
    default:
      return nullptr;
  }
}

}  // namespace

const GgmlTypeInfo* FindGgmlType(uint32_t type) {
  for (const GgmlTypeInfo& info : kTypes) {
    if (static_cast<uint32_t>(info.type) == type) return &info;
  }
  return nullptr;
}

const GgmlTypeInfo& InfoOf(GgmlType type) {
  const GgmlTypeInfo* info = FindGgmlType(static_cast<uint32_t>(type));
  CRESCENDO_CHECK(info != nullptr);
  return *info;
}

void DequantizeRow(GgmlType type, absl::Span<const char> row, absl::Span<float> out) {
  const GgmlTypeInfo& info = InfoOf(type);
  const BlockFunction function = FunctionOf(type);
  CRESCENDO_CHECK(function != nullptr && info.dequantizes);
  CRESCENDO_CHECK(out.size() % info.block_elements == 0);
  const size_t blocks = out.size() / info.block_elements;
  CRESCENDO_CHECK(row.size() == blocks * info.block_bytes);
  if (type == GgmlType::kF32) {
    if (!row.empty()) std::memcpy(out.data(), row.data(), row.size());
    return;
  }
  const Byte* in = reinterpret_cast<const Byte*>(row.data());
  float* y = out.data();
  for (size_t i = 0; i < blocks; ++i) {
    function(in, y);
    in += info.block_bytes;
    y += info.block_elements;
  }
}

bool CanQuantize(GgmlType type) {
  return type == GgmlType::kF32 || type == GgmlType::kF16 || type == GgmlType::kBF16 ||
         type == GgmlType::kQ8_0 || type == GgmlType::kQ4_0;
}

void QuantizeRow(GgmlType type, absl::Span<const float> row, std::string* out) {
  CRESCENDO_CHECK(CanQuantize(type) && row.size() % InfoOf(type).block_elements == 0);
  switch (type) {
    case GgmlType::kF32:
      out->append(reinterpret_cast<const char*>(row.data()), row.size() * sizeof(float));
      return;
    case GgmlType::kF16:
      for (const float value : row) Store16(F16FromFloat(value), out);
      return;
    case GgmlType::kBF16:
      for (const float value : row) Store16(Bf16FromFloat(value), out);
      return;
    default:
      for (size_t i = 0; i < row.size(); i += 32) {
        (type == GgmlType::kQ8_0 ? ToQ8_0 : ToQ4_0)(row.data() + i, out);
      }
  }
}

}  // namespace crescendo
