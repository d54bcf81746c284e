#include "services/learner/rank_wire.h"

#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace crescendo {
namespace {

// Ranks of one group are of one build (RankGroup compares their protocol), so plain memory will do.
// The sizes remind whoever adds a field to put it on the wire.
static_assert(std::is_trivially_copyable_v<PackedSample>);
static_assert(std::is_trivially_copyable_v<PolicyLossOptions>);
static_assert(sizeof(PackedMicroBatch) == 7 * sizeof(std::vector<int32_t>) + 2 * sizeof(int64_t));
static_assert(sizeof(MiniBatch) == 2 * sizeof(std::vector<PackedMicroBatch>) + sizeof(int64_t));
static_assert(sizeof(TrainRequest) == 3 * sizeof(int64_t) +
                                          sizeof(std::optional<PolicyLossOptions>) +
                                          sizeof(std::vector<MiniBatch>));

constexpr uint32_t kMagic = 0x31515254;  // "TRQ1"

class Writer {
 public:
  template <typename T>
  void Put(const T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  template <typename T>
  void PutAll(const std::vector<T>& values) {
    static_assert(std::is_trivially_copyable_v<T>);
    Put<uint64_t>(values.size());
    bytes_.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
  }
  std::string Take() { return std::move(bytes_); }

 private:
  std::string bytes_;
};

// Once something is missing, all that is read is 0 and ok() is false.
class Reader {
 public:
  explicit Reader(absl::string_view bytes) : bytes_(bytes) {}
  template <typename T>
  void Get(T& value) {
    Copy(&value, sizeof(T));
  }
  template <typename T>
  void GetAll(std::vector<T>& values) {
    const uint64_t count = Count(sizeof(T));
    values.resize(count);
    if (count > 0) Copy(values.data(), count * sizeof(T));
  }
  // Of what takes at least `bytes_each`.
  uint64_t Count(size_t bytes_each) {
    uint64_t count = 0;
    Get(count);
    if (count > bytes_.size() / bytes_each) ok_ = false;
    return ok_ ? count : 0;
  }
  bool done() const { return ok_ && bytes_.empty(); }

 private:
  void Copy(void* into, size_t size) {
    if (size > bytes_.size()) ok_ = false;
    if (!ok_) return;
    std::memcpy(into, bytes_.data(), size);
    bytes_.remove_prefix(size);
  }
  absl::string_view bytes_;
  bool ok_ = true;
};

void PutMicroBatches(Writer& out, const std::vector<PackedMicroBatch>& micro_batches) {
  out.Put<uint64_t>(micro_batches.size());
  for (const PackedMicroBatch& micro : micro_batches) {
    out.PutAll(micro.tokens);
    out.PutAll(micro.positions);
    out.PutAll(micro.cu_seqlens);
    out.Put(micro.longest);
    out.PutAll(micro.loss_rows);
    out.PutAll(micro.targets);
    out.PutAll(micro.old_log_probs);
    out.PutAll(micro.samples);
    out.Put(micro.temperature);
  }
}

void GetMicroBatches(Reader& in, std::vector<PackedMicroBatch>& micro_batches) {
  micro_batches.resize(in.Count(7 * sizeof(uint64_t)));
  for (PackedMicroBatch& micro : micro_batches) {
    in.GetAll(micro.tokens);
    in.GetAll(micro.positions);
    in.GetAll(micro.cu_seqlens);
    in.Get(micro.longest);
    in.GetAll(micro.loss_rows);
    in.GetAll(micro.targets);
    in.GetAll(micro.old_log_probs);
    in.GetAll(micro.samples);
    in.Get(micro.temperature);
  }
}

}  // namespace

std::string EncodeTrainRequest(const TrainRequest& request) {
  Writer out;
  out.Put(kMagic);
  out.Put(request.step.value());
  out.Put(request.learning_rate);
  out.Put<uint8_t>(request.loss.has_value() ? 1 : 0);
  if (request.loss.has_value()) out.Put(*request.loss);
  out.Put(request.reward_kl);
  out.Put<uint64_t>(request.mini_batches.size());
  for (const MiniBatch& mini : request.mini_batches) {
    out.Put(mini.loss_tokens);
    PutMicroBatches(out, mini.micro_batches);
    PutMicroBatches(out, mini.probe);
  }
  return out.Take();
}

absl::StatusOr<TrainRequest> DecodeTrainRequest(absl::string_view bytes) {
  Reader in(bytes);
  TrainRequest request;
  uint32_t magic = 0;
  in.Get(magic);
  int64_t step = 0;
  in.Get(step);
  request.step = StepId(step);
  in.Get(request.learning_rate);
  uint8_t has_loss = 0;
  in.Get(has_loss);
  if (has_loss != 0) in.Get(request.loss.emplace());
  in.Get(request.reward_kl);
  request.mini_batches.resize(in.Count(3 * sizeof(uint64_t)));
  for (MiniBatch& mini : request.mini_batches) {
    in.Get(mini.loss_tokens);
    GetMicroBatches(in, mini.micro_batches);
    GetMicroBatches(in, mini.probe);
  }
  if (magic != kMagic || !in.done()) {
    return absl::InvalidArgumentError(absl::StrCat("a step's request to a rank: ", bytes.size(),
                                                   " bytes that are not a request"));
  }
  return request;
}

}  // namespace crescendo
