// Matrix products: packs both operands once, cuts the product into tiles by shape, splits k where tiles are too few.
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

/// How one product of a problem is cut; a function of shape and instruction set alone.
struct Plan {
  bool pairs;
  int64_t words;                     // depth in words
  int64_t tileRows, tileColumns;     // multiples of the panel sizes
  int64_t rowTiles, columnTiles;
  int64_t splits, splitWords;
  int64_t aLength, bLength;          // packed floats
  int64_t tileLength() const { return tileRows * tileColumns; }
  int64_t tiles() const { return rowTiles * columnTiles; }
};

/// Panels per tile: `count` panels cut into equal tiles of at most `most`.
int64_t evenPanels(int64_t count, int64_t most) { return ceilDivide(count, ceilDivide(count, most)); }

Plan makePlan(const GemmProblem& problem) {
  Plan plan{};
  plan.pairs = usesPairs(problem.a.format, problem.b.format);
  plan.words = wordsOf(problem.k, plan.pairs);
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
  plan.aLength = packedLength(problem.m, panelRows, plan.words);
  plan.bLength = packedLength(problem.n, panelColumns, plan.words);
  return plan;
}

Operand operandA(const GemmProblem& problem, int64_t product) {
  const MatrixView& view = problem.a;
  const char* data = static_cast<const char*>(view.data) + problem.aOffsets[product] * byteWidth(view.storage);
  return Operand{data, view.storage, view.format, view.rowStride, view.columnStride, problem.m, problem.k};
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
    if (product == first || problem.aOffsets[product] != problem.aOffsets[product - 1])
      a = packWhole<panelRows>(operandA(problem, product), plan.pairs, aTarget);
    if (product == first || problem.bOffsets[product] != problem.bOffsets[product - 1])
      b = packWhole<panelColumns>(operandB(problem, product), plan.pairs, bTarget);
    multiplyAlone(work, product, a, b, sums, worker);
  }
}

// --- Team: workers pack one product together, then share its tiles. -----------------------------------------------

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
                    PackRegion{target, plan.words, row, smaller(row + strips.rows, operand.rows), word,
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

void tileTask(void* context, int64_t task, int worker) {
  const Work& work = *static_cast<const Work*>(context);
  const Plan& plan = work.plan;
  const Packed a{work.a, plan.words};
  const Packed b{work.b, plan.words};
  if (plan.splits > 1) {
    const Tile tile = tileAt(work, task % plan.tiles(), task / plan.tiles());
    multiplyTile(plan.pairs, a, b, tile, work.partials + task * plan.tileLength(), plan.tileColumns, false);
    return;
  }
  const Tile tile = tileAt(work, task, 0);
  float* sums = floats(work.pool, worker, 1, plan.tileLength());
  multiplyTile(plan.pairs, a, b, tile, sums, plan.tileColumns, false);
  writeTile(work, work.product, tile, sums, worker);
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
  const int64_t partialLength = plan.splits > 1 ? plan.splits * plan.tiles() * plan.tileLength() : 0;
  work.a = floats(work.pool, self, 0, plan.aLength + plan.bLength + partialLength);
  work.b = work.a + plan.aLength;
  work.partials = work.b + plan.bLength;
  for (int64_t product = 0; product < problem.batch; ++product) {
    work.product = product;
    work.packA = product == 0 || problem.aOffsets[product] != problem.aOffsets[product - 1];
    work.packB = product == 0 || problem.bOffsets[product] != problem.bOffsets[product - 1];
    const int64_t packTasks = (work.packA ? stripsOf(plan, problem.m, panelRows).count() : 0) +
                              (work.packB ? stripsOf(plan, problem.n, panelColumns).count() : 0);
    parallelFor(work.pool, packTasks, packTask, &work);
    parallelFor(work.pool, plan.tiles() * plan.splits, tileTask, &work);
    if (plan.splits > 1) parallelFor(work.pool, plan.tiles(), combineTask, &work);
  }
}

}  // namespace

void gemm(Pool* pool, const GemmProblem& problem, const TileSink& sink) {
  if (problem.batch <= 0 || problem.m <= 0 || problem.n <= 0) return;
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

}  // namespace BINADE_ISA
}  // namespace binade
