// A decoded program: the words of src/backends/cpu/abi.ts as plain structs, checked once, read by every executor.
//
// Only plain data: executors of several instruction sets include this header, so it holds no code.
#pragma once
#include <cstddef>
#include <cstdint>

#include "core.h"
#include "peak.h"

namespace binade {

constexpr int kMaxRank = 16;
constexpr int kMaxRegisters = 256;
constexpr int kMaxRowBuffers = 16;
constexpr int kMaxCombines = 16;
constexpr int kMaxParameters = 4;
constexpr int kMagnitudeCounts = 258;  // by exponent; of zeros; of finite numbers above 65504

/// A byte address inside a buffer: binding 0 is the arena, i >= 1 the i-th buffer handed to run().
struct Ref {
  int64_t binding;
  int64_t byteOffset;
};

/// A load or a store of the pointwise engine: a view in memory, or a row buffer when `rowBuffer` >= 0.
struct Operand {
  int reg;
  int rowBuffer;
  DType dtype;
  Ref ref;
  int64_t strides[kMaxRank];  // elements, along the axes of the grid
  bool lookupOnly;            // a load: `random` reads its address; its register is never read
};

/// Instructions whose lanes depend on where an element stands, and on no register.
static inline bool isGenerator(Opcode opcode) { return opcode == Opcode::random || opcode == Opcode::position; }

struct Instruction {
  Opcode opcode;
  int dst, a, b, c;
  uint32_t imm;
};

/// The axes a pointwise program runs over: the last one holds the lanes, the others (row-major) count rows.
/// Axes of the kernel's domain may be merged and reordered here; `positionStrides` leads back to row-major positions.
struct Grid {
  int rank;
  int64_t extents[kMaxRank];
  int64_t positionStrides[kMaxRank];
  int64_t rows;   // product of all extents but the last
  int64_t lanes;  // the last extent
};

/// A pointwise program. The first `invariantLoads` loads and `invariantInstructions` instructions yield the same lanes
/// for every block, in registers that nothing else writes: they run once per task.
struct Vm {
  Grid grid;
  int registerCount;
  int loadCount, invariantLoads;
  int instructionCount, invariantInstructions;
  int storeCount;
  Operand* loads;
  Instruction* instructions;
  Operand* stores;
  bool firstLaneOnly;  // every store writes the first lane of a row only, so one lane per row is computed
};

struct PointwiseKernel {
  Vm vm;
};

/// Outputs (rows of the epilogue's grid times its lanes) and what each one reduces over.
struct ReduceKernel {
  bool alongLanes;     // the lanes of the prologue's grid are reduced; else the lanes are outputs
  int64_t outerKept;   // leading rows of the prologue's grid that are outputs
  int64_t reducedRows; // rows of the prologue's grid that belong to one output
  int64_t reduced;     // elements that belong to one output
  int count;
  Combine combines[kMaxCombines];
  int registers[kMaxCombines];  // of the prologue, holding the operands
  Vm prologue, epilogue;
};

struct MagnitudeKernel {
  Vm prologue;
  int operand;  // register of the prologue that holds it
  Ref counts;   // int32 (kMagnitudeCounts)
};

struct RowKernel {
  RowCore core;
  int64_t parameters[kMaxParameters];
  int inputCount, outputCount;
  Vm prologue, epilogue;
};

struct MatmulKernel {
  int64_t batch, m, n, k;
  DType storage[2], format[2];  // of A and B
  Ref refs[2];
  int64_t rowStrides[2], columnStrides[2];
  int64_t* offsets[2];  // `batch` element offsets each
  Vm epilogue;
};

struct GatherKernel {
  int64_t outer, rows, indices, inner;
  int64_t elementByteLength;  // gather only
  DType dtype;                // scatterAdd only: of the values
  DType indexDtype;
  DType outDtype;             // scatterAdd only
  Ref table;                  // scatterAdd: the values
  Ref index, out;
};

/// One axis of planes: for each output position `count` input positions, −1 where there is none. Tables are (count, output).
struct PlaneAxis {
  int64_t input, output, count;
  int32_t* positions;
  float* weights;
  float* divisors;  // (output)
  bool weighted;    // not all weights are 1
  bool divided;     // not all divisors are 1
};

/// One element each for eight neighbouring positions of a row that is computed, in lane l element base + places[l] of another row.
constexpr int kOctet = 8;
struct PlaneTap {
  int32_t base;
  int32_t reach;           // every place lies in the first 8 or 16 elements; 0: some lies beyond
  bool full;               // every lane takes an element
  bool direct;             // and lane l takes element l
  int32_t places[kOctet];  // −1: none
  int32_t taps[kOctet];    // which tap of the axis it is
  float weights[kOctet];
};

/// The taps of positions [position, position + 8), of which `lanes` exist.
struct PlaneBlock {
  int32_t position, lanes;
  int64_t first, count;
};

/// The taps of an axis, eight positions at a time, from the side that a core writes. Blocks without taps are left out.
struct PlaneLookup {
  int64_t blockCount;
  PlaneBlock* blocks;
  PlaneTap* taps;
};

/// Planes one after another, (planes, rows, columns): two inputs, then two results; binding -1: absent.
struct PlaneKernel {
  PlaneCore core;
  int64_t planes;
  PlaneAxis rows, columns;
  PlaneLookup lookup;  // columns
  Ref refs[4];
  DType dtypes[4];
};

/// q, k, v, out, g, dq, dk, dv in the order of the words; binding -1: absent.
struct AttentionKernel {
  int64_t batch, queries, keys, heads, width;
  float scale;
  bool causal;
  Ref refs[8];
  DType dtypes[8];
  int64_t strides[8][3];
  Ref logSumExp;
};

/// Which of a convolution and its gradients is computed; its two operands in order.
enum class ConvolutionForm : int32_t { forward = 0, inputGradient = 1, weightGradient = 2 };  // x w, g w, x g
constexpr int64_t kConvolutionFormCount = 3;

struct ConvolutionKernel {
  ConvolutionForm form;
  int64_t batch, groups, channels, outputs;
  ConvolutionAxis axes[2];
  DType storage[2], format[2];
  Ref refs[2];
  int64_t strides[2][3];
  Vm epilogue;             // two axes or more: result rows (pictures, channels), then pixels, in one axis where it can be
  bool plainStore;         // the epilogue stores the sums as they are, as contiguous float32
};

constexpr int kMaxChannelInputs = 7;

/// (outer, channels, inner) and numbers per channel, contiguous; a statistic has results (binding -1: absent), a map an epilogue.
struct ChannelKernel {
  ChannelCore core;
  int64_t outer, channels, inner;
  float eps;
  Ref refs[kMaxChannelInputs];
  DType dtypes[kMaxChannelInputs];
  Ref results[2];
  DType resultDtypes[2];
  Vm epilogue;
};

struct Kernel {
  KernelCode code;
  union {
    const PointwiseKernel* pointwise;
    const ReduceKernel* reduce;
    const MagnitudeKernel* magnitudes;
    const RowKernel* row;
    const MatmulKernel* matmul;
    const GatherKernel* gather;
    const AttentionKernel* attention;
    const PlaneKernel* plane;
    const ConvolutionKernel* convolution;
    const ChannelKernel* channel;
  };
};

struct Program {
  int64_t arenaByteLength;
  int64_t bindingCount;  // buffers handed to run(), the arena not counted
  int64_t kernelCount;
  int64_t firstCommitKernel;
  Kernel* kernels;
  int64_t* byteLengths;      // [bindingCount + 1]: bytes that the program touches of each binding, counted from its start
  int64_t* alignments;       // [bindingCount + 1]: largest element size used with each binding
  int64_t lastMicroseconds;  // that the last run took, the engine's to write; INT64_MAX before the first
};

/// The first fault of a run: lowest kernel, then lowest position. `kernel` < 0: none.
struct Fault {
  int64_t kernel;
  int64_t position;
  int64_t value;
  char lock;
};

/// Decodes and checks `count` words. Null when they are malformed; `error` then holds a sentence.
Program* decodeProgram(const int64_t* words, int64_t count, char* error, size_t errorByteLength);
void destroyProgram(Program* program);

/// Runs every kernel. bases[0] is the arena, bases[i] binding i.
using Executor = void (*)(const Program& program, void* const* bases, Pool* pool, Fault* fault);

/// What dispatch.cc offers: the instruction sets compiled in that this machine can run, best first.
struct InstructionSet {
  const char* name;
  Executor run;
  Burst burst;
};
int supportedIsaCount();
const InstructionSet& supportedIsa(int index);

}  // namespace binade
