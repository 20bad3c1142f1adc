// Checks parallel loops: every task runs once and only once, whatever the counts, while loops of other tasks follow at once, workers
// are late or slow, and tasks open loops of their own.
//
// Argument: one loop in so many is run (for slow emulators).
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "core.h"

using namespace binade;

namespace {

int failures = 0;

void fail(const char* what, int64_t tasks, const Pool* pool) {
  if (++failures <= 10) std::printf("%lld tasks, %d workers: %s\n", static_cast<long long>(tasks), workerCount(pool), what);
}

/// What one loop shares; another loop's tasks must never see it.
struct Loop {
  Pool* pool;
  std::vector<int> runs;              // of each task; written by the one worker that claimed it
  std::vector<std::atomic<int>> busy;  // of each worker
  std::atomic<int> faults{0};
  int64_t slowTask;                   // sleeps, so that others take over what its worker had left
  bool nests;

  Loop(Pool* p, int64_t tasks, int64_t slow, bool nest)
      : pool(p), runs(static_cast<size_t>(tasks)), busy(static_cast<size_t>(workerCount(p))), slowTask(slow), nests(nest) {}
};

struct Inner {
  Loop* loop;
  int worker, sum;
};

void innerTask(void* context, int64_t task, int worker) {
  Inner& inner = *static_cast<Inner*>(context);
  if (worker != inner.worker) ++inner.loop->faults;
  inner.sum += static_cast<int>(task);
}

void outerTask(void* context, int64_t task, int worker) {
  Loop& loop = *static_cast<Loop*>(context);
  if (worker < 0 || worker >= workerCount(loop.pool) || task < 0 || task >= static_cast<int64_t>(loop.runs.size())) {
    ++loop.faults;
    return;
  }
  std::atomic<int>& busy = loop.busy[static_cast<size_t>(worker)];
  if (busy.exchange(1) != 0) ++loop.faults;
  ++loop.runs[static_cast<size_t>(task)];
  if (task == loop.slowTask) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  if (loop.nests) {
    Inner inner = {&loop, worker, 0};
    parallelFor(loop.pool, 5, innerTask, &inner);
    if (inner.sum != 10) ++loop.faults;
  }
  busy.store(0);
}

void check(Pool* pool, int64_t tasks, int64_t slowTask, bool nests) {
  Loop loop(pool, tasks, slowTask, nests);
  parallelFor(pool, tasks, outerTask, &loop);
  if (loop.faults > 0) fail("a task out of range, a worker in two tasks at once, or a nested loop on another worker", tasks, pool);
  for (const int runs : loop.runs) {
    if (runs == 1) continue;
    return fail(runs == 0 ? "a task that never ran" : "a task that ran twice", tasks, pool);
  }
}

}  // namespace

int main(int argumentCount, char** arguments) {
  const int share = argumentCount > 1 ? std::atoi(arguments[1]) : 1;
  int loops = 0;
  for (const int workers : {1, 2, 3, 8}) {
    Pool* const pool = createPool(workers);
    for (int round = 0; round < 400; ++round) {
      for (const int64_t tasks : {0, 1, 2, 3, 7, 8, 9, 64, 257}) {
        // One task runs outside of any loop, so a loop that it opens is shared by all workers.
        if (loops++ % share == 0) check(pool, tasks, -1, tasks > 1 && round % 3 == 0);
      }
    }
    for (const int64_t slowTask : {0, 20, 39}) check(pool, 40, slowTask, false);
    std::this_thread::sleep_for(std::chrono::milliseconds(10));  // workers fall asleep
    check(pool, 40, -1, true);
    destroyPool(pool);
  }
  std::printf("pool: %d of %d loops, %d failures\n", (loops + share - 1) / share, loops, failures);
  return failures == 0 ? 0 : 1;
}
