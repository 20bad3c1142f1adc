// The matmul and attention kernels: from a decoded kernel to the problem that the contraction code solves.
#include "attention.h"
#include "direct_store.h"
#include "gelu_store.h"
#include "gemm.h"
#include "kernels.h"

namespace binade {
namespace BINADE_ISA {

struct MatmulRun {
  const Run& run;
  const MatmulKernel& kernel;
  DirectStore direct;
  GeluStore gelu;
};

/// Runs the epilogue over a tile of sums, which is row buffer 0.
static void writeTile(void* context, int64_t batch, int64_t row, int64_t column, int64_t rows, int64_t columns,
                      const float* tile, int64_t stride, int worker) {
  const MatmulRun& matmul = *static_cast<MatmulRun*>(context);
  const Vm& vm = matmul.kernel.epilogue;
  const int64_t first = batch * matmul.kernel.m + row;
  if (matmul.direct.target != nullptr || matmul.gelu.isOne()) {
    const size_t byteLength = static_cast<size_t>(2 * columns) * sizeof(float);
    float* lanes = static_cast<float*>(scratch(matmul.run.pool, worker, kSinkSlot, byteLength));
    if (matmul.gelu.isOne())
      return storeGelu(matmul.run, matmul.gelu, first, column, rows, columns, tile, stride, lanes);
    return storeDirectly(matmul.run, matmul.direct, first, column, rows, columns, tile, stride, lanes);
  }
  VmState state;
  beginVm(&state, vm, matmul.run.bases, scratch(matmul.run.pool, worker, kSinkSlot, registerByteLength(vm)));
  state.readsInPlace = true;
  state.buffers[0] = {const_cast<float*>(tile), stride, false};
  const Tiling tiling = tilingOf(rows, columns);
  for (int64_t index = 0; index < tiling.blocks; ++index) {
    Block block = blockAt(tiling, index);
    block.row += first;
    block.lane += column;
    runBlock(state, block);
  }
}

void runMatmul(const Run& run, const MatmulKernel& kernel) {
  if (kernel.batch == 0 || kernel.m == 0 || kernel.n == 0) return;
  MatmulRun matmul = {run, kernel, directStoreOf(kernel.epilogue), geluStoreOf(kernel.epilogue)};
  GemmProblem problem = {};
  problem.batch = kernel.batch;
  problem.m = kernel.m;
  problem.n = kernel.n;
  problem.k = kernel.k;
  MatrixView* const views[2] = {&problem.a, &problem.b};
  for (int side = 0; side < 2; ++side) {
    *views[side] = {bytesAt(run, kernel.refs[side]), kernel.storage[side], kernel.format[side],
                    kernel.rowStrides[side], kernel.columnStrides[side]};
  }
  problem.aOffsets = kernel.offsets[0];
  problem.bOffsets = kernel.offsets[1];
  gemm(run.pool, problem, {writeTile, &matmul});
}

static AttentionProblem problemOf(const Run& run, const AttentionKernel& kernel) {
  AttentionProblem problem = {};
  problem.batch = kernel.batch;
  problem.queries = kernel.queries;
  problem.keys = kernel.keys;
  problem.heads = kernel.heads;
  problem.width = kernel.width;
  problem.scale = kernel.scale;
  problem.causal = kernel.causal;
  HeadsView* const views[8] = {&problem.q, &problem.k, &problem.v,  &problem.out,
                               &problem.g, &problem.dq, &problem.dk, &problem.dv};
  for (int i = 0; i < 8; ++i) {
    if (kernel.refs[i].binding < 0) continue;
    views[i]->data = bytesAt(run, kernel.refs[i]);
    views[i]->dtype = kernel.dtypes[i];
    for (int axis = 0; axis < 3; ++axis) views[i]->strides[axis] = kernel.strides[i][axis];
  }
  if (kernel.logSumExp.binding >= 0) problem.logSumExp = reinterpret_cast<float*>(bytesAt(run, kernel.logSumExp));
  return problem;
}

void runAttention(const Run& run, const AttentionKernel& kernel) { attention(run.pool, problemOf(run, kernel)); }

void runAttentionBackward(const Run& run, const AttentionKernel& kernel) {
  attentionBackward(run.pool, problemOf(run, kernel));
}

}  // namespace BINADE_ISA
}  // namespace binade
