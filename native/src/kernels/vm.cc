// The pointwise engine's driver: addresses of blocks, loads, instructions in order, stores.
#include "vm.h"

#include "convert.h"

namespace binade {
namespace BINADE_ISA {

Tiling tilingOf(int64_t rows, int64_t lanes) {
  Tiling tiling = {rows, lanes, 1, 1, 0};
  if (rows == 0 || lanes == 0) return tiling;
  if (lanes > kBlockLanes / 2) {
    tiling.blocksPerRow = (lanes + kBlockLanes - 1) / kBlockLanes;
    tiling.blocks = rows * tiling.blocksPerRow;
  } else {
    tiling.rowsPerBlock = kBlockLanes / lanes;
    tiling.blocks = (rows + tiling.rowsPerBlock - 1) / tiling.rowsPerBlock;
  }
  return tiling;
}

static int atMost(int64_t value, int64_t limit) { return static_cast<int>(value < limit ? value : limit); }

Block blockAt(const Tiling& tiling, int64_t index) {
  Block block = {};
  if (tiling.rowsPerBlock > 1) {
    block.row = index * tiling.rowsPerBlock;
    block.rows = atMost(tiling.rows - block.row, tiling.rowsPerBlock);
    block.lanes = static_cast<int>(tiling.lanes);
  } else {
    block.row = index / tiling.blocksPerRow;
    block.lane = (index - block.row * tiling.blocksPerRow) * kBlockLanes;
    block.rows = 1;
    block.lanes = atMost(tiling.lanes - block.lane, kBlockLanes);
  }
  block.bufferRow = block.row;
  block.bufferLane = block.lane;
  return block;
}

/// The rows of one block along one operand: a row's element offset, moved from row to row.
struct RowWalk {
  int64_t index[kMaxRank];
  int64_t offset;
};

static RowWalk startWalk(const Grid& grid, const int64_t* index, const int64_t* strides, int64_t lane) {
  RowWalk walk;
  walk.offset = lane * strides[grid.rank - 1];
  for (int axis = 0; axis + 1 < grid.rank; ++axis) {
    walk.index[axis] = index[axis];
    walk.offset += index[axis] * strides[axis];
  }
  return walk;
}

static void nextRow(const Grid& grid, const int64_t* strides, RowWalk* walk) {
  for (int axis = grid.rank - 2; axis >= 0; --axis) {
    walk->offset += strides[axis];
    if (++walk->index[axis] < grid.extents[axis]) return;
    walk->offset -= strides[axis] * grid.extents[axis];
    walk->index[axis] = 0;
  }
}

static void indexOfRow(const Grid& grid, int64_t row, int64_t* index) {
  for (int axis = grid.rank - 2; axis > 0; --axis) {
    const int64_t quotient = row / grid.extents[axis];
    index[axis] = row - quotient * grid.extents[axis];
    row = quotient;
  }
  if (grid.rank > 1) index[0] = row;
}

/// Whether the rows of the block follow each other in memory as one run of rows * lanes elements.
static bool isOneRun(const Grid& grid, const int64_t* index, const int64_t* strides, const Block& block) {
  if (block.rows == 1) return true;
  const int inner = grid.rank - 2;
  return index[inner] + block.rows <= grid.extents[inner] && strides[inner] == block.lanes * strides[inner + 1];
}

static uint8_t* addressOf(const VmState& state, const Operand& operand, int64_t offset, int64_t byteLength) {
  return static_cast<uint8_t*>(state.bases[operand.ref.binding]) + operand.ref.byteOffset + offset * byteLength;
}

static int64_t elementByteLength(DType dtype) {
  if (dtype == DType::float16 || dtype == DType::bfloat16 || dtype == DType::int16) return 2;
  return dtype == DType::float32 || dtype == DType::int32 || dtype == DType::uint32 ? 4 : 1;
}

/// Whether the lanes at `source` can stand for a register: instructions read up to the next multiple of 16.
static bool standsForRegister(const VmState& state, DType dtype, int64_t stride, const Block& block) {
  return state.readsInPlace && stride == 1 && (block.rows * block.lanes) % 16 == 0 && elementByteLength(dtype) == 4;
}

/// Returns where the loaded lanes are: in the register, or in memory itself.
static const float* loadView(const VmState& state, const Operand& load, const Block& block, const int64_t* index) {
  const Grid& grid = state.vm->grid;
  const int64_t byteLength = elementByteLength(load.dtype);
  const int64_t laneStride = load.strides[grid.rank - 1];
  float* const start = state.registers + load.reg * kBlockLanes;
  RowWalk walk = startWalk(grid, index, load.strides, block.lane);
  if (isOneRun(grid, index, load.strides, block)) {
    const uint8_t* source = addressOf(state, load, walk.offset, byteLength);
    if (standsForRegister(state, load.dtype, laneStride, block)) return reinterpret_cast<const float*>(source);
    loadLanes(load.dtype, source, laneStride, start, block.rows * block.lanes);
    return start;
  }
  float* target = start;
  for (int row = 0; row < block.rows; ++row) {
    loadLanes(load.dtype, addressOf(state, load, walk.offset, byteLength), laneStride, target, block.lanes);
    target += block.lanes;
    nextRow(grid, load.strides, &walk);
  }
  return start;
}

static void storeView(const VmState& state, const Operand& store, const float* source, const Block& block,
                      const int64_t* index) {
  const Grid& grid = state.vm->grid;
  const int64_t byteLength = elementByteLength(store.dtype);
  const int64_t laneStride = store.strides[grid.rank - 1];
  const bool firstOnly = laneStride == 0;
  if (firstOnly && block.lane > 0) return;
  RowWalk walk = startWalk(grid, index, store.strides, block.lane);
  if (!firstOnly && isOneRun(grid, index, store.strides, block)) {
    return storeLanes(store.dtype, source, addressOf(state, store, walk.offset, byteLength), laneStride,
                      block.rows * block.lanes);
  }
  for (int row = 0; row < block.rows; ++row) {
    storeLanes(store.dtype, source, addressOf(state, store, walk.offset, byteLength), laneStride,
               firstOnly ? 1 : block.lanes);
    source += block.lanes;
    nextRow(grid, store.strides, &walk);
  }
}

// Row buffers may hold int32 lanes: they are copied as bytes, never as float values.

static const float* loadRowBuffer(const VmState& state, const Operand& load, const Block& block) {
  const RowBuffer& buffer = state.buffers[load.rowBuffer];
  float* const start = state.registers + load.reg * kBlockLanes;
  const float* source = buffer.data + block.bufferRow * buffer.rowStride;
  const bool oneRun = !buffer.perRow && (block.rows == 1 || buffer.rowStride == block.lanes);
  if (oneRun && standsForRegister(state, DType::float32, 1, block)) return source + block.bufferLane;
  float* target = start;
  for (int row = 0; row < block.rows; ++row, target += block.lanes, source += buffer.rowStride) {
    if (buffer.perRow) {
      loadLanes(DType::float32, source, 0, target, block.lanes);
    } else {
      __builtin_memcpy(target, source + block.bufferLane, static_cast<size_t>(block.lanes) * sizeof(float));
    }
  }
  return start;
}

static void storeRowBuffer(const VmState& state, const Operand& store, const float* source, const Block& block) {
  const RowBuffer& buffer = state.buffers[store.rowBuffer];
  if (buffer.data == nullptr || (buffer.perRow && block.bufferLane > 0)) return;
  for (int row = 0; row < block.rows; ++row, source += block.lanes) {
    float* target = buffer.data + (block.bufferRow + row) * buffer.rowStride + block.bufferLane;
    __builtin_memcpy(target, source, (buffer.perRow ? 1 : static_cast<size_t>(block.lanes)) * sizeof(float));
  }
}

/// int32 row-major positions of `count` lanes from `position` on, `stride` apart.
static void countLanes(int64_t position, int64_t stride, float* lanes, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const int32_t at = static_cast<int32_t>(position + i * stride);
    __builtin_memcpy(lanes + i, &at, sizeof at);
  }
}

/// Fills the lanes of `random` or `position`, which depend on where an element stands, for one run of lanes.
static void generateLanes(const VmState& state, const Instruction& instruction, int64_t position, int64_t stride,
                          float* lanes, int64_t count) {
  if (instruction.opcode == Opcode::position) return countLanes(position, stride, lanes, count);
  const void* key = addressOf(state, state.vm->loads[instruction.a], 0, 4);
  drawUniform(key, instruction.imm, position, stride, lanes, count);
}

static void generateBlock(const VmState& state, const Instruction& instruction, const Block& block,
                          const int64_t* index) {
  const Grid& grid = state.vm->grid;
  float* target = state.registers + instruction.dst * kBlockLanes;
  const int64_t laneStride = grid.positionStrides[grid.rank - 1];
  RowWalk walk = startWalk(grid, index, grid.positionStrides, block.lane);
  if (isOneRun(grid, index, grid.positionStrides, block)) {
    return generateLanes(state, instruction, walk.offset, laneStride, target, block.rows * block.lanes);
  }
  for (int row = 0; row < block.rows; ++row, target += block.lanes) {
    generateLanes(state, instruction, walk.offset, laneStride, target, block.lanes);
    nextRow(grid, grid.positionStrides, &walk);
  }
}

static void pointAtRegisters(const Vm& vm, float* registers, const float** sources) {
  for (int i = 0; i < vm.registerCount; ++i) sources[i] = registers + i * kBlockLanes;
}

void beginVm(VmState* state, const Vm& vm, void* const* bases, void* registers) {
  state->vm = &vm;
  state->bases = bases;
  state->registers = static_cast<float*>(registers);
  state->readsInPlace = false;
  for (int i = 0; i < vm.invariantLoads; ++i) {
    const Operand& load = vm.loads[i];
    loadLanes(load.dtype, addressOf(*state, load, 0, 1), 0, state->registers + load.reg * kBlockLanes, kBlockLanes);
  }
  const float* sources[kMaxRegisters];
  pointAtRegisters(vm, state->registers, sources);
  for (int i = 0; i < vm.invariantInstructions; ++i)
    execute(vm.instructions[i], state->registers, sources, kBlockLanes);
}

/// Whether the program stores to memory or, with `buffers`, to row buffers that are there. One that is not there only names what
/// runBlockTo's caller reads.
static bool storesTo(const VmState& state, bool buffers) {
  for (int i = 0; i < state.vm->storeCount; ++i) {
    const int rowBuffer = state.vm->stores[i].rowBuffer;
    if (buffers ? rowBuffer >= 0 && state.buffers[rowBuffer].data != nullptr : rowBuffer < 0) return true;
  }
  return false;
}

static bool isFromRowBuffer(const Vm& vm, int reg) {
  for (int i = 0; i < vm.loadCount; ++i) {
    if (vm.loads[i].reg == reg && vm.loads[i].rowBuffer >= 0) return true;
  }
  return false;
}

/// Copies what will be stored but still lies where another store of this block may overwrite it. Row buffers and memory do not overlap.
static void settleStores(const VmState& state, const Block& block, const float** sources) {
  const bool toMemory = storesTo(state, false), toBuffers = storesTo(state, true);
  for (int i = 0; i < state.vm->storeCount; ++i) {
    const int reg = state.vm->stores[i].reg;
    float* own = state.registers + reg * kBlockLanes;
    if (sources[reg] == own) continue;
    if (!(isFromRowBuffer(*state.vm, reg) ? toBuffers : toMemory)) continue;
    __builtin_memcpy(own, sources[reg], static_cast<size_t>(block.rows * block.lanes) * sizeof(float));
    sources[reg] = own;
  }
}

void runBlock(const VmState& state, const Block& block) {
  const float* sources[kMaxRegisters];
  runBlockTo(state, block, sources);
}

void runBlockTo(const VmState& state, const Block& block, const float** sources) {
  const Vm& vm = *state.vm;
  int64_t index[kMaxRank] = {};
  indexOfRow(vm.grid, block.row, index);
  pointAtRegisters(vm, state.registers, sources);
  for (int i = vm.invariantLoads; i < vm.loadCount; ++i) {
    const Operand& load = vm.loads[i];
    if (load.lookupOnly) continue;
    sources[load.reg] =
        load.rowBuffer >= 0 ? loadRowBuffer(state, load, block) : loadView(state, load, block, index);
  }
  const int padded = (block.rows * block.lanes + 15) & ~15;
  for (int i = vm.invariantInstructions; i < vm.instructionCount; ++i) {
    const Instruction& instruction = vm.instructions[i];
    if (isGenerator(instruction.opcode)) generateBlock(state, instruction, block, index);
    else execute(instruction, state.registers, sources, padded);
    sources[instruction.dst] = state.registers + instruction.dst * kBlockLanes;
  }
  if (state.readsInPlace) settleStores(state, block, sources);
  for (int i = 0; i < vm.storeCount; ++i) {
    const Operand& store = vm.stores[i];
    if (store.rowBuffer >= 0) storeRowBuffer(state, store, sources[store.reg], block);
    else storeView(state, store, sources[store.reg], block, index);
  }
}

}  // namespace BINADE_ISA
}  // namespace binade
