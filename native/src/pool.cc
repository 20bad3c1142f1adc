// The worker pool: threads that spin and then yield for a moment between parallel loops, and then sleep. The only file with threads.
//
// One loop at a time: parallelFor may be called from one thread at once, and from inside tasks, where it runs inline.
//
// Every worker has a range of neighbouring tasks, the same share of every loop, and takes others' tasks once its own are gone. So what it
// reads is, as often as not, what it wrote in the loop before, and what it fetches ahead is what it works on next.
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

/// A claim word holds a loop's generation above `indexBits` bits of the next unclaimed task of a range.
constexpr int indexBits = 36;
constexpr uint64_t indexMask = (uint64_t{1} << indexBits) - 1;

struct Slot {
  void* data = nullptr;
  size_t byteLength = 0;
};

struct alignas(64) Worker {
  std::atomic<uint64_t> claim{0};  // of its range
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
  explicit Pool(int count) : workers(static_cast<size_t>(count)) {}

  // A worker may still look at an old generation while a new loop starts, so the loop's description is atomic. The
  // caller closes the old claim words before it changes the description, with release, and workers read it with acquire
  // before they claim: a worker that saw any part of a new description under an old claim word fails to claim.
  alignas(64) std::atomic<Task> task{nullptr};
  std::atomic<void*> context{nullptr};
  std::atomic<int64_t> tasks{0};
  alignas(64) std::atomic<int64_t> finished{0};
  alignas(64) std::atomic<int> sleepers{0};
  std::atomic<bool> stopping{false};
  std::mutex mutex;
  std::condition_variable wake;
  std::vector<Worker> workers;
  std::vector<std::thread> threads;
};

namespace {

uint64_t generationOf(uint64_t claim) { return claim >> indexBits; }

/// Runs tasks of one range until none is left to claim; returns how many.
int64_t runRange(Pool* pool, uint64_t generation, int range, int worker) {
  std::atomic<uint64_t>& word = pool->workers[static_cast<size_t>(range)].claim;
  const auto workers = static_cast<int64_t>(pool->workers.size());
  int64_t done = 0;
  uint64_t claim = word.load(std::memory_order_acquire);
  for (;;) {
    const auto index = static_cast<int64_t>(claim & indexMask);
    const int64_t end = (range + 1) * pool->tasks.load(std::memory_order_acquire) / workers;
    if (generationOf(claim) != generation || index >= end) return done;
    const Task task = pool->task.load(std::memory_order_acquire);
    void* const context = pool->context.load(std::memory_order_acquire);
    if (!word.compare_exchange_weak(claim, claim + 1, std::memory_order_acq_rel, std::memory_order_acquire)) continue;
    task(context, index, worker);
    ++done;
    claim = word.load(std::memory_order_acquire);
  }
}

/// Runs tasks of one generation until none is left to claim, its own first. The caller's own loop and late workers share this code.
/// A range that is not open yet looks empty; the caller, who opens them, comes to all of them.
void runClaims(Pool* pool, uint64_t generation, int worker) {
  const int workers = static_cast<int>(pool->workers.size());
  int64_t done = 0;
  for (int i = 0; i < workers; ++i) done += runRange(pool, generation, (worker + i) % workers, worker);
  if (done > 0) pool->finished.fetch_add(done, std::memory_order_acq_rel);
}

/// Waits, first spinning, then yielding, then asleep, until the generation differs from `seen`; returns the new one.
uint64_t awaitGeneration(Pool* pool, int worker, uint64_t seen) {
  const std::atomic<uint64_t>& claim = pool->workers[static_cast<size_t>(worker)].claim;
  const auto start = std::chrono::steady_clock::now();
  for (auto waited = start - start; waited < yieldTime; waited = std::chrono::steady_clock::now() - start) {
    for (int i = 0; i < 16; ++i) {
      const uint64_t generation = generationOf(claim.load(std::memory_order_acquire));
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
    return generationOf(claim.load(std::memory_order_seq_cst)) != seen || pool->stopping.load();
  });
  pool->sleepers.fetch_sub(1, std::memory_order_seq_cst);
  return generationOf(claim.load(std::memory_order_acquire));
}

void runWorker(Pool* pool, int worker) {
  runningPool = pool;
  runningWorker = worker;
  uint64_t seen = 0;
  while (!pool->stopping.load(std::memory_order_acquire)) {
    seen = awaitGeneration(pool, worker, seen);
    runClaims(pool, seen, worker);
  }
}

/// Describes a new loop to the workers and opens it for claims; returns its generation.
uint64_t publishLoop(Pool* pool, int64_t tasks, Task task, void* context) {
  const uint64_t closed = pool->workers[0].claim.load(std::memory_order_relaxed) | indexMask;
  for (Worker& worker : pool->workers) worker.claim.store(closed, std::memory_order_seq_cst);
  pool->task.store(task, std::memory_order_release);
  pool->context.store(context, std::memory_order_release);
  pool->tasks.store(tasks, std::memory_order_release);
  pool->finished.store(0, std::memory_order_relaxed);
  const uint64_t generation = generationOf(closed + 1);
  const auto workers = static_cast<int64_t>(pool->workers.size());
  for (int64_t i = workers - 1; i >= 0; --i) {
    const auto first = static_cast<uint64_t>(i * tasks / workers);
    pool->workers[static_cast<size_t>(i)].claim.store(generation << indexBits | first, std::memory_order_seq_cst);
  }
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
  const int count = threads < 1 ? 1 : threads;
  Pool* pool = new Pool(count);
  for (int worker = 1; worker < count; ++worker) pool->threads.emplace_back(runWorker, pool, worker);
  return pool;
}

void destroyPool(Pool* pool) {
  {
    std::lock_guard<std::mutex> lock(pool->mutex);
    pool->stopping.store(true);
  }
  pool->wake.notify_all();
  for (std::thread& thread : pool->threads) thread.join();
  for (Worker& worker : pool->workers)
    for (Slot& slot : worker.slots) ::operator delete(slot.data, std::align_val_t{scratchAlignment});
  delete pool;
}

int workerCount(const Pool* pool) { return static_cast<int>(pool->workers.size()); }

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
  Slot& held = pool->workers[static_cast<size_t>(worker)].slots[slot];
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
