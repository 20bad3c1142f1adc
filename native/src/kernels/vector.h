// Vectors of floats: the few operations that every kernel of products spells anew for an instruction set.
#pragma once
#include <cstdint>

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "abi.h"

// Whether bfloat16 products run on dot products of pairs. A test may set it to 1, for kernels that emulate these.
#if !defined(BINADE_PAIRS)
#if defined(__AVX512BF16__)
#define BINADE_PAIRS 1
#else
#define BINADE_PAIRS 0
#endif
#endif

namespace binade {
namespace BINADE_ISA {

#if defined(__AVX512F__)

using Vector = __m512;
static inline Vector zeroVector() { return _mm512_setzero_ps(); }
static inline Vector splatVector(float value) { return _mm512_set1_ps(value); }
static inline Vector loadVector(const void* source) { return _mm512_loadu_ps(source); }
static inline void storeVector(void* target, Vector value) { _mm512_storeu_ps(target, value); }
static inline Vector addVectors(Vector a, Vector b) { return _mm512_add_ps(a, b); }
static inline Vector greaterVector(Vector a, Vector b) { return _mm512_max_ps(a, b); }
static inline Vector lesserVector(Vector a, Vector b) { return _mm512_min_ps(a, b); }

#elif defined(__AVX2__)

using Vector = __m256;
static inline Vector zeroVector() { return _mm256_setzero_ps(); }
static inline Vector splatVector(float value) { return _mm256_set1_ps(value); }
static inline Vector loadVector(const void* source) { return _mm256_loadu_ps(static_cast<const float*>(source)); }
static inline void storeVector(void* target, Vector value) { _mm256_storeu_ps(static_cast<float*>(target), value); }
static inline Vector addVectors(Vector a, Vector b) { return _mm256_add_ps(a, b); }
static inline Vector greaterVector(Vector a, Vector b) { return _mm256_max_ps(a, b); }
static inline Vector lesserVector(Vector a, Vector b) { return _mm256_min_ps(a, b); }

#else

typedef float Vector __attribute__((vector_size(16)));
static inline Vector zeroVector() { return Vector{0, 0, 0, 0}; }
static inline Vector splatVector(float value) { return Vector{value, value, value, value}; }
static inline Vector loadVector(const void* source) {
#if defined(__aarch64__)
  return (Vector)vld1q_f32(static_cast<const float*>(source));
#else
  Vector value;
  __builtin_memcpy(&value, source, sizeof value);
  return value;
#endif
}
static inline void storeVector(void* target, Vector value) { __builtin_memcpy(target, &value, sizeof value); }
static inline Vector addVectors(Vector a, Vector b) { return a + b; }
static inline Vector greaterVector(Vector a, Vector b) { return a > b ? a : b; }
static inline Vector lesserVector(Vector a, Vector b) { return a < b ? a : b; }

#endif

constexpr int64_t vectorLanes = sizeof(Vector) / sizeof(float);

/// a · b + sum per lane, rounded once where the instruction set has it. With `pairs` a lane holds two bfloat16, and both
/// products are added to the lane's sum (vdpbf16ps).
template <bool pairs>
static inline Vector multiplyAdd(Vector a, Vector b, Vector sum) {
#if defined(__AVX512BF16__)
  if constexpr (pairs) return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
#endif
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, sum);
#elif defined(__AVX2__)
  return _mm256_fmadd_ps(a, b, sum);
#elif defined(__aarch64__)
  return (Vector)vfmaq_f32((float32x4_t)sum, (float32x4_t)a, (float32x4_t)b);
#else
  return sum + a * b;
#endif
}

}  // namespace BINADE_ISA
}  // namespace binade
