// Register kernels of the matrix product: a strip of packed A times a strip of packed B, one set per instruction set.
//
// Packed operands are arrays of 32-bit words. In the float32 form a word is one float; in the pair form (bfloat16 dot
// products) it is two bfloat16 of neighbouring depths, the lower depth in the lower half. "Depth" counts words.
//   A panel: (depth, panelRows)     word [p][i] belongs to row i of the panel
//   B panel: (depth, panelColumns)  word [p][j] belongs to column j of the panel
// Every kernel adds the depths in ascending order, so its result depends on shape and instruction set alone.
#pragma once
#include <cstdint>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "abi.h"

#if defined(__AVX512BF16__)
#define BINADE_PAIRS 1
#else
#define BINADE_PAIRS 0
#endif

namespace binade {
namespace BINADE_ISA {

#if defined(__AVX512F__)

constexpr int64_t panelRows = 14;
constexpr int64_t panelColumns = 32;

template <bool pairs>
static inline __m512 multiplyAdd(__m512 a, __m512 b, __m512 sum) {
#if BINADE_PAIRS
  if constexpr (pairs) return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
#endif
  return _mm512_fmadd_ps(a, b, sum);
}

/// c (rows, 32), row stride `stride`, = or += A strip (depth, 14) · B strip (depth, 32), for the first `rows` rows.
template <bool pairs, int rows>
static void multiplyStrips(int64_t depth, const float* a, const float* b, float* c, int64_t stride, bool accumulate) {
  __m512 sums[rows][2];
#pragma GCC unroll 14
  for (int i = 0; i < rows; ++i) {
    sums[i][0] = _mm512_setzero_ps();
    sums[i][1] = _mm512_setzero_ps();
  }
  for (int64_t p = 0; p < depth; ++p, a += panelRows, b += panelColumns) {
    const __m512 left = _mm512_loadu_ps(b);
    const __m512 right = _mm512_loadu_ps(b + 16);
#pragma GCC unroll 14
    for (int i = 0; i < rows; ++i) {
      const __m512 row = _mm512_set1_ps(a[i]);
      sums[i][0] = multiplyAdd<pairs>(row, left, sums[i][0]);
      sums[i][1] = multiplyAdd<pairs>(row, right, sums[i][1]);
    }
  }
#pragma GCC unroll 14
  for (int i = 0; i < rows; ++i, c += stride) {
    const __m512 left = accumulate ? _mm512_add_ps(_mm512_loadu_ps(c), sums[i][0]) : sums[i][0];
    const __m512 right = accumulate ? _mm512_add_ps(_mm512_loadu_ps(c + 16), sums[i][1]) : sums[i][1];
    _mm512_storeu_ps(c, left);
    _mm512_storeu_ps(c + 16, right);
  }
}

#elif defined(__AVX2__)

constexpr int64_t panelRows = 6;
constexpr int64_t panelColumns = 16;

/// c (rows, 16), row stride `stride`, = or += A strip (depth, 6) · B strip (depth, 16), for the first `rows` rows.
template <bool pairs, int rows>
static void multiplyStrips(int64_t depth, const float* a, const float* b, float* c, int64_t stride, bool accumulate) {
  __m256 sums[rows][2];
#pragma GCC unroll 6
  for (int i = 0; i < rows; ++i) {
    sums[i][0] = _mm256_setzero_ps();
    sums[i][1] = _mm256_setzero_ps();
  }
  for (int64_t p = 0; p < depth; ++p, a += panelRows, b += panelColumns) {
    const __m256 left = _mm256_loadu_ps(b);
    const __m256 right = _mm256_loadu_ps(b + 8);
#pragma GCC unroll 6
    for (int i = 0; i < rows; ++i) {
      const __m256 row = _mm256_broadcast_ss(a + i);
      sums[i][0] = _mm256_fmadd_ps(row, left, sums[i][0]);
      sums[i][1] = _mm256_fmadd_ps(row, right, sums[i][1]);
    }
  }
#pragma GCC unroll 6
  for (int i = 0; i < rows; ++i, c += stride) {
    const __m256 left = accumulate ? _mm256_add_ps(_mm256_loadu_ps(c), sums[i][0]) : sums[i][0];
    const __m256 right = accumulate ? _mm256_add_ps(_mm256_loadu_ps(c + 8), sums[i][1]) : sums[i][1];
    _mm256_storeu_ps(c, left);
    _mm256_storeu_ps(c + 8, right);
  }
}

#else

constexpr int64_t panelRows = 4;
constexpr int64_t panelColumns = 8;

/// c (rows, 8), row stride `stride`, = or += A strip (depth, 4) · B strip (depth, 8), for the first `rows` rows.
template <bool pairs, int rows>
static void multiplyStrips(int64_t depth, const float* a, const float* b, float* c, int64_t stride, bool accumulate) {
  float sums[rows][panelColumns] = {};
  for (int64_t p = 0; p < depth; ++p, a += panelRows, b += panelColumns) {
#pragma GCC unroll 4
    for (int i = 0; i < rows; ++i)
#pragma GCC unroll 8
      for (int j = 0; j < panelColumns; ++j) sums[i][j] += a[i] * b[j];
  }
  for (int i = 0; i < rows; ++i, c += stride)
    for (int j = 0; j < panelColumns; ++j) c[j] = accumulate ? c[j] + sums[i][j] : sums[i][j];
}

#endif

using StripKernel = void (*)(int64_t depth, const float* a, const float* b, float* c, int64_t stride, bool accumulate);

/// The kernel for strips of exactly `rows` rows, 1 <= rows <= panelRows.
template <bool pairs, int rows = panelRows>
static inline StripKernel stripKernel(int64_t wanted) {
  if constexpr (rows > 1) {
    if (wanted < rows) return stripKernel<pairs, rows - 1>(wanted);
  }
  return multiplyStrips<pairs, rows>;
}

}  // namespace BINADE_ISA
}  // namespace binade
