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
constexpr int64_t leastTileWork = 5;                     // products saved per transform, in units of 20 a tile, that pay for it
constexpr int tilePositions = tileReads * tileReads;     // 4 i + j: row i and column j of a transformed tile

/// Whether tiles can compute a convolution at all.
static inline bool fitsTiles(const ConvolutionProblem& problem) {
  for (const ConvolutionAxis& axis : problem.axes)
    if (axis.kernel != 3 || axis.stride != 1 || axis.dilation != 1) return false;
  return true;
}

/// Whether tiles pay for their transforms: products that they save, 20 per tile, channel and output, against transforms of a tile, one
/// per channel and one per output (measured: 16→8 takes 0.9 of the time, 8→8 1.05). Dot products of bfloat16 pairs have twice the rate: there a direct convolution stays faster.
static inline bool takesTiles(const ConvolutionProblem& problem, bool gradient) {
  return fitsTiles(problem) && !multipliesPairs(gradient ? problem.g : problem.x, problem.w) &&
         problem.channels * problem.outputs >= leastTileWork * (problem.channels + problem.outputs);
}

/// The tiles of one axis, as a convolution that reads `tileReads` elements per output. (The gradient meets the kernel turned round.)
static inline ConvolutionAxis tileAxis(const ConvolutionAxis& axis, bool gradient) {
  const int64_t source = gradient ? axis.output : axis.input, result = gradient ? axis.input : axis.output;
  return {source, partsOf(result, tileOutputs), tileReads, tileOutputs, 1, gradient ? axis.kernel - 1 - axis.before : axis.before};
}

/// Bytes from a tile's place in a staged channel to its rows, and within a row to odd columns. Staging splits even from odd rows and
/// columns, so that the same elements of neighbouring tiles are neighbours.
struct TileShifts {
  int64_t rows[tileReads], odd;
};

static inline TileShifts tileShifts(const StagedAxis& y, const StagedAxis& x, const StageLayout& layout) {
  TileShifts shifts;
  for (int i = 0; i < tileReads; ++i) shifts.rows[i] = 4 * tapShift(y, x, layout, i, 0);
  shifts.odd = 4 * layout.pitch;
  return shifts;
}

/// d B of one row of a vector of tiles, `pieces` runs of neighbours at `places` (byte offsets from `row`).
template <int pieces>
static inline void transformRow(const char* row, int64_t odd, const int64_t* places, Floats (&d)[tileReads]) {
  const Floats d0 = (Floats)readPieces<pieces>(row, places), d2 = (Floats)readPieces<pieces>(row + 4, places);
  const Floats d1 = (Floats)readPieces<pieces>(row + odd, places), d3 = (Floats)readPieces<pieces>(row + odd + 4, places);
  d[0] = d0 - d2;
  d[1] = d1 + d2;
  d[2] = d2 - d1;
  d[3] = d1 - d3;
}

/// All positions of a vector of tiles: Bᵀ d B, position p at v + p · stride.
template <int pieces>
static inline void transformTile(const char* staged, const TileShifts& shifts, const int64_t* places, float* v,
                                 int64_t stride) {
  Floats first[tileReads], upper[tileReads], lower[tileReads], last[tileReads];
  transformRow<pieces>(staged + shifts.rows[0], shifts.odd, places, first);
  transformRow<pieces>(staged + shifts.rows[2], shifts.odd, places, lower);
#pragma GCC unroll 4
  for (int j = 0; j < tileReads; ++j, v += stride) storeFloats(v, first[j] - lower[j]);
  transformRow<pieces>(staged + shifts.rows[1], shifts.odd, places, upper);
#pragma GCC unroll 4
  for (int j = 0; j < tileReads; ++j, v += stride) storeFloats(v, upper[j] + lower[j]);
#pragma GCC unroll 4
  for (int j = 0; j < tileReads; ++j, v += stride) storeFloats(v, lower[j] - upper[j]);
  transformRow<pieces>(staged + shifts.rows[3], shifts.odd, places, last);
#pragma GCC unroll 4
  for (int j = 0; j < tileReads; ++j, v += stride) storeFloats(v, upper[j] - last[j]);
}

}  // namespace BINADE_ISA
}  // namespace binade
