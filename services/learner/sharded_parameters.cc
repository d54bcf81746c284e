#include "services/learner/sharded_parameters.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/Allocator.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace crescendo {
namespace {

// From so many elements on a parameter travels alone, straight into its place; smaller ones of a
// unit travel together.
constexpr int64_t kAloneElements = 1 << 20;

at::Tensor Flat(const at::Tensor& tensor) { return tensor.detach().view(-1); }

}  // namespace

int64_t ShardedParameters::ShareOf(const at::Tensor& tensor) const {
  return (tensor.numel() + ranks_.size() - 1) / ranks_.size();
}

bool ShardedParameters::TravelsAlone(const at::Tensor& tensor) const {
  return tensor.numel() >= kAloneElements && tensor.numel() % ranks_.size() == 0;
}

void ShardedParameters::Keep(int64_t bytes) {
  resident_ += bytes;
  resident_max_ = std::max(resident_max_, resident_);
}

std::pair<size_t, size_t> ShardedParameters::RangeOf(int unit) const {
  const Unit& u = units_[static_cast<size_t>(unit)];
  return {u.begin, u.begin + u.tensors.size()};
}

absl::Status ShardedParameters::TakeShares(Unit& unit, absl::Span<const NamedTensor> parameters) {
  std::vector<at::Tensor> places;
  int64_t packed = 0;
  for (const NamedTensor& parameter : parameters) {
    if (!TravelsAlone(parameter.tensor)) packed += ShareOf(parameter.tensor);
  }
  unit.own = at::zeros({packed}, parameters[0].tensor.options());
  int64_t offset = 0, bytes = static_cast<int64_t>(unit.own.nbytes());
  for (const NamedTensor& parameter : parameters) {
    CRESCENDO_CHECK(parameter.tensor.is_contiguous());
    at::Tensor whole = Flat(parameter.tensor);
    RETURN_IF_ERROR(ranks_.Broadcast(whole, 0, absl::StrCat("giving out ", parameter.name)));
    const int64_t share = ShareOf(parameter.tensor);
    const int64_t begin = std::min(whole.numel(), ranks_.rank() * share);
    const at::Tensor part = whole.narrow(0, begin, std::min(whole.numel(), begin + share) - begin);
    at::Tensor shard;
    if (TravelsAlone(parameter.tensor)) {
      shard = part.clone();
      bytes += static_cast<int64_t>(shard.nbytes());
    } else {
      shard = unit.own.narrow(0, offset, part.numel());
      shard.copy_(part);
      offset += share;
    }
    shards_.push_back({parameter.name, shard});
    begins_.push_back(begin);
  }
  Keep(bytes);
  return absl::OkStatus();
}

absl::Status ShardedParameters::AddUnit(absl::Span<const NamedTensor> parameters) {
  const at::NoGradGuard no_grad;
  Unit unit;
  unit.begin = shards_.size();
  for (const NamedTensor& parameter : parameters) {
    unit.tensors.push_back(parameter.tensor);
    const c10::Storage& storage = parameter.tensor.storage();
    bool known = false;
    for (const c10::Storage& other : unit.storages) {
      known = known || other.unsafeGetStorageImpl() == storage.unsafeGetStorageImpl();
    }
    if (known) continue;
    unit.storages.push_back(storage);
    unit.storage_bytes.push_back(storage.nbytes());
    unit.bytes += static_cast<int64_t>(storage.nbytes());
  }
  Keep(unit.bytes);
  whole_ += unit.bytes;
  RETURN_IF_ERROR(TakeShares(unit, parameters));
  TakeMemory(unit);
  units_.push_back(std::move(unit));
  return absl::OkStatus();
}

void ShardedParameters::Attach(PolicyModel& model) {
  CRESCENDO_CHECK(shards_.size() == model.parameters().size());
  head_unit_ = model.HeadUnit();
  model.SetWeightWatcher(this);
  model.SetAfterLayer([this](int layer) { AfterLayer(layer); });
}

void ShardedParameters::GiveMemory(Unit& unit) {
  for (size_t i = 0; i < unit.storages.size(); ++i) {
    c10::Allocator* allocator = c10::GetAllocator(unit.storages[i].device_type());
    unit.storages[i].set_data_ptr_noswap(allocator->allocate(unit.storage_bytes[i]));
    unit.storages[i].set_nbytes(unit.storage_bytes[i]);
  }
  Keep(unit.bytes);
}

