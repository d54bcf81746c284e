// Published versions: laid out without gaps, cut into checksummed chunks, the last few kept.
#include "services/learner/weight_store.h"

#include <string>
#include <vector>

#include "catch2/catch.hpp"
#include "common/base/crc32c.h"

namespace crescendo {
namespace {

std::vector<TensorData> Tensors(char fill) {
  return {{"a", "F32", {2, 3}, std::string(24, fill)},
          {"b", "BF16", {5}, std::string(10, static_cast<char>(fill + 1))}};
}

TEST_CASE("Tensors follow each other, and chunks add up to the whole") {
  WeightStore store(2, 16);
  REQUIRE(store.Publish(PolicyVersion(0), Tensors('x')).ok());
  const auto weights = store.Get(PolicyVersion(-1)).value();
  CHECK(weights->version == PolicyVersion(0));
  CHECK(weights->bytes == std::string(24, 'x') + std::string(10, 'y'));
  REQUIRE(weights->tensors.size() == 2);
  CHECK(weights->tensors[1].offset == 24);
  CHECK(weights->tensors[1].bytes == 10);
  CHECK(weights->tensors[0].shape == std::vector<int64_t>{2, 3});
  REQUIRE(weights->chunks() == 3);
  std::string whole;
  for (uint32_t i = 0; i < weights->chunks(); ++i) {
    CHECK(Crc32c(weights->Chunk(i)) == weights->chunk_crc32c[i]);
    whole.append(weights->Chunk(i).data(), weights->Chunk(i).size());
  }
  CHECK(whole == weights->bytes);
}

TEST_CASE("A small version has small chunks: workers of a chain are each a chunk behind") {
  constexpr uint32_t kMost = 4u << 20;
  WeightStore store(1, kMost);
  const auto chunk_bytes = [&](size_t bytes) {
    REQUIRE(store
                .Publish(PolicyVersion(0),
                         {{"a", "U8", {static_cast<int64_t>(bytes)}, std::string(bytes, 'x')}})
                .ok());
    return store.Get(PolicyVersion(0)).value()->chunk_bytes;
  };
  CHECK(chunk_bytes(1000) == 256u << 10);
  CHECK(chunk_bytes(128u << 20) == 1u << 20);
  CHECK(chunk_bytes(640u << 20) == kMost);
}

TEST_CASE("Old versions go, a reader's stays whole, and an error names what is held") {
  WeightStore store(2, 16);
  REQUIRE(store.Publish(PolicyVersion(0), Tensors('a')).ok());
  const auto held = store.Get(PolicyVersion(0)).value();
  REQUIRE(store.Publish(PolicyVersion(1), Tensors('b')).ok());
  REQUIRE(store.Publish(PolicyVersion(2), Tensors('c')).ok());
  CHECK(store.versions() == std::vector<PolicyVersion>{PolicyVersion(1), PolicyVersion(2)});
  const absl::Status gone = store.Get(PolicyVersion(0)).status();
  CHECK(gone.code() == absl::StatusCode::kNotFound);
  CHECK(gone.message() == "weights of version 0 are not held; held: 1, 2");
  CHECK(held->bytes.substr(0, 24) == std::string(24, 'a'));
  CHECK(store.Get(PolicyVersion(-1)).value()->version == PolicyVersion(2));
}

TEST_CASE("A policy without weights or with two of one name is not published") {
  WeightStore store(1, 16);
  CHECK(store.Publish(PolicyVersion(0), {}).code() == absl::StatusCode::kInvalidArgument);
  std::vector<TensorData> twice = Tensors('a');
  twice[1].name = "a";
  CHECK(store.Publish(PolicyVersion(0), twice).code() == absl::StatusCode::kInvalidArgument);
  CHECK(store.Get(PolicyVersion(-1)).status().code() == absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace crescendo
