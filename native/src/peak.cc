// Times bursts on all workers at once. The best of many: other work on the machine can only slow a burst down.
//
// Cores share their memory, so its rate is that of a whole round; they do not share their registers, so arithmetic is the
// sum of every worker's best burst, which even a busy machine leaves alone for a millisecond now and then.
#include "peak.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

namespace binade {

namespace {

using Clock = std::chrono::steady_clock;

/// More than the last-level caches of common machines hold, for all workers together.
constexpr int64_t memoryByteLength = int64_t{192} << 20;
constexpr double burstSeconds = 1e-3;

double secondsBetween(Clock::time_point start, Clock::time_point end) {
  return std::chrono::duration<double>(end - start).count();
}

struct Round {
  Burst burst;
  PeakKind kind;
  int64_t repeats;
  int workers;
  const char* memory;
  int64_t byteLengthEach;
  std::atomic<int> arrived{0};
  std::vector<double> done, best;
  std::vector<Clock::time_point> start, end;
};

/// Begins when every worker is there: one task per worker, because a worker that waits here claims no second one.
void runTask(void* context, int64_t task, int) {
  Round& round = *static_cast<Round*>(context);
  round.arrived.fetch_add(1);
  while (round.arrived.load() < round.workers) std::this_thread::yield();
  const size_t i = static_cast<size_t>(task);
  round.start[i] = Clock::now();
  round.done[i] = round.burst(round.kind, round.repeats, round.memory + task * round.byteLengthEach, round.byteLengthEach);
  round.end[i] = Clock::now();
}

/// One burst on every worker, begun together. Keeps each worker's best rate; returns the rate of all of them from the
/// first start to the last end.
double runRound(Pool* pool, Round* round) {
  round->arrived = 0;
  parallelFor(pool, round->workers, runTask, round);
  double done = 0;
  for (size_t i = 0; i < round->done.size(); ++i) {
    done += round->done[i];
    round->best[i] = std::max(round->best[i], round->done[i] / secondsBetween(round->start[i], round->end[i]));
  }
  const auto first = *std::min_element(round->start.begin(), round->start.end());
  const auto last = *std::max_element(round->end.begin(), round->end.end());
  return done / secondsBetween(first, last);
}

/// The workers' best rates together, of as many as there are cores.
double sumOfBest(Round* round) {
  std::sort(round->best.rbegin(), round->best.rend());
  const size_t cores = std::max(std::thread::hardware_concurrency(), 1u);
  double sum = 0;
  for (size_t i = 0; i < std::min(cores, round->best.size()); ++i) sum += round->best[i];
  return sum;
}

/// Repeats that take about a burst's time on one worker.
int64_t calibrate(Burst burst, PeakKind kind) {
  int64_t repeats = 64;
  for (;; repeats *= 2) {
    const auto start = Clock::now();
    burst(kind, repeats, nullptr, 0);
    if (secondsBetween(start, Clock::now()) >= burstSeconds / 2) return repeats;
  }
}

}  // namespace

double measurePeak(Pool* pool, Burst burst, PeakKind kind, double seconds) {
  const int workers = workerCount(pool);
  const size_t count = static_cast<size_t>(workers);
  Round round{burst, kind, 1, workers, nullptr, 0, {}, {}, {}, {}, {}};
  round.done.resize(count);
  round.best.resize(count);
  round.start.resize(count);
  round.end.resize(count);
  void* memory = nullptr;
  if (kind == PeakKind::memory) {
    memory = std::aligned_alloc(4096, memoryByteLength);
    if (memory == nullptr) return 0;
    std::memset(memory, 1, memoryByteLength);
    round.memory = static_cast<const char*>(memory);
    round.byteLengthEach = memoryByteLength / workers / 4096 * 4096;
  } else {
    round.repeats = calibrate(burst, kind);
  }
  double bestTogether = 0;
  const auto start = Clock::now();
  do bestTogether = std::max(bestTogether, runRound(pool, &round));
  while (secondsBetween(start, Clock::now()) < seconds);
  std::free(memory);
  return kind == PeakKind::memory ? bestTogether : sumOfBest(&round);
}

}  // namespace binade
