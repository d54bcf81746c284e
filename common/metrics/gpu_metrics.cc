#include "common/metrics/gpu_metrics.h"

#include <dlfcn.h>
#include <prometheus/metric_family.h>

#include <array>
#include <cstdint>
#include <utility>

#include "absl/strings/str_cat.h"

namespace crescendo {
namespace {

constexpr unsigned kGpusMax = 64;

struct Reading {
  unsigned gpu = 0;
  double used_bytes = 0;
  double size_bytes = 0;
  double busy_ratio = 0;
};

std::vector<prometheus::MetricFamily> Families(const std::string& who,
                                               const std::vector<Reading>& readings) {
  const auto family = [&](const char* name, const char* help, double Reading::*value) {
    prometheus::MetricFamily made;
    made.name = absl::StrCat("crescendo_", who, "_gpu_", name);
    made.help = help;
    made.type = prometheus::MetricType::Gauge;
    for (const Reading& reading : readings) {
      prometheus::ClientMetric metric;
      metric.label.push_back({"gpu", absl::StrCat(reading.gpu)});
      metric.gauge.value = reading.*value;
      made.metric.push_back(metric);
    }
    return made;
  };
  return {family("memory_used_bytes", "Memory in use on the GPU, by all processes.",
                 &Reading::used_bytes),
          family("memory_size_bytes", "Memory of the GPU.", &Reading::size_bytes),
          family("utilization_ratio", "Share of the last sample period in which a kernel ran.",
                 &Reading::busy_ratio)};
}

}  // namespace

// The part of NVML's interface that is used (nvml.h: return codes are 0 for success).
struct GpuMetrics::Library {
  using Device = void*;
  struct Memory {
    unsigned long long total, free, used;
  };
  struct Utilization {
    unsigned gpu, memory;
  };

  ~Library() {
    if (shutdown != nullptr) shutdown();
    if (handle != nullptr) dlclose(handle);
  }

  template <typename Function>
  bool Find(const char* name, Function* function) const {
    *function = reinterpret_cast<Function>(dlsym(handle, name));
    return *function != nullptr;
  }

  bool Load() {
    handle = dlopen("libnvidia-ml.so.1", RTLD_LAZY | RTLD_LOCAL);
    int (*init)() = nullptr;
    if (handle == nullptr || !Find("nvmlInit_v2", &init) || init() != 0) return false;
    unsigned count = 0;
    return Find("nvmlShutdown", &shutdown) && Find("nvmlDeviceGetCount_v2", &get_count) &&
           Find("nvmlDeviceGetHandleByIndex_v2", &get_device) &&
           Find("nvmlDeviceGetMemoryInfo", &get_memory) &&
           Find("nvmlDeviceGetUtilizationRates", &get_utilization) && get_count(&count) == 0 &&
           count > 0;
  }

  std::vector<Reading> Read() const {
    std::vector<Reading> readings;
    unsigned count = 0;
    if (get_count(&count) != 0) return readings;
    for (unsigned i = 0; i < count && i < kGpusMax; ++i) {
      Device device = nullptr;
      Memory memory = {};
      Utilization utilization = {};
      if (get_device(i, &device) != 0 || get_memory(device, &memory) != 0) continue;
      // Not every GPU tells (one that is partitioned does not).
      if (get_utilization(device, &utilization) != 0) utilization = {};
      readings.push_back({i, static_cast<double>(memory.used), static_cast<double>(memory.total),
                          utilization.gpu / 100.0});
    }
    return readings;
  }

  void* handle = nullptr;
  int (*shutdown)() = nullptr;
  int (*get_count)(unsigned*) = nullptr;
  int (*get_device)(unsigned, Device*) = nullptr;
  int (*get_memory)(Device, Memory*) = nullptr;
  int (*get_utilization)(Device, Utilization*) = nullptr;
};

std::shared_ptr<GpuMetrics> GpuMetrics::Open(const std::string& who) {
  auto library = std::make_unique<Library>();
  if (!library->Load()) return nullptr;
  return std::shared_ptr<GpuMetrics>(new GpuMetrics(who, std::move(library)));
}

GpuMetrics::GpuMetrics(std::string who, std::unique_ptr<Library> library)
    : who_(std::move(who)), library_(std::move(library)) {}

GpuMetrics::~GpuMetrics() = default;

std::vector<prometheus::MetricFamily> GpuMetrics::Collect() const {
  return Families(who_, library_->Read());
}

std::vector<prometheus::MetricFamily> GpuMetrics::Names(const std::string& who) {
  return Families(who, {Reading{}});
}

}  // namespace crescendo
