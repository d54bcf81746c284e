// Loops over the compute threads. The pool is libgomp's, the one that LibTorch and MKL use, so that
// no two pools fight over the cores; it is entered by libgomp's ABI and needs no -fopenmp.
#ifndef CRESCENDO_COMMON_MODEL_PARALLEL_H_
#define CRESCENDO_COMMON_MODEL_PARALLEL_H_

#include <algorithm>
#include <atomic>
#include <cstdint>

extern "C" void GOMP_parallel(void (*body)(void*), void* data, unsigned threads, unsigned flags);

namespace crescendo {

// Calls fn(task, worker) for each task in [0, tasks), on up to `threads` threads; worker is below
// `threads`, and no two calls at one time have the same. Tasks start in order. fn must not throw.
template <typename F>
void ParallelTasks(int threads, int64_t tasks, const F& fn) {
  if (threads <= 1 || tasks <= 1) {
    for (int64_t task = 0; task < tasks; ++task) fn(task, 0);
    return;
  }
  struct Shared {
    const F* fn;
    int64_t tasks;
    std::atomic<int64_t> next_task{0};
    std::atomic<int> next_worker{0};
  } shared{&fn, tasks};
  auto body = [](void* data) {
    auto* s = static_cast<Shared*>(data);
    const int worker = s->next_worker.fetch_add(1, std::memory_order_relaxed);
    for (;;) {
      const int64_t task = s->next_task.fetch_add(1, std::memory_order_relaxed);
      if (task >= s->tasks) return;
      (*s->fn)(task, worker);
    }
  };
  // Always the whole team: libgomp ends and restarts threads when a team's size changes.
  GOMP_parallel(body, &shared, static_cast<unsigned>(threads), 0);
}

// Calls fn(begin, end) for parts that cover [0, n), each of at least `grain` (but the last).
template <typename F>
void ParallelRange(int threads, int64_t n, int64_t grain, const F& fn) {
  if (n <= 0) return;
  const int64_t parts = std::min<int64_t>(threads, (n + grain - 1) / grain);
  if (parts <= 1) {
    fn(int64_t{0}, n);
    return;
  }
  const int64_t size = (n + parts - 1) / parts;
  ParallelTasks(threads, parts, [&](int64_t part, int) {
    const int64_t begin = part * size;
    const int64_t end = std::min(n, begin + size);
    if (begin < end) fn(begin, end);
  });
}

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_MODEL_PARALLEL_H_
