#include "services/learner/kl_control.h"

#include <algorithm>
#include <cmath>

#include "common/base/status_macros.h"

namespace crescendo {

double NextKlScale(double scale, double kl, double target, int horizon) {
  CRESCENDO_CHECK(horizon >= 1);
  if (target <= 0 || !std::isfinite(kl)) return scale;
  const double error = std::clamp((kl - target) / target, -0.2, 0.2);
  return std::clamp(scale * (1 + error / horizon), kKlScaleMin, kKlScaleMax);
}

}  // namespace crescendo
