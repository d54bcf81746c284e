#include "common/model/paged_attention.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "common/base/limits.h"
#include "common/model/kernel_dispatch.h"
#include "common/model/kernels.h"
#include "common/model/parallel.h"

namespace crescendo {
namespace {

// So many parts of the work for each thread: enough that they end together.
constexpr int kPartsOfThread = 8;

}  // namespace

PagedAttention::PagedAttention(PagedKvCache* cache, int query_heads, bool deterministic)
    : cache_(cache), query_heads_(query_heads), deterministic_(deterministic) {}

absl::Status PagedAttention::SetBatch(absl::Span<const PagedSequence> sequences) {
  sequences_.clear();
  first_rows_.clear();
  last_rows_.clear();
  work_.clear();
  tokens_ = 0;
  max_context_ = 0;
  const int64_t block_size = cache_->block_size();
  for (size_t i = 0; i < sequences.size(); ++i) {
    const PagedSequence& s = sequences[i];
    const auto fail = [&](absl::string_view what) {
      sequences_.clear();
      tokens_ = 0;
      return absl::InvalidArgumentError(absl::StrCat("paged batch: sequence ", i, ": ", what));
    };
    if (s.new_tokens < 1 || s.context_before < 0 ||
        int64_t{s.context_before} + s.new_tokens > limits::kContextTokensMax) {
      return fail(absl::StrCat("expected at least 1 new token and a context of at most ",
                               limits::kContextTokensMax, ", found ", s.new_tokens, " after ",
                               s.context_before));
    }
    const int64_t context = int64_t{s.context_before} + s.new_tokens;
    const int64_t blocks = (context + block_size - 1) / block_size;
    if (static_cast<int64_t>(s.block_table.size()) < blocks) {
      return fail(absl::StrCat("expected a table of at least ", blocks, " blocks for ", context,
                               " tokens, found ", s.block_table.size()));
    }
    for (int64_t b = 0; b < blocks; ++b) {
      const int32_t block = s.block_table[static_cast<size_t>(b)];
      if (block < 0 || block >= cache_->blocks()) {
        return fail(absl::StrCat("block ", block, " is outside [0, ", cache_->blocks(), ")"));
      }
    }
    sequences_.push_back(s);
    first_rows_.push_back(tokens_);
    tokens_ += s.new_tokens;
    last_rows_.push_back(tokens_ - 1);
    max_context_ = std::max(max_context_, context);
  }
  // The longest work first, so that the threads end together.
  work_.resize(sequences_.size());
  std::iota(work_.begin(), work_.end(), int64_t{0});
  const auto cost = [&](int64_t i) {
    const PagedSequence& s = sequences_[static_cast<size_t>(i)];
    return (int64_t{s.context_before} + s.new_tokens) * s.new_tokens;
  };
  std::stable_sort(work_.begin(), work_.end(),
                   [&](int64_t a, int64_t b) { return cost(a) > cost(b); });
  return absl::OkStatus();
}

template <typename T>
void PagedAttention::AttendParts(int layer, const at::Tensor& q, const at::Tensor& k,
                                 const at::Tensor& v, int threads, int64_t floats) {
  const int64_t kv_heads = cache_->kv_heads();
  kernels::PagedTask base{};
  base.q_stride = q.stride(0);
  base.k_stride = k.stride(0);
  base.v_stride = v.stride(0);
  base.out_stride = q.size(1) * q.size(2);
  base.key_block_bytes = cache_->block_keys(0, 1) - cache_->block_keys(0, 0);
  base.value_block_bytes = cache_->block_values(0, 1) - cache_->block_values(0, 0);
  base.block_size = cache_->block_size();
  base.group = query_heads_ / static_cast<int>(kv_heads);
  base.head_dim = cache_->head_dim();
  base.padded_head_dim = cache_->padded_head_dim();
  base.scale = 1.0f / std::sqrt(static_cast<float>(base.head_dim));
  base.fixed_order = deterministic_;
  char* const keys = cache_->block_keys(layer, 0);
  char* const values = cache_->block_values(layer, 0);
  const int64_t head_keys = base.key_block_bytes / kv_heads;
  const int64_t head_values = base.value_block_bytes / kv_heads;
  // A unit of work is a sequence with all its heads, which lie beside each other; one head where
  // there are few sequences.
  const auto sequences = static_cast<int64_t>(work_.size());
  const int64_t heads = sequences >= 2 * threads ? kv_heads : 1;
  const int64_t units = sequences * (kv_heads / heads);
  const auto sequence_of = [&](int64_t unit) {
    return work_[static_cast<size_t>(unit * heads / kv_heads)];
  };
  const auto first_head_of = [&](int64_t unit) { return unit * heads % kv_heads; };
  const int64_t parts = std::min<int64_t>(units, int64_t{threads} * kPartsOfThread);
  ParallelTasks(threads, parts, [&](int64_t part, int worker) {
    kernels::PagedTask task = base;
    for (int64_t unit = part; unit < units; unit += parts) {
      const int64_t i = sequence_of(unit);
      const PagedSequence& s = sequences_[static_cast<size_t>(i)];
      const int64_t row = first_rows_[static_cast<size_t>(i)];
      task.block_table = s.block_table.data();
      task.context_before = s.context_before;
      task.new_tokens = s.new_tokens;
      const int64_t end = first_head_of(unit) + heads;
      for (int64_t head = end - heads; head < end; ++head) {
        const int64_t first_query = head * base.group * base.head_dim;
        task.q = Data<T>(q) + row * base.q_stride + first_query;
        task.k = Data<T>(k) + row * base.k_stride + head * base.head_dim;
        task.v = Data<T>(v) + row * base.v_stride + head * base.head_dim;
        task.out = Data<T>(output_) + row * base.out_stride + first_query;
        task.key_blocks = keys + head * head_keys;
        task.value_blocks = values + head * head_values;
        const bool inside = head + 1 < end;
        task.next_context = 0;
        if (inside || unit + parts < units) {
          const int64_t next = inside ? i : sequence_of(unit + parts);
          const PagedSequence& n = sequences_[static_cast<size_t>(next)];
          task.next_context = n.context_before;
          task.next_block_table = n.block_table.data();
          task.next_key_blocks =
              keys + (inside ? head + 1 : first_head_of(unit + parts)) * head_keys;
        }
        kernels::TypedKernels<T>().paged_attention(
            task, scratch_.template data_ptr<float>() + worker * floats);
      }
    }
  });
}

at::Tensor PagedAttention::Attend(int layer, const at::Tensor& q, const at::Tensor& k,
                                  const at::Tensor& v) {
  TORCH_CHECK(q.size(0) == tokens_, "paged attention: expected ", tokens_, " tokens, found ",
              q.size(0));
  TORCH_CHECK(q.size(1) == query_heads_ && k.size(1) == cache_->kv_heads() &&
                  q.size(2) == cache_->head_dim() && q.scalar_type() == cache_->dtype(),
              "paged attention: q ", q.sizes(), " and k ", k.sizes(), " do not fit the cache's ",
              cache_->kv_heads(), " heads of ", cache_->head_dim(), " ",
              c10::toString(cache_->dtype()));
  if (!output_.defined() || output_.size(0) < tokens_) {
    output_ = at::empty({tokens_, q.size(1) * q.size(2)}, q.options());
  }
  const int threads = at::get_num_threads();
  const int64_t floats = kernels::PagedScratchFloats(
      max_context_, query_heads_ / cache_->kv_heads(), cache_->head_dim(), cache_->block_size());
  if (!scratch_.defined() || scratch_.numel() < threads * floats) {
    scratch_ = at::empty({threads * floats * 5 / 4}, at::kFloat);
  }
  DispatchDtype(q.scalar_type(),
                [&](auto type) { AttendParts<decltype(type)>(layer, q, k, v, threads, floats); });
  return output_.size(0) == tokens_ ? output_ : output_.narrow(0, 0, tokens_);
}

int64_t PagedAttention::scratch_bytes() const {
  int64_t bytes = 0;
  for (const at::Tensor* t : {&output_, &scratch_}) {
    if (t->defined()) bytes += static_cast<int64_t>(t->nbytes());
  }
  return bytes;
}

at::Tensor PagedAttention::Positions() const {
  at::Tensor positions = at::empty({tokens_}, at::kLong);
  int64_t* out = positions.data_ptr<int64_t>();
  for (const PagedSequence& s : sequences_) {
    for (int64_t i = 0; i < s.new_tokens; ++i) *out++ = s.context_before + i;
  }
  return positions;
}

}  // namespace crescendo
