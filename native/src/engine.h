// The process's one executor: the worker pool, the arena, and the order of runs. Knows nothing of Node.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>

#include "program.h"

namespace binade {

/// How a run ended.
struct Outcome {
  bool ran;       // false: `cancelled` was set, or the arena could not be had
  bool noMemory;  // the arena could not be had
  int64_t microseconds;
  Fault fault;
};

/// Runs take turns in the order in which they asked for them, whatever thread they run on.
class Engine {
 public:
  /// The one engine. It is never destroyed: workers may outlive static destruction.
  static Engine& instance();

  /// Asks for a turn. Every turn must be ended by run() or giveUp().
  uint64_t askTurn();
  /// Asks for a turn that begins at once, for a run on the calling thread, which `heldMicroseconds` says runs have held since it last
  /// waited for one. 0: others come first, or the program may hold the thread for too long; a run on another thread it must be then.
  uint64_t askTurnAtOnce(const Program& program, int64_t heldMicroseconds);
  /// Ends a turn that never ran.
  void giveUp(uint64_t turn);
  /// Waits for the turn, then runs the program unless `cancelled` is set by then. bases[0] is set to the arena here.
  Outcome run(uint64_t turn, Program& program, void** bases, Executor executor,
              const std::atomic<bool>& cancelled);
  /// Takes a turn of its own and returns what `measurePeak` does, on the workers of the next run.
  double measurePeak(Burst burst, PeakKind kind, double seconds);
  /// Workers of the runs that start from now on, the thread that runs included. >= 1.
  void setThreads(int threads);
  int threads();
  int64_t arenaByteLength();
  /// Waits until the run under way, if any, has ended.
  void waitUntilIdle();

 private:
  void awaitTurn(uint64_t turn);
  void endTurn(uint64_t turn);
  void noteDuration(Program& program, int64_t microseconds);
  bool growArena(int64_t byteLength);
  Pool* poolOfWantedSize();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<uint64_t> turns_;  // asked for and not ended, oldest first
  uint64_t lastTurn_ = 0;
  bool running_ = false;
  int threads_ = 0;  // 0: as many as the machine offers, decided by the first run
  // Touched only by the thread whose turn it is.
  Pool* pool_ = nullptr;
  void* arena_ = nullptr;
  int64_t arenaByteLength_ = 0;
};

}  // namespace binade
