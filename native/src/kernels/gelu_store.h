// The epilogues of GELU and of its gradient in one pass over a product's sums, from registers to memory, with the engine's bits.
//
//   forward:   x = round(sums [+ bias]) → kept, if it is kept;  gelu(x) → value
//   gradient:  g = round(sums), x is loaded;  gelu(x) → value, if it is wanted;  g · gelu'(x) → gradient
//
// where gelu(x) = ½ x (1 + erf(x / √2)) and gelu'(x) = ½ (1 + erf(x / √2)) + x e^(−x² / 2) / √(2 π).
#pragma once
#include "exponentials.h"
#include "kernels.h"
#include "rounding.h"

namespace binade {
namespace BINADE_ISA {

constexpr float kSqrtHalf = 0x1.6a09e6p-1f;
constexpr float kNormalPeak = 0x1.988454p-2f;  // 1 / √(2 π)

/// Where an epilogue of this kind reads and writes. Null: it does not.
struct GeluStore {
  DType format;         // of all but the bias, which is of any float dtype of 32 or 16 bits
  const Operand* bias;
  const Operand* x;     // the gradient's
  const Operand* kept;
  const Operand* value;
  const Operand* gradient;
  bool isOne() const { return x != nullptr ? gradient != nullptr : value != nullptr; }
};

/// What a register holds, if it is a step of these epilogues.
enum class GeluRole : uint8_t {
  other, sums, bias, biased, float16, bfloat16, loaded, erf, value, bell, weightedBell, slope, gradient
};

static inline bool isFloatOf32Or16(DType dtype) {
  return dtype == DType::float32 || dtype == DType::float16 || dtype == DType::bfloat16;
}

static inline GeluRole roleOfLoad(const Operand& load, DType format) {
  if (load.rowBuffer >= 0) return GeluRole::sums;
  if (load.lookupOnly || load.strides[1] != 1 || !isFloatOf32Or16(load.dtype)) return GeluRole::other;
  if (load.strides[0] == 0) return GeluRole::bias;
  return load.dtype == format ? GeluRole::loaded : GeluRole::other;
}

/// Which roles the operands of GELU and of its gradient have.
struct GeluOperands {
  GeluRole exact;    // what a product yields, perhaps with a bias
  GeluRole rounded;  // that in the format
  GeluRole x, g;
};

/// The role of an instruction's result, given its operands'.
static inline GeluRole roleOfResult(const Instruction& instruction, GeluRole a, GeluRole b, const GeluOperands& of) {
  using Role = GeluRole;
  constexpr Role none = Role::other;
  struct Step {
    Opcode opcode;
    float literal;
    Role a, b, result;
  };
  const Step steps[] = {
      {Opcode::add, 0.0f, Role::sums, Role::bias, Role::biased},
      {Opcode::roundFloat16, 0.0f, of.exact, none, Role::float16},
      {Opcode::roundBfloat16, 0.0f, of.exact, none, Role::bfloat16},
      {Opcode::erfPlusOne, kSqrtHalf, of.x, none, Role::erf},
      {Opcode::scaledProduct, 0.5f, of.x, Role::erf, Role::value},
      {Opcode::gaussian, -0.5f, of.x, none, Role::bell},
      {Opcode::scaledProduct, kNormalPeak, Role::bell, of.x, Role::weightedBell},
      {Opcode::scaledSum, 0.5f, Role::erf, Role::weightedBell, Role::slope},
      {Opcode::mul, 0.0f, of.g, Role::slope, Role::gradient},
  };
  for (const Step& step : steps) {
    const bool sameOperands = step.a == a && (step.b == none || step.b == b);
    if (step.opcode == instruction.opcode && step.literal == floatOfBits(instruction.imm) && sameOperands)
      return step.result;
  }
  return none;
}

/// Recognises the epilogues above by their instructions, whatever registers these take.
static inline GeluStore geluStoreOf(const Vm& vm) {
  using Role = GeluRole;
  if (vm.grid.rank != 2 || vm.storeCount == 0 || !isFloatOf32Or16(vm.stores[0].dtype)) return {};
  GeluStore found{};
  found.format = vm.stores[0].dtype;
  Role roles[kMaxRegisters] = {};
  for (int i = 0; i < vm.loadCount; ++i) {
    const Operand& load = vm.loads[i];
    const Role role = roles[load.reg] = roleOfLoad(load, found.format);
    if (role == Role::sums) continue;
    const Operand*& place = role == Role::bias ? found.bias : found.x;
    if (role == Role::other || place != nullptr) return {};
    place = &load;
  }
  const bool forward = found.x == nullptr;
  GeluOperands of{};
  of.exact = found.bias != nullptr ? Role::biased : Role::sums;
  of.rounded = found.format == DType::float32 ? of.exact : found.format == DType::float16 ? Role::float16 : Role::bfloat16;
  of.x = forward ? of.rounded : Role::loaded;
  of.g = forward ? Role::other : of.rounded;
  for (int i = 0; i < vm.instructionCount; ++i) {
    const Instruction& step = vm.instructions[i];
    const Role result = roleOfResult(step, roles[step.a], roles[step.b], of);
    if (result == Role::other) return {};
    roles[step.dst] = result;
  }
  for (int i = 0; i < vm.storeCount; ++i) {
    const Operand& store = vm.stores[i];
    const Role role = roles[store.reg];
    const bool isX = forward && (role == of.exact || role == of.rounded);  // a store rounds
    if (store.rowBuffer >= 0 || store.strides[1] != 1 || store.dtype != found.format) return {};
    if (!isX && role != Role::value && role != Role::gradient) return {};
    const Operand*& place = isX ? found.kept : role == Role::value ? found.value : found.gradient;
    if (place != nullptr) return {};
    place = &store;
  }
  return found.isOne() ? found : GeluStore{};
}

/// One row of a tile: elements of the format where they lie.
template <DType format>
struct GeluRow {
  const float *sums, *bias;
  const Element<format>* x;
  Element<format>*kept, *value, *gradient;

