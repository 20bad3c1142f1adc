// The pointwise engine: runs a decoded program over blocks of up to 512 lanes held in registers of 32-bit lanes.
//
// A block is `rows` runs of `lanes` neighbouring lanes: part of one row, or several short rows side by side.
#pragma once
#include "program.h"

namespace binade {
namespace BINADE_ISA {

constexpr int kBlockLanes = 512;
/// A task of a parallel loop covers at most about this many lanes, which is short against L2, and no fewer than those below as long as
/// there are more: they take long against handing a task over.
constexpr int64_t kTaskLanes = 32768;
constexpr int64_t kLeastTaskLanes = 4096;
/// Tasks from here on are enough for eight workers that finish at different times.
constexpr int64_t kWantedTasks = 16;

/// Lanes of a task where all of them are `lanes`.
static inline int64_t lanesPerTask(int64_t lanes) {
  const int64_t share = lanes / kWantedTasks;
  return share < kLeastTaskLanes ? kLeastTaskLanes : share > kTaskLanes ? kTaskLanes : share;
}

/// Slots of worker scratch that the executor holds. The matrix product uses others while it calls its sink.
constexpr int kPrologueSlot = 0, kEpilogueSlot = 1, kRowSlot = 2, kSumSlot = 3, kSharedSlot = 4, kSinkSlot = 7;

/// What all kernels of a run share.
struct Run {
  void* const* bases;  // of every binding; 0 is the arena
  Pool* pool;
  Fault* fault;
  int64_t kernel;  // position of the kernel that runs
};

/// float32 (or int32 bits) lanes outside the registers: element (row, lane) at data[row * rowStride + lane].
struct RowBuffer {
  float* data;
  int64_t rowStride;
  bool perRow;  // one lane per row at data[row * rowStride]: loads broadcast it, stores write it from the row's lane 0
};

/// A program bound to memory, with one worker's registers.
struct VmState {
  const Vm* vm;
  void* const* bases;
  float* registers;  // registerCount * kBlockLanes
  bool readsInPlace;  // loads of whole float32 lanes leave their register unwritten: nobody else looks at it
  RowBuffer buffers[kMaxRowBuffers];
};

struct Block {
  int64_t row, lane;  // of the grid, where the block starts
  int rows, lanes;    // rows * lanes <= kBlockLanes; rows == 1 unless every row of the block is taken at the same lanes
  int64_t bufferRow, bufferLane;  // where the block starts in the row buffers
};

/// Splits rows × lanes into blocks: whole rows together while they fit, else one row in pieces.
struct Tiling {
  int64_t rows, lanes, rowsPerBlock, blocksPerRow, blocks;
};

Tiling tilingOf(int64_t rows, int64_t lanes);
Block blockAt(const Tiling& tiling, int64_t index);

/// Binds a program whose grid is not empty and computes what is the same in all blocks.
void beginVm(VmState* state, const Vm& vm, void* const* bases, void* registers);
static inline size_t registerByteLength(const Vm& vm) {
  return static_cast<size_t>(vm.registerCount) * kBlockLanes * sizeof(float);
}

/// Loads, computes and stores one block. Lanes from rows * lanes to the next multiple of 16 are computed and dropped.
void runBlock(const VmState& state, const Block& block);

/// As runBlock; afterwards sources[r], r < vm.registerCount <= kMaxRegisters, is where the lanes of register r are.
void runBlockTo(const VmState& state, const Block& block, const float** sources);

/// Executes one instruction that is no generator: into its register, of kBlockLanes lanes, from the `sources` of others.
/// `lanes` is a multiple of 16.
void execute(const Instruction& instruction, float* registers, const float* const* sources, int lanes);

/// `count` (<= kBlockLanes) lanes from memory at `source`, `stride` elements apart.
void loadLanes(DType dtype, const void* source, int64_t stride, float* lanes, int64_t count);
void storeLanes(DType dtype, const float* lanes, void* target, int64_t stride, int64_t count);

/// Uniform floats of `count` elements from row-major position `position` on, `stride` positions apart.
void drawUniform(const void* key, uint32_t stream, int64_t position, int64_t stride, float* lanes, int64_t count);

/// Keeps the fault of the lowest kernel and position. Kernels run in order, so an earlier kernel's fault stands.
void raiseFault(const Run& run, int64_t position, int64_t value);

}  // namespace BINADE_ISA
}  // namespace binade
