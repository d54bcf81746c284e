#include "services/learner/sharded_optimizer.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <unordered_map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status_macros.h"
#include "services/learner/compute_device.h"

namespace crescendo {
namespace {

constexpr int64_t kBucketElements = 4 << 20;  // about what travels at once, 16 MB of gradients

at::Tensor Flat(const at::Tensor& tensor) { return tensor.detach().view(-1); }

TensorData DataOf(const std::string& name, const at::Tensor& like, const at::Tensor& flat) {
  return {name, "F32", like.sizes().vec(), HostBytes(flat.to(at::kFloat))};
}

// fp32 elements in the order of `bytes`, which outlive the tensor.
at::Tensor View(absl::string_view bytes) {
  return at::from_blob(const_cast<char*>(bytes.data()),  // read only
                       {static_cast<int64_t>(bytes.size() / sizeof(float))}, at::kFloat);
}

}  // namespace

ShardedAdamW::ShardedAdamW(std::vector<NamedTensor> parameters, const AdamWOptions& options,
                           RankGroup* ranks, int zero_stage)
    : ranks_(ranks != nullptr && ranks->size() > 1 ? ranks : nullptr),
      sharded_(nullptr),
      zero_stage_(zero_stage),
      parameters_(std::move(parameters)),
      shards_(MakeShards()),
      folded_(parameters_.size()),
      buckets_(MakeBuckets()),
      adamw_(shards_, options) {
  CRESCENDO_CHECK(zero_stage == 1 || zero_stage == 2);
}

ShardedAdamW::ShardedAdamW(std::vector<NamedTensor> parameters, const AdamWOptions& options,
                           RankGroup* ranks, ShardedParameters* sharded)
    : ranks_(ranks),
      sharded_(sharded),
      zero_stage_(3),
      parameters_(std::move(parameters)),
      shards_(sharded->shards()),
      folded_(parameters_.size()),
      buckets_(MakeBuckets()),
      adamw_(shards_, options) {
  CRESCENDO_CHECK(ranks != nullptr && ranks->size() > 1 && shards_.size() == parameters_.size());
}

at::TensorOptions ShardedAdamW::Options(at::ScalarType dtype) const {
  return at::TensorOptions().dtype(dtype).device(parameters_[0].tensor.device());
}

int64_t ShardedAdamW::ShareOf(size_t parameter) const {
  return (parameters_[parameter].tensor.numel() + ranks_->size() - 1) / ranks_->size();
}

TensorSlice ShardedAdamW::RangeOf(size_t parameter, int rank) const {
  return SliceOf(parameters_[parameter].tensor.numel(), rank, ranks_->size());
}

std::vector<NamedTensor> ShardedAdamW::MakeShards() const {
  if (ranks_ == nullptr) return parameters_;
  std::vector<NamedTensor> shards;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    CRESCENDO_CHECK(parameters_[i].tensor.is_contiguous());
    const TensorSlice own = RangeOf(i, ranks_->rank());
    shards.push_back(
        {parameters_[i].name, Flat(parameters_[i].tensor).narrow(0, own.begin, own.size)});
  }
  return shards;
}

bool ShardedAdamW::BeginsUnit(size_t parameter) const {
  for (int unit = 0; sharded_ != nullptr && unit < sharded_->units(); ++unit) {
    if (sharded_->RangeOf(unit).first == parameter) return true;
  }
  return false;
}

std::vector<ShardedAdamW::Bucket> ShardedAdamW::MakeBuckets() const {
  std::vector<Bucket> buckets;
  if (ranks_ == nullptr) return buckets;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const bool fits = !buckets.empty() && !BeginsUnit(i) &&
                      (buckets.back().share + ShareOf(i)) * ranks_->size() <= kBucketElements &&
                      parameters_[i].tensor.scalar_type() ==
                          parameters_[buckets.back().begin].tensor.scalar_type();
    if (!fits) buckets.push_back({i, i, 0});
    buckets.back().end = i + 1;
    buckets.back().share += ShareOf(i);
  }
  return buckets;
}

