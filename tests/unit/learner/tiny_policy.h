// A policy of a few thousand parameters, for tests of what trains it.
#ifndef CRESCENDO_TESTS_UNIT_LEARNER_TINY_POLICY_H_
#define CRESCENDO_TESTS_UNIT_LEARNER_TINY_POLICY_H_

#include <ATen/core/grad_mode.h>

#include <cstdint>

#include "catch2/catch.hpp"
#include "common/base/rng.h"
#include "common/model/policy_model.h"
#include "tests/support/temp_dir.h"

namespace crescendo {

inline ModelConfig TinyConfig() {
  ModelConfig config;
  config.architecture = Architecture::kQwen2;
  config.vocab_size = 19;
  config.hidden_size = 16;
  config.layers = 2;
  config.query_heads = 4;
  config.kv_heads = 2;
  config.head_dim = 4;
  config.mlp_size = 24;
  config.rope_theta = 100;
  config.qkv_bias = true;
  config.max_positions = 64;
  config.bos_token_id = 1;
  config.eos_token_ids = {2};
  return config;
}

// A policy with weights of a size at which everything matters.
inline void SaveTinyPolicy(TempDir& dir, const ModelConfig& config = TinyConfig()) {
  auto model = PolicyModel::Init(config, 5);
  REQUIRE(model.ok());
  CounterRng rng(6);
  for (const NamedTensor& parameter : (*model)->parameters()) {
    const at::NoGradGuard no_grad;
    float* data = parameter.tensor.data_ptr<float>();
    for (int64_t i = 0; i < parameter.tensor.numel(); ++i) {
      data[i] += 0.2f * static_cast<float>(rng.Normal());
    }
  }
  REQUIRE((*model)->Save(*dir.files, dir.path()).ok());
}

}  // namespace crescendo

#endif  // CRESCENDO_TESTS_UNIT_LEARNER_TINY_POLICY_H_
