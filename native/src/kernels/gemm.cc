// Matrix products: cuts the product into tiles by shape, packs operands once where they are first used, splits k where tiles
// are too few.
#include "gemm.h"

#include "gemm_plan.h"

namespace binade {
namespace BINADE_ISA {

namespace {

constexpr int64_t aloneBelow = 1 << 16;   // multiply-adds under which one thread is faster than waking another
constexpr int64_t manyProducts = 16;      // batches from here on keep workers busy with whole products
constexpr int64_t leastTurnedRows = 6;    // fewer rows would leave most of a panel's columns empty
constexpr int64_t leastTurnedDepth = 128; // a sum of fewer products costs less than its way through a transposition
constexpr int turnedSlot = 5;

/// A's rows where they lie.
Packed rowsOfA(const GemmProblem& problem, bool pairs, int64_t product) {
  const Operand a = operandA(problem, product);
  return Packed{reinterpret_cast<const float*>(a.data), pairs ? a.rowStride / 2 : a.rowStride, true};
}

/// Everything the tasks of one problem share.
struct Work {
  Pool* pool;
  const GemmProblem* problem;
  const TileSink* sink;
  Plan plan;
  int64_t product;           // team mode: the product being computed
  float *a, *b, *partials;   // team mode: packed operands; (splits, tiles, tileRows, tileColumns) partial sums
  uint8_t *aStates, *bStates;  // team mode: which units of the operands are packed
  int64_t productsPerTask;   // alone mode
};

float* floats(Pool* pool, int worker, int slot, int64_t length) {
  return static_cast<float*>(scratch(pool, worker, slot, static_cast<size_t>(length) * sizeof(float)));
}

/// Tile number `index` (rows vary fastest, so that neighbours share packed B) over split number `split`.
Tile tileAt(const Work& work, int64_t index, int64_t split) {
  const Plan& plan = work.plan;
  const int64_t row = index % plan.rowTiles * plan.tileRows;
  const int64_t column = index / plan.rowTiles * plan.tileColumns;
  const int64_t firstWord = smaller(split * plan.splitWords, plan.words);
  return Tile{row,
              smaller(plan.tileRows, work.problem->m - row),
              column,
              smaller(plan.tileColumns, work.problem->n - column),
              firstWord,
              smaller(firstWord + plan.splitWords, plan.words)};
}

void writeTile(const Work& work, int64_t product, const Tile& tile, const float* sums, int worker) {
  work.sink->write(work.sink->context, product, tile.row, tile.column, tile.rows, tile.columns, sums,
                   work.plan.tileColumns, worker);
}

/// Adds the splits of one tile, in order, into the first: partials + s * distance for s in [0, splits).
void addSplits(const Plan& plan, float* first, int64_t distance) {
  for (int64_t split = 1; split < plan.splits; ++split) {
    const float* next = first + split * distance;
    for (int64_t i = 0; i < plan.tileLength(); ++i) first[i] += next[i];
  }
}

// --- Alone: one thread packs and multiplies whole products. -------------------------------------------------------

void multiplyAlone(const Work& work, int64_t product, const Packed& a, const Packed& b, float* sums, int worker) {
  const Plan& plan = work.plan;
  const auto supply = [&](const Tile&, int64_t, int64_t) { return PackedOperands{a, b}; };
  for (int64_t index = 0; index < plan.tiles(); ++index) {
    for (int64_t split = 0; split < plan.splits; ++split)
      multiplyTile(plan.pairs, a.inRows, supply, tileAt(work, index, split), sums + split * plan.tileLength(),
                   plan.tileColumns);
    addSplits(plan, sums, plan.tileLength());
    writeTile(work, product, tileAt(work, index, 0), sums, worker);
  }
}

void runAlone(void* context, int64_t task, int worker) {
  const Work& work = *static_cast<const Work*>(context);
  const GemmProblem& problem = *work.problem;
  const Plan& plan = work.plan;
  float* aTarget = floats(work.pool, worker, 0, plan.aLength + plan.bLength);
  float* bTarget = aTarget + plan.aLength;
  float* sums = floats(work.pool, worker, 1, plan.splits * plan.tileLength());
  const int64_t first = task * work.productsPerTask;
  const int64_t end = smaller(first + work.productsPerTask, problem.batch);
  Packed a{aTarget, plan.words};
  Packed b{bTarget, plan.words};
  for (int64_t product = first; product < end; ++product) {
    if (plan.readsRows) a = rowsOfA(problem, plan.pairs, product);
    else if (product == first || problem.aOffsets[product] != problem.aOffsets[product - 1])
      a = packWhole<panelRows>(operandA(problem, product), plan.pairs, aTarget);
    if (product == first || problem.bOffsets[product] != problem.bOffsets[product - 1])
      b = packWhole<panelColumns>(operandB(problem, product), plan.pairs, bTarget);
    multiplyAlone(work, product, a, b, sums, worker);
  }
}

// --- Team: workers share the tiles, and pack what they need and nobody has packed. --------------------------------
//
// Workers that begin with the same columns take units in turns. Nobody waits for all of an operand: packing alone is as slow as
// memory, which several threads share.

struct Words {
  int64_t first, end;
};

/// Block number `block` of split number `split`; nothing past the split's end.
Words blockAt(const Plan& plan, int64_t split, int64_t block) {
  const int64_t first = smaller(split * plan.splitWords, plan.words);
  const int64_t end = smaller(first + plan.splitWords, plan.words);
  const int64_t step = blockWordsOf(end - first);
  return Words{smaller(first + block * step, end), smaller(first + (block + 1) * step, end)};
}

template <int width>
void packUnit(const Plan& plan, const Operand& operand, const Units& units, int64_t unit, float* target) {
  const Words words = blockAt(plan, unit / plan.blocks / units.perBlock, unit % plan.blocks);
  const int64_t row = unit / plan.blocks % units.perBlock * units.rows;
  packRegion<width>(operand, plan.pairs,
                    PackRegion{target, plan.panelWords, row, smaller(row + units.rows, operand.rows), words.first, words.end});
}

void packUnitOfA(void* context, int64_t unit, int) {
  const Work& work = *static_cast<const Work*>(context);
  packUnit<panelRows>(work.plan, operandA(*work.problem, work.product), work.plan.aUnits, unit, work.a);
}

void packUnitOfB(void* context, int64_t unit, int) {
  const Work& work = *static_cast<const Work*>(context);
  packUnit<panelColumns>(work.plan, operandB(*work.problem, work.product), work.plan.bUnits, unit, work.b);
}

/// Operands of one task's tiles, packed where nobody did so before.
struct TeamSupply {
  Work& work;
  int64_t split;
  int worker;
  float* ownRows;    // where the task packs its rows of A for itself
  bool packsOwn;     // whether it has not yet