// The whole gradient, flat and fp32, taken away from the parameter; undefined: there is none.
at::Tensor ShardedAdamW::TakeGradient(size_t parameter) {
  at::Tensor& grad = parameters_[parameter].tensor.mutable_grad();
  at::Tensor taken;
  if (grad.defined()) taken = grad.detach().to(at::kFloat).contiguous().view(-1);
  grad.reset();
  at::Tensor& folded = folded_[parameter];
  if (folded.defined()) taken = taken.defined() ? folded.add_(taken) : folded;
  folded.reset();
  return taken;
}

absl::Status ShardedAdamW::ReduceBucket(const Bucket& bucket) {
  at::Tensor whole = at::zeros({bucket.share * ranks_->size()}, Options(at::kFloat));
  int64_t offset = 0;
  for (size_t i = bucket.begin; i < bucket.end; offset += ShareOf(i), ++i) {
    const at::Tensor gradient = TakeGradient(i);
    if (!gradient.defined()) continue;
    for (int r = 0; r < ranks_->size(); ++r) {
      const TensorSlice range = RangeOf(i, r);
      whole.narrow(0, r * bucket.share + offset, range.size)
          .copy_(gradient.narrow(0, range.begin, range.size));
    }
  }
  at::Tensor own = at::empty({bucket.share}, Options(at::kFloat));
  RETURN_IF_ERROR(ranks_->ReduceScatter(whole, own, "summing gradients"));
  offset = 0;
  for (size_t i = bucket.begin; i < bucket.end; offset += ShareOf(i), ++i) {
    const at::Tensor part = own.narrow(0, offset, RangeOf(i, ranks_->rank()).size);
    at::Tensor& sum = shards_[i].tensor.mutable_grad();
    if (sum.defined()) {
      sum.add_(part);
    } else {
      sum = part;
    }
  }
  return absl::OkStatus();
}

absl::Status ShardedAdamW::ReduceAll() {
  const at::NoGradGuard no_grad;
  for (const Bucket& bucket : buckets_) RETURN_IF_ERROR(ReduceBucket(bucket));
  return absl::OkStatus();
}

absl::Status ShardedAdamW::ReduceUnit(int unit) {
  const at::NoGradGuard no_grad;
  const auto [begin, end] = sharded_->RangeOf(unit);
  for (const Bucket& bucket : buckets_) {
    if (bucket.begin >= begin && bucket.end <= end) RETURN_IF_ERROR(ReduceBucket(bucket));
  }
  return absl::OkStatus();
}

absl::Status ShardedAdamW::AfterBackward() {
  if (ranks_ == nullptr) {
    adamw_.FoldGradients();
    return absl::OkStatus();
  }
  if (zero_stage_ == 2) return ReduceAll();
  if (zero_stage_ == 3) return ReduceUnit(0);  // the others' are summed in the backward pass
  const at::NoGradGuard no_grad;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const at::Tensor& tensor = parameters_[i].tensor;
    if (tensor.scalar_type() != at::kFloat && tensor.grad().defined()) folded_[i] = TakeGradient(i);
  }
  return absl::OkStatus();
}

absl::StatusOr<int64_t> ShardedAdamW::Rounds(int64_t own) {
  if (ranks_ == nullptr) return own;
  double most = static_cast<double>(own);
  RETURN_IF_ERROR(ranks_->Max(absl::MakeSpan(&most, 1), "counting micro-batches"));
  return static_cast<int64_t>(most);
}

absl::StatusOr<double> ShardedAdamW::ReduceGradients() {
  if (ranks_ == nullptr) return adamw_.GradNorm();
  if (zero_stage_ == 1) RETURN_IF_ERROR(ReduceAll());
  double squares = std::pow(adamw_.GradNorm(), 2);
  RETURN_IF_ERROR(ranks_->Sum(absl::MakeSpan(&squares, 1), "summing the gradients' norm"));
  return std::sqrt(squares);
}