void ShardedParameters::TakeMemory(Unit& unit) {
  for (const c10::Storage& storage : unit.storages) {
    storage.set_data_ptr_noswap(at::DataPtr(nullptr, storage.device()));
    storage.set_nbytes(0);
  }
  Keep(-unit.bytes);
}

absl::Status ShardedParameters::GatherPacked(Unit& unit) {
  if (unit.own.numel() == 0) return absl::OkStatus();
  const int64_t share = unit.own.numel();
  at::Tensor all = at::empty({share * ranks_.size()}, unit.own.options());
  Keep(static_cast<int64_t>(all.nbytes()));
  const absl::Status status = ranks_.AllGather(unit.own, all, "gathering weights");
  int64_t offset = 0;
  for (size_t i = 0; i < unit.tensors.size() && status.ok(); ++i) {
    if (TravelsAlone(unit.tensors[i])) continue;
    const at::Tensor whole = Flat(unit.tensors[i]);
    const int64_t part = ShareOf(unit.tensors[i]);
    for (int r = 0; r < ranks_.size(); ++r) {
      const int64_t begin = std::min(whole.numel(), r * part);
      const int64_t size = std::min(whole.numel(), begin + part) - begin;
      whole.narrow(0, begin, size).copy_(all.narrow(0, r * share + offset, size));
    }
    offset += part;
  }
  Keep(-static_cast<int64_t>(all.nbytes()));
  return status;
}

absl::Status ShardedParameters::Gather(Unit& unit) {
  const at::NoGradGuard no_grad;
  GiveMemory(unit);
  for (size_t i = 0; i < unit.tensors.size(); ++i) {
    if (!TravelsAlone(unit.tensors[i])) continue;
    at::Tensor whole = Flat(unit.tensors[i]);
    at::Tensor own = shards_[unit.begin + i].tensor.detach();
    RETURN_IF_ERROR(ranks_.AllGather(own, whole, "gathering weights"));
  }
  return GatherPacked(unit);
}

void ShardedParameters::BeforeUse(int unit) {
  Unit& u = units_[static_cast<size_t>(unit)];
  if (u.uses++ > 0) return;
  absl::Status gathered = failed_.ok() ? Gather(u) : failed_;
  if (gathered.ok()) return;
  AfterUse(unit);  // a WeightUse that throws is none
  failed_ = std::move(gathered);
  TORCH_CHECK(false, failed_.ToString());
}

void ShardedParameters::AfterUse(int unit) {
  Unit& u = units_[static_cast<size_t>(unit)];
  CRESCENDO_CHECK(u.uses > 0);
  if (--u.uses == 0 && u.storages[0].nbytes() > 0) TakeMemory(u);
}

void ShardedParameters::PassForward() {
  const int norm = units() - (head_unit_ == 0 ? 1 : 2);
  for (int unit = 0; unit <= norm; ++unit) {
    const WeightUse use(this, unit);
  }
  const WeightUse use(this, head_unit_);
}

void ShardedParameters::PassBackward() {
  const int norm = units() - (head_unit_ == 0 ? 1 : 2);
  { const WeightUse use(this, norm); }
  for (int layer = norm - 2; layer >= 0; --layer) {
    { const WeightUse use(this, 1 + layer); }
    AfterLayer(layer);
  }
}

// The gradients of the head and the final norm are whole before the last layer's. Those of the
// embedding may still get the head's where it is both: they are summed after the pass.
void ShardedParameters::AfterLayer(int layer) {
  if (!reduce_ || layer < 0) return;
  const int norm = units() - (head_unit_ == 0 ? 1 : 2);
  const int first = layer == norm - 2 ? units() - 1 : layer + 1;
  for (int unit = first; unit >= norm; --unit) {
    if (failed_.ok()) failed_ = reduce_(unit);
  }
  if (failed_.ok()) failed_ = reduce_(layer + 1);
  TORCH_CHECK(failed_.ok(), failed_.ToString());
}

}  // namespace crescendo
