// Vectors of 32-bit lanes: the few operations in which instruction sets differ for the convolution kernels.
//
// A vector is loaded in 1, 2 or 4 pieces from as many places, so that short rows of a picture fill one vector. With
// `pairs` a lane holds two bfloat16, and multiplyAddLanes adds both products to the lane's sum (vdpbf16ps).
#pragma once
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
constexpr int dotRows = 7, dotColumns = 4;

static inline Lanes zeroLanes() { return _mm512_setzero_ps(); }
static inline Lanes splatLanes(const float* value) { return _mm512_set1_ps(*value); }
static inline Lanes addLanes(Lanes a, Lanes b) { return _mm512_add_ps(a, b); }
static inline Lanes readLanes(const void* source) { return _mm512_loadu_ps(source); }
static inline void writeLanes(void* target, Lanes value) { _mm512_storeu_ps(target, value); }
static inline Lanes maskLanes(Lanes value, Lanes mask) { return _mm512_and_ps(value, mask); }
static inline float sumLanes(Lanes value) { return _mm512_reduce_add_ps(value); }

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
static inline float sumLanes(Lanes value) {
  const __m128 half = _mm_add_ps(_mm256_castps256_ps128(value), _mm256_extractf128_ps(value, 1));
  const __m128 quarter = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(quarter, _mm_shuffle_ps(quarter, quarter, 1)));
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
static inline float sumLanes(Lanes value) { return (value[0] + value[2]) + (value[1] + value[3]); }

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
