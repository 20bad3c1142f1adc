// Checks GELU's epilogues of one pass against the engine, bit by bit: formats, every 16-bit operand, odd sizes, special values, what
// is kept and what is not, results in their operand's place, and which programs are not taken for one of them.
//
// Argument: one case in so many is checked (for slow emulators).
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "kernels/gelu_store.h"

using namespace binade;
using namespace binade::BINADE_ISA;

namespace {

int failures = 0;
uint32_t randomState = 1;

uint32_t randomBits() {
  randomState = randomState * 1664525u + 1013904223u;
  return randomState ^ randomState >> 15;
}

constexpr DType formats[] = {DType::float32, DType::float16, DType::bfloat16};
constexpr int biasBinding = 1, xBinding = 2, keptBinding = 3, valueBinding = 4, gradientBinding = 5;

Operand inMemory(int reg, DType dtype, int64_t binding, int64_t rowStride) {
  Operand operand{};
  operand.reg = reg;
  operand.rowBuffer = -1;
  operand.dtype = dtype;
  operand.ref = {binding, 0};
  operand.strides[0] = rowStride;
  operand.strides[1] = 1;
  return operand;
}

Operand ofSums(int reg) {
  Operand operand{};
  operand.reg = reg;
  return operand;
}

/// An epilogue over (rows, columns) as lowering spells it.
struct Program {
  std::vector<Operand> loads, stores;
  std::vector<Instruction> instructions;
  Vm vm{};

  void add(Opcode opcode, int dst, int a, int b = 0, float literal = 0.0f) {
    instructions.push_back({opcode, dst, a, b, 0, bitsOfFloat(literal)});
  }

  const Vm& over(int64_t rows, int64_t columns) {
    vm.grid = {2, {rows, columns}, {columns, 1}, rows, columns};
    vm.registerCount = 8;
    vm.loadCount = static_cast<int>(loads.size());
    vm.instructionCount = static_cast<int>(instructions.size());
    vm.storeCount = static_cast<int>(stores.size());
    vm.loads = loads.data();
    vm.instructions = instructions.data();
    vm.stores = stores.data();
    return vm;
  }
};

int rounded(Program& program, DType format, int reg) {
  if (format == DType::float32) return reg;
  program.add(format == DType::float16 ? Opcode::roundFloat16 : Opcode::roundBfloat16, 2, reg);
  return 2;
}

Program forward(DType format, bool biased, bool kept, int64_t columns) {
  Program program;
  program.loads = {ofSums(0)};
  if (biased) {
    program.loads.push_back(inMemory(1, DType::float32, biasBinding, 0));
    program.add(Opcode::add, 1, 0, 1);
  }
  const int exact = biased ? 1 : 0, x = rounded(program, format, exact);
  program.add(Opcode::erfPlusOne, 3, x, 0, kSqrtHalf);
  program.add(Opcode::scaledProduct, 3, x, 3, 0.5f);
  if (kept) program.stores.push_back(inMemory(exact, format, keptBinding, columns));
  program.stores.push_back(inMemory(3, format, valueBinding, columns));
  return program;
}

Program backward(DType format, bool value, int64_t xBindingUsed, int64_t columns) {
  Program program;
  program.loads = {ofSums(0), inMemory(1, format, xBindingUsed, columns)};
  const int g = rounded(program, format, 0);
  program.add(Opcode::erfPlusOne, 3, 1, 0, kSqrtHalf);
  program.add(Opcode::scaledProduct, 4, 1, 3, 0.5f);
  program.add(Opcode::gaussian, 5, 1, 0, -0.5f);
  program.add(Opcode::scaledProduct, 5, 5, 1, kNormalPeak);
  program.add(Opcode::scaledSum, 5, 3, 5, 0.5f);
  program.add(Opcode::mul, 5, g, 5);
  if (value) program.stores.push_back(inMemory(4, format, valueBinding, columns));
  program.stores.push_back(inMemory(5, format, gradientBinding, columns));
  return program;
}

constexpr uint32_t specials[] = {0u,          0x80000000u, 0x7f800000u, 0xff800000u, 0x7fc00000u, 0x7fffffffu, 0xffffffffu,
                                 0x00000001u, 0x807fffffu, 0x7f7fffffu, 0xff7fffffu, 0x7f7f8000u, 0x477ff000u, 0x33000001u};

/// Moderate numbers, with specials among them where there are many: sums are never NaNs that signal.
float drawn(int64_t i, bool many) {
  if (many && i % 37 == 5) return floatOfBits(specials[i / 37 % (sizeof specials / sizeof specials[0])]);
  return (static_cast<float>(randomBits() >> 8) * 0x1p-24f - 0.5f) * 16.0f;
}

/// Memory of the bindings, all of the same size.
struct Memory {
  std::vector<float> data[6];
  void* bases[6];

