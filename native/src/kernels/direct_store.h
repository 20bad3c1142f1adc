// The epilogue that needs no engine: a product's sums, perhaps with a bias per column, cast and stored row by row.
#pragma once
#include "convert.h"
#include "kernels.h"

namespace binade {
namespace BINADE_ISA {

/// target[row, column] = cast(sums[row, column] + bias[column]); `target` null: the epilogue is not of this kind.
struct DirectStore {
  const Operand* target;
  const Operand* bias;  // null: none
};

/// Recognises sums → [+ bias] → one store whose columns are neighbours. A program that rounds to the stored dtype first, which
/// lowering leaves to the store, runs in the engine.
static inline DirectStore directStoreOf(const Vm& vm) {
  if (vm.grid.rank != 2 || vm.storeCount != 1 || vm.loadCount > 2) return {};
  const Operand& target = vm.stores[0];
  const bool float16Or32 =
      target.dtype == DType::float32 || target.dtype == DType::float16 || target.dtype == DType::bfloat16;
  if (target.rowBuffer >= 0 || target.strides[1] != 1 || !float16Or32) return {};
  int value = -1;
  const Operand* bias = nullptr;
  for (int i = 0; i < vm.loadCount; ++i) {
    const Operand& load = vm.loads[i];
    if (load.rowBuffer == 0) value = load.reg;
    else if (!load.lookupOnly && load.strides[0] == 0 && load.strides[1] == 1 && load.dtype <= DType::bfloat16) bias = &load;
  }
  const Operand* added = nullptr;
  if (vm.instructionCount == 1 && bias != nullptr) {
    const Instruction& sum = vm.instructions[0];
    if (sum.opcode != Opcode::add || sum.a != value || sum.b != bias->reg) return {};
    added = bias;
    value = sum.dst;
  } else if (vm.instructionCount > 0) {
    return {};
  }
  const bool usesAll = vm.loadCount == (added == nullptr ? 1 : 2);
  if (value < 0 || value != target.reg || !usesAll) return {};
  return {&target, added};
}

/// Writes a (rows, columns) tile of sums at (row, column) of a target without a bias.
static inline void storeRows(const Run& run, const Operand& target, int64_t row, int64_t column, int64_t rows,
                             int64_t columns, const float* sums, int64_t stride) {
  const int64_t width = target.dtype == DType::float32 ? 4 : 2;
  uint8_t* start = bytesAt(run, target.ref);
  for (int64_t i = 0; i < rows; ++i, sums += stride)
    narrowArray(target.dtype, sums, start + ((row + i) * target.strides[0] + column) * width, columns);
}

/// As storeRows, with the bias where there is one. `lanes`: scratch for 2 · columns floats.
static inline void storeDirectly(const Run& run, const DirectStore& direct, int64_t row, int64_t column, int64_t rows,
                                 int64_t columns, const float* sums, int64_t stride, float* lanes) {
  if (direct.bias == nullptr) return storeRows(run, *direct.target, row, column, rows, columns, sums, stride);
  const int64_t biasWidth = direct.bias->dtype == DType::float32 ? 4 : 2;
  float* biased = lanes + columns;
  widenArray(direct.bias->dtype, bytesAt(run, direct.bias->ref) + column * biasWidth, lanes, columns);
  for (int64_t i = 0; i < rows; ++i, sums += stride) {
    for (int64_t j = 0; j < columns; ++j) biased[j] = sums[j] + lanes[j];
    storeRows(run, *direct.target, row + i, column, 1, columns, biased, columns);
  }
}

}  // namespace BINADE_ISA
}  // namespace binade
