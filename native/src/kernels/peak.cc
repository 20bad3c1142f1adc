// Loops that do nothing but what a core does fastest on one instruction set; ../peak.cc times them.
#include "peak.h"

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace binade {
namespace BINADE_ISA {

// Independent sums: more than latency times issue rate of a multiply-add (4 cycles, two a cycle), and no more than
// there are registers. `multiplyAdd` is the instruction of the matrix product (gemm_micro.h): where there is no fused
// one, a multiplication and an addition.

#if defined(__AVX512F__)

using Vector = __m512;
constexpr int chains = 20;
static inline Vector splat(float value) { return _mm512_set1_ps(value); }
static inline Vector load(const float* data) { return _mm512_loadu_ps(data); }
static inline Vector add(Vector a, Vector b) { return _mm512_add_ps(a, b); }
static inline Vector multiplyAdd(Vector a, Vector b, Vector sum) { return _mm512_fmadd_ps(a, b, sum); }
#define BINADE_KEEP(vector) asm volatile("" : "+v"(vector))

#elif defined(__AVX2__)

using Vector = __m256;
constexpr int chains = 12;
static inline Vector splat(float value) { return _mm256_set1_ps(value); }
static inline Vector load(const float* data) { return _mm256_loadu_ps(data); }
static inline Vector add(Vector a, Vector b) { return _mm256_add_ps(a, b); }
static inline Vector multiplyAdd(Vector a, Vector b, Vector sum) { return _mm256_fmadd_ps(a, b, sum); }
#define BINADE_KEEP(vector) asm volatile("" : "+x"(vector))

#elif defined(__aarch64__)

using Vector = float32x4_t;
constexpr int chains = 24;
static inline Vector splat(float value) { return vdupq_n_f32(value); }
static inline Vector load(const float* data) { return vld1q_f32(data); }
static inline Vector add(Vector a, Vector b) { return vaddq_f32(a, b); }
static inline Vector multiplyAdd(Vector a, Vector b, Vector sum) { return vfmaq_f32(sum, a, b); }
#define BINADE_KEEP(vector) asm volatile("" : "+w"(vector))

#else

typedef float Vector __attribute__((vector_size(16)));
constexpr int chains = 12;
static inline Vector splat(float value) { return Vector{value, value, value, value}; }
static inline Vector load(const float* data) { return Vector{data[0], data[1], data[2], data[3]}; }
static inline Vector add(Vector a, Vector b) { return a + b; }
static inline Vector multiplyAdd(Vector a, Vector b, Vector sum) { return a * b + sum; }
#if defined(__x86_64__)
#define BINADE_KEEP(vector) asm volatile("" : "+x"(vector))
#else
#define BINADE_KEEP(vector) asm volatile("" : "+m"(vector))
#endif

#endif

constexpr int64_t lanes = sizeof(Vector) / sizeof(float);

/// `step(sum)` over and over on all chains; returns multiply-adds of vectors. The compiler must not drop or merge them.
template <typename Step>
static inline int64_t turnChains(int64_t repeats, Step step) {
  Vector sums[chains];
#pragma GCC unroll 24
  for (int i = 0; i < chains; ++i) sums[i] = splat(0.0f);
  for (int64_t n = 0; n < repeats; ++n) {
#pragma GCC unroll 24
    for (int i = 0; i < chains; ++i) {
      sums[i] = step(sums[i]);
      BINADE_KEEP(sums[i]);
    }
  }
  return repeats * chains;
}

static double multiplyFloats(int64_t repeats) {
  Vector a = splat(0.5f), b = splat(0.25f);
  BINADE_KEEP(a);
  BINADE_KEEP(b);
  return 2.0 * lanes * static_cast<double>(turnChains(repeats, [=](Vector sum) { return multiplyAdd(a, b, sum); }));
}

#if defined(__AVX512BF16__)

static double multiplyPairs(int64_t repeats) {
  Vector pairs = _mm512_castsi512_ps(_mm512_set1_epi32(0x3f003e80));  // bfloat16 0.5 above 0.25
  BINADE_KEEP(pairs);
  const auto step = [=](Vector sum) { return _mm512_dpbf16_ps(sum, (__m512bh)pairs, (__m512bh)pairs); };
  return 4.0 * lanes * static_cast<double>(turnChains(repeats, step));
}

#else

// Without the dot product, bfloat16 is widened while it is packed, and multiplied in float32.
static double multiplyPairs(int64_t repeats) { return multiplyFloats(repeats); }

#endif

/// Reads `byteLength` bytes, a multiple of eight vectors, `repeats` times.
static double readMemory(int64_t repeats, const void* memory, int64_t byteLength) {
  constexpr int streams = 8;
  const float* data = static_cast<const float*>(memory);
  const int64_t count = byteLength / static_cast<int64_t>(sizeof(float));
  Vector sums[streams];
  for (int i = 0; i < streams; ++i) sums[i] = splat(0.0f);
  for (int64_t n = 0; n < repeats; ++n) {
    for (int64_t at = 0; at + streams * lanes <= count; at += streams * lanes) {
#pragma GCC unroll 8
      for (int i = 0; i < streams; ++i) sums[i] = add(sums[i], load(data + at + i * lanes));
    }
  }
  for (int i = 0; i < streams; ++i) BINADE_KEEP(sums[i]);
  return static_cast<double>(repeats) * static_cast<double>(byteLength);
}

double runBurst(PeakKind kind, int64_t repeats, const void* memory, int64_t byteLength) {
  switch (kind) {
    case PeakKind::float32:
      return multiplyFloats(repeats);
    case PeakKind::bfloat16:
      return multiplyPairs(repeats);
    case PeakKind::memory:
      return readMemory(repeats, memory, byteLength);
  }
  return 0;
}

}  // namespace BINADE_ISA
}  // namespace binade
