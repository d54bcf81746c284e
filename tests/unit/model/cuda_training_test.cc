// The CUDA kernels that only training needs, emulated on the host: each against the CPU's kernel,
// and the policy's gradients through them all.
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "catch2/catch.hpp"
#include "common/model/packed_attention.h"
#include "common/model/policy_functions_cuda.h"
#include "common/model/policy_model.h"

namespace crescendo {
namespace {

// The largest difference relative to the largest value.
double Difference(const at::Tensor& a, const at::Tensor& b) {
  REQUIRE(a.sizes() == b.sizes());
  const double size = b.to(at::kDouble).abs().max().item<double>();
  return (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>() / std::max(1e-3, size);
}

// Rows of an odd length take the kernels' way by single values, others that by packs of 16 bytes.
TEST_CASE("Norm and SwiGLU, forward and backward, are the CPU's") {
  const at::ScalarType dtype = GENERATE(at::kFloat, at::kBFloat16);
  const int64_t rows = GENERATE(1, 37, 300), n = GENERATE(1536, 203);
  const double margin = dtype == at::kFloat ? 2e-6 : 8e-3;
  at::manual_seed(3);
  const auto random = [&](int64_t columns) { return at::randn({rows, columns}).to(dtype); };
  const PolicyFunctions &cpu = CpuFunctions(), &cuda = CudaFunctions();
  const at::Tensor x = random(n), d_y = random(n);
  at::Tensor y[2], rstd[2], d_x[2], gradient[2], mlp[2], d_mlp[2];
  for (const bool emulated : {false, true}) {
    const PolicyFunctions& f = emulated ? cuda : cpu;
    at::manual_seed(4);
    const at::Tensor weight = at::randn({n}).to(dtype).requires_grad_(true);
    const at::NoGradGuard no_grad;
    y[emulated] = at::empty_like(x);
    rstd[emulated] = at::empty({rows, 1});
    f.rms_norm(x, weight, 1e-6, y[emulated], rstd[emulated]);
    d_x[emulated] = at::empty_like(x);
    f.rms_norm_backward(x, weight, rstd[emulated], d_y, d_x[emulated]);
    gradient[emulated] = weight.grad();
    const at::Tensor gate_up = at::randn({rows, 2 * n}).to(dtype);
    mlp[emulated] = at::empty_like(x);
    f.swiglu(gate_up, mlp[emulated]);
    f.swiglu_backward(gate_up, d_y, gate_up);
    d_mlp[emulated] = gate_up;
  }
  CHECK(Difference(y[1], y[0]) < margin);
  CHECK(Difference(rstd[1], rstd[0]) < 2e-6);
  CHECK(Difference(d_x[1], d_x[0]) < margin);
  CHECK(Difference(gradient[1], gradient[0]) < 1e-5);
  CHECK(Difference(mlp[1], mlp[0]) < margin);
  CHECK(Difference(d_mlp[1], d_mlp[0]) < margin);
}

ModelConfig SmallConfig(Architecture architecture) {
  ModelConfig config;
  config.architecture = architecture;
  config.vocab_size = 31;
  config.hidden_size = 32;
  config.layers = 2;
  config.query_heads = 4;
  config.kv_heads = 2;
  config.head_dim = architecture == Architecture::kLlama ? 16 : 12;
  config.mlp_size = 48;
  config.rope_theta = 100;
  config.qkv_bias = architecture == Architecture::kQwen2;
  config.qk_norm = architecture == Architecture::kQwen3;
  config.max_positions = 64;
  config.bos_token_id = 1;
  config.eos_token_ids = {2};
  return config;
}

TEST_CASE("The policy's gradients through the kernels are the CPU's") {
  const auto architecture =
      GENERATE(Architecture::kLlama, Architecture::kQwen2, Architecture::kQwen3);
  const std::vector<int32_t> bounds = {0, 20, 33, 61};
  at::manual_seed(9);
  const at::Tensor tokens = at::randint(31, {bounds.back()}, at::kLong);
  const at::Tensor d_hidden = at::randn({bounds.back(), 32});
  at::Tensor hidden[2];
  std::vector<at::Tensor> gradients[2];
  for (const bool emulated : {false, true}) {
    LoadOptions options;
    options.aten = emulated;
    options.functions = &CudaFunctions();  // without `aten` nothing asks for them
    auto model = PolicyModel::Init(SmallConfig(architecture), 3, options);
    REQUIRE(model.ok());
    (*model)->SetRequiresGrad(true);
    PackedAttention attention(bounds, false, emulated);
    const at::Tensor out = (*model)->Hidden(tokens, PackedAttention(bounds).Positions(), attention);
    hidden[emulated] = out.detach().clone();
    out.backward(d_hidden);
    for (const NamedTensor& p : (*model)->parameters()) {
      if (p.tensor.grad().defined()) gradients[emulated].push_back(p.tensor.grad().clone());
    }
  }
  CHECK(Difference(hidden[1], hidden[0]) < 1e-5);
  REQUIRE(gradients[1].size() == gradients[0].size());
  for (size_t i = 0; i < gradients[0].size(); ++i) {
    CHECK(Difference(gradients[1][i], gradients[0][i]) < 1e-5);
  }
}

}  // namespace
}  // namespace crescendo
