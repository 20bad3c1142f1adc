// The worker pool: threads that spin and then yield for a moment between parallel loops, and then sleep. The only file with threads.
//
// One loop at a time: parallelFor may be called from one thread at once, and from inside tasks, where it runs inline.
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

#include "core.h"

namespace binade {

namespace {

constexpr int scratchSlots = 8;
constexpr size_t scratchAlignment = 64;
/// Workers spin between the kernels of a step, and give way to whoever wants their core while JavaScript prepares the next one. A sleep
/// between two steps costs more: a core that was halted takes a tenth of a millisecond or more to come back, most of all a virtual one.
constexpr auto spinTime = std::chrono::microseconds(50);
constexpr auto yieldTime = std::chrono::milliseconds(2);

/// A claim word holds a loop's generation above `indexBits` bits of its next unclaimed task.
constexpr int indexBits = 36;
constexpr uint64_t indexMask = (uint64_t{1} << indexBits) - 1;

struct Slot {
  void* data = nullptr;
  size_t byteLength = 0;
};

struct alignas(64) WorkerScratch {
  Slot slots[scratchSlots];
};

/// The pool whose task this thread is running, and as which worker.
thread_local const Pool* runningPool = nullptr;
thread_local int runningWorker = 0;

void pauseBriefly() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// Waits a moment more: at first for a few cycles, later until others had their turn.
void giveWay(int spins) {
  if (spins < 4096) {
    pauseBriefly();
  } else {
    std::this_thread::yield();
  }
}

}  // namespace

struct Pool {
  explicit Pool(int workers) : scratchOf(static_cast<size_t>(workers)) {}

