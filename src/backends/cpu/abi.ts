/** The contract between the compiler's CPU lowering and the native executor: codes, and the layout of a program in words. */
import { FN, type Fn } from "../../ops/expr.ts";

/** Raised whenever a code or a layout below changes; the addon refuses programs of another version. */
export const ABI_VERSION = 4;

/**
 * Opcodes of the pointwise engine beyond the scalar primitives of `FN` (which come first, in table order).
 * Registers hold blocks of 32-bit lanes: float32, or int32/uint32 bits. Booleans, uint8 and int16 are float32 lanes.
 */
// biome-ignore format: a table is read by rows
export const EXTRA_OPCODES = [
  "productSum", // dst = a · b + c; both operations round
  "scaledSum", "scaledProduct", // dst = imm · a + b and (imm · a) · b; both operations round
  "constant", // dst = imm (32 bits)
  "addConstant", "mulConstant", // dst = a + imm, a · imm
  "erfPlusOne", "gaussian", // dst = erf(imm · a) + 1 and exp(imm · (a · a)), each operation rounded
  "roundFloat16", "roundBfloat16", "roundFloat8E4m3fn", "roundFloat8E5m2", // dst = a rounded to nearest even, kept as float32
  "toInt32", "toUint32", "fromInt32", "fromUint32", // conversions; to-int truncates and saturates, NaN becomes 0
  "addInt", "subInt", "mulInt", "negInt", // wrap around
  "minInt", "maxInt", "minUint", "maxUint",
  "eqInt", "neInt", "ltInt", "leInt", "ltUint", "leUint", // yield float 1 or 0
  "random", // dst = uniform float32 in [0, 1): Philox4x32-10; a..c unused; imm = stream; a = index of the load that addresses the key
  "position", // dst = int32 row-major position of the lane's element in the kernel's domain
] as const;

export type Opcode = Fn | (typeof EXTRA_OPCODES)[number];

/** Code of every opcode: its position in FN followed by EXTRA_OPCODES. */
export const OPCODES: Readonly<Record<Opcode, number>> = Object.fromEntries(
  [...Object.keys(FN), ...EXTRA_OPCODES].map((name, code) => [name, code]),
) as Record<Opcode, number>;

/** Most axes of a kernel's domain, and most registers of a pointwise program. */
export const MAX_RANK = 16;
export const MAX_REGISTERS = 256;

/** Kernel codes, in order. Layouts are given below. */
export const KERNELS = [
  "pointwise",
  "reduce",
  "row",
  "matmul",
  "gather",
  "scatterAdd",
  "attention",
  "attentionBackward",
  "plane",
  "convolution",
  "channel",
  "magnitudes",
] as const;
/** Which of a convolution and its two gradients a kernel computes, from which operands: x w, g w, or x g. */
export const CONVOLUTION_FORMS = ["convolution", "convolutionInputGradient", "convolutionWeightGradient"] as const;
/** How a reduction combines float32 lanes. argMax/argMin yield int32 positions (first on ties; the first NaN wins). */
export const COMBINES = ["sum", "product", "max", "min", "argMax", "argMin", "sumInt"] as const;
/** Row cores: functions of whole rows. Row buffers in → row buffers out; (n) is a row, (1) one lane per row. */
// biome-ignore format: a table is read by rows
export const ROW_CORES = [
  "softmax", // x(n) → p(n)
  "softmaxBackward", // g(n), p(n) → dx(n)
  "logSoftmax", // x(n) → y(n)
  "logSoftmaxBackward", // g(n), y(n) → dx(n)
  "logSumExp", // x(n) → y(1)
  "normalize", // x(n) → xhat(n), inverseDeviation(1); parameters: eps bits, center 0|1
  "normalizeBackward", // g(n), xhat(n), inverseDeviation(1) → dx(n); parameters: center 0|1
  "crossEntropy", // logits(n), label int32(1) → loss(1); parameter: ignored label
  "crossEntropyBackward", // g(1), logits(n), label int32(1) → dlogits(n); parameter: ignored label
] as const;

/** Cores over planes (rows × columns, one after another): inputs → results, the last two axes seen through taps. */
// biome-ignore format: a table is read by rows
export const PLANE_CORES = [
  "resample", // x(input) → y(output): Σ weight · x over the taps of rows and columns, over both divisors
  "resampleBackward", // g(output) → dx(input): the transpose
  "maxPool", // x(input) → y(output), first tap that holds it, row-major, uint8 or int32(output)
  "maxPoolBackward", // g(output), tap(output) → dx(input)
] as const;

/** Cores over (outer, channels, inner) that yield numbers per channel (c); x̂ = (x − mean) / √(variance + eps). */
// biome-ignore format: a table is read by rows
export const CHANNEL_STATISTICS = [
  "channelMoments", // x → mean(c), biased variance(c)
  "channelSums", // g, x, mean(c), variance(c) → Σ g (c), Σ g x̂ (c)
] as const;
/** Cores over (outer, channels, inner) that fill row buffer 0 of an epilogue. */
// biome-ignore format: a table is read by rows
export const CHANNEL_MAPS = [
  "channelNormalize", // x, weight(c), bias(c), mean(c), variance(c) → x̂ · weight + bias
  "channelGradient", // g, x, weight(c), mean(c), variance(c), Σ g (c), Σ g x̂ (c) → dx
] as const;
export const CHANNEL_CORES = [...CHANNEL_STATISTICS, ...CHANNEL_MAPS] as const;

