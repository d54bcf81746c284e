// The shape of DeepSeek-R1-Distill-Qwen-1.5B, for benches with random weights.
#ifndef CRESCENDO_TESTS_BENCH_DISTILL_SHAPE_H_
#define CRESCENDO_TESTS_BENCH_DISTILL_SHAPE_H_

#include "common/model/model_config.h"

namespace crescendo {

inline ModelConfig DistillShape() {
  ModelConfig config;
  config.architecture = Architecture::kQwen2;
  config.vocab_size = 151936, config.hidden_size = 1536, config.layers = 28;
  config.query_heads = 12, config.kv_heads = 2, config.head_dim = 128, config.mlp_size = 8960;
  config.rope_theta = 1e6;
  config.qkv_bias = true;
  config.max_positions = 131072;
  return config;
}

}  // namespace crescendo

#endif  // CRESCENDO_TESTS_BENCH_DISTILL_SHAPE_H_