absl::Status ShardedAdamW::GatherBucket(const Bucket& bucket) {
  const auto type = parameters_[bucket.begin].tensor.scalar_type();
  at::Tensor own = at::zeros({bucket.share}, Options(type));
  at::Tensor whole = at::empty({bucket.share * ranks_->size()}, Options(type));
  int64_t offset = 0;
  for (size_t i = bucket.begin; i < bucket.end; offset += ShareOf(i), ++i) {
    own.narrow(0, offset, shards_[i].tensor.numel()).copy_(shards_[i].tensor);
  }
  RETURN_IF_ERROR(ranks_->AllGather(own, whole, "gathering weights"));
  offset = 0;
  for (size_t i = bucket.begin; i < bucket.end; offset += ShareOf(i), ++i) {
    for (int r = 0; r < ranks_->size(); ++r) {
      const TensorSlice range = RangeOf(i, r);
      if (r == ranks_->rank()) continue;
      Flat(parameters_[i].tensor)
          .narrow(0, range.begin, range.size)
          .copy_(whole.narrow(0, r * bucket.share + offset, range.size));
    }
  }
  return absl::OkStatus();
}

absl::Status ShardedAdamW::Step(double learning_rate, double grad_scale) {
  const at::NoGradGuard no_grad;
  adamw_.Step(learning_rate, grad_scale);
  if (zero_stage_ == 3) return absl::OkStatus();  // gathered in the next pass
  for (const Bucket& bucket : buckets_) RETURN_IF_ERROR(GatherBucket(bucket));
  return absl::OkStatus();
}

void ShardedAdamW::ZeroGrad() {
  adamw_.ZeroGrad();
  for (NamedTensor& parameter : parameters_) parameter.tensor.mutable_grad().reset();
  for (at::Tensor& folded : folded_) folded.reset();
}

void ShardedAdamW::AddGradientsOfZero() {
  for (NamedTensor& shard : shards_) {
    shard.tensor.mutable_grad() = at::zeros_like(shard.tensor.detach());
  }
}

// A checkpoint
// ----------------------------------------------------------------------------------------

std::vector<int64_t> ShardedAdamW::WholeShape(size_t parameter) const {
  return parameters_[parameter].tensor.sizes().vec();
}

TrainerState ShardedAdamW::Export() const {
  const at::NoGradGuard no_grad;
  const std::vector<NamedTensor> masters = adamw_.Masters();
  const std::vector<NamedTensor> moments = adamw_.Moments();
  TrainerState part;
  if (ranks_ != nullptr) {
    part.rank = ranks_->rank();
    part.ranks = ranks_->size();
  }
  const auto data_of = [&](const NamedTensor& tensor, size_t parameter) {
    return DataOf(tensor.name, part.ranks == 1 ? parameters_[parameter].tensor : tensor.tensor,
                  tensor.tensor);
  };
  for (size_t i = 0; i < parameters_.size(); ++i) {
    part.weights.push_back(data_of(masters[i], i));
    if (part.ranks > 1) part.shapes.push_back(WholeShape(i));
  }
  for (size_t m = 0; m < moments.size(); ++m) {
    part.optimizer.push_back(data_of(moments[m], m / 2));
    if (part.ranks > 1) part.shapes.push_back(WholeShape(m / 2));
  }
  return part;
}

