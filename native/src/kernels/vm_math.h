// Scalar float32 functions, branch-free so that loops over them vectorise at any width, with the same bits everywhere. Those that a
// step of training spends its time in, e^x and erf, stand in exponentials.h.
//
// The polynomials are minimax fits (iteratively reweighted least squares on Chebyshev nodes; coefficients rounded to
// float32 one after the other, lowest power first, the rest fitted again). Their own error stands beside each. Largest
// errors over all 2^32 float32 arguments, against float64, in ulps: expm1 1.46, log 0.83, log1p 0.84,
// tanh 1.44. No function relies on fused multiply-add: products that must be exact are exact because their
// constants have trailing zeros.
#pragma once
#include "convert.h"

namespace binade {
namespace BINADE_ISA {

constexpr float kLog2E = 0x1.715476p+0f;
// ln 2 = high + low; high has 10 significant bits, so that n * high is exact for |n| < 2^14.
constexpr float kLn2High = 0x1.63p-1f;
constexpr float kLn2Low = -0x1.bd0106p-13f;
// Adding it to |x| < 2^22 rounds x to an integer, nearest even, which then stands in the low bits.
constexpr float kRoundingShift = 0x1.8p+23f;

static inline float select(bool condition, float a, float b) { return condition ? a : b; }

static inline float copySign(float magnitude, float sign) {
  return floatOfBits((bitsOfFloat(magnitude) & 0x7fffffffu) | (bitsOfFloat(sign) & 0x80000000u));
}

/// NaN from either side; -0 is less than +0, so that the order of operands never shows.
static inline float minOf(float a, float b) {
  const float less = a < b || a != a ? a : b;
  return a == b ? floatOfBits(bitsOfFloat(a) | bitsOfFloat(b)) : less;
}

/// As minOf.
static inline float maxOf(float a, float b) {
  const float greater = a > b || a != a ? a : b;
  return a == b ? floatOfBits(bitsOfFloat(a) & bitsOfFloat(b)) : greater;
}

static inline float absolute(float x) { return floatOfBits(bitsOfFloat(x) & 0x7fffffffu); }

/// Nearest integer, ties to even; keeps the sign of zero.
static inline float roundEven(float x) {
  const float magnitude = absolute(x);
  // From 2^23 on every float is an integer; NaN fails the comparison and passes through.
  return magnitude < 0x1p23f ? copySign((magnitude + 0x1p23f) - 0x1p23f, x) : x;
}

static inline float floorOf(float x) {
  const float rounded = roundEven(x);
  return rounded > x ? rounded - 1.0f : rounded;
}

static inline float ceilOf(float x) {
  const float rounded = roundEven(x);
  return rounded < x ? copySign(rounded + 1.0f, x) : rounded;
}

/// 2^n for -126 <= n <= 127.
static inline float powerOfTwo(int32_t n) { return floatOfBits(static_cast<uint32_t>(n + 127) << 23); }

/// x = n * ln 2 + r with |r| <= ln 2 / 2 (1 + 2^-15) for |x| <= 2^13.
struct Reduced {
  int32_t n;
  float r;
};

static inline Reduced reduceByLn2(float x) {
  const float shifted = x * kLog2E + kRoundingShift;
  const float n = shifted - kRoundingShift;
  const float r = (x - n * kLn2High) - n * kLn2Low;
  return {static_cast<int32_t>(bitsOfFloat(shifted) - bitsOfFloat(kRoundingShift)), r};
}

/// (e^r - 1 - r) / r^2 for |r| <= 0.347. Error 2^-31 relative to e^r - 1, 2^-33 to e^r. Pairs of terms, so that few
/// operations wait for each other: a processor holds the operations of two or three vectors at a time.
static inline float expTail(float r) {
  const float square = r * r;
  const float high = 0x1.9e77dap-13f * r + 0x1.6d3a5ep-10f;
  const float middle = 0x1.1112d6p-7f * r + 0x1.5554f8p-5f;
  const float low = 0x1.555554p-3f * r + 0.5f;
  return (high * square + middle) * square + low;
}

/// e^x within 1 ulp for x in [-80, 80] or NaN.
static inline float expInside(float x) {
  const Reduced reduced = reduceByLn2(x);
  const float r = reduced.r;
  return ((r * r * expTail(r) + r) + 1.0f) * powerOfTwo(reduced.n);
}

/// e^x - 1 within 2 ulp.
static inline float expm1Of(float x) {
  const float clamped = select(x > 89.0f, 89.0f, select(x < -20.0f, -20.0f, x));
  const Reduced reduced = reduceByLn2(clamped);
  const float r = reduced.r;
  const float p = r * r * expTail(r) + r;
  // 2^n (p + 1) - 1 = 2 (s p + (s - 1/2)) with s = 2^(n-1), which stays finite at n = 128; exact parts up to n = 24.
  const float s = powerOfTwo(reduced.n - 1);
  const float result = (s * p + (s - 0.5f)) * 2.0f;
  return absolute(x) < 0x1p-24f ? x : result;
}

/// (log(1 + f) - f + f^2/2) / f^3 for f in [sqrt(1/2) - 1, sqrt(2) - 1]. Error 2^-30 relative to log(1 + f).
static inline float logTail(float f) {
  float p = 0x1.147ef2p-4f;
  p = p * f + -0x1.de1018p-4f;
  p = p * f + 0x1.e6c2cep-4f;
  p = p * f + -0x1.fc271cp-4f;
  p = p * f + 0x1.233b64p-3f;
  p = p * f + -0x1.555c4ap-3f;
  p = p * f + 0x1.99a478p-3f;
  p = p * f + -0x1.000006p-2f;
  return p * f + 0x1.555548p-2f;
}

/// u = 2^n (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)), for positive normal u.
struct Split {
  float n;
  float f;
};

static inline Split splitForLog(float u) {
  const uint32_t bits = bitsOfFloat(u) - 0x3f3504f3u;  // sqrt(1/2), rounded down
  const int32_t n = static_cast<int32_t>(bits) >> 23;
  return {static_cast<float>(n), floatOfBits((bits & 0x007fffffu) + 0x3f3504f3u) - 1.0f};
}

/// n ln 2 + log(1 + f) + extra.
static inline float assembleLog(float n, float f, float extra) {
  const float square = f * f;
  const float tail = square * f * logTail(f) + (n * kLn2Low + extra);
  return n * kLn2High + (f - (0.5f * square - tail));
}

/// log(x) within 1 ulp; -infinity at 0, NaN below.
static inline float logOf(float x) {
  const bool tiny = x < 0x1p-126f;
  const Split split = splitForLog(tiny ? x * 0x1p23f : x);
  const float result = assembleLog(split.n - (tiny ? 23.0f : 0.0f), split.f, 0.0f);
  const float special = x == 0.0f ? -__builtin_inff() : (x < 0.0f ? __builtin_nanf("") : x);
  return x > 0.0f && x < __builtin_inff() ? result : special;
}

/// log(1 + x) within 1 ulp; keeps the sign of zero.
static inline float log1pOf(float x) {
  const float u = 1.0f + x;
  const Split split = splitForLog(u);
  // While u needs no scaling, f is x itself, so that nothing of a small x is lost. Otherwise what rounding u lost is
  // put back to first order.
  const bool unscaled = split.n == 0.0f;
  const float lost = u >= 2.0f ? 1.0f - (u - x) : x - (u - 1.0f);
  const float result = assembleLog(split.n, unscaled ? x : split.f, unscaled ? 0.0f : lost / u);
  const float special = x == -1.0f ? -__builtin_inff() : (x < -1.0f ? __builtin_nanf("") : x);
  return x > -1.0f && x < __builtin_inff() && absolute(x) >= 0x1p-24f ? result : special;
}

/// tanh(x) within 2 ulp; odd, tanh(x) = x for tiny x, 1 from about 9 on.
static inline float tanhOf(float x) {
  const float magnitude = absolute(x);
  const float square = magnitude * magnitude;
  // (tanh(a) / a - 1) / a^2 on a <= 0.55. Error 2^-29 relative to tanh.
  float p = -0x1.9921a2p-8f;
  p = p * square + 0x1.58e518p-6f;
  p = p * square + -0x1.b91e7ep-5f;
  p = p * square + 0x1.110ceep-3f;
  p = p * square + -0x1.55554ap-2f;
  const float small = magnitude * square * p + magnitude;
  // 1 - 2 / (e^2a + 1) loses digits below 0.55, where the quotient nears 1. From a = 10 on it is 1.
  const float a = magnitude > 10.0f ? 10.0f : magnitude;
  const float large = 1.0f - 2.0f / (expInside(2.0f * a) + 1.0f);
  return copySign(magnitude < 0.55f ? small : large, x);
}

/// Truncates; saturates; NaN becomes 0.
static inline int32_t toInt32(float x) {
  const float clamped = select(x > -0x1p31f, select(x < 0x1p31f, x, 0.0f), x == x ? -0x1p31f : 0.0f);
  return x >= 0x1p31f ? INT32_MAX : static_cast<int32_t>(clamped);
}

static inline uint32_t toUint32(float x) {
  // Halves of the range apart: the conversion instruction that vectorises everywhere is to signed.
  const bool upper = x >= 0x1p31f;
  const float inside = select(x > 0.0f, select(x < 0x1p32f, x, 0.0f), 0.0f);
  const int32_t half = static_cast<int32_t>(upper ? inside - 0x1p31f : inside);
  const uint32_t bits = static_cast<uint32_t>(half) + (upper ? 0x80000000u : 0u);
  return x >= 0x1p32f ? UINT32_MAX : bits;
}

/// The nearest float32, ties to even.
static inline float fromUint32(uint32_t x) {
  // Both halves convert exactly; one addition rounds.
  const float high = static_cast<float>(static_cast<int32_t>(x >> 16));
  return high * 65536.0f + static_cast<float>(static_cast<int32_t>(x & 0xffffu));
}

}  // namespace BINADE_ISA
}  // namespace binade
