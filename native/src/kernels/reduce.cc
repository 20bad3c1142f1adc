// The reduce kernel: the prologue's lanes are combined chunk by chunk, the chunks as a tree, then the epilogue runs.
//
// Chunks and the order inside them follow from the counts of outputs and of reduced elements alone, so the bits depend
// neither on the number of workers nor on how the prologue's operands lie in memory.
#include "combine.h"
#include "kernels.h"

namespace binade {
namespace BINADE_ISA {

/// The longest chunk of lanes that are reduced among themselves; of rows when the lanes are outputs.
constexpr int64_t kChunkLanes = 16384;
constexpr int64_t kChunkRows = 512;

struct ReduceRun {
  const Run& run;
  const ReduceKernel& kernel;
  int64_t outputs;
  bool shortRows;          // along lanes: several outputs fit in a block
  int64_t chunks;          // per output
  int64_t lanesPerChunk;   // along lanes
  int64_t rowsPerChunk;    // lanes are outputs
  int64_t lanesPerUnit;    // lanes are outputs: whole blocks of a row, or all of it
  int64_t unitsPerTask, units;
  float* values;           // [count][chunks][outputs]
  int32_t* positions;      // as values
  Tiling epilogueTiling;
  int64_t epilogueBlocksPerTask;
};

/// Some rows and lanes of an output's grid of reduced elements.
struct Box {
  int64_t row, lane, rows, lanes;
};

static int64_t resultAt(const ReduceRun& reduce, int combine, int64_t chunk, int64_t output) {
  return (combine * reduce.chunks + chunk) * reduce.outputs + output;
}

static void storeResult(const ReduceRun& reduce, int combine, int64_t chunk, int64_t output, Accumulators* sums) {
  foldAccumulators(reduce.kernel.combines[combine], sums);
  const int64_t at = resultAt(reduce, combine, chunk, output);
  reduce.values[at] = sums->values[0];
  reduce.positions[at] = sums->positions[0];
}

/// Where the operands of the combines are, which may be in memory itself.
struct Operands {
  const float* sources[kMaxRegisters];
};

static const float* operandOf(const ReduceRun& reduce, const Operands& operands, int combine) {
  return operands.sources[reduce.kernel.registers[combine]];
}

/// Takes a part of one output's elements, which is a box of the grid: whole rows, or a part of one.
static void reduceBox(const ReduceRun& reduce, const VmState& state, Accumulators* sums, int64_t output, Box box) {
  const ReduceKernel& kernel = reduce.kernel;
  const Tiling tiling = tilingOf(box.rows, box.lanes);
  Operands operands;
  for (int64_t index = 0; index < tiling.blocks; ++index) {
    Block block = blockAt(tiling, index);
    const int64_t row = box.row + block.row;
    block.row = output * kernel.reducedRows + row;
    block.lane += box.lane;
    runBlockTo(state, block, operands.sources);
    const int64_t position = row * kernel.prologue.grid.lanes + block.lane;
    for (int i = 0; i < kernel.count; ++i) {
      accumulate(kernel.combines[i], &sums[i], operandOf(reduce, operands, i), block.rows * block.lanes, position);
    }
  }
}

/// One chunk of one output whose elements lie along the lanes, row after row.
static void reduceChunk(const ReduceRun& reduce, const VmState& state, Accumulators* sums, int64_t unit) {
  const ReduceKernel& kernel = reduce.kernel;
  const int64_t lanes = kernel.prologue.grid.lanes;
  const int64_t output = unit / reduce.chunks, chunk = unit % reduce.chunks;
  for (int i = 0; i < kernel.count; ++i) {
    fillAccumulators(kernel.combines[i], sums[i].values, sums[i].positions, kAccumulators);
  }
  const int64_t end = smaller((chunk + 1) * reduce.lanesPerChunk, kernel.reduced);
  for (int64_t position = chunk * reduce.lanesPerChunk; position < end;) {
    Box box = {position / lanes, position % lanes, 1, 0};
    const bool whole = box.lane == 0 && end - position >= lanes;
    box.rows = whole ? (end - position) / lanes : 1;
    box.lanes = smaller(lanes - box.lane, end - position);
    reduceBox(reduce, state, sums, output, box);
    position += box.rows * box.lanes;
  }
  for (int i = 0; i < kernel.count; ++i) storeResult(reduce, i, chunk, output, &sums[i]);
}

/// A block of short rows, each an output of its own.
static void reduceShortRows(const ReduceRun& reduce, const VmState& state, Accumulators* sums, int64_t unit) {
  const ReduceKernel& kernel = reduce.kernel;
  const Block block = blockAt(tilingOf(reduce.outputs, kernel.prologue.grid.lanes), unit);
  Operands operands;
  runBlockTo(state, block, operands.sources);
  for (int i = 0; i < kernel.count; ++i) {
    const float* lanes = operandOf(reduce, operands, i);
    for (int row = 0; row < block.rows; ++row) {
      fillAccumulators(kernel.combines[i], sums->values, sums->positions, kAccumulators);
      accumulate(kernel.combines[i], sums, lanes + row * block.lanes, block.lanes, 0);
      storeResult(reduce, i, 0, block.row + row, sums);
    }
  }
}

/// Combines `rows` rows of lanes, each lane an output, into the results at `at`. The first row stands at `position`.
static void combineRows(const ReduceRun& reduce, int index, int64_t at, const float* operand, int rows, int64_t width,
                        int64_t position) {
  const Combine combine = reduce.kernel.combines[index];
  const float sign = combine == Combine::argMin ? -1.0f : 1.0f;
  for (int row = 0; row < rows; ++row, operand += width) {
    if (findsPosition(combine)) {
      combineLanesAt(reduce.values + at, reduce.positions + at, operand, width, sign,
                     static_cast<int32_t>(position + row), 0);
    } else {
      combineValues(combine, reduce.values + at, operand, width);
    }
  }
}

/// One chunk of rows for some blocks of outputs that lie along the lanes: every row is combined into the results in turn, all of its
/// blocks one after the other, as memory holds them.
static void reduceColumns(const ReduceRun& reduce, const VmState& state, int64_t unit) {
  const ReduceKernel& kernel = reduce.kernel;
  const int64_t lanes = kernel.prologue.grid.lanes;
  const int64_t groups = ceilDivide(lanes, reduce.lanesPerUnit);
  const int64_t chunk = unit / groups % reduce.chunks, outer = unit / groups / reduce.chunks;
  const int64_t firstRow = chunk * reduce.rowsPerChunk;
  const int64_t firstLane = unit % groups * reduce.lanesPerUnit;
  const int64_t width = smaller(lanes - firstLane, reduce.lanesPerUnit);
  const Tiling tiling = tilingOf(smaller(kernel.reducedRows - firstRow, reduce.rowsPerChunk), width);
  const int64_t output = outer * lanes + firstLane;
  for (int i = 0; i < kernel.count; ++i) {
    const int64_t at = resultAt(reduce, i, chunk, output);
    fillAccumulators(kernel.combines[i], reduce.values + at, reduce.positions + at, width);
  }
  Operands operands;
  for (int64_t index = 0; index < tiling.blocks; ++index) {
    Block block = blockAt(tiling, index);
    const int64_t position = block.row + firstRow;
    const int64_t first = output + block.lane;
    block.row = outer * kernel.reducedRows + position;
    block.lane += firstLane;
    runBlockTo(state, block, operands.sources);
    for (int i = 0; i < kernel.count; ++i) {
      combineRows(reduce, i, resultAt(reduce, i, chunk, first), operandOf(reduce, operands, i), block.rows, block.lanes,
                  position);
    }
  }
}

static void reduceTask(void* context, int64_t task, int worker) {
  const ReduceRun& reduce = *static_cast<ReduceRun*>(context);
  const ReduceKernel& kernel = reduce.kernel;
  VmState state = {};
  beginVm(&state, kernel.prologue, reduce.run.bases,
          scratch(reduce.run.pool, worker, kPrologueSlot, registerByteLength(kernel.prologue)));
  state.readsInPlace = true;
  Accumulators sums[kMaxCombines];
  const int64_t end = smaller((task + 1) * reduce.unitsPerTask, reduce.units);
  for (int64_t unit = task * reduce.unitsPerTask; unit < end; ++unit) {
    if (!kernel.alongLanes) reduceColumns(reduce, state, unit);
    else if (reduce.shortRows) reduceShortRows(reduce, state, sums, unit);
    else reduceChunk(reduce, state, sums, unit);
  }
}

/// Combines the chunks of outputs [first, first + count) as a tree: neighbours, then neighbours of those.
static void combineChunks(const ReduceRun& reduce, int combine, int64_t first, int64_t count) {
  for (int64_t step = 1; step < reduce.chunks; step *= 2) {
    for (int64_t chunk = 0; chunk + step < reduce.chunks; chunk += 2 * step) {
      const int64_t at = resultAt(reduce, combine, chunk, first);
      const int64_t other = resultAt(reduce, combine, chunk + step, first);
      if (findsPosition(reduce.kernel.combines[combine])) {
        combinePositions(reduce.values + at, reduce.positions + at, reduce.values + other, reduce.positions + other,
                         count);
      } else {
        combineValues(reduce.kernel.combines[combine], reduce.values + at, reduce.values + other, count);
      }
    }
  }
}

/// Lays a position's bits where the epilogue reads its float32 lane. An empty reduction has no position: 0.
static void positionsAsValues(const ReduceRun& reduce, int combine, int64_t first, int64_t count) {
  const int64_t at = resultAt(reduce, combine, 0, first);
  for (int64_t i = at; i < at + count; ++i) {
    const int32_t position = reduce.positions[i] == kNoPosition ? 0 : reduce.positions[i];
    reduce.values[i] = floatOfBits(static_cast<uint32_t>(position));
  }
}

static void epilogueTask(void* context, int64_t task, int worker) {
  const ReduceRun& reduce = *static_cast<ReduceRun*>(context);
  const ReduceKernel& kernel = reduce.kernel;
  VmState state = {};
  beginVm(&state, kernel.epilogue, reduce.run.bases,
          scratch(reduce.run.pool, worker, kEpilogueSlot, registerByteLength(kernel.epilogue)));
  const int64_t lanes = kernel.epilogue.grid.lanes;
  for (int i = 0; i < kernel.count; ++i) {
    state.buffers[i] = {reduce.values + resultAt(reduce, i, 0, 0), lanes, false};
  }
  const int64_t end = smaller((task + 1) * reduce.epilogueBlocksPerTask, reduce.epilogueTiling.blocks);
  for (int64_t index = task * reduce.epilogueBlocksPerTask; index < end; ++index) {
    const Block block = blockAt(reduce.epilogueTiling, index);
    const int64_t first = block.row * lanes + block.lane;
    for (int i = 0; i < kernel.count; ++i) {
      combineChunks(reduce, i, first, block.rows * block.lanes);
      if (findsPosition(kernel.combines[i])) positionsAsValues(reduce, i, first, block.rows * block.lanes);
    }
    runBlock(state, block);
  }
}

/// Chooses chunks, units and tasks from the shape.
static void planReduction(ReduceRun* reduce) {
  const ReduceKernel& kernel = reduce->kernel;
  const int64_t lanes = kernel.prologue.grid.lanes;
  reduce->outputs = kernel.outerKept * (kernel.alongLanes ? 1 : lanes);
  if (kernel.reduced == 0) {
    reduce->chunks = 1;
    return;
  }
  // Of the outputs, not of the lanes: which axes merge into the lanes depends on the operands.
  const int64_t taskLanes = lanesPerTask(reduce->outputs * kernel.reduced);
  int64_t unitLanes;
  if (!kernel.alongLanes) {
    const int64_t laneBlocks = ceilDivide(lanes, kBlockLanes);
    reduce->rowsPerChunk = smaller(larger(taskLanes / larger(smaller(reduce->outputs, kBlockLanes), 1), 1), kChunkRows);
    reduce->chunks = ceilDivide(kernel.reducedRows, reduce->rowsPerChunk);
    // Whole rows, as long as workers have enough to share.
    const int64_t blocks = smaller(larger(kernel.outerKept * reduce->chunks * laneBlocks / kWantedTasks, 1), laneBlocks);
    reduce->lanesPerUnit = blocks * kBlockLanes;
    reduce->units = kernel.outerKept * reduce->chunks * ceilDivide(lanes, reduce->lanesPerUnit);
    unitLanes = smaller(lanes, reduce->lanesPerUnit) * smaller(reduce->rowsPerChunk, kernel.reducedRows);
  } else if (kernel.reducedRows == 1 && lanes <= kBlockLanes / 2) {
    reduce->shortRows = true;
    reduce->chunks = 1;
    reduce->units = tilingOf(reduce->outputs, lanes).blocks;
    unitLanes = kBlockLanes;
  } else {
    reduce->lanesPerChunk = smaller(taskLanes, kChunkLanes);
    reduce->chunks = ceilDivide(kernel.reduced, reduce->lanesPerChunk);
    reduce->units = reduce->outputs * reduce->chunks;
    unitLanes = smaller(kernel.reduced, reduce->lanesPerChunk);
  }
  reduce->unitsPerTask = larger(taskLanes / larger(unitLanes, 1), 1);
}

/// The results of a reduction over nothing: identities, in every chunk.
static void fillIdentities(const ReduceRun& reduce) {
  for (int i = 0; i < reduce.kernel.count; ++i) {
    const int64_t at = resultAt(reduce, i, 0, 0);
    fillAccumulators(reduce.kernel.combines[i], reduce.values + at, reduce.positions + at, reduce.outputs);
  }
}

void runReduce(const Run& run, const ReduceKernel& kernel) {
  ReduceRun reduce = {run, kernel, 0, false, 0, 0, 0, 0, 0, 0, nullptr, nullptr, {}, 0};
  planReduction(&reduce);
  if (reduce.outputs == 0) return;
  const int64_t results = reduce.outputs * reduce.chunks * kernel.count;
  reduce.values = static_cast<float*>(scratch(run.pool, 0, kSharedSlot, static_cast<size_t>(results) * 8));
  reduce.positions = reinterpret_cast<int32_t*>(reduce.values + results);
  if (kernel.reduced == 0) fillIdentities(reduce);
  else parallelFor(run.pool, ceilDivide(reduce.units, reduce.unitsPerTask), reduceTask, &reduce);
  const Grid& grid = kernel.epilogue.grid;
  reduce.epilogueTiling = tilingOf(grid.rows, grid.lanes);
  reduce.epilogueBlocksPerTask = larger(kTaskLanes / kBlockLanes / reduce.chunks, 1);
  parallelFor(run.pool, ceilDivide(reduce.epilogueTiling.blocks, reduce.epilogueBlocksPerTask), epilogueTask, &reduce);
}

}  // namespace BINADE_ISA
}  // namespace binade