  // A worker may still look at an old generation while a new loop starts, so the loop's description is atomic. The
  // caller closes the old claim word before it changes the description, with release, and workers read it with acquire
  // before they claim: a worker that saw any part of a new description under an old claim word fails to claim.
  alignas(64) std::atomic<uint64_t> claim{0};
  std::atomic<Task> task{nullptr};
  std::atomic<void*> context{nullptr};
  std::atomic<int64_t> tasks{0};
  alignas(64) std::atomic<int64_t> finished{0};
  alignas(64) std::atomic<int> sleepers{0};
  std::atomic<bool> stopping{false};
  std::mutex mutex;
  std::condition_variable wake;
  std::vector<WorkerScratch> scratchOf;
  std::vector<std::thread> threads;
};

namespace {

uint64_t generationOf(uint64_t claim) { return claim >> indexBits; }

/// Runs tasks of one generation until none is left to claim. The caller's own loop and late workers share this code.
void runClaims(Pool* pool, uint64_t generation, int worker) {
  int64_t done = 0;
  uint64_t claim = pool->claim.load(std::memory_order_acquire);
  for (;;) {
    const auto index = static_cast<int64_t>(claim & indexMask);
    if (generationOf(claim) != generation || index >= pool->tasks.load(std::memory_order_acquire)) break;
    const Task task = pool->task.load(std::memory_order_acquire);
    void* const context = pool->context.load(std::memory_order_acquire);
    if (!pool->claim.compare_exchange_weak(claim, claim + 1, std::memory_order_acq_rel, std::memory_order_acquire))
      continue;
    task(context, index, worker);
    ++done;
    claim = pool->claim.load(std::memory_order_acquire);
  }
  if (done > 0) pool->finished.fetch_add(done, std::memory_order_acq_rel);
}

/// Waits, first spinning, then yielding, then asleep, until the generation differs from `seen`; returns the new one.
uint64_t awaitGeneration(Pool* pool, uint64_t seen) {
  const auto start = std::chrono::steady_clock::now();
  for (auto waited = start - start; waited < yieldTime; waited = std::chrono::steady_clock::now() - start) {
    for (int i = 0; i < 16; ++i) {
      const uint64_t generation = generationOf(pool->claim.load(std::memory_order_acquire));
      if (generation != seen) return generation;
      pauseBriefly();
    }
    if (waited > spinTime) std::this_thread::yield();
  }
  std::unique_lock<std::mutex> lock(pool->mutex);
  // Announce first, look second; the caller publishes first and looks for sleepers second. Both orders are sequentially
  // consistent, so at least one side sees the other and no wake-up is lost.
  pool->sleepers.fetch_add(1, std::memory_order_seq_cst);
  pool->wake.wait(lock, [&] {
    return generationOf(pool->claim.load(std::memory_order_seq_cst)) != seen || pool->stopping.load();
  });
  pool->sleepers.fetch_sub(1, std::memory_order_seq_cst);
  return generationOf(pool->claim.load(std::memory_order_acquire));
}

void runWorker(Pool* pool, int worker) {
  runningPool = pool;
  runningWorker = worker;
  uint64_t seen = 0;
  while (!pool->stopping.load(std::memory_order_acquire)) {
    seen = awaitGeneration(pool, seen);
    runClaims(pool, seen, worker);
  }
}

/// Describes a new loop to the workers and opens it for claims; returns its generation.
uint64_t publishLoop(Pool* pool, int64_t tasks, Task task, void* context) {
  const uint64_t closed = pool->claim.load(std::memory_order_relaxed) | indexMask;
  pool->claim.store(closed, std::memory_order_seq_cst);
  pool->task.store(task, std::memory_order_release);
  pool->context.store(context, std::memory_order_release);
  pool->tasks.store(tasks, std::memory_order_release);
  pool->finished.store(0, std::memory_order_relaxed);
  const uint64_t generation = generationOf(closed + 1);
  pool->claim.store(generation << indexBits, std::memory_order_seq_cst);
  return generation;
}

void wakeSleepers(Pool* pool) {
  if (pool->sleepers.load(std::memory_order_seq_cst) == 0) return;
  { std::lock_guard<std::mutex> lock(pool->mutex); }
  pool->wake.notify_all();
}

void awaitFinished(Pool* pool, int64_t tasks) {
  for (int spins = 0; pool->finished.load(std::memory_order_acquire) != tasks; ++spins) giveWay(spins);
}

enum UnitState : uint8_t { untouched = 0, begun = 1, done = 2 };

UnitState stateOf(const uint8_t* state) { return static_cast<UnitState>(__atomic_load_n(state, __ATOMIC_ACQUIRE)); }

/// Whether this thread is the first to begin the unit.
bool begins(uint8_t* state) {
  uint8_t expected = untouched;
  return __atomic_compare_exchange_n(state, &expected, begun, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

}  // namespace

Pool* createPool(int threads) {
  const int workers = threads < 1 ? 1 : threads;
  Pool* pool = new Pool(workers);
  for (int worker = 1; worker < workers; ++worker) pool->threads.emplace_back(runWorker, pool, worker);
  return pool;
}

void destroyPool(Pool* pool) {
  {
    std::lock_guard<std::mutex> lock(pool->mutex);
    pool->stopping.store(true);
  }
  pool->wake.notify_all();
  for (std::thread& thread : pool->threads) thread.join();
  for (WorkerScratch& worker : pool->scratchOf)
    for (Slot& slot : worker.slots) ::operator delete(slot.data, std::align_val_t{scratchAlignment});
  delete pool;
}

int workerCount(const Pool* pool) { return static_cast<int>(pool->scratchOf.size()); }

void parallelFor(Pool* pool, int64_t tasks, Task task, void* context) {
  const bool nested = runningPool == pool;
  if (nested || tasks <= 1 || pool->threads.empty()) {
    const int worker = nested ? runningWorker : 0;
    for (int64_t index = 0; index < tasks; ++index) task(context, index, worker);
    return;
  }
  const uint64_t generation = publishLoop(pool, tasks, task, context);
  wakeSleepers(pool);

  const Pool* const outerPool = runningPool;
  const int outerWorker = runningWorker;
  runningPool = pool;
  runningWorker = 0;
  runClaims(pool, generation, 0);
  runningPool = outerPool;
  runningWorker = outerWorker;
  awaitFinished(pool, tasks);
}

void ensureDone(uint8_t* states, int64_t units, int64_t unit, Task task, void* context, int worker) {
  int64_t next = unit;
  for (int spins = 0; stateOf(states + unit) != done;) {
    while (next < units && stateOf(states + next) != untouched) ++next;
    if (next == units) {
      giveWay(spins++);
    } else if (begins(states + next)) {
      task(context, next, worker);
      __atomic_store_n(states + next, static_cast<uint8_t>(done), __ATOMIC_RELEASE);
    }
  }
}

void* scratch(Pool* pool, int worker, int slot, size_t byteLength) {
  Slot& held = pool->scratchOf[static_cast<size_t>(worker)].slots[slot];
  if (held.byteLength < byteLength || held.data == nullptr) {
    const std::align_val_t alignment{scratchAlignment};
    ::operator delete(held.data, alignment);
    held.byteLength = byteLength < 4096 ? 4096 : byteLength;
    held.data = ::operator new(held.byteLength, alignment, std::nothrow);
    if (held.data == nullptr) std::abort();  // kernels have no way to report a fault, and null would be written to
  }
  return held.data;
}

}  // namespace binade
