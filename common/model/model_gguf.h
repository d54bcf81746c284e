// A policy from and to GGUF, the files of llama.cpp.
#ifndef CRESCENDO_COMMON_MODEL_MODEL_GGUF_H_
#define CRESCENDO_COMMON_MODEL_MODEL_GGUF_H_

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/formats/gguf_quant.h"
#include "common/formats/gguf_writer.h"
#include "common/model/model_weights.h"
#include "common/model/policy_model.h"

namespace crescendo {

// An inner part of PolicyModel::Load. All types that gguf_quant.h dequantises; llama.cpp's order of
// the rows of q and k (architecture llama) is undone. Scaled RoPE frequencies (rope_freqs.weight)
// are taken when they are those of Llama 3.1 or 3.2, else UNIMPLEMENTED.
absl::StatusOr<std::unique_ptr<ModelWeights>> LoadGgufWeights(FileSystem& files,
                                                              const std::string& path,
                                                              at::ScalarType dtype,
                                                              at::Device device = at::kCPU);

// Writes the policy for llama.cpp, atomically: matrices as `type` (one that CanQuantize; F16 where
// a row is no whole number of its blocks), vectors as F32. `tokenizer` is the metadata of the
// tokenizer and the chat template ("tokenizer.ggml..."), which a policy does not have; the bos, eos
// and pad ids are written from its configuration when `tokenizer` lacks them.
absl::Status SaveGguf(FileSystem& files, const std::string& path, const PolicyModel& policy,
                      GgmlType type,
                      absl::Span<const std::pair<std::string, GgufWriteValue>> tokenizer = {});

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_MODEL_MODEL_GGUF_H_
