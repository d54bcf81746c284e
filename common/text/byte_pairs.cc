#include "common/text/byte_pairs.h"

#include <limits>
#include <queue>
#include <tuple>
#include <utility>

#include "absl/hash/hash.h"

namespace crescendo {
namespace {

constexpr size_t kCachedWordBytesMax = 48;
constexpr size_t kCachedWordsPerShardMax = 4096;
constexpr size_t kShortWordSymbolsMax = 48;
constexpr int32_t kNoRank = std::numeric_limits<int32_t>::max();

uint64_t PairKey(int32_t left, int32_t right) {
  return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
}

}  // namespace

BytePairEncoder::BytePairEncoder(const std::array<int32_t, 256>& byte_ids, int32_t unknown_id,
                                 bool fuse_unknown, absl::Span<const Merge> merges,
                                 absl::flat_hash_map<std::string, int32_t> whole_words)
    : byte_ids_(byte_ids),
      unknown_id_(unknown_id),
      fuse_unknown_(fuse_unknown),
      whole_words_(std::move(whole_words)) {
  merges_.reserve(merges.size());
  int32_t rank = 0;
  // Of a pair given twice the last counts, as in Hugging Face's.
  for (const Merge& merge : merges) {
    merges_.insert_or_assign(PairKey(merge.left, merge.right), RankedMerge{rank++, merge.result});
  }
}

const BytePairEncoder::RankedMerge* BytePairEncoder::FindMerge(int32_t left, int32_t right) const {
  const auto found = merges_.find(PairKey(left, right));
  return found == merges_.end() ? nullptr : &found->second;
}

void BytePairEncoder::Encode(absl::string_view word, std::vector<int32_t>* out) const {
  if (word.size() == 1) {
    EncodeUncached(word, out);
    return;
  }
  if (word.size() > kCachedWordBytesMax) {
    EncodeUncached(word, out);
    return;
  }
  Shard& shard = cache_[absl::HashOf(word) % kShards];
  {
    absl::ReaderMutexLock lock(&shard.mutex);
    const auto found = shard.words.find(word);
    if (found != shard.words.end()) {
      out->insert(out->end(), found->second.begin(), found->second.end());
      return;
    }
  }
  std::vector<int32_t> tokens;
  EncodeUncached(word, &tokens);
  out->insert(out->end(), tokens.begin(), tokens.end());
  absl::MutexLock lock(&shard.mutex);
  if (shard.words.size() >= kCachedWordsPerShardMax) shard.words.clear();
  shard.words.emplace(word, std::move(tokens));
}

void BytePairEncoder::EncodeUncached(absl::string_view word, std::vector<int32_t>* out) const {
  if (!whole_words_.empty()) {
    const auto whole = whole_words_.find(word);
    if (whole != whole_words_.end()) {
      out->push_back(whole->second);
      return;
    }
  }
  std::vector<int32_t> symbols = Symbols(word);
  if (symbols.size() <= kShortWordSymbolsMax) {
    MergeShort(&symbols);
  } else {
    MergeLong(&symbols);
  }
  out->insert(out->end(), symbols.begin(), symbols.end());
}

std::vector<int32_t> BytePairEncoder::Symbols(absl::string_view word) const {
  std::vector<int32_t> symbols;
  symbols.reserve(word.size());
  bool last_unknown = false;
  for (const char c : word) {
    const int32_t id = byte_ids_[static_cast<unsigned char>(c)];
    if (id != kNone) {
      symbols.push_back(id);
    } else if (unknown_id_ != kNone && !(fuse_unknown_ && last_unknown)) {
      symbols.push_back(unknown_id_);
    }
    last_unknown = id == kNone;
  }
  return symbols;
}

// Looks through all pairs for each merge: quadratic, and fastest for the few symbols of a usual
// word.
void BytePairEncoder::MergeShort(std::vector<int32_t>* symbols) const {
  std::vector<int32_t>& s = *symbols;
  if (s.size() < 2) return;
  RankedMerge pairs[kShortWordSymbolsMax];
  const auto look_up = [&](size_t i) {
    const RankedMerge* merge = FindMerge(s[i], s[i + 1]);
    pairs[i] = merge != nullptr ? *merge : RankedMerge{kNoRank, kNone};
  };
  size_t size = s.size();
  for (size_t i = 0; i + 1 < size; ++i) look_up(i);
  while (size > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < size; ++i) {
      if (pairs[i].rank < pairs[best].rank) best = i;
    }
    if (pairs[best].rank == kNoRank) break;
    s[best] = pairs[best].result;
    for (size_t i = best + 1; i + 1 < size; ++i) {
      s[i] = s[i + 1];
      pairs[i] = pairs[i + 1];  // The last one read is never used.
    }
    --size;
    if (best + 1 < size) look_up(best);
    if (best > 0) look_up(best - 1);
  }
  s.resize(size);
}

// A linked list of symbols and a heap of (rank, place); entries that no longer hold are passed
// over.
void BytePairEncoder::MergeLong(std::vector<int32_t>* symbols) const {
  struct Node {
    int32_t id;
    int32_t previous;
    int32_t next;
  };
  std::vector<Node> nodes(symbols->size());
  const int32_t count = static_cast<int32_t>(nodes.size());
  for (int32_t i = 0; i < count; ++i) {
    nodes[static_cast<size_t>(i)] = {(*symbols)[static_cast<size_t>(i)], i - 1,
                                     i + 1 < count ? i + 1 : kNone};
  }
  const auto node = [&](int32_t i) -> Node& { return nodes[static_cast<size_t>(i)]; };
  using Entry = std::tuple<int32_t, int32_t, int32_t, int32_t>;  // rank, place, left id, right id
  std::priority_queue<Entry, std::vector<Entry>, std::greater<Entry>> heap;
  const auto push = [&](int32_t left) {
    if (left == kNone || node(left).next == kNone) return;
    const int32_t right_id = node(node(left).next).id;
    const RankedMerge* merge = FindMerge(node(left).id, right_id);
    if (merge != nullptr) heap.emplace(merge->rank, left, node(left).id, right_id);
  };
  for (int32_t i = 0; i + 1 < count; ++i) push(i);
  while (!heap.empty()) {
    const auto [rank, left, left_id, right_id] = heap.top();
    heap.pop();
    if (node(left).id != left_id || node(left).next == kNone) continue;
    const int32_t right = node(left).next;
    if (node(right).id != right_id) continue;
    node(left).id = FindMerge(left_id, right_id)->result;
    node(left).next = node(right).next;
    if (node(right).next != kNone) node(node(right).next).previous = left;
    node(right).id = kNone;  // No entry for this place holds any more.
    push(node(left).previous);
    push(left);
  }
  symbols->clear();
  for (int32_t i = count > 0 ? 0 : kNone; i != kNone; i = node(i).next)
    symbols->push_back(node(i).id);
}

}  // namespace crescendo
