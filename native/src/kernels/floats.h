// Vectors of floats as the compiler knows them: arithmetic, comparisons and selections are its operators, one text for every instruction set.
#pragma once
#include "vector.h"

namespace binade {
namespace BINADE_ISA {

constexpr int lanes = vectorLanes;

using Floats = float __attribute__((vector_size(lanes * 4)));
using Integers = int32_t __attribute__((vector_size(lanes * 4)));

static inline Floats loadFloats(const float* source) {
  Floats values;
  __builtin_memcpy(&values, source, sizeof values);
  return values;
}

static inline void storeFloats(float* target, Floats values) { __builtin_memcpy(target, &values, sizeof values); }

/// A value in every lane. (Adding it to zeros would cost an addition: -0 + 0 is 0.)
static inline Floats broadcast(float value) { return (Floats)splatVector(value); }

/// b where the two are not ordered, or equal.
static inline Floats greater(Floats a, Floats b) { return (Floats)greaterVector((Vector)a, (Vector)b); }
static inline Floats lesser(Floats a, Floats b) { return (Floats)lesserVector((Vector)a, (Vector)b); }

/// a · b + sum, rounded once where the instruction set has it.
static inline Floats multiplyAdd(Floats a, Floats b, Floats sum) {
  return (Floats)multiplyAdd<false>((Vector)a, (Vector)b, (Vector)sum);
}

/// a · b + c, rounded once on every instruction set. Without an instruction for it: the product is exact in double, and a sum that is
/// rounded to odd there (Boldo and Melquiond, "Emulation of a FMA and correctly rounded sums", 2008) rounds to float32 as the exact one.
static inline Floats fused(Floats a, Floats b, Floats c) {
#if defined(__FMA__) || defined(__aarch64__)
  return multiplyAdd(a, b, c);
#else
  Floats result;
  for (int lane = 0; lane < lanes; ++lane) {
    const double product = static_cast<double>(a[lane]) * static_cast<double>(b[lane]), addend = static_cast<double>(c[lane]);
    const double sum = product + addend, taken = sum - product;
    const double lost = (product - (sum - taken)) + (addend - taken);
    uint64_t bits, lostBits;
    __builtin_memcpy(&bits, &sum, sizeof bits);
    __builtin_memcpy(&lostBits, &lost, sizeof lostBits);
    const uint64_t truncated = bits - ((bits ^ lostBits) >> 63);
    bits = lost < 0.0 || lost > 0.0 ? truncated | 1u : bits;  // NaN where the sum is none, or infinite: it stays what it is
    double odd;
    __builtin_memcpy(&odd, &bits, sizeof odd);
    result[lane] = static_cast<float>(odd);
  }
  return result;
#endif
}

}  // namespace BINADE_ISA
}  // namespace binade
