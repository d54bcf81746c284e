// Of a build without CUDA.
#include "services/learner/compute_device.h"

namespace crescendo {

const PolicyFunctions* FunctionsOf(at::Device /*device*/) { return nullptr; }

}  // namespace crescendo
