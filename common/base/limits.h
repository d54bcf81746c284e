// Every bound of the system in one place, with the relations between them asserted.
#ifndef CRESCENDO_COMMON_BASE_LIMITS_H_
#define CRESCENDO_COMMON_BASE_LIMITS_H_

#include <cstddef>
#include <cstdint>

#include "absl/time/time.h"

namespace crescendo::limits {

// The protocol of proto/crescendo/v1. Services of another version are refused when they introduce
// themselves.
inline constexpr uint32_t kProtocolVersion = 1;

// Messages.
inline constexpr size_t kMessageBytesMax = 20u << 20;      // any gRPC message
inline constexpr size_t kWeightChunkBytes = 16u << 20;     // payload of one weight chunk
inline constexpr size_t kResponseTextBytesMax = 4u << 20;  // a completion's text, as graded
inline constexpr size_t kProblemTextBytesMax = 1u << 20;   // a problem's text
inline constexpr size_t kGoldTextBytesMax = 64u << 10;     // a gold answer
inline constexpr size_t kConfigFileBytesMax = 1u << 20;
inline constexpr size_t kShownTextBytesMax = 16u << 10;  // a sample's text as people see it
static_assert(kWeightChunkBytes + (1u << 20) < kMessageBytesMax);
static_assert(kResponseTextBytesMax + kProblemTextBytesMax + kGoldTextBytesMax < kMessageBytesMax);

// A sample.
inline constexpr int kContextTokensMax = 1 << 20;  // prompt and completion
inline constexpr int kGroupSamplesMax = 1024;      // G
inline constexpr int kChunkTokensMax = 4096;       // tokens in one sample chunk
inline constexpr int kVocabularyMax = 1 << 20;
static_assert(kGroupSamplesMax * (kShownTextBytesMax + 1024) < kMessageBytesMax);
static_assert(kChunkTokensMax * 16 < static_cast<int>(kMessageBytesMax));

// Work in flight.
inline constexpr int kLeasesPerRequestMax = 256;
inline constexpr int kWorkersMax = 4096;
inline constexpr int kGroupsPerStepMax = 65536;
inline constexpr int kStalenessMax = 64;
inline constexpr int kGradesInFlightMax = 4096;  // answers of one stream that have no verdict yet
inline constexpr int kStagesMax = 64;

// What a process remembers of the life of groups (common/metrics/life_trace.h).
inline constexpr size_t kTraceEventsMax = 1u << 16;
inline constexpr size_t kTraceFileBytesMax = 64u << 20;

// A server of gRPC (common/rpc/README.md says what each one stops).
inline constexpr size_t kServerBufferBytesMax = 1u << 30;  // what all its peers sent, not yet read
inline constexpr int kConnectionsMax = 16384;  // and no more than there are descriptors for
inline constexpr int kStreamsPerConnectionMax = 1024;
inline constexpr int kServerThreadsMax = 12288;     // a stream of samples holds one
inline constexpr int kMetadataBytesMax = 16 << 10;  // of a call
inline constexpr absl::Duration kHandshakeMax = absl::Seconds(10);
inline constexpr absl::Duration kConnectionIdleMax = absl::Minutes(10);  // without a call
inline constexpr absl::Duration kServerPingEvery = absl::Seconds(30);
inline constexpr absl::Duration kServerPingAnswerMax = absl::Seconds(15);
inline constexpr absl::Duration kStalledWriteMax =
    absl::Seconds(60);  // a reader that takes nothing
// A worker holds a connection to the coordinator, and one for samples and one for weights to the
// learner, each of which may hold a thread there.
static_assert(kConnectionsMax >= 3 * kWorkersMax && kServerThreadsMax >= 3 * kWorkersMax);
static_assert(kServerBufferBytesMax > 16 * kMessageBytesMax);
inline constexpr int kEvaluationSetsMax = 64;

}  // namespace crescendo::limits

#endif  // CRESCENDO_COMMON_BASE_LIMITS_H_
