// The row kernel: the prologue fills row buffers, the core works on each row, the epilogue stores.
#include "kernels.h"
#include "row_cores.h"

namespace binade {
namespace BINADE_ISA {

struct RowsRun {
  const Run& run;
  const RowKernel& kernel;
  int64_t rows, length;
  int64_t rowsPerGroup;  // rows whose buffers are held at once: several when they fit in one block
  int64_t groupsPerTask;
};

/// A worker's buffers: for each input and output, rowsPerGroup rows of `length` lanes or of one.
struct RowBuffers {
  float* data[kMaxCoreBuffers];
  int64_t strides[kMaxCoreBuffers];
};

static RowBuffers allocateBuffers(const RowsRun& rows, int worker) {
  const int count = rows.kernel.inputCount + rows.kernel.outputCount;
  const int64_t rowLanes = (rows.rowsPerGroup * rows.length + 15) / 16 * 16;
  const size_t byteLength = static_cast<size_t>(rowLanes * count) * sizeof(float);
  float* data = static_cast<float*>(scratch(rows.run.pool, worker, kRowSlot, byteLength));
  RowBuffers buffers = {};
  for (int i = 0; i < count; ++i) {
    buffers.data[i] = data + i * rowLanes;
    buffers.strides[i] = isPerRow(rows.kernel.core, i) ? 1 : rows.length;
  }
  return buffers;
}

static VmState beginRows(const RowsRun& rows, const Vm& vm, const RowBuffers& buffers, int worker, int slot) {
  VmState state;
  beginVm(&state, vm, rows.run.bases, scratch(rows.run.pool, worker, slot, registerByteLength(vm)));
  state.readsInPlace = true;
  for (int i = 0; i < kMaxCoreBuffers; ++i) {
    state.buffers[i] = {buffers.data[i], buffers.strides[i], isPerRow(rows.kernel.core, i)};
  }
  return state;
}

/// Runs a program over rows [first, first + count) of the kernel, which are rows 0… of the buffers.
static void runOverRows(const VmState& state, int64_t first, int64_t count, int64_t lanes) {
  const Tiling tiling = tilingOf(count, lanes);
  for (int64_t index = 0; index < tiling.blocks; ++index) {
    Block block = blockAt(tiling, index);
    block.row += first;
    runBlock(state, block);
  }
}

static void runCores(const RowsRun& rows, const RowBuffers& buffers, int64_t first, int64_t count) {
  for (int64_t row = 0; row < count; ++row) {
    float* data[kMaxCoreBuffers];
    for (int i = 0; i < kMaxCoreBuffers; ++i) data[i] = buffers.data[i] + row * buffers.strides[i];
    const BadLabel bad = runCore(rows.kernel.core, {data, rows.length, rows.kernel.parameters});
    if (bad.found) raiseFault(rows.run, first + row, bad.label);
  }
}

static void rowsTask(void* context, int64_t task, int worker) {
  const RowsRun& rows = *static_cast<RowsRun*>(context);
  const RowKernel& kernel = rows.kernel;
  const RowBuffers buffers = allocateBuffers(rows, worker);
  const VmState prologue = beginRows(rows, kernel.prologue, buffers, worker, kPrologueSlot);
  const VmState epilogue = beginRows(rows, kernel.epilogue, buffers, worker, kEpilogueSlot);
  const int64_t rowsPerTask = rows.rowsPerGroup * rows.groupsPerTask;
  const int64_t end = smaller((task + 1) * rowsPerTask, rows.rows);
  for (int64_t first = task * rowsPerTask; first < end; first += rows.rowsPerGroup) {
    const int64_t count = smaller(end - first, rows.rowsPerGroup);
    runOverRows(prologue, first, count, rows.length);
    runCores(rows, buffers, first, count);
    runOverRows(epilogue, first, count, kernel.epilogue.firstLaneOnly ? 1 : rows.length);
  }
}

void runRows(const Run& run, const RowKernel& kernel) {
  const Grid& grid = kernel.prologue.grid;
  if (grid.rows == 0 || grid.lanes == 0) return;
  const int64_t rowsPerGroup = tilingOf(grid.rows, grid.lanes).rowsPerBlock;
  const int64_t groupsPerTask = larger(lanesPerTask(grid.rows * grid.lanes) / (rowsPerGroup * grid.lanes), 1);
  RowsRun rows = {run, kernel, grid.rows, grid.lanes, rowsPerGroup, groupsPerTask};
  parallelFor(run.pool, ceilDivide(grid.rows, rowsPerGroup * groupsPerTask), rowsTask, &rows);
}

}  // namespace BINADE_ISA
}  // namespace binade
