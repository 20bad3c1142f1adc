// The pointwise kernel: blocks of the grid, some of them to a task.
#include "kernels.h"

namespace binade {
namespace BINADE_ISA {

struct PointwiseRun {
  const Run& run;
  const Vm& vm;
  Tiling tiling;
  int64_t blocksPerTask;
};

static void pointwiseTask(void* context, int64_t task, int worker) {
  const PointwiseRun& pointwise = *static_cast<PointwiseRun*>(context);
  VmState state;
  beginVm(&state, pointwise.vm, pointwise.run.bases,
          scratch(pointwise.run.pool, worker, kPrologueSlot, registerByteLength(pointwise.vm)));
  state.readsInPlace = true;
  const int64_t first = task * pointwise.blocksPerTask;
  const int64_t end = smaller(first + pointwise.blocksPerTask, pointwise.tiling.blocks);
  for (int64_t block = first; block < end; ++block) runBlock(state, blockAt(pointwise.tiling, block));
}

void runPointwise(const Run& run, const PointwiseKernel& kernel) {
  const Grid& grid = kernel.vm.grid;
  if (grid.rows == 0 || grid.lanes == 0) return;
  const Tiling tiling = tilingOf(grid.rows, kernel.vm.firstLaneOnly ? 1 : grid.lanes);
  PointwiseRun pointwise = {run, kernel.vm, tiling, lanesPerTask(tiling.rows * tiling.lanes) / kBlockLanes};
  parallelFor(run.pool, ceilDivide(tiling.blocks, pointwise.blocksPerTask), pointwiseTask, &pointwise);
}

}  // namespace BINADE_ISA
}  // namespace binade
