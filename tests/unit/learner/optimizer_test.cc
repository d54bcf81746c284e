// AdamW against the algorithm written in double, clipping, and its state out and in again.
#include "services/learner/optimizer.h"

#include <ATen/ATen.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "catch2/catch.hpp"
#include "common/base/rng.h"

namespace crescendo {
namespace {

at::Tensor RandomTensor(CounterRng& rng, std::vector<int64_t> shape) {
  at::Tensor tensor = at::empty(shape, at::kFloat);
  float* data = tensor.data_ptr<float>();
  for (int64_t i = 0; i < tensor.numel(); ++i) data[i] = static_cast<float>(rng.Normal());
  return tensor;
}

std::vector<NamedTensor> MakeParameters(uint64_t seed, at::ScalarType dtype = at::kFloat) {
  CounterRng rng(seed);
  std::vector<NamedTensor> parameters;
  parameters.push_back({"weight", RandomTensor(rng, {5, 7}).to(dtype).requires_grad_(true)});
  parameters.push_back({"bias", RandomTensor(rng, {3}).to(dtype).requires_grad_(true)});
  return parameters;
}

void SetGradients(std::vector<NamedTensor>& parameters, CounterRng& rng) {
  for (NamedTensor& parameter : parameters) {
    parameter.tensor.mutable_grad() =
        RandomTensor(rng, parameter.tensor.sizes().vec()).to(parameter.tensor.scalar_type());
  }
}

std::vector<float> Values(const at::Tensor& tensor) {
  const at::Tensor flat = tensor.detach().to(at::kFloat).contiguous();
  return {flat.const_data_ptr<float>(), flat.const_data_ptr<float>() + flat.numel()};
}

TEST_CASE("AdamW equals algorithm 2 of the paper, written in double, over 20 steps") {
  AdamWOptions options;
  options.beta2 = 0.95;
  options.weight_decay = 0.1;
  std::vector<NamedTensor> parameters = MakeParameters(1);
  const std::vector<float> start = Values(parameters[0].tensor);
  std::vector<double> x(start.begin(), start.end());
  std::vector<double> m(x.size(), 0), v(x.size(), 0);
  AdamW optimizer(parameters, options);
  CounterRng rng(2);
  for (int step = 1; step <= 20; ++step) {
    SetGradients(parameters, rng);
    const double rate = 1e-2 / step;
    const double scale = 0.7;
    const std::vector<float> gradient = Values(parameters[0].tensor.grad());
    optimizer.Step(rate, scale);
    for (size_t i = 0; i < x.size(); ++i) {
      const double g = scale * gradient[i];
      m[i] = 0.9 * m[i] + 0.1 * g;
      v[i] = 0.95 * v[i] + 0.05 * g * g;
      const double m_hat = m[i] / (1 - std::pow(0.9, step));
      const double v_hat = v[i] / (1 - std::pow(0.95, step));
      x[i] -= rate * (m_hat / (std::sqrt(v_hat) + 1e-8) + 0.1 * x[i]);
    }
    optimizer.ZeroGrad();
    CHECK(!parameters[0].tensor.grad().defined());
  }
  CHECK(optimizer.steps() == 20);
  const std::vector<float> end = Values(parameters[0].tensor);
  for (size_t i = 0; i < x.size(); ++i) CHECK(end[i] == Approx(x[i]).margin(2e-6));
}

TEST_CASE("A parameter without a gradient stays as it is") {
  std::vector<NamedTensor> parameters = MakeParameters(3);
  AdamW optimizer(parameters, {});
  CounterRng rng(4);
  SetGradients(parameters, rng);
  parameters[1].tensor.mutable_grad().reset();
  const std::vector<float> before = Values(parameters[1].tensor);
  optimizer.Step(0.1, 1);
  CHECK(Values(parameters[1].tensor) == before);
}

TEST_CASE("bf16 parameters move by an fp32 master copy: steps below a rounding add up") {
  std::vector<NamedTensor> parameters;
  parameters.push_back({"weight", at::ones({4}, at::kBFloat16).requires_grad_(true)});
  AdamWOptions options;
  options.weight_decay = 0;
  AdamW optimizer(parameters, options);
  for (int step = 0; step < 100; ++step) {
    parameters[0].tensor.mutable_grad() = at::ones({4}, at::kBFloat16);
    optimizer.Step(1e-3, 1);  // 1 / 256 is bf16's step below 1
    optimizer.ZeroGrad();
  }
  CHECK(Values(parameters[0].tensor)[0] == Approx(0.9).margin(0.003));
  CHECK(optimizer.State().size() == 2);
  CHECK(Values(optimizer.Masters()[0].tensor)[0] == Approx(0.9).margin(1e-5));
}

TEST_CASE("Gradients of bf16 parameters add up in fp32 over micro-batches") {
  std::vector<NamedTensor> parameters;
  parameters.push_back({"weight", at::ones({4}, at::kBFloat16).requires_grad_(true)});
  AdamW optimizer(parameters, {});
  for (int micro = 0; micro < 1000; ++micro) {
    parameters[0].tensor.mutable_grad() = at::ones({4}, at::kBFloat16);  // a bf16 sum stops at 256
    optimizer.FoldGradients();
    CHECK(!parameters[0].tensor.grad().defined());
  }
  CHECK(optimizer.GradNorm() == 2000);
  optimizer.ZeroGrad();
  CHECK(optimizer.GradNorm() == 0);
}

TEST_CASE("The gradient norm is exact, and clipping scales as torch does") {
  std::vector<NamedTensor> parameters = MakeParameters(5);
  AdamW optimizer(parameters, {});
  CHECK(optimizer.GradNorm() == 0);
  parameters[0].tensor.mutable_grad() = at::zeros({5, 7});
  parameters[0].tensor.mutable_grad()[4][6] = 3;
  parameters[1].tensor.mutable_grad() = at::zeros({3});
  parameters[1].tensor.mutable_grad()[0] = 4;
  CHECK(optimizer.GradNorm() == 5);
  CHECK(GradClipScale(5, 1) == Approx(1 / 5.000001));
  CHECK(GradClipScale(0.5, 1) == 1);
  CHECK(GradClipScale(5, 0) == 1);
  parameters[1].tensor.mutable_grad()[1] = std::numeric_limits<float>::quiet_NaN();
  CHECK(!std::isfinite(optimizer.GradNorm()));
}

TEST_CASE("A run continued from exported state is bit for bit the one that never stopped") {
  std::vector<NamedTensor> kept = MakeParameters(6);
  AdamW first(kept, {});
  CounterRng rng(7);
  for (int step = 0; step < 3; ++step) {
    SetGradients(kept, rng);
    first.Step(1e-2, 1);
  }
  std::vector<NamedTensor> resumed = MakeParameters(99);
  for (size_t i = 0; i < kept.size(); ++i) {
    resumed[i].tensor.detach().copy_(kept[i].tensor.detach());
  }
  AdamW second(resumed, {});
  REQUIRE(second.LoadState(first.State()).ok());
  second.set_steps(first.steps());
  CounterRng again(8);
  CounterRng same(8);
  SetGradients(kept, again);
  SetGradients(resumed, same);
  first.Step(1e-2, 1);
  second.Step(1e-2, 1);
  for (size_t i = 0; i < kept.size(); ++i) {
    CHECK(Values(kept[i].tensor) == Values(resumed[i].tensor));
  }
}

TEST_CASE("State that does not fit is refused by name, and nothing is written") {
  std::vector<NamedTensor> parameters = MakeParameters(10);
  AdamW optimizer(parameters, {});
  CounterRng rng(11);
  SetGradients(parameters, rng);
  optimizer.Step(1e-2, 1);
  std::vector<TensorBytes> state = optimizer.State();
  std::string message;
  SECTION("missing") {
    state.pop_back();
    message = "'exp_avg_sq.bias' is missing";
  }
  SECTION("unknown") {
    state.push_back({"exp_avg.other", "F32", {3}, state[2].bytes});
    message = "unknown tensor 'exp_avg.other'";
  }
  SECTION("doubled") {
    state.push_back(state[0]);
    message = "'exp_avg.weight' is there twice";
  }
  SECTION("shape") {
    state[0].shape = {7, 5};
    message = "'exp_avg.weight': expected F32 [5, 7], 140 bytes, found F32 [7, 5]";
  }
  SECTION("length") {
    state[0].bytes.remove_suffix(4);
    message = "136 bytes";
  }
  SECTION("dtype") {
    state[0].dtype = "BF16";
    message = "found BF16";
  }
  const absl::Status status = optimizer.LoadState(state);
  CHECK(status.code() == absl::StatusCode::kInvalidArgument);
  INFO(status.message());
  CHECK(status.message().find(message) != absl::string_view::npos);
}

}  // namespace
}  // namespace crescendo
