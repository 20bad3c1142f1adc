// Register kernels of the matrix product: a strip of packed A times a strip of packed B, one text for every instruction
// set over a few vector operations.
//
// Packed operands are arrays of 32-bit words. In the float32 form a word is one float; in the pair form (bfloat16 dot
// products) it is two bfloat16 of neighbouring depths, the lower depth in the lower half. "Depth" counts words.
//   A panel: (depth, panelRows)     word [p][i] belongs to row i of the panel
//   B panel: (depth, panelColumns)  word [p][j] belongs to column j of the panel
// A may also lie as it does in memory, row after row: (panelRows, depth), rows some words apart.
// Every kernel adds the depths in ascending order, so its result depends on shape and instruction set alone.
#pragma once
#include "vector.h"

namespace binade {
namespace BINADE_ISA {

// A panel's columns are two vectors. Rows are as many as registers hold sums for, beside two columns and the factors.

#if defined(__AVX2__)

#if defined(__AVX512F__)
constexpr int64_t panelRows = 14;
#else
constexpr int64_t panelRows = 6;
#endif
struct PanelFactors {
  const float* at;
};
static inline PanelFactors loadFactors(const float* a) { return PanelFactors{a}; }
static inline Vector factor(const PanelFactors& factors, int row) { return splatVector(factors.at[row]); }

#else

#if defined(__aarch64__)
constexpr int64_t panelRows = 12;
#else
constexpr int64_t panelRows = 4;
#endif
/// Vectors of neighbouring rows: NEON multiplies by any lane of one.
struct PanelFactors {
  Vector rows[panelRows / 4];
};
static inline PanelFactors loadFactors(const float* a) {
  PanelFactors factors;
#pragma GCC unroll 3
  for (int i = 0; i < panelRows / 4; ++i) factors.rows[i] = loadVector(a + 4 * i);
  return factors;
}
static inline Vector factor(const PanelFactors& factors, int row) {
  return splatVector(factors.rows[row / 4][row % 4]);
}

#endif

constexpr int64_t panelColumns = 2 * vectorLanes;

/// The word at `source` in every lane. Pairs of 16 bits in memory need not lie as words do.
static inline Vector splatWord(const float* source) {
  float word;
  __builtin_memcpy(&word, source, sizeof word);
  return splatVector(word);
}

/// A strip of A: a panel, whose next one is fetched meanwhile, or rows as they lie in memory, `rowStride` words apart.
struct StripOfA {
  const float* words;
  const float* next;
  int64_t rowStride;
};

/// c (rows, panelColumns), row stride `stride`, = or += A strip (`rows` of panelRows rows) · B strip (depth, panelColumns).
template <bool pairs, bool inRows, int rows>
static void multiplyStrips(int64_t depth, const StripOfA& strip, const float* b, float* c, int64_t stride,
                           bool accumulate) {
  const float* a = strip.words;
  const float* next = strip.next;
  const int64_t rowStride = strip.rowStride;
  Vector sums[rows][2];
#pragma GCC unroll 14
  for (int i = 0; i < rows; ++i) sums[i][0] = sums[i][1] = zeroVector();
#pragma GCC unroll 1
  for (int64_t p = 0; p < depth; ++p, b += panelColumns) {
    const Vector left = loadVector(b);
    const Vector right = loadVector(b + vectorLanes);
    const auto multiply = [&](int i, const Vector& row) {
      sums[i][0] = multiplyAdd<pairs>(row, left, sums[i][0]);
      sums[i][1] = multiplyAdd<pairs>(row, right, sums[i][1]);
    };
    if constexpr (inRows) {
#pragma GCC unroll 14
      for (int i = 0; i < rows; ++i) multiply(i, splatWord(a + i * rowStride));
      ++a;
    } else {
      __builtin_prefetch(next);
      const PanelFactors factors = loadFactors(a);
#pragma GCC unroll 14
      for (int i = 0; i < rows; ++i) multiply(i, factor(factors, i));
      a += panelRows;
      next += panelRows;
    }
  }
#pragma GCC unroll 14
  for (int i = 0; i < rows; ++i, c += stride) {
    storeVector(c, accumulate ? addVectors(loadVector(c), sums[i][0]) : sums[i][0]);
    storeVector(c + vectorLanes, accumulate ? addVectors(loadVector(c + vectorLanes), sums[i][1]) : sums[i][1]);
  }
}

using StripKernel = void (*)(int64_t depth, const StripOfA& strip, const float* b, float* c, int64_t stride,
                             bool accumulate);

/// The kernel for strips of exactly `rows` rows, 1 <= rows <= panelRows.
template <bool pairs, bool inRows, int rows = panelRows>
static inline StripKernel stripKernel(int64_t wanted) {
  if constexpr (rows > 1) {
    if (wanted < rows) return stripKernel<pairs, inRows, rows - 1>(wanted);
  }
  return multiplyStrips<pairs, inRows, rows>;
}

}  // namespace BINADE_ISA
}  // namespace binade