absl::Status ShardedAdamW::Check(const TrainerState& part) const {
  struct Found {
    const TensorData* tensor;
    std::vector<int64_t> whole;
  };
  const int rank = ranks_ == nullptr ? 0 : ranks_->rank();
  const int ranks = ranks_ == nullptr ? 1 : ranks_->size();
  const size_t tensors = part.weights.size() + part.optimizer.size();
  if (part.rank != rank || part.ranks != ranks || part.shapes.size() != (ranks > 1 ? tensors : 0)) {
    return absl::InvalidArgumentError(absl::StrCat("optimizer state: expected the part of rank ",
                                                   rank, " of ", ranks, ", found that of ",
                                                   part.rank, " of ", part.ranks));
  }
  std::unordered_map<std::string, Found> found;
  size_t place = 0;
  for (const std::vector<TensorData>* list : {&part.weights, &part.optimizer}) {
    for (const TensorData& tensor : *list) {
      const Found entry{&tensor, ranks > 1 ? part.shapes[place++] : tensor.shape};
      if (!found.emplace(tensor.name, entry).second) {
        return absl::InvalidArgumentError(
            absl::StrCat("optimizer state: tensor '", tensor.name, "' is there twice"));
      }
    }
  }
  for (const NamedTensor& parameter : parameters_) {
    const std::vector<int64_t> shape = parameter.tensor.sizes().vec();
    const int64_t own = SliceOf(parameter.tensor.numel(), rank, ranks).size;
    const size_t bytes = static_cast<size_t>(own) * sizeof(float);
    for (const char* prefix : {"", "exp_avg.", "exp_avg_sq."}) {
      const std::string name = absl::StrCat(prefix, parameter.name);
      const auto it = found.find(name);
      if (it == found.end()) {
        return absl::InvalidArgumentError(
            absl::StrCat("optimizer state: tensor '", name, "' is missing"));
      }
      const auto& [tensor, whole] = it->second;
      if (tensor->dtype != "F32" || whole != shape || tensor->bytes.size() != bytes) {
        return absl::InvalidArgumentError(
            absl::StrCat("optimizer state: tensor '", name, "': expected F32 [",
                         absl::StrJoin(shape, ", "), "], ", bytes, " bytes, found ", tensor->dtype,
                         " [", absl::StrJoin(whole, ", "), "], ", tensor->bytes.size(), " bytes"));
      }
      found.erase(it);
    }
  }
  if (found.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("optimizer state: unknown tensor '", found.begin()->first, "'"));
}

absl::Status ShardedAdamW::Import(const TrainerState& part, int64_t steps) {
  const at::NoGradGuard no_grad;
  std::unordered_map<std::string, absl::string_view> bytes;
  for (const std::vector<TensorData>* list : {&part.weights, &part.optimizer}) {
    for (const TensorData& tensor : *list) bytes.emplace(tensor.name, tensor.bytes);
  }
  for (const std::vector<NamedTensor>& own : {adamw_.Masters(), adamw_.Moments()}) {
    for (const NamedTensor& tensor : own) {
      tensor.tensor.view(-1).copy_(View(bytes.at(tensor.name)));
    }
  }
  adamw_.set_steps(steps);
  adamw_.ApplyMasters();
  if (ranks_ != nullptr) {
    // Whether all took parts of one checkpoint; and the weights are whole again.
    std::array<double, 2> most = {static_cast<double>(steps), -static_cast<double>(steps)};
    RETURN_IF_ERROR(ranks_->Max(absl::MakeSpan(most), "taking over a checkpoint"));
    if (most[0] != -most[1]) {
      return absl::DataLossError(absl::StrCat("the ranks took over checkpoints of ", -most[1],
                                              " to ", most[0], " updates"));
    }
    for (const Bucket& bucket : buckets_) {
      if (zero_stage_ != 3) RETURN_IF_ERROR(GatherBucket(bucket));
    }
  }
  ZeroGrad();
  return absl::OkStatus();
}

absl::Status ShardedAdamW::Synchronize() {
  if (ranks_ == nullptr) return absl::OkStatus();
  const at::NoGradGuard no_grad;
  for (const NamedTensor& parameter : parameters_) {
    if (zero_stage_ == 3) break;  // done when they were shared out
    at::Tensor tensor = parameter.tensor.detach();
    RETURN_IF_ERROR(ranks_->Broadcast(tensor, 0, absl::StrCat("giving out ", parameter.name)));
  }
  adamw_.Reset();
  ZeroGrad();
  return absl::OkStatus();
}

}  // namespace crescendo
