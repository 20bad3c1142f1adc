// Winograd's minimal filtering F(2×2, 3×3): which convolutions take it, its tiles, and the transform of pictures.
//
// Y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A (Winograd, "Arithmetic complexity of computations", 1980; Lavin and Gray, "Fast algorithms for
// convolutional neural networks", 2015): the 2 × 2 outputs of a tile take 16 products per channel instead of 36. Along an axis,
//
//   Bᵀ d = (d0 − d2, d1 + d2, d2 − d1, d1 − d3)    G g = (g0, (g0 + g1 + g2) / 2, (g0 − g1 + g2) / 2, g2)
//   Aᵀ m = (m0 + m1 + m2, m1 − m2 − m3)
//
// Numerics: both transforms are sums of four elements (and of nine, with factors 1, 1/2 and 1/4), so the error of an output is
// bounded by the float32 rounding unit times the largest element of its *tile* and the weights' absolute sum, not by the elements
// that it sees: one that it does not see enters twice, with opposite signs. For the same reason an infinity may become NaN in the other
// outputs of its tile; it becomes finite nowhere. Sums of small integers stay exact. F(4×4, 3×3) would take 36 products for 16
// outputs, but has factors from 1/24 to 8, which cost two to three bits.
#pragma once
#include "convolution_stage.h"
#include "floats.h"

namespace binade {
namespace BINADE_ISA {

constexpr int tileReads = 4, tileOutputs = 2;            // along an axis
constexpr int64_t leastTileWork = 6;                     // products per transform, in units of 20 a tile, that pay for it
constexpr int tilePositions = tileReads * tileReads;     // 4 i + j: row i and column j of a transformed tile

/// Whether tiles can compute a convolution at all.
static inline bool fitsTiles(const ConvolutionProblem& problem) {
  for (const ConvolutionAxis& axis : problem.axes)
    if (axis.kernel != 3 || axis.stride != 1 || axis.dilation != 1) return false;
  return true;
}

/// Whether tiles pay for their transforms: products that they save, 20 per tile, channel and output, against transforms of a tile, one
/// per channel and one per output. Dot products of bfloat16 pairs have twice the rate: there a direct convolution stays faster.
static inline bool takesTiles(const ConvolutionProblem& problem, bool gradient) {
  return fitsTiles(problem) && !multipliesPairs(gradient ? problem.g : problem.x, problem.w) &&
         problem.channels * problem.outputs >= leastTileWork * (problem.channels + problem.outputs);
}

/// The tiles of one axis, as a convolution that reads `tileReads` elements per output. (The gradient meets the kernel turned round.)
static inline ConvolutionAxis tileAxis(const ConvolutionAxis& axis, bool gradient) {
  const int64_t source = gradient ? axis.output : axis.input, result = gradient ? axis.input : axis.output;
  return {source, partsOf(result, tileOutputs), tileReads, tileOutputs, 1, gradient ? axis.kernel - 1 - axis.before : axis.before};
}

/// Bytes from a tile's place in a staged channel to its element (row, column). Staging splits even from odd rows and columns, so that the
/// same element of neighbouring tiles are neighbours.
struct TileShifts {
  int64_t bytes[tileReads][tileReads];
};

static inline TileShifts tileShifts(const StagedAxis& y, const StagedAxis& x, const StageLayout& layout) {
  TileShifts shifts;
  for (int i = 0; i < tileReads; ++i)
    for (int j = 0; j < tileReads; ++j) shifts.bytes[i][j] = 4 * tapShift(y, x, layout, i, j);
  return shifts;
}

/// d B of one row of a vector of tiles, `pieces` runs of neighbours at `places` (byte offsets from `staged`).
template <int pieces>
static inline void transformRow(const char* staged, const int64_t (&shifts)[tileReads], const int64_t* places,
                                Floats (&row)[tileReads]) {
  Floats d[tileReads];
#pragma GCC unroll 4
  for (int j = 0; j < tileReads; ++j) d[j] = (Floats)readPieces<pieces>(staged + shifts[j], places);
  row[0] = d[0] - d[2];
  row[1] = d[1] + d[2];
  row[2] = d[2] - d[1];
  row[3] = d[1] - d[3];
}

/// Positions 4 i + j for one i of a vector of tiles, column j at v + j · stride.
template <int pieces, int i>
static inline void transformTileRow(const char* staged, const TileShifts& shifts, const int64_t* places, float* v,
                                    int64_t stride) {
  constexpr int first = i == 0 ? 0 : i == 2 ? 2 : 1, second = i == 3 ? 3 : i == 2 ? 1 : 2;
  Floats a[tileReads], b[tileReads];
  transformRow<pieces>(staged, shifts.bytes[first], places, a);
  transformRow<pieces>(staged, shifts.bytes[second], places, b);
#pragma GCC unroll 4
  for (int j = 0; j < tileReads; ++j) storeFloats(v + j * stride, i == 1 ? a[j] + b[j] : a[j] - b[j]);
}

/// All positions of a vector of tiles: Bᵀ d B, position p at v + p · stride. The bits of transformTileRow.
template <int pieces>
static inline void transformTile(const char* staged, const TileShifts& shifts, const int64_t* places, float* v,
                                 int64_t stride) {
  Floats outer[tileReads], upper[tileReads], lower[tileReads];
  transformRow<pieces>(staged, shifts.bytes[1], places, upper);
  transformRow<pieces>(staged, shifts.bytes[2], places, lower);
#pragma GCC unroll 4
  for (int j = 0; j < tileReads; ++j) {
    storeFloats(v + (4 + j) * stride, upper[j] + lower[j]);
    storeFloats(v + (8 + j) * stride, lower[j] - upper[j]);
  }
  transformRow<pieces>(staged, shifts.bytes[0], places, outer);
#pragma GCC unroll 4
  for (int j = 0; j < tileReads; ++j) storeFloats(v + j * stride, outer[j] - lower[j]);
  transformRow<pieces>(staged, shifts.bytes[3], places, outer);
#pragma GCC unroll 4
  for (int j = 0; j < tileReads; ++j) storeFloats(v + (12 + j) * stride, upper[j] - outer[j]);
}

}  // namespace BINADE_ISA
}  // namespace binade
