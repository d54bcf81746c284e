// What a sample chunk must be by itself and against its group's header, before it may change
// anything. Every error is INVALID_ARGUMENT and begins with the field's name. Pure; thread-safe.
#ifndef CRESCENDO_SERVICES_LEARNER_CHUNK_CHECKS_H_
#define CRESCENDO_SERVICES_LEARNER_CHUNK_CHECKS_H_

#include <cstddef>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "common/base/domain.h"
#include "common/base/ids.h"
#include "common/base/limits.h"

namespace crescendo {

// Bytes of one chunk's message: header and all, with room to spare.
inline constexpr size_t kChunkMessageBytesMax = 8u << 20;
static_assert(kChunkMessageBytesMax < limits::kMessageBytesMax);
static_assert(limits::kContextTokensMax * 5 + limits::kChunkTokensMax * 32 < 8 << 20);

// "field: why".
absl::Status RefuseField(absl::string_view field, absl::string_view why);

absl::Status CheckHeader(const GroupHeader& header, int vocabulary_size);
// Tokens in the vocabulary, one finite log-probability of at most 0 each, version runs that add up
// and are not above `published`.
absl::Status CheckTokens(const SampleChunk& chunk, int vocabulary_size, PolicyVersion published);
absl::Status CheckClose(const SampleClose& close);
// The sample is one of the group's, and its tokens end within the context limit.
absl::Status CheckBounds(const SampleChunk& chunk, const GroupHeader& header);

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_LEARNER_CHUNK_CHECKS_H_
