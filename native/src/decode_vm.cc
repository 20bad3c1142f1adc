// Decodes views and pointwise programs: bounds, axis merging, and what need not be computed again for every block.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "decode.h"

namespace binade {

void Reader::fail(const char* format, ...) {
  if (failed_) return;
  failed_ = true;
  const int prefix = snprintf(error_, errorByteLength_, "program: word %lld: ", static_cast<long long>(position_ - 1));
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(error_ + prefix, errorByteLength_ - static_cast<size_t>(prefix), format, arguments);
  va_end(arguments);
}

int64_t Reader::word(const char* what, int64_t low, int64_t high) {
  if (failed_) return 0;
  const bool present = position_ < count_;
  const int64_t value = present ? words_[position_] : 0;
  position_ += 1;
  if (!present) {
    fail("expected %s, got the end of the words", what);
  } else if (value < low || value > high) {
    fail("expected %s from %lld to %lld, got %lld", what, static_cast<long long>(low), static_cast<long long>(high),
         static_cast<long long>(value));
  }
  return failed_ ? 0 : value;
}

DType Reader::dtype(const char* what) { return static_cast<DType>(word(what, 0, kDTypeCount - 1)); }

Ref Reader::ref() {
  const int64_t binding = word("a binding", 0, program_->bindingCount);
  return {binding, word("a byte offset", 0, kMaxWord)};
}

Domain Reader::domain() {
  Domain domain = {};
  domain.rank = static_cast<int>(word("a rank", 1, kMaxRank));
  domain.size = 1;
  for (int axis = 0; axis < domain.rank; ++axis) {
    domain.extents[axis] = word("an extent", 0, kMaxExtent);
    if (__builtin_mul_overflow(domain.size, domain.extents[axis], &domain.size) || domain.size > kMaxStride) {
      fail("expected a domain of at most 2^44 elements, got more");
    }
  }
  return domain;
}

void Reader::touch(Ref ref, __int128 least, __int128 greatest, int64_t byteLength) {
  if (failed_) return;
  const __int128 first = ref.byteOffset + least * byteLength;
  const __int128 end = ref.byteOffset + (greatest + 1) * byteLength;
  const __int128 limit = ref.binding == 0 ? program_->arenaByteLength : kMaxWord;
  if (first < 0 || end > limit) {
    fail("expected a view inside binding %lld, got bytes %lld to %lld of %lld", static_cast<long long>(ref.binding),
         static_cast<long long>(first), static_cast<long long>(end), static_cast<long long>(limit));
    return;
  }
  if (ref.byteOffset % byteLength != 0) {
    fail("expected a byte offset divisible by %lld, got %lld", static_cast<long long>(byteLength),
         static_cast<long long>(ref.byteOffset));
    return;
  }
  int64_t& length = program_->byteLengths[ref.binding];
  int64_t& alignment = program_->alignments[ref.binding];
  length = end > length ? static_cast<int64_t>(end) : length;
  alignment = byteLength > alignment ? byteLength : alignment;
}

void Reader::touchArray(Ref ref, __int128 count, int64_t byteLength) {
  if (count > 0) touch(ref, 0, count - 1, byteLength);
}

int64_t byteLengthOf(DType dtype) {
  switch (dtype) {
    case DType::float64:
    case DType::int64:
      return 8;
    case DType::float16:
    case DType::bfloat16:
    case DType::int16:
      return 2;
    case DType::float8_e4m3fn:
    case DType::float8_e5m2:
    case DType::uint8:
    case DType::boolean:
      return 1;
    default:
      return 4;
  }
}

static void decodeView(Reader& reader, const Domain& domain, Operand* operand) {
  operand->dtype = reader.dtype("a view's dtype");
  if (byteLengthOf(operand->dtype) == 8) reader.fail("expected a dtype of at most 32 bits, got one of 64");
  operand->ref = reader.ref();
  __int128 least = 0, greatest = 0;
  for (int axis = 0; axis < domain.rank; ++axis) {
    operand->strides[axis] = reader.word("a stride", -kMaxStride, kMaxStride);
    const __int128 span = static_cast<__int128>(operand->strides[axis]) * (domain.extents[axis] - 1);
    (span < 0 ? least : greatest) += span;
  }
  if (domain.size > 0) reader.touch(operand->ref, least, greatest, byteLengthOf(operand->dtype));
}

static void decodeOperand(Reader& reader, const Domain& domain, int registerCount, int buffers, Operand* operand) {
  operand->reg = static_cast<int>(reader.word("a register", 0, registerCount - 1));
  operand->rowBuffer = static_cast<int>(reader.word("a view (0) or a row buffer", 0, buffers)) - 1;
  if (operand->rowBuffer < 0) decodeView(reader, domain, operand);
}

static void decodeInstruction(Reader& reader, const Vm& vm, Instruction* instruction) {
  const int last = vm.registerCount - 1;
  instruction->opcode = static_cast<Opcode>(reader.word("an opcode", 0, kOpcodeCount - 1));
  const bool random = instruction->opcode == Opcode::random;
  instruction->dst = static_cast<int>(reader.word("a register", 0, last));
  instruction->a = static_cast<int>(reader.word("an operand", 0, random ? vm.loadCount - 1 : last));
  instruction->b = static_cast<int>(reader.word("an operand", 0, last));
  instruction->c = static_cast<int>(reader.word("an operand", 0, last));
  instruction->imm = static_cast<uint32_t>(reader.word("32 bits", 0, UINT32_MAX));
}

/// Marks the load that holds a random key, which is an array of four words at the address of its one element.
static void markKey(Reader& reader, const Domain& domain, const Vm& vm, const Instruction& instruction) {
  if (reader.failed() || instruction.opcode != Opcode::random) return;
  Operand& key = vm.loads[instruction.a];
  bool single = key.rowBuffer < 0 && key.dtype == DType::uint32;
  for (int axis = 0; single && axis < domain.rank; ++axis) single = key.strides[axis] == 0;
  if (!single) {
    reader.fail("random: expected the key to be a uint32 view with strides 0, got another load");
    return;
  }
  key.lookupOnly = true;
  if (domain.size > 0) reader.touchArray(key.ref, 4, 4);
}

void decodeVm(Reader& reader, const Domain& domain, BufferUse use, Vm* vm) {
  vm->registerCount = static_cast<int>(reader.word("a register count", 0, kMaxRegisters));
  vm->loadCount = static_cast<int>(reader.word("a load count", 0, kMaxRegisters));
  vm->loads = reader.allocate<Operand>(vm->loadCount);
  for (int i = 0; i < vm->loadCount && !reader.failed(); ++i) {
    decodeOperand(reader, domain, vm->registerCount, use.loadable, &vm->loads[i]);
  }
  vm->instructionCount = static_cast<int>(reader.word("an instruction count", 0, reader.count()));
  vm->instructions = reader.allocate<Instruction>(vm->instructionCount);
  for (int i = 0; i < vm->instructionCount && !reader.failed(); ++i) {
    decodeInstruction(reader, *vm, &vm->instructions[i]);
    markKey(reader, domain, *vm, vm->instructions[i]);
  }
  vm->storeCount = static_cast<int>(reader.word("a store count", 0, kMaxRegisters));
  vm->stores = reader.allocate<Operand>(vm->storeCount);
  for (int i = 0; i < vm->storeCount && !reader.failed(); ++i) {
    decodeOperand(reader, domain, vm->registerCount, use.storable, &vm->stores[i]);
  }
  Grid& grid = vm->grid;
  grid.rank = domain.rank;
  int64_t positionStride = 1;
  for (int axis = domain.rank - 1; axis >= 0; --axis) {
    grid.extents[axis] = domain.extents[axis];
    grid.positionStrides[axis] = positionStride;
    positionStride *= domain.extents[axis];
  }
}

/// The i-th strides of a grid: those of its loads, then of its stores, then of the positions. Null: past the end.
static int64_t* stridesAt(Vm* vm, int index) {
  if (index < vm->loadCount) return vm->loads[index].strides;
  index -= vm->loadCount;
  if (index < vm->storeCount) return vm->stores[index].strides;
  return index == vm->storeCount ? vm->grid.positionStrides : nullptr;
}

static bool mergeable(Vm* vm, int axis) {
  for (int i = 0; int64_t* strides = stridesAt(vm, i); ++i) {
    if (strides[axis] != strides[axis + 1] * vm->grid.extents[axis + 1]) return false;
  }
  return true;
}

static void removeAxis(Vm* vm, int axis) {
  Grid& grid = vm->grid;
  const size_t byteLength = static_cast<size_t>(grid.rank - axis - 1) * sizeof(int64_t);
  memmove(grid.extents + axis, grid.extents + axis + 1, byteLength);
  for (int i = 0; int64_t* strides = stridesAt(vm, i); ++i) memmove(strides + axis, strides + axis + 1, byteLength);
  grid.rank -= 1;
}

/// Merges or drops one axis of [begin, end); false when none can go.
static bool mergeOnce(Vm* vm, int begin, int end) {
  Grid& grid = vm->grid;
  for (int axis = begin; axis < end && end - begin > 1; ++axis) {
    if (grid.extents[axis] == 1) {
      removeAxis(vm, axis);
      return true;
    }
    if (axis + 1 < end && mergeable(vm, axis)) {
      grid.extents[axis + 1] *= grid.extents[axis];
      removeAxis(vm, axis);
      return true;
    }
  }
  return false;
}

void mergeAxes(Vm* vm, int* groupEnds, int groupCount) {
  for (int group = 0; group < groupCount; ++group) {
    while (mergeOnce(vm, group == 0 ? 0 : groupEnds[group - 1], groupEnds[group])) {
      for (int later = group; later < groupCount; ++later) groupEnds[later] -= 1;
    }
  }
}

static void rotateToEnd(int64_t* values, int from, int rank) {
  const int64_t value = values[from];
  memmove(values + from, values + from + 1, static_cast<size_t>(rank - from - 1) * sizeof(int64_t));
  values[rank - 1] = value;
}

void moveAxisToEnd(Vm* vm, int from) {
  rotateToEnd(vm->grid.extents, from, vm->grid.rank);
  for (int i = 0; int64_t* strides = stridesAt(vm, i); ++i) rotateToEnd(strides, from, vm->grid.rank);
}

static int arityOf(Opcode opcode) {
  if (opcode == Opcode::constant || isGenerator(opcode)) return 0;
  if (opcode == Opcode::select || opcode == Opcode::productSum) return 3;
  if (opcode <= Opcode::isFinite || opcode == Opcode::negInt) return 1;
  return opcode >= Opcode::addConstant && opcode <= Opcode::fromUint32 ? 1 : 2;
}

/// Stable partition: items whose flag is set come first. Returns how many.
template <typename T>
static int moveFirst(T* items, const bool* flags, int count, T* spare) {
  int first = 0, rest = 0;
  for (int i = 0; i < count; ++i) {
    if (flags[i]) items[first++] = items[i];
    else spare[rest++] = items[i];
  }
  for (int i = 0; i < rest; ++i) items[first + i] = spare[i];
  return first;
}

static int countSet(const bool* flags, int count) {
  int set = 0;
  for (int i = 0; i < count; ++i) set += flags[i] ? 1 : 0;
  return set;
}

static bool isSplat(const Operand& load, int rank) {
  if (load.rowBuffer >= 0) return false;
  for (int axis = 0; axis < rank; ++axis) {
    if (load.strides[axis] != 0) return false;
  }
  return true;
}

/// Finds loads and instructions that yield the same lanes in every block: all their inputs do, and their register has
/// no other writer, so that it keeps its lanes from block to block.
static void hoistInvariants(Reader& reader, Vm* vm) {
  int writers[kMaxRegisters] = {};
  for (int i = 0; i < vm->loadCount; ++i) writers[vm->loads[i].reg] += vm->loads[i].lookupOnly ? 0 : 1;
  for (int i = 0; i < vm->instructionCount; ++i) writers[vm->instructions[i].dst] += 1;
  bool fixed[kMaxRegisters] = {};
  bool* flags = reader.allocate<bool>(vm->loadCount + vm->instructionCount);
  for (int i = 0; i < vm->loadCount; ++i) {
    const Operand& load = vm->loads[i];
    flags[i] = !load.lookupOnly && writers[load.reg] == 1 && isSplat(load, vm->grid.rank);
    fixed[load.reg] = fixed[load.reg] || flags[i];
  }
  bool* instructionFlags = flags + vm->loadCount;
  for (int i = 0; i < vm->instructionCount; ++i) {
    const Instruction& instruction = vm->instructions[i];
    const int operands[3] = {instruction.a, instruction.b, instruction.c};
    bool invariant = !isGenerator(instruction.opcode) && writers[instruction.dst] == 1;
    for (int j = 0; j < arityOf(instruction.opcode); ++j) invariant = invariant && fixed[operands[j]];
    instructionFlags[i] = invariant;
    fixed[instruction.dst] = fixed[instruction.dst] || invariant;
  }
  vm->invariantInstructions = moveFirst(vm->instructions, instructionFlags, vm->instructionCount,
                                        reader.allocate<Instruction>(vm->instructionCount));
  const int hoisted = countSet(flags, vm->loadCount);
  for (int i = 0; i < vm->instructionCount; ++i) {
    Instruction& instruction = vm->instructions[i];
    if (instruction.opcode != Opcode::random) continue;
    // The key's load is never hoisted: it moves behind the hoisted ones, by as many of them as stood after it.
    instruction.a += hoisted - countSet(flags, instruction.a);
  }
  vm->invariantLoads = moveFirst(vm->loads, flags, vm->loadCount, reader.allocate<Operand>(vm->loadCount));
}

void finishVm(Reader& reader, Vm* vm) {
  if (reader.failed()) return;
  Grid& grid = vm->grid;
  grid.rows = 1;
  for (int axis = 0; axis + 1 < grid.rank; ++axis) grid.rows *= grid.extents[axis];
  grid.lanes = grid.extents[grid.rank - 1];
  // The stride of a single lane means nothing; equal to the row's, it lets rows of one lane be moved as one run.
  for (int i = 0; grid.lanes == 1 && grid.rank > 1 && i < vm->loadCount + vm->storeCount; ++i) {
    int64_t* strides = stridesAt(vm, i);
    strides[grid.rank - 1] = strides[grid.rank - 2];
  }
  vm->firstLaneOnly = true;
  for (int i = 0; i < vm->storeCount; ++i) {
    const Operand& store = vm->stores[i];
    vm->firstLaneOnly = vm->firstLaneOnly && store.rowBuffer < 0 && store.strides[grid.rank - 1] == 0;
  }
  hoistInvariants(reader, vm);
}

}  // namespace binade