  explicit Memory(int64_t floats) {
    for (auto& binding : data) binding.resize(static_cast<size_t>(floats));
  }
  void* const* bound() {
    for (int i = 0; i < 6; ++i) bases[i] = data[i].data();
    return bases;
  }
};

/// Whether the elements are the same; a NaN is any NaN.
bool same(DType format, const void* a, const void* b, int64_t count) {
  std::vector<float> x(static_cast<size_t>(count)), y(static_cast<size_t>(count));
  widenArray(format, a, x.data(), count);
  widenArray(format, b, y.data(), count);
  for (size_t i = 0; i < x.size(); ++i)
    if (bitsOfFloat(x[i]) != bitsOfFloat(y[i]) && (x[i] == x[i] || y[i] == y[i])) return false;
  return true;
}

/// Both ways over tiles of a (rows, columns) result, whose sums have rows of `stride`.
void check(const char* name, Program program, int64_t rows, int64_t columns, int64_t tileColumns, const Memory& start) {
  const Vm& vm = program.over(rows, columns);
  const GeluStore gelu = geluStoreOf(vm);
  if (!gelu.isOne()) {
    ++failures;
    std::printf("%s: not recognised\n", name);
    return;
  }
  Memory engine = start, onePass = start;
  const int64_t stride = (tileColumns + 15) / 16 * 16;
  std::vector<float> registers(static_cast<size_t>(vm.registerCount * kBlockLanes) + 16), scratch(static_cast<size_t>(columns));
  for (int64_t column = 0; column < columns; column += tileColumns) {
    const int64_t width = smaller(tileColumns, columns - column);
    std::vector<float> sums(static_cast<size_t>(rows * stride) + 16);
    for (size_t i = 0; i < sums.size(); ++i) sums[i] = drawn(static_cast<int64_t>(i), rows * columns > 200);
    storeGelu({onePass.bound(), nullptr, nullptr, 0}, gelu, 0, column, rows, width, sums.data(), stride, scratch.data());
    VmState state;
    beginVm(&state, vm, engine.bound(), registers.data());
    state.buffers[0] = {sums.data(), stride, false};
    const Tiling tiling = tilingOf(rows, width);
    for (int64_t index = 0; index < tiling.blocks; ++index) {
      Block block = blockAt(tiling, index);
      block.lane += column;
      runBlock(state, block);
    }
  }
  for (int i = biasBinding; i <= gradientBinding; ++i) {
    const DType format = i == biasBinding ? DType::float32 : gelu.format;
    const int64_t count = static_cast<int64_t>(start.data[i].size()) * 4 / byteLengthOfFloat(format);
    if (same(format, engine.data[i].data(), onePass.data[i].data(), count)) continue;
    ++failures;
    std::printf("%s of dtype %d, %lld x %lld in tiles of %lld: binding %d differs\n", name, static_cast<int>(gelu.format),
                static_cast<long long>(rows), static_cast<long long>(columns), static_cast<long long>(tileColumns), i);
  }
}

void checkSize(DType format, int64_t rows, int64_t columns, int64_t tileColumns) {
  // One row more than is written: nothing beyond the tile may change.
  Memory start((rows + 1) * columns);
  for (int64_t i = 0; i < columns; ++i) start.data[biasBinding][static_cast<size_t>(i)] = drawn(i, columns > 40);
  auto& x = start.data[xBinding];
  for (size_t i = 0; i < x.size(); ++i) x[i] = format == DType::float32 ? drawn(static_cast<int64_t>(i), true) : floatOfBits(randomBits());
  for (const bool biased : {true, false})
    for (const bool kept : {true, false})
      check("GELU", forward(format, biased, kept, columns), rows, columns, tileColumns, start);
  for (const bool value : {true, false})
    check("its gradient", backward(format, value, xBinding, columns), rows, columns, tileColumns, start);
  Memory inPlace = start;
  inPlace.data[gradientBinding] = x;
  check("its gradient in place of x", backward(format, true, gradientBinding, columns), rows, columns, tileColumns, inPlace);
  inPlace.data[valueBinding] = x;
  check("GELU in place of x", backward(format, true, valueBinding, columns), rows, columns, tileColumns, inPlace);
}

/// The gradient at every operand of 16 bits.
void checkAllOperands(DType format) {
  constexpr int64_t rows = 256, columns = 256;
  Memory start((rows + 1) * columns);
  uint16_t* x = reinterpret_cast<uint16_t*>(start.data[xBinding].data());
  for (int64_t i = 0; i < rows * columns; ++i) x[i] = static_cast<uint16_t>(i);
  check("its gradient at all x", backward(format, true, xBinding, columns), rows, columns, columns, start);
}

void expectRefused(const char* what, Program program) {
  if (!geluStoreOf(program.over(4, 64)).isOne()) return;
  ++failures;
  std::printf("taken for GELU: %s\n", what);
}

void checkRefusals() {
  const DType format = DType::bfloat16;
  Program other = forward(format, true, true, 64);
  other.instructions[2].imm = bitsOfFloat(0.7f);
  expectRefused("another literal", other);
  other = forward(format, true, true, 64);
  other.instructions[1].a = 0;
  expectRefused("a rounding before the bias is added", other);
  other = forward(format, true, true, 64);
  other.instructions[1].opcode = Opcode::roundFloat16;
  expectRefused("a rounding to another format", other);
  other = forward(format, true, true, 64);
  other.stores[0].dtype = DType::float32;
  expectRefused("stores of two formats", other);
  other = forward(format, true, true, 64);
  other.stores[0].strides[1] = 2;
  expectRefused("columns apart", other);
  other = forward(format, true, true, 64);
  other.stores.push_back(inMemory(3, format, gradientBinding, 64));
  expectRefused("a value that is stored twice", other);
  other = forward(format, true, false, 64);
  other.instructions.pop_back();
  expectRefused("no product", other);
  other = forward(format, true, true, 64);
  other.instructions.push_back({Opcode::neg, 4, 3, 0, 0, 0});
  expectRefused("another instruction", other);
  other = backward(format, true, xBinding, 64);
  other.instructions[1].a = 2;
  expectRefused("erf of the cotangent", other);
  other = backward(format, true, xBinding, 64);
  other.loads[1].dtype = DType::float32;
  expectRefused("an operand of another format", other);
  other = backward(format, true, xBinding, 64);
  other.stores.pop_back();
  expectRefused("no gradient", other);
}

}  // namespace

int main(int argc, char** argv) {
  const int64_t share = argc > 1 ? std::atoll(argv[1]) : 1;
  const int64_t sizes[][3] = {{1, 1, 1},    {3, 7, 7},     {5, 16, 16},  {2, 65, 65},   {7, 100, 48},
                              {4, 300, 256}, {13, 512, 256}, {3, 129, 128}, {96, 256, 256}, {2, 1000, 240}};
  int64_t number = 0;
  for (const auto& [rows, columns, tileColumns] : sizes)
    for (const DType format : formats)
      if (number++ % share == 0) checkSize(format, rows, columns, tileColumns);
  checkAllOperands(DType::float16);
  checkAllOperands(DType::bfloat16);
  checkRefusals();
  std::printf("gelu: %lld cases and every 16-bit operand, %d failures\n", static_cast<long long>(number), failures);
  return failures == 0 ? 0 : 1;
}