  /// The row from column `by` on.
  GeluRow from(int64_t by) const {
    const auto later = [by](auto* at) { return at == nullptr ? at : at + by; };
    return {sums + by, later(bias), later(x), later(kept), later(value), later(gradient)};
  }
};

/// What a product yields, in the format.
template <DType format, int count>
BINADE_INLINE Bundle<count> roundedSums(const GeluRow<format>& row) {
  const Bundle<count> sums = loadBundle<count>(row.sums);
  const Bundle<count> exact = row.bias == nullptr ? sums : sums + loadBundle<count>(row.bias);
  return forEach([](Floats v) { return roundFloats<format>(v); }, exact);
}

/// The first `count` vectors of a row. x is read before anything is written, as results may take its place.
template <DType format, bool backward, int count>
static void storeGeluVectors(const GeluRow<format>& row) {
  Bundle<count> x;
  if constexpr (backward) {
#pragma GCC unroll 8
    for (int j = 0; j < count; ++j) x.each[j] = loadElements<format>(row.x + j * lanes);
  } else {
    x = roundedSums<format, count>(row);
    if (row.kept != nullptr) storeElements<format, true>(row.kept, x);
  }
  const Bundle<count> erf = erfOf(x * kSqrtHalf) + 1.0f;
  if (row.value != nullptr) storeElements<format, false>(row.value, (x * 0.5f) * erf);
  if constexpr (backward) {
    const Bundle<count> bell = expOf((x * x) * -0.5f);
    const Bundle<count> slope = erf * 0.5f + (bell * kNormalPeak) * x;
    storeElements<format, false>(row.gradient, roundedSums<format, count>(row) * slope);
  }
}

template <DType format, bool backward>
static inline void storeGeluRow(const GeluRow<format>& row, int64_t columns) {
  // More than where a loop computes one function: chains are longer.
  constexpr int together = kBundleVectors > 1 ? 2 * kBundleVectors : 1;
  int64_t j = 0;
  for (; j + together * lanes <= columns; j += together * lanes) storeGeluVectors<format, backward, together>(row.from(j));
  for (; j + lanes <= columns; j += lanes) storeGeluVectors<format, backward, 1>(row.from(j));
  if (j == columns) return;
  // The last vector, filled up with zeros.
  const size_t rest = static_cast<size_t>(columns - j);
  float sums[lanes] = {}, bias[lanes] = {};
  Element<format> x[lanes] = {}, kept[lanes], value[lanes], gradient[lanes];
  const GeluRow<format> last = row.from(j);
  __builtin_memcpy(sums, last.sums, rest * sizeof(float));
  if (last.bias != nullptr) __builtin_memcpy(bias, last.bias, rest * sizeof(float));
  if (last.x != nullptr) __builtin_memcpy(x, last.x, rest * sizeof x[0]);
  const auto present = [](const void* wanted, auto* vector) { return wanted == nullptr ? nullptr : vector; };
  storeGeluVectors<format, backward, 1>({sums, present(last.bias, bias), x, present(last.kept, kept),
                                         present(last.value, value), gradient});
  if (last.kept != nullptr) __builtin_memcpy(last.kept, kept, rest * sizeof x[0]);
  if (last.value != nullptr) __builtin_memcpy(last.value, value, rest * sizeof x[0]);
  if (last.gradient != nullptr) __builtin_memcpy(last.gradient, gradient, rest * sizeof x[0]);
}

/// A (rows, columns) tile of sums at (row, column). `bias`: its columns as floats, or null.
template <DType format>
static inline void storeGeluTile(const Run& run, const GeluStore& gelu, int64_t row, int64_t column, int64_t rows,
                                 int64_t columns, const float* sums, int64_t stride, const float* bias) {
  for (int64_t i = 0; i < rows; ++i, sums += stride) {
    const auto rowOf = [&](const Operand* operand) {
      if (operand == nullptr) return static_cast<Element<format>*>(nullptr);
      return reinterpret_cast<Element<format>*>(bytesAt(run, operand->ref)) + (row + i) * operand->strides[0] + column;
    };
    const GeluRow<format> at = {sums, bias, rowOf(gelu.x), rowOf(gelu.kept), rowOf(gelu.value), rowOf(gelu.gradient)};
    if (gelu.x == nullptr) storeGeluRow<format, false>(at, columns);
    else storeGeluRow<format, true>(at, columns);
  }
}

/// As storeGeluTile, of any format. `lanes`: scratch for `columns` floats.
static inline void storeGelu(const Run& run, const GeluStore& gelu, int64_t row, int64_t column, int64_t rows,
                             int64_t columns, const float* sums, int64_t stride, float* lanes) {
  const float* bias = nullptr;
  if (gelu.bias != nullptr) {
    const int64_t width = byteLengthOfFloat(gelu.bias->dtype);
    widenArray(gelu.bias->dtype, bytesAt(run, gelu.bias->ref) + column * width, lanes, columns);
    bias = lanes;
  }
  const auto store = [&](auto tile) { tile(run, gelu, row, column, rows, columns, sums, stride, bias); };
  if (gelu.format == DType::float32) return store(storeGeluTile<DType::float32>);
  if (gelu.format == DType::float16) return store(storeGeluTile<DType::float16>);
  store(storeGeluTile<DType::bfloat16>);
}

}  // namespace BINADE_ISA
}  // namespace binade
