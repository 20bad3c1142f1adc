// Matrix products: packs B once and A where it is used, cuts the product into tiles by shape, splits k where tiles are
// too few.
#include "gemm.h"

#include "gemm_block.h"

namespace binade {
namespace BINADE_ISA {

namespace {

// Tiles stay in L2 with their A rows; 112 × 256 floats are 112 KiB.
constexpr int64_t tileRowPanels = 112 / panelRows;
constexpr int64_t tileColumnPanels = 256 / panelColumns;
constexpr int64_t leastRowPanels = 4;
constexpr int64_t leastColumnPanels = panelColumns >= 32 ? 2 : 4;
constexpr int64_t wantedTiles = 16;       // enough for eight workers that finish at different times
constexpr int64_t splitBelowTiles = 8;    // fewer tiles than this may split k
constexpr int64_t leastSplitWords = 256;  // a split shorter than this costs more to combine than it gains
constexpr int64_t aloneBelow = 1 << 16;   // multiply-adds under which one thread is faster than waking another
constexpr int64_t manyProducts = 16;      // batches from here on keep workers busy with whole products
constexpr int64_t packStripWords = 256;
constexpr int64_t panelPadFrom = 64;
constexpr int64_t readRowsColumns = 512;  // up to so many columns, reading A's rows where they lie costs less than packing
constexpr int64_t pageBytes = 4096, fewestWays = 8;
constexpr int64_t leastTurnedRows = 6;    // fewer rows would leave most of a panel's columns empty
constexpr int64_t leastTurnedDepth = 128; // a sum of fewer products costs less than its way through a transposition
constexpr int turnedSlot = 5;

/// How one product of a problem is cut; a function of shape and instruction set alone.
struct Plan {
  bool pairs;
  int64_t words;                     // depth in words
  int64_t panelWords;                // from one packed panel to the next
  int64_t tileRows, tileColumns;     // multiples of the panel sizes
  int64_t rowTiles, columnTiles;
  int64_t splits, splitWords;
  int64_t columnGroup;               // column tiles in a row that one task computes
  bool readsRows;                    // whether A is read as it lies in memory, and nobody packs it
  bool packsOwnRows;                 // whether a task packs its rows of A for itself, warm: nobody else needs them
  int64_t aLength, bLength;          // packed floats
  int64_t tileLength() const { return tileRows * tileColumns; }
  int64_t tiles() const { return rowTiles * columnTiles; }
  int64_t ownLength() const { return packedLength(tileRows, panelRows, panelWords); }
  int64_t columnGroups() const { return ceilDivide(columnTiles, columnGroup); }
};

/// Panels per tile: `count` panels cut into equal tiles of at most `most`.
int64_t evenPanels(int64_t count, int64_t most) { return ceilDivide(count, ceilDivide(count, most)); }

/// Whether rows of A are in memory what a register kernel reads of a panel: whole words, one after the other. Rows whole pages
/// apart share a set of the first cache: more of them than it has ways drive each other out.
bool liesInRows(const GemmProblem& problem, bool pairs) {
  const MatrixView& a = problem.a;
  if (a.columnStride != 1 || a.storage != a.format) return false;
  if (panelRows > fewestWays && a.rowStride * byteWidth(a.storage) % pageBytes == 0) return false;
  if (!pairs) return a.storage == DType::float32;
  if (problem.k % 2 != 0 || a.rowStride % 2 != 0) return false;
  for (int64_t product = 0; product < problem.batch; ++product)
    if (problem.aOffsets[product] % 2 != 0) return false;
  return true;
}

Plan makePlan(const GemmProblem& problem) {
  Plan plan{};
  plan.pairs = usesPairs(problem.a.format, problem.b.format);
  plan.words = wordsOf(problem.k, plan.pairs);
  // An odd number of eights: panels that start a power of two apart would fight for the same cache sets.
  plan.panelWords = plan.words < panelPadFrom ? plan.words : roundUp(plan.words + 8, 16) - 8;
  const int64_t rowPanels = ceilDivide(problem.m, panelRows);
  const int64_t columnPanels = ceilDivide(problem.n, panelColumns);
  int64_t rows = evenPanels(rowPanels, tileRowPanels);
  int64_t columns = evenPanels(columnPanels, tileColumnPanels);
  while (ceilDivide(rowPanels, rows) * ceilDivide(columnPanels, columns) < wantedTiles) {
    const bool canCutRows = rows >= 2 * leastRowPanels;
    const bool canCutColumns = columns >= 2 * leastColumnPanels;
    if (!canCutRows && !canCutColumns) break;
    if (canCutColumns && (!canCutRows || columns * panelColumns >= rows * panelRows)) {
      columns = ceilDivide(columns, 2);
    } else {
      rows = ceilDivide(rows, 2);
    }
  }
  plan.tileRows = rows * panelRows;
  plan.tileColumns = columns * panelColumns;
  plan.rowTiles = ceilDivide(rowPanels, rows);
  plan.columnTiles = ceilDivide(columnPanels, columns);
  plan.splits = 1;
  if (plan.tiles() < splitBelowTiles)
    plan.splits = larger(smaller(splitBelowTiles / plan.tiles(), plan.words / leastSplitWords), 1);
  plan.splitWords = ceilDivide(plan.words, plan.splits);
  plan.columnGroup = larger(plan.columnTiles * plan.rowTiles * plan.splits / wantedTiles, 1);
  plan.columnGroup = smaller(plan.columnGroup, plan.columnTiles);
  plan.readsRows = problem.n <= readRowsColumns && liesInRows(problem, plan.pairs);
  plan.packsOwnRows = !plan.readsRows && plan.columnGroups() == 1;
  plan.aLength = plan.readsRows ? 0 : packedLength(problem.m, panelRows, plan.panelWords);
  plan.bLength = packedLength(problem.n, panelColumns, plan.panelWords);
  return plan;
}

Operand operandA(const GemmProblem& problem, int64_t product) {
  const MatrixView& view = problem.a;
  const char* data = static_cast<const char*>(view.data) + problem.aOffsets[product] * byteWidth(view.storage);
  return Operand{data, view.storage, view.format, view.rowStride, view.columnStride, problem.m, problem.k};
}

/// A's rows where they lie.
Packed rowsOfA(const GemmProblem& problem, bool pairs, int64_t product) {
  const Operand a = operandA(problem, product);
  return Packed{reinterpret_cast<const float*>(a.data), pairs ? a.rowStride / 2 : a.rowStride, true};
}

/// B seen from its columns: they are the packed rows.
Operand operandB(const GemmProblem& problem, int64_t product) {
  const MatrixView& view = problem.b;
  const char* data = static_cast<const char*>(view.data) + problem.bOffsets[product] * byteWidth(view.storage);
  return Operand{data, view.storage, view.format, view.columnStride, view.rowStride, problem.n, problem.k};
}

/// Everything the tasks of one problem share.
struct Work {
  Pool* pool;
  const GemmProblem* problem;
  const TileSink* sink;
  Plan plan;
  int64_t product;           // team mode: the product being computed
  bool packA, packB;         // team mode: whether this product's operand differs from the one packed before
  float *a, *b, *partials;   // team mode: packed operands; (splits, tiles, tileRows, tileColumns) partial sums
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
  for (int64_t index = 0; index < plan.tiles(); ++index) {
    for (int64_t split = 0; split < plan.splits; ++split)
      multiplyTile(plan.pairs, a, b, tileAt(work, index, split), sums + split * plan.tileLength(), plan.tileColumns,
                   false);
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

// --- Team: workers pack B together (and A, where many of them need the same rows), then share the tiles. -----------

/// Strips of packing work: about a tile of rows by packStripWords of depth.
struct Strips {
  int64_t rows, rowStrips, depthStrips;
  int64_t count() const { return rowStrips * depthStrips; }
};

Strips stripsOf(const Plan& plan, int64_t rows, int64_t width) {
  const int64_t stripRows = roundUp(112, width);
  return Strips{stripRows, ceilDivide(rows, stripRows), ceilDivide(plan.words, packStripWords)};
}

template <int width>
void packStrip(const Operand& operand, const Plan& plan, const Strips& strips, int64_t index, float* target) {
  const int64_t row = index % strips.rowStrips * strips.rows;
  const int64_t word = index / strips.rowStrips * packStripWords;
  packRegion<width>(operand, plan.pairs,
                    PackRegion{target, plan.panelWords, row, smaller(row + strips.rows, operand.rows), word,
                               smaller(word + packStripWords, plan.words)});
}

void packTask(void* context, int64_t task, int) {
  const Work& work = *static_cast<const Work*>(context);
  const Strips aStrips = stripsOf(work.plan, work.problem->m, panelRows);
  const int64_t aTasks = work.packA ? aStrips.count() : 0;
  if (task < aTasks) {
    packStrip<panelRows>(operandA(*work.problem, work.product), work.plan, aStrips, task, work.a);
  } else {
    const Strips bStrips = stripsOf(work.plan, work.problem->n, panelColumns);
    packStrip<panelColumns>(operandB(*work.problem, work.product), work.plan, bStrips, task - aTasks, work.b);
  }
}

/// The rows and depths of A that a tile needs, packed at `target` as if they were the whole operand's first rows.
Packed packOwnRows(const Work& work, const Tile& tile, float* target) {
  Operand rows = operandA(*work.problem, work.product);
  rows.data += tile.row * rows.rowStride * byteWidth(rows.storage);
  rows.rows = tile.rows;
  packRegion<panelRows>(rows, work.plan.pairs,
                        PackRegion{target, work.plan.panelWords, 0, tile.rows, tile.firstWord, tile.endWord});
  return Packed{target, work.plan.panelWords};
}

/// One row of tiles of one column group over one split.
void tileTask(void* context, int64_t task, int worker) {
  const Work& work = *static_cast<const Work*>(context);
  const Plan& plan = work.plan;
  const int64_t split = task / (plan.rowTiles * plan.columnGroups());
  const int64_t group = task / plan.rowTiles % plan.columnGroups();
  const int64_t firstColumn = group * plan.columnGroup;
  const int64_t endColumn = smaller(firstColumn + plan.columnGroup, plan.columnTiles);
  const int64_t row = task % plan.rowTiles;
  float* sums = floats(work.pool, worker, 1, plan.tileLength() + (plan.packsOwnRows ? plan.ownLength() : 0));
  const Packed b{work.b, plan.panelWords};
  Packed a{work.a, plan.panelWords};
  if (plan.readsRows) a = rowsOfA(*work.problem, plan.pairs, work.product);
  if (plan.packsOwnRows) a = packOwnRows(work, tileAt(work, row, split), sums + plan.tileLength());
  for (int64_t column = firstColumn; column < endColumn; ++column) {
    const int64_t index = column * plan.rowTiles + row;
    const Tile tile = tileAt(work, index, split);
    Tile packed = tile;
    if (plan.packsOwnRows) packed.row = 0;
    if (plan.splits > 1) {
      float* partial = work.partials + (split * plan.tiles() + index) * plan.tileLength();
      multiplyTile(plan.pairs, a, b, packed, partial, plan.tileColumns, false);
    } else {
      multiplyTile(plan.pairs, a, b, packed, sums, plan.tileColumns, false);
      writeTile(work, work.product, tile, sums, worker);
    }
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
  const bool sharesPackedA = !plan.readsRows && !plan.packsOwnRows;
  const int64_t aLength = sharesPackedA ? plan.aLength : 0;
  const int64_t partialLength = plan.splits > 1 ? plan.splits * plan.tiles() * plan.tileLength() : 0;
  work.b = floats(work.pool, self, 0, plan.bLength + aLength + partialLength);
  work.a = work.b + plan.bLength;
  work.partials = work.a + aLength;
  for (int64_t product = 0; product < problem.batch; ++product) {
    work.product = product;
    work.packA = sharesPackedA && (product == 0 || problem.aOffsets[product] != problem.aOffsets[product - 1]);
    work.packB = product == 0 || problem.bOffsets[product] != problem.bOffsets[product - 1];
    const int64_t packTasks = (work.packA ? stripsOf(plan, problem.m, panelRows).count() : 0) +
                              (work.packB ? stripsOf(plan, problem.n, panelColumns).count() : 0);
    parallelFor(work.pool, packTasks, packTask, &work);
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
