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

/// Depths to a turn of the loop. Four leave 21 instructions to the 12 multiply-adds of a depth, where one leaves 25: a core whose other
/// hardware thread is busy takes three a cycle. Measured on AVX2 alone; where registers are fewer, sums would leave them.
constexpr int depthsPerTurn = vectorLanes == 8 ? 4 : 1;

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

/// Rows of A in memory, of which every third has a pointer of its own: addresses of the others are that and a multiple of the
/// distance, which instructions add by themselves.
template <int rows>
struct RowsOfA {
  static constexpr int perPointer = 3;
  static constexpr int pointers = (rows + perPointer - 1) / perPointer;
  const float* first[pointers];
  int64_t distance;
};

template <int rows>
static inline RowsOfA<rows> pointAtRows(const float* a, int64_t distance) {
  RowsOfA<rows> at;
  at.distance = distance;
#pragma GCC unroll 5
  for (int i = 0; i < at.pointers; ++i) at.first[i] = a + i * at.perPointer * distance;
  return at;
}

/// The same rows some words further on. Compilers must not see how the pointers relate, or they hold one for every address.
template <int rows>
static inline void advanceRows(RowsOfA<rows>& at, int64_t words) {
#pragma GCC unroll 5
  for (int i = 0; i < at.pointers; ++i) {
    const float* pointer = at.first[i] + words;
    asm("" : "+r"(pointer));
    at.first[i] = pointer;
  }
  int64_t distance = at.distance;
  asm("" : "+r"(distance));
  at.distance = distance;
}

/// Adds the products of `depths` depths to the sums, and goes on to what follows them.
template <bool pairs, bool inRows, int rows, int depths>
static inline void multiplyDepths(const float** a, RowsOfA<rows>& at, const float** b, Vector (&sums)[rows][2]) {
#pragma GCC unroll 4
  for (int p = 0; p < depths; ++p) {
    const Vector left = loadVector(*b + p * panelColumns);
    const Vector right = loadVector(*b + p * panelColumns + vectorLanes);
    const auto multiply = [&](int i, const Vector& row) {
      sums[i][0] = multiplyAdd<pairs>(row, left, sums[i][0]);
      sums[i][1] = multiplyAdd<pairs>(row, right, sums[i][1]);
    };
    if constexpr (inRows) {
#pragma GCC unroll 14
      for (int i = 0; i < rows; ++i)
        multiply(i, splatWord(at.first[i / at.perPointer] + i % at.perPointer * at.distance + p));
    } else {
      const PanelFactors factors = loadFactors(*a + p * panelRows);
#pragma GCC unroll 14
      for (int i = 0; i < rows; ++i) multiply(i, factor(factors, i));
    }
  }
  *b += depths * panelColumns;
  if constexpr (inRows) advanceRows(at, depths);
  else *a += depths * panelRows;
}

/// c (rows, panelColumns), row stride `stride`, = or += A strip (`rows` of panelRows rows) · B strip (depth, panelColumns).
template <bool pairs, bool inRows, int rows>
static void multiplyStrips(int64_t depth, const StripOfA& strip, const float* b, float* c, int64_t stride,
                           bool accumulate) {
  const float* a = strip.words;
  const float* next = strip.next;
  RowsOfA<rows> at = pointAtRows<rows>(a, strip.rowStride);
  Vector sums[rows][2];
#pragma GCC unroll 14
  for (int i = 0; i < rows; ++i) sums[i][0] = sums[i][1] = zeroVector();
#pragma GCC unroll 1
  for (; depth >= depthsPerTurn; depth -= depthsPerTurn) {
    if constexpr (!inRows) {
#pragma GCC unroll 4
      for (int64_t word = 0; word < depthsPerTurn * panelRows; word += 16) __builtin_prefetch(next + word);
      next += depthsPerTurn * panelRows;
    }
    multiplyDepths<pairs, inRows, rows, depthsPerTurn>(&a, at, &b, sums);
  }
#pragma GCC unroll 1
  for (; depthsPerTurn > 1 && depth > 0; --depth) multiplyDepths<pairs, inRows, rows, 1>(&a, at, &b, sums);
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
