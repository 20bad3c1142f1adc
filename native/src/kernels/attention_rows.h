// Row arithmetic of attention: the exponential, the softmax of a row of scores and its backward, on padded rows.
//
// A row has `visible` meaningful values and `padded` in all, a multiple of the panel width and so of `lanes`. Sums and
// maxima keep one vector of partial results, combined in order at the end: the order depends on shape and instruction
// set alone.
#pragma once
#include "gemm_block.h"

namespace binade {
namespace BINADE_ISA {

#if defined(__AVX512F__)
constexpr int lanes = 16;
#elif defined(__AVX2__)
constexpr int lanes = 8;
#else
constexpr int lanes = 4;
#endif
static_assert(panelColumns % lanes == 0, "rows padded to panels are whole vectors");

using Floats = float __attribute__((vector_size(lanes * 4)));
using Integers = int32_t __attribute__((vector_size(lanes * 4)));

static inline float infinity() { return floatOfBits(0x7f800000u); }

static inline Floats loadFloats(const float* source) {
  Floats values;
  __builtin_memcpy(&values, source, sizeof values);
  return values;
}

static inline void storeFloats(float* target, Floats values) { __builtin_memcpy(target, &values, sizeof values); }

static inline float sumLanes(Floats values) {
  float sum = values[0];
  for (int l = 1; l < lanes; ++l) sum += values[l];
  return sum;
}

/// exp(x) to about 1 ulp for any x, subnormal results included; NaN stays NaN.
static inline Floats exponential(Floats x) {
  // Above `most` the result is infinity, below `least` it is 0; in between, n stays in [-150, 128]. Comparisons are
  // false for NaN. What gives 0 (masked scores, mostly) is computed as exp(0) and replaced: a product that underflows
  // costs some processors a hundred cycles.
  const Floats least = Floats{} - 104.0f, most = Floats{} + 89.0f;
  const Integers vanishes = x < least;
  x = vanishes ? Floats{} : x;
  x = x > most ? most : x;
  // Adding 1.5 · 2^23 leaves the nearest integer in the low mantissa bits.
  const Floats magic = Floats{} + 12582912.0f;
  const Floats shifted = x * 1.44269504f + magic;
  const Floats n = shifted - magic;
  const Integers integer = (Integers)shifted - (Integers)magic;
  // ln 2 in two parts: 355/512 has nine bits, so n times it is exact, and so is the first difference.
  const Floats r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  // Taylor's series to r^7; |r| <= ln 2 / 2, so the rest is below 6e-9.
  Floats y = r * (1.0f / 5040.0f) + 1.0f / 720.0f;
  y = y * r + 1.0f / 120.0f;
  y = y * r + 1.0f / 24.0f;
  y = y * r + 1.0f / 6.0f;
  y = y * r + 0.5f;
  y = y * r * r + r + 1.0f;
  // 2^n as a product of two normal powers, because 2^n itself may be subnormal or infinite.
  const Integers half = integer >> 1;
  y = y * (Floats)((half + 127) << 23) * (Floats)((integer - half + 127) << 23);
  return vanishes ? Floats{} : y;
}

/// Turns a row of raw scores into exp(scale · s - max), zeros beyond `visible` >= 1; returns their sum, gives the max.
static inline float exponentiateRow(float* row, int64_t visible, int64_t padded, float scale, float* maximum) {
  for (int64_t j = visible; j < padded; ++j) row[j] = -infinity();
  Floats greatest = Floats{} - infinity();
  for (int64_t j = 0; j < visible; ++j) row[j] *= scale;
  for (int64_t j = 0; j < padded; j += lanes) {
    const Floats values = loadFloats(row + j);
    greatest = values > greatest ? values : greatest;
  }
  float most = greatest[0];
  for (int l = 1; l < lanes; ++l) most = greatest[l] > most ? greatest[l] : most;
  Floats sums{};
  for (int64_t j = 0; j < padded; j += lanes) {
    const Floats p = exponential(loadFloats(row + j) - most);
    storeFloats(row + j, p);
    sums += p;
  }
  // Scores that are all -infinity make -infinity minus itself, a NaN, also where the row is only padding.
  for (int64_t j = visible; j < padded; ++j) row[j] = 0.0f;
  *maximum = most;
  return sumLanes(sums);
}

/// Recomputes p = exp(scale · s - logSumExp) in place, zeros beyond `visible`.
static inline void probabilityRow(float* row, int64_t visible, int64_t padded, float scale, float logSumExp) {
  for (int64_t j = 0; j < padded; j += lanes)
    storeFloats(row + j, exponential(loadFloats(row + j) * scale - logSumExp));
  for (int64_t j = visible; j < padded; ++j) row[j] = 0.0f;
}

/// Turns dp into ds = scale · p · (dp - delta) in place, zeros beyond `visible`.
static inline void scoreGradientRow(const float* p, float* dp, int64_t visible, int64_t padded, float scale,
                                    float delta) {
  for (int64_t j = 0; j < padded; ++j) dp[j] = scale * (p[j] * (dp[j] - delta));
  for (int64_t j = visible; j < padded; ++j) dp[j] = 0.0f;
}

/// Σ a[i] · b[i] over `padded` values, a multiple of `lanes`.
static inline float dotRow(const float* a, const float* b, int64_t padded) {
  Floats sums{};
  for (int64_t j = 0; j < padded; j += lanes) sums += loadFloats(a + j) * loadFloats(b + j);
  return sumLanes(sums);
}

}  // namespace BINADE_ISA
}  // namespace binade
