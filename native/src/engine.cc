// The process's one executor: turns, the arena's memory, the pool's size.
#include "engine.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <thread>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace binade {

namespace {

/// Another thread takes a tenth of a millisecond to wake, and as long again to wake the one that waits. A run that took less than the
/// first of these may hold the calling thread instead, and runs in a row the second: then its event loop has its turn.
constexpr int64_t shortMicroseconds = 5000;
constexpr int64_t mostHeldMicroseconds = 16000;

int64_t microsecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

Engine& Engine::instance() {
  static Engine* engine = new Engine();
  return *engine;
}

uint64_t Engine::askTurn() {
  const std::lock_guard<std::mutex> lock(mutex_);
  turns_.push_back(++lastTurn_);
  return lastTurn_;
}

uint64_t Engine::askTurnAtOnce(const Program& program, int64_t heldMicroseconds) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const bool isShort = program.lastMicroseconds <= shortMicroseconds;
  if (!isShort || heldMicroseconds + program.lastMicroseconds > mostHeldMicroseconds || !turns_.empty()) return 0;
  turns_.push_back(++lastTurn_);
  return lastTurn_;
}

void Engine::giveUp(uint64_t turn) {
  const std::lock_guard<std::mutex> lock(mutex_);
  turns_.erase(std::find(turns_.begin(), turns_.end(), turn));
  changed_.notify_all();
}

void Engine::awaitTurn(uint64_t turn) {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait(lock, [&] { return turns_.front() == turn; });
  running_ = true;
}

void Engine::endTurn(uint64_t turn) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    running_ = false;
  }
  giveUp(turn);
}

/// Grows the arena; what it held is lost. Large arenas start on a huge page, so that the kernel can back them by some.
bool Engine::growArena(int64_t byteLength) {
  if (byteLength <= arenaByteLength_) return true;
  constexpr size_t kHugePage = size_t{2} << 20;
  const size_t alignment = static_cast<size_t>(byteLength) >= kHugePage ? kHugePage : 64;
  const size_t rounded = (static_cast<size_t>(byteLength) + alignment - 1) / alignment * alignment;
  free(arena_);
  arena_ = aligned_alloc(alignment, rounded);
#if defined(__linux__)
  if (arena_ != nullptr && alignment == kHugePage) madvise(arena_, rounded, MADV_HUGEPAGE);
#endif
  const std::lock_guard<std::mutex> lock(mutex_);
  arenaByteLength_ = arena_ == nullptr ? 0 : static_cast<int64_t>(rounded);
  return arena_ != nullptr;
}

Pool* Engine::poolOfWantedSize() {
  const int wanted = threads();
  if (pool_ != nullptr && workerCount(pool_) == wanted) return pool_;
  if (pool_ != nullptr) destroyPool(pool_);
  pool_ = createPool(wanted);
  return pool_;
}

void Engine::noteDuration(Program& program, int64_t microseconds) {
  const std::lock_guard<std::mutex> lock(mutex_);
  program.lastMicroseconds = microseconds;
}

Outcome Engine::run(uint64_t turn, Program& program, void** bases, Executor executor,
                    const std::atomic<bool>& cancelled) {
  Outcome outcome = {false, false, 0, {-1, 0, 0, 0}};
  awaitTurn(turn);
  if (!cancelled) {
    outcome.ran = growArena(program.arenaByteLength);
    outcome.noMemory = !outcome.ran;
  }
  if (outcome.ran) {
    bases[0] = arena_;
    const auto start = std::chrono::steady_clock::now();
    executor(program, bases, poolOfWantedSize(), &outcome.fault);
    outcome.microseconds = microsecondsSince(start);
    noteDuration(program, outcome.microseconds);
  }
  endTurn(turn);
  return outcome;
}

double Engine::measurePeak(Burst burst, PeakKind kind, double seconds) {
  const uint64_t turn = askTurn();
  awaitTurn(turn);
  const double rate = binade::measurePeak(poolOfWantedSize(), burst, kind, seconds);
  endTurn(turn);
  return rate;
}

void Engine::setThreads(int threads) {
  const std::lock_guard<std::mutex> lock(mutex_);
  threads_ = threads;
}

int Engine::threads() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (threads_ == 0) threads_ = static_cast<int>(std::max(std::thread::hardware_concurrency(), 1u));
  return threads_;
}

int64_t Engine::arenaByteLength() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return arenaByteLength_;
}

void Engine::waitUntilIdle() {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait(lock, [&] { return !running_; });
}

}  // namespace binade
