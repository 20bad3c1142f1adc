// Register kernels of convolution: weights times shifted windows of staged pictures, and pixels times shifted pixels.
//
// Neither packs the pictures into a matrix. A column vector at depth p lies at `b + shifts[p]` plus its place: the
// neighbouring outputs of a row read neighbouring inputs, whatever the tap.
#pragma once
#include "lanes.h"

namespace binade {
namespace BINADE_ISA {

constexpr int64_t groupLanes = 2 * vectorLanes;  // columns of one call of a sliding kernel

/// c (rows, 2 vectors), row stride `stride` floats, = or += A (depth, slideRows) · the columns at `places`: 2 · pieces byte
/// offsets from b. Depths are added in ascending order.
template <bool pairs, int pieces, int rows>
static void slideStrip(int64_t depth, const float* a, const char* b, const int64_t* shifts, const int64_t* places,
                       float* c, int64_t stride, bool accumulate) {
  Vector sums[rows][2];
#pragma GCC unroll 14
  for (int i = 0; i < rows; ++i) {
    sums[i][0] = zeroVector();
    sums[i][1] = zeroVector();
  }
  for (int64_t p = 0; p < depth; ++p, a += slideRows) {
    const char* at = b + shifts[p];
    const Vector left = readPieces<pieces>(at, places);
    const Vector right = readPieces<pieces>(at, places + pieces);
#pragma GCC unroll 14
    for (int i = 0; i < rows; ++i) {
      const Vector weight = splatVector(a[i]);
      sums[i][0] = multiplyAdd<pairs>(weight, left, sums[i][0]);
      sums[i][1] = multiplyAdd<pairs>(weight, right, sums[i][1]);
    }
  }
#pragma GCC unroll 14
  for (int i = 0; i < rows; ++i, c += stride) {
    storeVector(c, accumulate ? addVectors(loadVector(c), sums[i][0]) : sums[i][0]);
    storeVector(c + vectorLanes, accumulate ? addVectors(loadVector(c + vectorLanes), sums[i][1]) : sums[i][1]);
  }
}

using SlideKernel = void (*)(int64_t depth, const float* a, const char* b, const int64_t* shifts, const int64_t* places,
                             float* c, int64_t stride, bool accumulate);

/// The kernel for strips of exactly `wanted` rows, 1 <= wanted <= slideRows.
template <bool pairs, int pieces, int rows = slideRows>
static inline SlideKernel slideKernel(int64_t wanted) {
  if constexpr (rows > 1) {
    if (wanted < rows) return slideKernel<pairs, pieces, rows - 1>(wanted);
  }
  return slideStrip<pairs, pieces, rows>;
}

/// Columns that rows of the other operand meet at once: as many as registers hold.
constexpr int dotWidth(int rows) { return rows >= 3 ? dotColumns : rows == 2 ? 2 * dotColumns : 3 * dotColumns; }

/// What one call of a dot kernel reads: `steps` vectors of g (rows `rowByteLength` apart) at gPlaces (steps byte offsets),
/// and of x (one pointer per column), in pieces at xPlaces (steps · pieces byte offsets). Masks, one vector per step, or (stride 0) none,
/// clear the lanes of x that belong to no pixel: g has zeros there, but x may hold an infinity.
struct DotOperands {
  int64_t steps;
  const char* g;
  int64_t rowByteLength;
  const char* const* x;
  const int64_t* gPlaces;
  const int64_t* xPlaces;
  const char* masks;
  int64_t maskByteLength;
};

/// Rows of a strip's sums: those of one column lie side by side, a whole number of fours.
constexpr int dotSlots = (dotRows + 3) / 4 * 4;

/// sums (columns, …), column stride `stride`, = or += the sums over all pixels of g · x, for the first `count` <= dotWidth(rows)
/// columns; each column's `rows` sums lie side by side.
template <bool pairs, int pieces, int rows>
static void dotStrip(const DotOperands& o, int64_t count, float* totals, int64_t stride, bool add) {
  constexpr int columns = dotWidth(rows);
  Vector sums[dotSlots][columns];
  const char* x[columns];
#pragma GCC unroll 12
  for (int j = 0; j < columns; ++j) x[j] = o.x[j];
#pragma GCC unroll 8
  for (int i = 0; i < dotSlots; ++i)
#pragma GCC unroll 12
    for (int j = 0; j < columns; ++j) sums[i][j] = zeroVector();
  const char* mask = o.masks;
  const bool masked = o.maskByteLength != 0;
  for (int64_t step = 0; step < o.steps; ++step, mask += o.maskByteLength) {
    const int64_t place = o.gPlaces[step];
    const int64_t* xPlaces = o.xPlaces + step * pieces;
    Vector right[columns];
#pragma GCC unroll 12
    for (int j = 0; j < columns; ++j) right[j] = readPieces<pieces>(x[j], xPlaces);
    if (masked) {
      const Vector valid = loadVector(mask);
#pragma GCC unroll 12
      for (int j = 0; j < columns; ++j) right[j] = maskLanes(right[j], valid);
    }
#pragma GCC unroll 8
    for (int i = 0; i < rows; ++i) {
      const Vector left = loadVector(o.g + i * o.rowByteLength + place);
#pragma GCC unroll 12
      for (int j = 0; j < columns; ++j) sums[i][j] = multiplyAdd<pairs>(left, right[j], sums[i][j]);
    }
  }
#pragma GCC unroll 12
  for (int j = 0; j < columns; ++j, totals += stride) {
    if (j >= count) return;
#pragma GCC unroll 2
    for (int i = 0; i < dotSlots; i += 4)
      sumFour(sums[i][j], sums[i + 1][j], sums[i + 2][j], sums[i + 3][j], totals + i, add);
  }
}

using DotKernel = void (*)(const DotOperands& operands, int64_t count, float* totals, int64_t stride, bool add);

template <bool pairs, int pieces, int rows = dotRows>
static inline DotKernel dotKernel(int64_t wanted) {
  if constexpr (rows > 1) {
    if (wanted < rows) return dotKernel<pairs, pieces, rows - 1>(wanted);
  }
  return dotStrip<pairs, pieces, rows>;
}

}  // namespace BINADE_ISA
}  // namespace binade
