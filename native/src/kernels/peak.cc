// Loops that do nothing but what a core does fastest on one instruction set; ../peak.cc times them.
#include "peak.h"

#include "vector.h"

namespace binade {
namespace BINADE_ISA {

// Independent sums: more than latency times issue rate of a multiply-add (4 cycles, two a cycle), and no more than
// there are registers. Where there is no fused multiply-add, a multiplication and an addition.

#if defined(__AVX512F__)
constexpr int chains = 20;
#define BINADE_KEEP(vector) asm volatile("" : "+v"(vector))
#elif defined(__aarch64__)
constexpr int chains = 24;
#define BINADE_KEEP(vector) asm volatile("" : "+w"(vector))
#else
constexpr int chains = 12;
#if defined(__x86_64__)
#define BINADE_KEEP(vector) asm volatile("" : "+x"(vector))
#else
#define BINADE_KEEP(vector) asm volatile("" : "+m"(vector))
#endif
#endif

/// `step(sum)` over and over on all chains; returns multiply-adds of vectors. The compiler must not drop or merge them.
template <typename Step>
static inline int64_t turnChains(int64_t repeats, Step step) {
  Vector sums[chains];
#pragma GCC unroll 24
  for (int i = 0; i < chains; ++i) sums[i] = zeroVector();
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
  Vector a = splatVector(0.5f), b = splatVector(0.25f);
  BINADE_KEEP(a);
  BINADE_KEEP(b);
  return 2.0 * vectorLanes * static_cast<double>(turnChains(repeats, [=](Vector sum) { return multiplyAdd<false>(a, b, sum); }));
}

#if defined(__AVX512BF16__)

static double multiplyPairs(int64_t repeats) {
  Vector pairs = _mm512_castsi512_ps(_mm512_set1_epi32(0x3f003e80));  // bfloat16 0.5 above 0.25
  BINADE_KEEP(pairs);
  const auto step = [=](Vector sum) { return multiplyAdd<true>(pairs, pairs, sum); };
  return 4.0 * vectorLanes * static_cast<double>(turnChains(repeats, step));
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
  for (int i = 0; i < streams; ++i) sums[i] = zeroVector();
  for (int64_t n = 0; n < repeats; ++n) {
    for (int64_t at = 0; at + streams * vectorLanes <= count; at += streams * vectorLanes) {
#pragma GCC unroll 8
      for (int i = 0; i < streams; ++i) sums[i] = addVectors(sums[i], loadVector(data + at + i * vectorLanes));
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
