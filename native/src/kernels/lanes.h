// Vectors of 32-bit lanes: the few operations in which instruction sets differ for the convolution kernels.
//
// A vector is loaded in 1, 2 or 4 pieces from as many places, so that short rows of a picture fill one vector. With
// `pairs` a lane holds two bfloat16, and multiplyAddLanes adds both products to the lane's sum (vdpbf16ps).
#pragma once
#include <cstddef>
#include <cstdint>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "abi.h"

#if defined(__AVX512BF16__)
#define BINADE_LANE_PAIRS 1
#else
#define BINADE_LANE_PAIRS 0
#endif

namespace binade {
namespace BINADE_ISA {

#if defined(__AVX512F__)

using Lanes = __m512;
constexpr int laneCount = 16;
/// Rows of two vectors that accumulate in registers, and (rows, columns) of one vector each.
constexpr int slideRows = 14;
constexpr int dotRows = 8, dotColumns = 3;

static inline Lanes zeroLanes() { return _mm512_setzero_ps(); }
static inline Lanes splatLanes(const float* value) { return _mm512_set1_ps(*value); }
static inline Lanes addLanes(Lanes a, Lanes b) { return _mm512_add_ps(a, b); }
static inline Lanes readLanes(const void* source) { return _mm512_loadu_ps(source); }
static inline void writeLanes(void* target, Lanes value) { _mm512_storeu_ps(target, value); }
static inline Lanes maskLanes(Lanes value, Lanes mask) { return _mm512_and_ps(value, mask); }
/// The first `byteLength` bytes, less than a vector and a multiple of 2, and zeros.
static inline Lanes readSome(const void* source, int64_t byteLength) {
  const auto lanes = static_cast<__mmask32>((uint64_t{1} << byteLength / 2) - 1u);
  return _mm512_castsi512_ps(_mm512_maskz_loadu_epi16(lanes, source));
}
/// Two neighbouring vectors as their even and odd lanes, and back.
static inline void splitLanes(Lanes low, Lanes high, Lanes* even, Lanes* odd) {
  const __m512i places = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
  *even = _mm512_permutex2var_ps(low, places, high);
  *odd = _mm512_permutex2var_ps(low, _mm512_or_si512(places, _mm512_set1_epi32(1)), high);
}
static inline void joinLanes(Lanes even, Lanes odd, Lanes* low, Lanes* high) {
  const __m512i places = _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  *low = _mm512_permutex2var_ps(even, places, odd);
  *high = _mm512_permutex2var_ps(even, _mm512_or_si512(places, _mm512_set1_epi32(8)), odd);
}
/// sums (4) = or += the sums over the lanes of four vectors.
static inline void sumFour(Lanes a, Lanes b, Lanes c, Lanes d, float* sums, bool add) {
  const auto halved = [](Lanes v) { return _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1)); };
  const __m256 quarters = _mm256_hadd_ps(_mm256_hadd_ps(halved(a), halved(b)), _mm256_hadd_ps(halved(c), halved(d)));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(quarters), _mm256_extractf128_ps(quarters, 1));
  _mm_storeu_ps(sums, add ? _mm_add_ps(_mm_loadu_ps(sums), four) : four);
}

template <bool pairs>
static inline Lanes multiplyAddLanes(Lanes a, Lanes b, Lanes sum) {
#if BINADE_LANE_PAIRS
  if constexpr (pairs) return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
#endif
  return _mm512_fmadd_ps(a, b, sum);
}

template <int pieces>
static inline Lanes readPieces(const char* at, const int64_t* places) {
  if constexpr (pieces == 1) return readLanes(at + places[0]);
  const auto half = [at](int64_t place) { return reinterpret_cast<const float*>(at + place); };
  if constexpr (pieces == 2) {
    const __m512 low = _mm512_castps256_ps512(_mm256_loadu_ps(half(places[0])));
    return _mm512_insertf32x8(low, _mm256_loadu_ps(half(places[1])), 1);
  } else {
    const __m256 low = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(half(places[0]))),
                                            _mm_loadu_ps(half(places[1])), 1);
    const __m256 high = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(half(places[2]))),
                                             _mm_loadu_ps(half(places[3])), 1);
    return _mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1);
  }
}

#elif defined(__AVX2__)

using Lanes = __m256;
constexpr int laneCount = 8;
constexpr int slideRows = 6;
constexpr int dotRows = 4, dotColumns = 3;