/*
 * A program is a list of 64-bit signed words (floats as their 32 bits, zero-extended):
 *
 * program  := ABI_VERSION arenaByteLength bindingCount kernelCount firstCommitKernel kernel*
 *             Kernels from firstCommitKernel on run only if no fault was raised before (an index or label out of range).
 * kernel   := kernelCode wordCount payload             wordCount counts the words of payload
 * ref      := binding byteOffset                       binding 0 is the arena, i >= 1 is the i-th buffer handed to run()
 * domain   := rank extent{rank}                        rank >= 1
 * view(r)  := dtype ref stride{r}                      strides in elements; 0 broadcasts; may be negative
 * vm(r)    := registerCount loadCount load* instructionCount instruction* storeCount store*
 * load     := register 0 view(r) | register 1+rowBuffer
 * instr    := opcode dst a b c imm                     registers; imm holds 32 bits
 * store    := register 0 view(r) | register 1+rowBuffer
 *             Unused operands are 0. Constants, loads with strides 0 and what is computed from them alone run once per
 *             task if nothing else writes their register.
 *             A store rounds to its dtype (nearest even; integers hold what the register holds). A store whose last
 *             stride is 0 writes the first lane only.
 *
 * pointwise          := domain vm(rank)                                      the last axis is the vector axis
 * reduce             := domain keptRank vectorAxis count combine{count} prologue:vm(rank) epilogue:vm(keptRank)
 *                       domain = kept axes then reduced axes, keptRank >= 1; vectorAxis 0: the last reduced axis is the
 *                       contiguous one, 1: the last kept axis is. The prologue stores operand i in row buffer i; the
 *                       epilogue loads result i from row buffer i. A prologue may store to views, too.
 * magnitudes         := domain prologue:vm(rank) counts:ref
 *                       The prologue stores the operand in row buffer 0, and may store to views, too; counts are int32 (258), as
 *                       in src/ops/magnitudes.ts
 * row                := domain core parameterCount parameter* inputCount outputCount prologue:vm(rank) epilogue:vm(rank)
 *                       the last axis is the row. The prologue stores input i in row buffer i; the core writes its
 *                       outputs to row buffers inputCount + i, which the epilogue loads. A (1) buffer broadcasts.
 * matmul             := batch m n k operand operand aOffset{batch} bOffset{batch} domain epilogue:vm(rank)
 *                       domain = batch axes, m, n (product of batch axes = batch); row buffer 0 = float32 accumulators
 *   operand          := storage format ref rowStride columnStride             as MatrixView in native/include/core.h
 * gather             := outer rows indices inner elementByteLength table:ref indexDtype index:ref out:ref
 *                       out[o, i, :] = table[o, index[i], :]; all contiguous; index int32, uint32 or uint8
 * scatterAdd         := outer rows indices inner dtype values:ref indexDtype index:ref outDtype out:ref
 *                       out[o, r, :] = sum of values[o, i, :] over index[i] = r, in order of i, summed in float32
 * plane              := core planes axis axis array array array array        rows, columns; two inputs, two results; contiguous
 *   axis             := input output count position{output*count} weightBits{output*count} divisorBits{output}
 *                       count taps per output position, in order; position -1: none
 *   array            := dtype ref                                             dtype -1: absent
 * channel            := core outer channels inner epsBits array{inputs} (array array | domain epilogue:vm(rank))
 *                       core: of CHANNEL_CORES; contiguous; a statistic has two results, a map an epilogue
 * attention          := batch queries keys heads width scaleBits causal q k v out lse:ref
 * attentionBackward  := … as attention … g dq dk dv
 *   heads view       := dtype ref stride{3}                                   dtype -1: absent; absent lse: binding -1
 * convolution        := form batch groups channels outputs axis axis image image domain epilogue:vm(rank)
 *                       channels and outputs of one group; rows, then columns; row buffer 0 = float32 sums; domain = batch,
 *                       channels, then pixels; of the weight gradient, outputs, then channels and taps
 *   axis             := input output kernel stride dilation before after      as ConvolutionAxis in native/include/core.h
 *   image            := storage format ref stride{3}                          as ImageView; neighbouring columns
 *
 * random: element e of the kernel's domain (row-major position) draws lane e mod 4 of Philox4x32-10 with counter
 * (e div 4 low, e div 4 high, key[2], key[3] xor stream) and key (key[0], key[1]); `a` is the position in the load list of
 * a view of the uint32 key of four words (stride 0 in every axis: the address of key[0]), which no instruction reads as
 * a value. The float is (word >>> 8) * 2^-24.
 */
