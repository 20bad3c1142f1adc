// e^x and erf on vectors: what softmax, cross-entropy and GELU spend their time in, with the same bits on every instruction set.
//
// The polynomials are fitted as those of vm_math.h; here they take fused multiply-adds, and bounds are single instructions. Largest
// errors over all 2^32 float32 arguments, against float64, in ulps: exp 0.91, erf 1.78. T is Floats, or a bundle of them.
#pragma once
#include "bundle.h"
#include "vm_math.h"

namespace binade {
namespace BINADE_ISA {

/// n + kRoundingShift for the n of x = n * ln 2 + r with |r| <= ln 2 / 2 (1 + 2^-15), for |x| <= 2^13.
template <typename T>
BINADE_INLINE T shiftedPower(const T& x) {
  return fused(x, broadcast(kLog2E), broadcast(kRoundingShift));
}

/// The r of that.
template <typename T>
BINADE_INLINE T remainderOf(const T& x, const T& shifted) {
  const T n = shifted - kRoundingShift;
  return fused(n, broadcast(-kLn2Low), fused(n, broadcast(-kLn2High), x));
}

/// n of n + kRoundingShift.
BINADE_INLINE Integers powerOf(Floats shifted) { return (Integers)shifted - static_cast<int32_t>(0x4b400000); }

/// c0 + c1 · x
template <typename T>
BINADE_INLINE T linear(float c1, const T& x, float c0) {
  return fused(x, broadcast(c1), broadcast(c0));
}

/// (e^r - 1 - r) / r^2 for |r| <= 0.347. Error 2^-28 relative to e^r, 2^-25.6 to e^r - 1. Pairs of terms, so that few operations
/// wait for each other.
template <typename T>
BINADE_INLINE T expTail(const T& r, const T& square) {
  const T middle = linear(0x1.123858p-7f, r, 0x1.5558bep-5f), low = linear(0x1.555494p-3f, r, 0x1.fffffcp-2f);
  return fused(fused(square, broadcast(0x1.6a3d08p-10f), middle), square, low);
}

/// e^x within 1 ulp, subnormal results included (rounded once, by the last product).
template <typename T>
BINADE_INLINE T expOf(const T& x) {
  // Outside [-104, 89] the result is 0 or infinity already; NaN passes through.
  const T inside = forEach([](Floats v) { return lesser(broadcast(89.0f), greater(broadcast(-104.0f), v)); }, x);
  const T shifted = shiftedPower(inside);
  const T r = remainderOf(inside, shifted), square = r * r;
  // Two factors: 2^128 and 2^-150 are no floats. The first one enters before the sum, as it changes none of its bits; and never as a
  // sum of exponents, which would make a number of a NaN.
  const T first = forEach([](Floats v) { return (Floats)(((powerOf(v) >> 1) + 127) << 23); }, shifted);
  const auto rest = [](Floats v) { return (Floats)((powerOf(v) - (powerOf(v) >> 1) + 127) << 23); };
  // 1 + r (1 + r t): what the inner sum loses counts r times, at most 0.35.
  const T inner = fused(r, expTail(r, square), broadcast(1.0f));
  return fused(r * first, inner, first) * forEach(rest, shifted);
}

/// erf(x) within 2 ulp; odd.
template <typename T>
BINADE_INLINE T erfOf(const T& x) {
  const Integers sign = Integers{} + static_cast<int32_t>(0x80000000);
  // a = -|x|; from -4 on, erfc < 2^-25 and the result is 1.
  const T a = forEach([sign](Floats v) { return greater(broadcast(-4.0f), (Floats)((Integers)v | sign)); }, x);
  // log(erfc(-a)) = a + a · p(a), so that erf = 1 - e^(a + a p) keeps the digits of small arguments. Error 2^-27 relative to erf.
  T p = linear(-0x1.3afa18p-17f, a, -0x1.f28392p-14f);
  p = fused(p, a, broadcast(-0x1.4e274cp-11f));
  p = fused(p, a, broadcast(-0x1.b74378p-10f));
  p = fused(p, a, broadcast(-0x1.63748ap-13f));
  p = fused(p, a, broadcast(0x1.39b7ccp-6f));
  p = fused(p, a, broadcast(0x1.a4f8c4p-4f));
  p = fused(p, a, broadcast(-0x1.45f300p-1f));
  p = fused(p, a, broadcast(0x1.06eba8p-3f));
  const T q = fused(a, p, a);
  const T shifted = shiftedPower(q);
  const T r = remainderOf(q, shifted), square = r * r;
  const T grown = fused(square, expTail(r, square), r);
  // 1 - 2^n (1 + grown), where 1 - 2^n is exact as long as it matters.
  const auto negativePower = [](Floats v) { return (Floats)((powerOf(v) << 23) + static_cast<int32_t>(0xbf800000)); };
  const T scale = forEach(negativePower, shifted);
  const T result = fused(scale, grown, scale + 1.0f);
  return forEach([sign](Floats v, Floats of) { return (Floats)((Integers)v | ((Integers)of & sign)); }, result, x);
}

/// target[i] = operation(source[i]) for `count` values: bundles, then vectors; the last one is filled up with zeros. Flattened, as a call
/// would pass bundles through memory and make constants anew.
template <typename F>
__attribute__((flatten)) static inline void forVectors(const float* source, float* target, int64_t count, F operation) {
  int64_t i = 0;
  for (; i + kBundleLanes <= count; i += kBundleLanes)
    storeBundle(target + i, operation(loadBundle<kBundleVectors>(source + i)));
  for (; i + lanes <= count; i += lanes) storeFloats(target + i, operation(loadFloats(source + i)));
  if (i == count) return;
  const size_t rest = static_cast<size_t>(count - i) * sizeof(float);
  Floats values{};
  __builtin_memcpy(&values, source + i, rest);
  values = operation(values);
  __builtin_memcpy(target + i, &values, rest);
}

}  // namespace BINADE_ISA
}  // namespace binade
