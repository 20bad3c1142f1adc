// Counts elements by magnitude: an increment per element for its exponent, two comparisons; integers in any order.
#include "kernels.h"

namespace binade {
namespace BINADE_ISA {

constexpr int kExponents = 256;
/// Neighbours often have one exponent. They are counted in tables of their own: an increment of what was stored a moment ago
/// would wait for the store.
constexpr int kTables = 8;

/// What one task has counted.
struct Counts {
  uint32_t exponents[kTables][kExponents];
  int32_t zeros, above;  // above 65504, infinities and NaN included
};

struct MagnitudeRun {
  const Run& run;
  const MagnitudeKernel& kernel;
  Tiling tiling;
  int32_t* counts;
};

/// Blocks of a task: few enough that even a matrix of 128 by 128 is shared among workers.
constexpr int64_t kBlocksPerTask = 16;

/// The bits of |x|, which compare as |x| does.
static int32_t magnitudeOf(const float* lane) {
  int32_t bits;
  __builtin_memcpy(&bits, lane, sizeof bits);
  return bits & INT32_MAX;
}

static void countExponents(const float* lanes, int64_t count, uint32_t (*tables)[kExponents]) {
  int64_t i = 0;
  for (; i + kTables <= count; i += kTables) {
    for (int j = 0; j < kTables; ++j) ++tables[j][magnitudeOf(lanes + i + j) >> 23];
  }
  for (; i < count; ++i) ++tables[0][magnitudeOf(lanes + i) >> 23];
}

static void countBorders(const float* lanes, int64_t count, Counts* counts) {
  constexpr int32_t largest = 0x477fe000;  // 65504
  int32_t zeros = 0, above = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int32_t magnitude = magnitudeOf(lanes + i);
    zeros += magnitude == 0 ? 1 : 0;
    above += magnitude > largest ? 1 : 0;
  }
  counts->zeros += zeros;
  counts->above += above;
}

/// Adds to the counts of other tasks, which may be adding theirs at the same time.
static void addTo(int32_t* total, int32_t count) {
  if (count != 0) __atomic_fetch_add(total, count, __ATOMIC_RELAXED);
}

static void magnitudeTask(void* context, int64_t task, int worker) {
  const MagnitudeRun& magnitudes = *static_cast<MagnitudeRun*>(context);
  const Vm& vm = magnitudes.kernel.prologue;
  VmState state = {};
  beginVm(&state, vm, magnitudes.run.bases,
          scratch(magnitudes.run.pool, worker, kPrologueSlot, registerByteLength(vm)));
  const float* const operand = state.registers + magnitudes.kernel.operand * kBlockLanes;
  Counts counts = {};
  const int64_t end = smaller((task + 1) * kBlocksPerTask, magnitudes.tiling.blocks);
  for (int64_t index = task * kBlocksPerTask; index < end; ++index) {
    const Block block = blockAt(magnitudes.tiling, index);
    runBlock(state, block);
    countExponents(operand, block.rows * block.lanes, counts.exponents);
    countBorders(operand, block.rows * block.lanes, &counts);
  }
  int32_t sums[kExponents] = {};
  for (int j = 0; j < kTables; ++j) {
    for (int e = 0; e < kExponents; ++e) sums[e] += static_cast<int32_t>(counts.exponents[j][e]);
  }
  for (int e = 0; e < kExponents; ++e) addTo(magnitudes.counts + e, sums[e]);
  addTo(magnitudes.counts + kExponents, counts.zeros);
  addTo(magnitudes.counts + kExponents + 1, counts.above - sums[kExponents - 1]);
}

void runMagnitudes(const Run& run, const MagnitudeKernel& kernel) {
  const Grid& grid = kernel.prologue.grid;
  MagnitudeRun magnitudes = {run, kernel, tilingOf(grid.rows, grid.lanes),
                             reinterpret_cast<int32_t*>(bytesAt(run, kernel.counts))};
  __builtin_memset(magnitudes.counts, 0, kMagnitudeCounts * sizeof(int32_t));
  parallelFor(run.pool, ceilDivide(magnitudes.tiling.blocks, kBlocksPerTask), magnitudeTask, &magnitudes);
}

}  // namespace BINADE_ISA
}  // namespace binade
