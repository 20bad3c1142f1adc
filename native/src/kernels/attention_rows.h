// Row arithmetic of attention: the exponential, the softmax of a row of scores and its backward, on padded rows.
//
// A row has `visible` meaningful values and `padded` in all, a multiple of the panel width and so of `lanes`. Sums and
// maxima keep `lanes` partial results, combined in order at the end: their order depends on shape and instruction set.
#pragma once
#include "gemm_block.h"

namespace binade {
namespace BINADE_ISA {

constexpr int lanes = panelColumns >= 16 ? 16 : 8;

static inline float infinity() { return floatOfBits(0x7f800000u); }

/// exp(x) to about 1 ulp for any x, subnormal results included; NaN stays NaN.
static inline float exponential(float x) {
  // Outside these bounds the result is 0 or infinity; inside, n stays in [-151, 129]. Comparisons are false for NaN.
  x = x < -104.0f ? -104.0f : x;
  x = x > 89.0f ? 89.0f : x;
  // Adding 1.5 · 2^23 leaves the nearest integer in the low mantissa bits.
  const float magic = 12582912.0f;
  const float shifted = x * 1.44269504f + magic;
  const float n = shifted - magic;
  const uint32_t integer = bitsOfFloat(shifted) - bitsOfFloat(magic);
  // ln 2 in two parts: 355/512 has nine bits, so n times it is exact, and so is the first difference.
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  // Taylor's series to r^7; |r| <= ln 2 / 2, so the rest is below 6e-9.
  float y = 1.0f / 5040.0f;
  y = y * r + 1.0f / 720.0f;
  y = y * r + 1.0f / 120.0f;
  y = y * r + 1.0f / 24.0f;
  y = y * r + 1.0f / 6.0f;
  y = y * r + 0.5f;
  y = y * r * r + r + 1.0f;
  // 2^n as a product of two normal powers, because 2^n itself may be subnormal or infinite.
  const uint32_t half = static_cast<uint32_t>(static_cast<int32_t>(integer) >> 1);
  return y * floatOfBits((half + 127u) << 23) * floatOfBits((integer - half + 127u) << 23);
}

/// Turns a row of raw scores into exp(scale · s - max), zeros beyond `visible` >= 1; returns their sum, gives the max.
static inline float exponentiateRow(float* row, int64_t visible, int64_t padded, float scale, float* maximum) {
  for (int64_t j = visible; j < padded; ++j) row[j] = -infinity();
  float partial[lanes];
  for (int l = 0; l < lanes; ++l) partial[l] = -infinity();
  for (int64_t j = 0; j < visible; ++j) row[j] *= scale;
  for (int64_t j = 0; j < padded; j += lanes)
    for (int l = 0; l < lanes; ++l) partial[l] = row[j + l] > partial[l] ? row[j + l] : partial[l];
  float most = partial[0];
  for (int l = 1; l < lanes; ++l) most = partial[l] > most ? partial[l] : most;
  for (int l = 0; l < lanes; ++l) partial[l] = 0.0f;
  for (int64_t j = 0; j < padded; j += lanes)
    for (int l = 0; l < lanes; ++l) {
      const float p = exponential(row[j + l] - most);
      row[j + l] = p;
      partial[l] += p;
    }
  // Scores that are all -infinity make -infinity minus itself, a NaN, also where the row is only padding.
  for (int64_t j = visible; j < padded; ++j) row[j] = 0.0f;
  float sum = 0.0f;
  for (int l = 0; l < lanes; ++l) sum += partial[l];
  *maximum = most;
  return sum;
}

/// Recomputes p = exp(scale · s - logSumExp) in place, zeros beyond `visible`.
static inline void probabilityRow(float* row, int64_t visible, int64_t padded, float scale, float logSumExp) {
  for (int64_t j = 0; j < padded; ++j) row[j] = exponential(row[j] * scale - logSumExp);
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
  float partial[lanes] = {};
  for (int64_t j = 0; j < padded; j += lanes)
    for (int l = 0; l < lanes; ++l) partial[l] += a[j + l] * b[j + l];
  float sum = 0.0f;
  for (int l = 0; l < lanes; ++l) sum += partial[l];
  return sum;
}

}  // namespace BINADE_ISA
}  // namespace binade