  PackedOperands operator()(const Tile& tile, int64_t word, int64_t depth) const {
    const Plan& plan = work.plan;
    const int64_t block = (word - tile.firstWord) / blockWordsOf(tile.endWord - tile.firstWord);
    const int64_t unit = unitAt(plan.bUnits, tile.column, block);
    ensureDone(work.bStates, plan.bUnits.count, unit, packUnitOfB, &work, worker);
    return PackedOperands{rows(tile, word, depth, block), Packed{work.b, plan.panelWords}};
  }

  int64_t unitAt(const Units& units, int64_t row, int64_t block) const {
    return (split * units.perBlock + row / units.rows) * work.plan.blocks + block;
  }

  Packed rows(const Tile& tile, int64_t word, int64_t depth, int64_t block) const {
    const Plan& plan = work.plan;
    if (plan.readsRows) return rowsOfA(*work.problem, plan.pairs, work.product);
    if (!plan.packsOwnRows) {
      const int64_t unit = unitAt(plan.aUnits, tile.row, block);
      ensureDone(work.aStates, plan.aUnits.count, unit, packUnitOfA, &work, worker);
      return Packed{work.a, plan.panelWords};
    }
    float* target = ownRows - tile.row * plan.panelWords;
    if (packsOwn)
      packRegion<panelRows>(operandA(*work.problem, work.product), plan.pairs,
                            PackRegion{target, plan.panelWords, tile.row, tile.row + tile.rows, word, word + depth});
    return Packed{target, plan.panelWords};
  }
};

/// One row of tiles of one column group over one split.
void tileTask(void* context, int64_t task, int worker) {
  Work& work = *static_cast<Work*>(context);
  const Plan& plan = work.plan;
  const int64_t split = task / (plan.rowTiles * plan.columnGroups());
  const int64_t group = task / plan.rowTiles % plan.columnGroups();
  const int64_t firstColumn = group * plan.columnGroup;
  const int64_t endColumn = smaller(firstColumn + plan.columnGroup, plan.columnTiles);
  const int64_t row = task % plan.rowTiles;
  float* sums = floats(work.pool, worker, 1, plan.tileLength() + (plan.packsOwnRows ? plan.ownLength() : 0));
  TeamSupply supply{work, split, worker, sums + plan.tileLength(), true};
  for (int64_t column = firstColumn; column < endColumn; ++column) {
    const int64_t index = column * plan.rowTiles + row;
    const Tile tile = tileAt(work, index, split);
    float* target = plan.splits > 1 ? work.partials + (split * plan.tiles() + index) * plan.tileLength() : sums;
    multiplyTile(plan.pairs, plan.readsRows, supply, tile, target, plan.tileColumns);
    if (plan.splits == 1) writeTile(work, work.product, tile, sums, worker);
    supply.packsOwn = false;
  }
}

void combineTask(void* context, int64_t task, int worker) {
  const Work& work = *static_cast<const Work*>(context);
  float* first = work.partials + task * work.plan.tileLength();
  addSplits(work.plan, first, work.plan.tiles() * work.plan.tileLength());
  writeTile(work, work.product, tileAt(work, task, 0), first, worker);
}

void reportWorker(void* context, int64_t, int worker) { *static_cast<int*>(context) = worker; }

void runTeam(Work& work) {
  const GemmProblem& problem = *work.problem;
  const Plan& plan = work.plan;
  int self = 0;
  parallelFor(work.pool, 1, reportWorker, &self);  // one task runs inline: the worker that this thread is
  const int64_t aLength = plan.readsRows || plan.packsOwnRows ? 0 : plan.aLength;
  const int64_t partialLength = plan.splits > 1 ? plan.splits * plan.tiles() * plan.tileLength() : 0;
  const int64_t stateLength = ceilDivide(plan.aUnits.count + plan.bUnits.count, sizeof(float));
  work.b = floats(work.pool, self, 0, plan.bLength + aLength + partialLength + stateLength);
  work.a = work.b + plan.bLength;
  work.partials = work.a + aLength;
  work.aStates = reinterpret_cast<uint8_t*>(work.partials + partialLength);
  work.bStates = work.aStates + plan.aUnits.count;
  for (int64_t product = 0; product < problem.batch; ++product) {
    work.product = product;
    if (product == 0 || problem.aOffsets[product] != problem.aOffsets[product - 1])
      __builtin_memset(work.aStates, 0, static_cast<size_t>(plan.aUnits.count));
    if (product == 0 || problem.bOffsets[product] != problem.bOffsets[product - 1])
      __builtin_memset(work.bStates, 0, static_cast<size_t>(plan.bUnits.count));
    parallelFor(work.pool, plan.rowTiles * plan.columnGroups() * plan.splits, tileTask, &work);
    if (plan.splits > 1) parallelFor(work.pool, plan.tiles(), combineTask, &work);
  }
}

// --- Turned: the transpose of the product, where B's columns lie as rows of A are read and are more to pack than A. ----

GemmProblem turned(const GemmProblem& problem) {
  const auto transposed = [](const MatrixView& view) {
    return MatrixView{view.data, view.storage, view.format, view.columnStride, view.rowStride};
  };
  return GemmProblem{problem.batch,         problem.n,        problem.m,       problem.k, transposed(problem.b),
                     transposed(problem.a), problem.bOffsets, problem.aOffsets};
}

/// Both ways add the same products in the same order as long as neither splits k, so the choice changes no bit.
bool turns(const GemmProblem& problem, const GemmProblem& turned) {
  const bool packsLess = problem.n >= 2 * problem.m && problem.k >= leastTurnedDepth;
  if (!packsLess || problem.m < leastTurnedRows || problem.m > readRowsColumns) return false;
  if (!liesInRows(turned, usesPairs(problem.a.format, problem.b.format))) return false;
  return makePlan(problem).splits == 1 && makePlan(turned).splits == 1;
}

struct TurnedSink {
  Pool* pool;
  const TileSink* sink;
};

/// target (columns, rows) without gaps = transpose of tile (rows, columns), whose rows are whole vectors. Blocks of the last rows go
/// first: what they write past the end of a target row is overwritten by its first block; `target` ends a vector later.
void transposeTile(const float* tile, int64_t stride, int64_t rows, int64_t columns, float* target) {
  for (int64_t row = (rows - 1) / vectorLanes * vectorLanes; row >= 0; row -= vectorLanes) {
    for (int64_t column = 0; column < columns; column += vectorLanes) {
      Vector r[vectorLanes];
#pragma GCC unroll 16
      for (int i = 0; i < vectorLanes; ++i)
        r[i] = row + i < rows ? loadVector(tile + (row + i) * stride + column) : zeroVector();
      transposeRegisters(r);
      const int64_t count = smaller(columns - column, vectorLanes);
      for (int64_t j = 0; j < count; ++j) storeVector(target + (column + j) * rows + row, r[j]);
    }
  }
}

void writeTurned(void* context, int64_t batch, int64_t row, int64_t column, int64_t rows, int64_t columns,
                 const float* tile, int64_t stride, int worker) {
  const TurnedSink& turned = *static_cast<TurnedSink*>(context);
  float* target = floats(turned.pool, worker, turnedSlot, rows * columns + vectorLanes);
  transposeTile(tile, stride, rows, columns, target);
  turned.sink->write(turned.sink->context, batch, column, row, columns, rows, target, rows, worker);
}

void multiply(Pool* pool, const GemmProblem& problem, const TileSink& sink) {
  Work work{};
  work.pool = pool;
  work.problem = &problem;
  work.sink = &sink;
  work.plan = makePlan(problem);
  const int64_t multiplyAdds = problem.m * problem.n * larger(problem.k, 1);
  if (multiplyAdds >= aloneBelow && problem.batch < manyProducts) return runTeam(work);
  work.productsPerTask = smaller(larger(aloneBelow / multiplyAdds, 1), problem.batch);
  parallelFor(pool, ceilDivide(problem.batch, work.productsPerTask), runAlone, &work);
}

}  // namespace

void gemm(Pool* pool, const GemmProblem& problem, const TileSink& sink) {
  if (problem.batch <= 0 || problem.m <= 0 || problem.n <= 0) return;
  const GemmProblem transpose = turned(problem);
  if (!turns(problem, transpose)) return multiply(pool, problem, sink);
  TurnedSink turnedSink{pool, &sink};
  multiply(pool, transpose, TileSink{writeTurned, &turnedSink});
}

}  // namespace BINADE_ISA
}  // namespace binade
