// How a product is cut into tiles, tasks and units of packing, before anything is computed.
#pragma once
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
constexpr int64_t panelPadFrom = 64;
constexpr int64_t readRowsColumns = 512;  // up to so many columns, reading A's rows where they lie costs less than packing
constexpr int64_t pageBytes = 4096, fewestWays = 8;
constexpr int64_t readAcrossRows = 512;   // rows of a unit of packing where memory runs across them, about
constexpr int64_t leastUnits = 4;         // fewer would leave a worker waiting while another packs

/// An operand's units of packing: some of its rows over one block of depth, in order (split, rows, block). No bit of a result depends
/// on them, so they may follow from strides.
struct Units {
  int64_t rows;      // of a unit, whole tiles
  int64_t perBlock;  // units side by side
  int64_t count;
};

/// How one product of a problem is cut; a function of shape and instruction set alone.
struct Plan {
  bool pairs;
  int64_t words;                     // depth in words
  int64_t panelWords;                // from one packed panel to the next
  int64_t tileRows, tileColumns;     // multiples of the panel sizes
  int64_t rowTiles, columnTiles;
  int64_t splits, splitWords;
  int64_t blocks;                    // of a split's depth, as multiplyPanels cuts it
  int64_t columnGroup;               // column tiles in a row that one task computes
  bool readsRows;                    // whether A is read as it lies in memory, and nobody packs it
  bool packsOwnRows;                 // whether a task packs its rows of A for itself: nobody else needs them
  Units aUnits, bUnits;
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

/// Units of an operand of `rows` rows, which are A's rows or B's columns: those of a tile, or, where memory runs across them and
/// enough units remain, of several tiles, so that what is read is contiguous.
Units unitsOf(const Plan& plan, bool acrossRows, int64_t rows, int64_t tileRows) {
  const auto unitsWith = [&](int64_t unitRows) {
    const int64_t perBlock = ceilDivide(rows, unitRows);
    return Units{unitRows, perBlock, plan.splits * perBlock * plan.blocks};
  };
  const Units wide = unitsWith(larger(readAcrossRows / tileRows, 1) * tileRows);
  return acrossRows && wide.count >= leastUnits ? wide : unitsWith(tileRows);
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
  plan.blocks = larger(ceilDivide(plan.splitWords, blockWordsOf(plan.splitWords)), 1);
  plan.columnGroup = larger(plan.columnTiles * plan.rowTiles * plan.splits / wantedTiles, 1);
  plan.columnGroup = smaller(plan.columnGroup, plan.columnTiles);
  plan.readsRows = problem.n <= readRowsColumns && liesInRows(problem, plan.pairs);
  plan.packsOwnRows = !plan.readsRows && plan.columnGroups() == 1;
  plan.aUnits = unitsOf(plan, runsAcrossRows(operandA(problem, 0)), problem.m, plan.tileRows);
  plan.bUnits = unitsOf(plan, runsAcrossRows(operandB(problem, 0)), problem.n, plan.tileColumns);
  plan.aLength = plan.readsRows ? 0 : packedLength(problem.m, panelRows, plan.panelWords);
  plan.bLength = packedLength(problem.n, panelColumns, plan.panelWords);
  return plan;
}

}  // namespace

}  // namespace BINADE_ISA
}  // namespace binade