static inline Lanes zeroLanes() { return _mm256_setzero_ps(); }
static inline Lanes splatLanes(const float* value) { return _mm256_broadcast_ss(value); }
static inline Lanes addLanes(Lanes a, Lanes b) { return _mm256_add_ps(a, b); }
static inline Lanes readLanes(const void* source) { return _mm256_loadu_ps(static_cast<const float*>(source)); }
static inline void writeLanes(void* target, Lanes value) { _mm256_storeu_ps(static_cast<float*>(target), value); }
static inline Lanes maskLanes(Lanes value, Lanes mask) { return _mm256_and_ps(value, mask); }
/// The first `byteLength` bytes, less than a vector and a multiple of 4, and zeros.
static inline Lanes readSome(const void* source, int64_t byteLength) {
  const __m256i places = _mm256_set_epi32(28, 24, 20, 16, 12, 8, 4, 0);
  const __m256i lanes = _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(byteLength)), places);
  return _mm256_maskload_ps(static_cast<const float*>(source), lanes);
}
/// Two neighbouring vectors as their even and odd lanes, and back.
static inline void splitLanes(Lanes low, Lanes high, Lanes* even, Lanes* odd) {
  const __m256 first = _mm256_permute2f128_ps(low, high, 0x20), second = _mm256_permute2f128_ps(low, high, 0x31);
  *even = _mm256_shuffle_ps(first, second, 0x88);
  *odd = _mm256_shuffle_ps(first, second, 0xdd);
}
static inline void joinLanes(Lanes even, Lanes odd, Lanes* low, Lanes* high) {
  const __m256 first = _mm256_unpacklo_ps(even, odd), second = _mm256_unpackhi_ps(even, odd);
  *low = _mm256_permute2f128_ps(first, second, 0x20);
  *high = _mm256_permute2f128_ps(first, second, 0x31);
}
/// sums (4) = or += the sums over the lanes of four vectors.
static inline void sumFour(Lanes a, Lanes b, Lanes c, Lanes d, float* sums, bool add) {
  const __m256 halves = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps(halves, 1));
  _mm_storeu_ps(sums, add ? _mm_add_ps(_mm_loadu_ps(sums), four) : four);
}

template <bool pairs>
static inline Lanes multiplyAddLanes(Lanes a, Lanes b, Lanes sum) {
  return _mm256_fmadd_ps(a, b, sum);
}

template <int pieces>
static inline Lanes readPieces(const char* at, const int64_t* places) {
  if constexpr (pieces == 1) return readLanes(at + places[0]);
  const auto piece = [at](int64_t place) { return reinterpret_cast<const float*>(at + place); };
  if constexpr (pieces == 2) {
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(piece(places[0]))), _mm_loadu_ps(piece(places[1])),
                                1);
  } else {
    const auto two = [at](int64_t low, int64_t high) {
      const __m128d first = _mm_load_sd(reinterpret_cast<const double*>(at + low));
      return _mm_castpd_ps(_mm_loadh_pd(first, reinterpret_cast<const double*>(at + high)));
    };
    return _mm256_insertf128_ps(_mm256_castps128_ps256(two(places[0], places[1])), two(places[2], places[3]), 1);
  }
}

#else

typedef float Lanes __attribute__((vector_size(16)));
typedef int32_t LaneBits __attribute__((vector_size(16)));
constexpr int laneCount = 4;
constexpr int slideRows = 4;
constexpr int dotRows = 3, dotColumns = 3;

static inline Lanes zeroLanes() { return Lanes{0, 0, 0, 0}; }
static inline Lanes splatLanes(const float* value) { return Lanes{*value, *value, *value, *value}; }
static inline Lanes addLanes(Lanes a, Lanes b) { return a + b; }
static inline Lanes readLanes(const void* source) {
  Lanes value;
  __builtin_memcpy(&value, source, sizeof value);
  return value;
}
static inline void writeLanes(void* target, Lanes value) { __builtin_memcpy(target, &value, sizeof value); }
static inline Lanes maskLanes(Lanes value, Lanes mask) { return (Lanes)((LaneBits)value & (LaneBits)mask); }
/// The first `byteLength` bytes, less than a vector, and zeros.
static inline Lanes readSome(const void* source, int64_t byteLength) {
  Lanes value = zeroLanes();
  __builtin_memcpy(&value, source, static_cast<size_t>(byteLength));
  return value;
}
/// Two neighbouring vectors as their even and odd lanes, and back.
static inline void splitLanes(Lanes low, Lanes high, Lanes* even, Lanes* odd) {
  *even = Lanes{low[0], low[2], high[0], high[2]};
  *odd = Lanes{low[1], low[3], high[1], high[3]};
}
static inline void joinLanes(Lanes even, Lanes odd, Lanes* low, Lanes* high) {
  *low = Lanes{even[0], odd[0], even[1], odd[1]};
  *high = Lanes{even[2], odd[2], even[3], odd[3]};
}
/// sums (4) = or += the sums over the lanes of four vectors.
static inline void sumFour(Lanes a, Lanes b, Lanes c, Lanes d, float* sums, bool add) {
  const Lanes vectors[4] = {a, b, c, d};
  for (int i = 0; i < 4; ++i) {
    const float sum = (vectors[i][0] + vectors[i][1]) + (vectors[i][2] + vectors[i][3]);
    sums[i] = add ? sums[i] + sum : sum;
  }
}

template <bool pairs>
static inline Lanes multiplyAddLanes(Lanes a, Lanes b, Lanes sum) {
  return sum + a * b;
}

template <int pieces>
static inline Lanes readPieces(const char* at, const int64_t* places) {
  if constexpr (pieces == 1) return readLanes(at + places[0]);
  Lanes value;
  char* target = reinterpret_cast<char*>(&value);
  constexpr int byteLength = 16 / pieces;
  for (int i = 0; i < pieces; ++i) __builtin_memcpy(target + i * byteLength, at + places[i], byteLength);
  return value;
}

#endif

constexpr int64_t vectorByteLength = laneCount * 4;

}  // namespace BINADE_ISA
}  // namespace binade
