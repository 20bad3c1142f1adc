// Gather of rows by index and its adjoint. An index out of range raises a fault and touches no memory.
#include "convert.h"
#include "kernels.h"

namespace binade {
namespace BINADE_ISA {

/// Columns of one scatterAdd task: its sums stay in cache while all indices pass by.
constexpr int64_t kColumnLanes = 128;

struct GatherRun {
  const Run& run;
  const GatherKernel& kernel;
  int64_t rowsPerTask;     // gather: output rows
  int64_t columnBlocks;    // scatterAdd
};

static int64_t indexAt(const Run& run, const GatherKernel& kernel, int64_t i) {
  const uint8_t* index = bytesAt(run, kernel.index);
  switch (kernel.indexDtype) {
    case DType::int32:
      return reinterpret_cast<const int32_t*>(index)[i];
    case DType::uint32:
      return reinterpret_cast<const uint32_t*>(index)[i];
    default:
      return index[i];
  }
}

static void copyElement(uint8_t* target, const uint8_t* source, int64_t byteLength) {
  switch (byteLength) {
    case 1:
      *target = *source;
      return;
    case 2:
      __builtin_memcpy(target, source, 2);
      return;
    case 4:
      __builtin_memcpy(target, source, 4);
      return;
    default:
      __builtin_memcpy(target, source, static_cast<size_t>(byteLength));
  }
}

static void gatherTask(void* context, int64_t task, int) {
  const GatherRun& gather = *static_cast<GatherRun*>(context);
  const GatherKernel& kernel = gather.kernel;
  const int64_t rowByteLength = kernel.inner * kernel.elementByteLength;
  const uint8_t* table = bytesAt(gather.run, kernel.table);
  uint8_t* out = bytesAt(gather.run, kernel.out);
  const int64_t end = smaller((task + 1) * gather.rowsPerTask, kernel.outer * kernel.indices);
  for (int64_t row = task * gather.rowsPerTask; row < end; ++row) {
    const int64_t outer = row / kernel.indices, position = row - outer * kernel.indices;
    const int64_t index = indexAt(gather.run, kernel, position);
    uint8_t* target = out + row * rowByteLength;
    if (index >= 0 && index < kernel.rows) {
      copyElement(target, table + (outer * kernel.rows + index) * rowByteLength, rowByteLength);
    } else {
      __builtin_memset(target, 0, static_cast<size_t>(rowByteLength));
      raiseFault(gather.run, position, index);
    }
  }
}

/// Raises the faults of indices of which no element is moved, since rows are empty.
static void checkIndices(const Run& run, const GatherKernel& kernel) {
  for (int64_t i = 0; i < kernel.indices; ++i) {
    const int64_t index = indexAt(run, kernel, i);
    if (index < 0 || index >= kernel.rows) raiseFault(run, i, index);
  }
}

void runGather(const Run& run, const GatherKernel& kernel) {
  if (kernel.outer == 0 || kernel.inner == 0) return checkIndices(run, kernel);
  const int64_t rows = kernel.outer * kernel.indices;
  if (rows == 0) return;
  const int64_t rowByteLength = kernel.inner * kernel.elementByteLength;
  const int64_t rowsPerTask = larger(4 * lanesPerTask(rows * rowByteLength / 4) / rowByteLength, 1);
  GatherRun gather = {run, kernel, rowsPerTask, 0};
  parallelFor(run.pool, ceilDivide(rows, rowsPerTask), gatherTask, &gather);
}

static int64_t floatByteLength(DType dtype) {
  if (dtype == DType::float32) return 4;
  return dtype == DType::float16 || dtype == DType::bfloat16 ? 2 : 1;
}

/// Adds the values of columns [column, column + width) to sums (rows, stride), index by index.
static void addValues(const GatherRun& scatter, int64_t outer, int64_t column, int64_t width, float* sums,
                      int64_t stride) {
  const GatherKernel& kernel = scatter.kernel;
  const int64_t byteLength = floatByteLength(kernel.dtype);
  const uint8_t* values = bytesAt(scatter.run, kernel.table);
  alignas(64) float widened[kColumnLanes];
  for (int64_t i = 0; i < kernel.indices; ++i) {
    const int64_t index = indexAt(scatter.run, kernel, i);
    if (index < 0 || index >= kernel.rows) {
      raiseFault(scatter.run, i, index);
      continue;
    }
    widenArray(kernel.dtype, values + ((outer * kernel.indices + i) * kernel.inner + column) * byteLength, widened,
               width);
    float* target = sums + index * stride;
    for (int64_t j = 0; j < width; ++j) target[j] += widened[j];
  }
}

/// One block of columns of one outer index: no other task writes them.
static void scatterTask(void* context, int64_t task, int worker) {
  const GatherRun& scatter = *static_cast<GatherRun*>(context);
  const GatherKernel& kernel = scatter.kernel;
  const int64_t outer = task / scatter.columnBlocks;
  const int64_t column = (task - outer * scatter.columnBlocks) * kColumnLanes;
  const int64_t width = smaller(kernel.inner - column, kColumnLanes);
  const int64_t byteLength = floatByteLength(kernel.outDtype);
  uint8_t* out = bytesAt(scatter.run, kernel.out) + (outer * kernel.rows * kernel.inner + column) * byteLength;
  const bool direct = kernel.outDtype == DType::float32;
  const int64_t stride = direct ? kernel.inner : width;
  float* sums = direct ? reinterpret_cast<float*>(out)
                       : static_cast<float*>(scratch(scatter.run.pool, worker, kSumSlot,
                                                     static_cast<size_t>(kernel.rows * width) * sizeof(float)));
  for (int64_t row = 0; row < kernel.rows; ++row) {
    for (int64_t j = 0; j < width; ++j) sums[row * stride + j] = 0.0f;
  }
  addValues(scatter, outer, column, width, sums, stride);
  for (int64_t row = 0; row < kernel.rows && !direct; ++row) {
    narrowArray(kernel.outDtype, sums + row * stride, out + row * kernel.inner * byteLength, width);
  }
}

void runScatterAdd(const Run& run, const GatherKernel& kernel) {
  if (kernel.outer == 0 || kernel.inner == 0) return checkIndices(run, kernel);
  GatherRun scatter = {run, kernel, 0, ceilDivide(kernel.inner, kColumnLanes)};
  parallelFor(run.pool, kernel.outer * scatter.columnBlocks, scatterTask, &scatter);
}

}  // namespace BINADE_ISA
}  // namespace binade
