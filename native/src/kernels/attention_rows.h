// Row arithmetic of attention: exponentials, running maxima and sums of the softmax, the gradient of scores.
//
// Scores arrive in units of log 2 (the product scales them), so that one power of two replaces the exponential. A row's
// first `visible` values count; it is `padded` long, a multiple of `lanes`. Sums and maxima keep one partial result per
// lane, combined in order at the end: the order depends on shape and instruction set alone.
#pragma once
#include "attention_tile.h"
#include "rounding.h"

namespace binade {
namespace BINADE_ISA {

constexpr float log2OfE = 0x1.715476p+0f, logOf2 = 0x1.62e430p-1f;

static inline float infinity() { return floatOfBits(0x7f800000u); }

static inline bool isFiniteFloat(float x) { return (bitsOfFloat(x) & 0x7f800000u) != 0x7f800000u; }

/// 2^x within 2 ulps for x <= 127; 0 from about -126.5 down, infinity from 127.5 up to 128; NaN stays NaN. T is Floats, or a bundle.
template <typename T>
BINADE_INLINE T powerOfTwo(const T& exponent) {
  const T x = forEach([](Floats v) { return greater(Floats{} - 127.0f, v); }, exponent);
  // Adding 1.5 · 2^23 + 127 leaves the nearest integer, biased as an exponent, in the low mantissa bits.
  constexpr float magic = 12583039.0f;
  const T shifted = x + magic;
  const T f = x - (shifted - magic);
  // Minimax on |f| <= 1/2: weighted least squares on Chebyshev nodes, coefficients rounded one after the other.
  T y = multiplyAdd(f, broadcast(0x1.417aacp-13f), broadcast(0x1.5f094ap-10f));
  y = multiplyAdd(y, f, broadcast(0x1.3b2dd2p-7f));
  y = multiplyAdd(y, f, broadcast(0x1.c6af7ap-5f));
  y = multiplyAdd(y, f, broadcast(0x1.ebfbdcp-3f));
  y = multiplyAdd(y, f, broadcast(0x1.62e430p-1f));
  y = multiplyAdd(y, f, broadcast(1.0f));
  return y * forEach([](Floats v) { return (Floats)((Integers)v << 23); }, shifted);
}

static inline float sumLanes(Floats values) {
  float sum = values[0];
  for (int l = 1; l < lanes; ++l) sum += values[l];
  return sum;
}

static inline float greatestOfRow(const float* row, int64_t padded) {
  Floats greatest = loadFloats(row);
  for (int64_t j = lanes; j < padded; j += lanes) greatest = greater(loadFloats(row + j), greatest);
  alignas(64) float each[lanes];
  storeFloats(each, greatest);
  for (int half = lanes / 2; half > 0; half /= 2)
    for (int l = 0; l < half; ++l) each[l] = each[l] > each[l + half] ? each[l] : each[l + half];
  return each[0];
}

/// Turns scores into p = 2^(score - shift), rounded to the format; `sums`, one per lane, takes p before it is rounded.
template <DType format>
static inline void exponentiateRow(float* row, int64_t padded, float shift, float* sums) {
  Floats sum = loadFloats(sums);
  int64_t j = 0;
  for (; j + kBundleLanes <= padded; j += kBundleLanes) {
    const Bundle<kBundleVectors> p = powerOfTwo(loadBundle<kBundleVectors>(row + j) - shift);
#pragma GCC unroll 8
    for (int i = 0; i < kBundleVectors; ++i) sum += p.each[i];
    storeBundle(row + j, forEach([](Floats v) { return roundFloats<format>(v); }, p));
  }
  for (; j < padded; j += lanes) {
    const Floats p = powerOfTwo(loadFloats(row + j) - shift);
    sum += p;
    storeFloats(row + j, roundFloats<format>(p));
  }
  storeFloats(sums, sum);
}

/// Turns scores into p = 2^(score - shift) and dp into ds = scale · p · (dp - delta), both rounded to the format.
template <DType format>
static inline void gradientRow(float* row, float* dp, int64_t padded, float shift, float delta, float scale) {
  int64_t j = 0;
  const auto rounded = [](Floats v) { return roundFloats<format>(v); };
  for (; j + kBundleLanes <= padded; j += kBundleLanes) {
    const Bundle<kBundleVectors> p = powerOfTwo(loadBundle<kBundleVectors>(row + j) - shift);
    const Bundle<kBundleVectors> ds = (p * (loadBundle<kBundleVectors>(dp + j) - delta)) * scale;
    storeBundle(row + j, forEach(rounded, p));
    storeBundle(dp + j, forEach(rounded, ds));
  }
  for (; j < padded; j += lanes) {
    const Floats p = powerOfTwo(loadFloats(row + j) - shift);
    const Floats ds = (p * (loadFloats(dp + j) - delta)) * scale;
    storeFloats(row + j, roundFloats<format>(p));
    storeFloats(dp + j, roundFloats<format>(ds));
  }
}

/// Σ a[i] · b[i] over `padded` values, a multiple of `lanes`.
static inline float dotRow(const float* a, const float* b, int64_t padded) {
  Floats sums{};
  for (int64_t j = 0; j < padded; j += lanes) sums += loadFloats(a + j) * loadFloats(b + j);
  return sumLanes(sums);
}

}  // namespace BINADE_ISA
}  // namespace binade
