// Winograd's minimal filtering F(3×3, 2×2), the weight gradient: which problems take it, and the transforms of cotangents and of sums.
//
// dW = Aᵀ [Σ (G g Gᵀ) ⊙ (Bᵀ d B)] A, the sum over all tiles: 2 × 2 cotangents g meet the 4 × 4 inputs d that their outputs saw, with 16
// products instead of 36. Along an axis, with d transformed as forward does (winograd.h),
//
//   G g = (g0, g0 + g1, g0 − g1, g1)    Aᵀ m = (m0 + (m1 + m2) / 2, (m1 − m2) / 2, (m1 + m2) / 2 − m3)
//
// The halves of the usual G stand in Aᵀ: they are exact there, and sums of small integers stay integers until the end.
//
// Numerics: a weight's error is bounded by the float32 rounding unit times Σ (Σ |d|) (Σ |g|) over tiles and their elements, not by
// the products that it adds. Inputs that it does not see enter twice, with opposite signs, so that an infinity becomes NaN in all weights
// of its channel; it becomes finite nowhere.
#pragma once
#include "gemm_transpose.h"
#include "winograd.h"

namespace binade {
namespace BINADE_ISA {

constexpr int64_t filterTaps = 9;

constexpr int64_t leastTileChannels = 8;
constexpr int64_t leastTileProducts = 512;  // pixels of a picture times channels or outputs, whichever are fewer

/// Whether tiles pay for their transforms in a weight gradient: few tiles, or lanes of a panel, may be padding.
static inline bool gradientTakesTiles(const ConvolutionProblem& problem) {
  const int64_t rows = problem.axes[0].output, columns = problem.axes[1].output;
  return problem.batch > 0 && fitsTiles(problem) && !multipliesPairs(problem.x, problem.g) &&
         problem.channels >= leastTileChannels && 4 * problem.outputs >= 3 * multipleOf(problem.outputs, panelColumns) &&
         least(rows, columns) >= 3 && rows * columns * least(problem.channels, problem.outputs) >= leastTileProducts;
}

/// Cotangents of the outputs of a panel, (images, outputs, rows, columns) by strides in bytes.
struct CotangentPanel {
  const char* data;
  int64_t imageStride, outputStride, rowStride;
  int64_t outputs;  // <= panelColumns
};

/// Tiles of one unit: (images, rows, columns), a whole number of pieces to a row.
struct TileGrid {
  int64_t images, rows, columns;
  int64_t count() const { return images * rows * columns; }
};

/// A vector of neighbouring elements as floats.
template <DType storage>
static inline Vector readWide(const char* source) {
  if constexpr (storage == DType::float32) return loadVector(source);
  float wide[vectorLanes];
  const uint16_t* narrow = reinterpret_cast<const uint16_t*>(source);
  if constexpr (storage == DType::bfloat16) widenBfloat16(narrow, wide, vectorLanes);
  else widenFloat16(narrow, wide, vectorLanes);
  return loadVector(wide);
}

/// vectorLanes columns of a picture's row, of as many outputs from `first` on: outputs become lanes.
template <DType storage, bool whole>
static inline void transposeOutputs(const CotangentPanel& g, const char* row, int64_t first, Vector (&columns)[vectorLanes]) {
#pragma GCC unroll 16
  for (int lane = 0; lane < vectorLanes; ++lane)
    columns[lane] = whole || first + lane < g.outputs ? readWide<storage>(row + (first + lane) * g.outputStride) : zeroVector();
  transposeRegisters(columns);
}

/// G g of two columns of a tile: position j at target + j · stride.
static inline void storePositions(Floats left, Floats right, float* target, int64_t stride) {
  storeFloats(target, left);
  storeFloats(target + stride, left + right);
  storeFloats(target + 2 * stride, left - right);
  storeFloats(target + 3 * stride, right);
}

/// G g Gᵀ of up to vectorLanes / 2 neighbouring tiles, of vectorLanes outputs from `first` on: position p at target + p · stride, tiles
/// panelColumns floats apart.
template <DType storage, bool whole>
static inline void transformCotangents(const CotangentPanel& g, const char* upper, int64_t first, int64_t tiles, float* target,
                                       int64_t stride) {
  Vector rows[2][vectorLanes];
  transposeOutputs<storage, whole>(g, upper, first, rows[0]);
  transposeOutputs<storage, whole>(g, upper + g.rowStride, first, rows[1]);
#pragma GCC unroll 8
  for (int tile = 0; tile < vectorLanes / 2; ++tile, target += panelColumns) {
    if (tile == tiles) return;
    const Floats a = (Floats)rows[0][2 * tile], b = (Floats)rows[0][2 * tile + 1];
    const Floats c = (Floats)rows[1][2 * tile], d = (Floats)rows[1][2 * tile + 1];
    storePositions(a, b, target, stride);
    storePositions(a + c, b + d, target + tileReads * stride, stride);
    storePositions(a - c, b - d, target + 2 * tileReads * stride, stride);
    storePositions(c, d, target + 3 * tileReads * stride, stride);
  }
}

/// G g Gᵀ of all tiles of a panel: (tiles, panelColumns) per position. Rows of the pictures are read in whole vectors.
template <DType storage, bool whole>
static void transformPanel(const CotangentPanel& g, const TileGrid& tiles, float* target, int64_t stride) {
  constexpr int64_t tileByteLength = tileOutputs * (storage == DType::float32 ? 4 : 2);
  for (int64_t image = 0; image < tiles.images; ++image) {
    for (int64_t row = 0; row < tiles.rows; ++row) {
      const char* upper = g.data + image * g.imageStride + tileOutputs * row * g.rowStride;
      for (int64_t column = 0; column < tiles.columns; column += vectorLanes / 2) {
        const int64_t count = least(tiles.columns - column, vectorLanes / 2);
        for (int64_t first = 0; first < panelColumns; first += vectorLanes)
          transformCotangents<storage, whole>(g, upper + column * tileByteLength, first, count, target + first, stride);
        target += count * panelColumns;
      }
    }
  }
}

using PanelTransform = void (*)(const CotangentPanel& g, const TileGrid& tiles, float* target, int64_t stride);

/// The transform of cotangents that lie as `storage`, of all outputs of a panel or of fewer.
static inline PanelTransform panelTransform(DType storage, bool whole) {
  if (storage == DType::float32) return whole ? transformPanel<DType::float32, true> : transformPanel<DType::float32, false>;
  if (storage == DType::bfloat16) return whole ? transformPanel<DType::bfloat16, true> : transformPanel<DType::bfloat16, false>;
  return whole ? transformPanel<DType::float16, true> : transformPanel<DType::float16, false>;
}

/// Aᵀ m of 4 vectors, `step` apart, into 3.
static inline void gatherTaps(const Floats* m, int step, Floats (&taps)[3]) {
  const Floats half = broadcast(0.5f), sum = half * (m[step] + m[2 * step]);
  taps[0] = m[0] + sum;
  taps[1] = half * (m[step] - m[2 * step]);
  taps[2] = sum - m[3 * step];
}

/// Aᵀ m A: the sums of all positions of a vector of outputs into the weights of their taps.
static inline void transformSums(const Floats (&m)[tilePositions], float (&taps)[filterTaps][vectorLanes]) {
  Floats rows[3][tileReads], line[3];
#pragma GCC unroll 4
  for (int j = 0; j < tileReads; ++j) {
    gatherTaps(m + j, tileReads, line);
#pragma GCC unroll 3
    for (int y = 0; y < 3; ++y) rows[y][j] = line[y];
  }
#pragma GCC unroll 3
  for (int y = 0; y < 3; ++y) {
    gatherTaps(rows[y], 1, line);
#pragma GCC unroll 3
    for (int x = 0; x < 3; ++x) storeFloats(taps[3 * y + x], line[x]);
  }
}

}  // namespace BINADE_ISA
}  // namespace binade
