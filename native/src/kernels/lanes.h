// What the convolution kernels ask of vectors beyond vector.h: masks, interleaving, sums over lanes.
//
// A vector is loaded in 1, 2 or 4 pieces from as many places, so that short rows of a picture fill one vector.
#pragma once
#include "vector.h"

namespace binade {
namespace BINADE_ISA {

#if defined(__AVX512F__)

/// Rows of two vectors that accumulate in registers, and (rows, columns) of one vector each.
constexpr int slideRows = 14;
constexpr int dotRows = 8, dotColumns = 3;

static inline Vector maskLanes(Vector value, Vector mask) { return _mm512_and_ps(value, mask); }
/// The first `byteLength` bytes, less than a vector and a multiple of 2, and zeros.
static inline Vector readSome(const void* source, int64_t byteLength) {
  const auto lanes = static_cast<__mmask32>((uint64_t{1} << byteLength / 2) - 1u);
  return _mm512_castsi512_ps(_mm512_maskz_loadu_epi16(lanes, source));
}
/// Two neighbouring vectors as their even and odd lanes, and back.
static inline void splitLanes(Vector low, Vector high, Vector* even, Vector* odd) {
  const __m512i places = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
  *even = _mm512_permutex2var_ps(low, places, high);
  *odd = _mm512_permutex2var_ps(low, _mm512_or_si512(places, _mm512_set1_epi32(1)), high);
}
static inline void joinLanes(Vector even, Vector odd, Vector* low, Vector* high) {
  const __m512i places = _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  *low = _mm512_permutex2var_ps(even, places, odd);
  *high = _mm512_permutex2var_ps(even, _mm512_or_si512(places, _mm512_set1_epi32(8)), odd);
}
/// sums (4) = or += the sums over the lanes of four vectors.
static inline void sumFour(Vector a, Vector b, Vector c, Vector d, float* sums, bool add) {
  const auto halved = [](Vector v) { return _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1)); };
  const __m256 quarters = _mm256_hadd_ps(_mm256_hadd_ps(halved(a), halved(b)), _mm256_hadd_ps(halved(c), halved(d)));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(quarters), _mm256_extractf128_ps(quarters, 1));
  _mm_storeu_ps(sums, add ? _mm_add_ps(_mm_loadu_ps(sums), four) : four);
}

template <int pieces>
static inline Vector readPieces(const char* at, const int64_t* places) {
  if constexpr (pieces == 1) return loadVector(at + places[0]);
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

constexpr int slideRows = 6;
constexpr int dotRows = 4, dotColumns = 3;

static inline Vector maskLanes(Vector value, Vector mask) { return _mm256_and_ps(value, mask); }
/// The first `byteLength` bytes, less than a vector and a multiple of 4, and zeros.
static inline Vector readSome(const void* source, int64_t byteLength) {
  const __m256i places = _mm256_set_epi32(28, 24, 20, 16, 12, 8, 4, 0);
  const __m256i lanes = _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(byteLength)), places);
  return _mm256_maskload_ps(static_cast<const float*>(source), lanes);
}
/// Two neighbouring vectors as their even and odd lanes, and back.
static inline void splitLanes(Vector low, Vector high, Vector* even, Vector* odd) {
  const __m256 first = _mm256_permute2f128_ps(low, high, 0x20), second = _mm256_permute2f128_ps(low, high, 0x31);
  *even = _mm256_shuffle_ps(first, second, 0x88);
  *odd = _mm256_shuffle_ps(first, second, 0xdd);
}
static inline void joinLanes(Vector even, Vector odd, Vector* low, Vector* high) {
  const __m256 first = _mm256_unpacklo_ps(even, odd), second = _mm256_unpackhi_ps(even, odd);
  *low = _mm256_permute2f128_ps(first, second, 0x20);
  *high = _mm256_permute2f128_ps(first, second, 0x31);
}
/// sums (4) = or += the sums over the lanes of four vectors.
static inline void sumFour(Vector a, Vector b, Vector c, Vector d, float* sums, bool add) {
  const __m256 halves = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps(halves, 1));
  _mm_storeu_ps(sums, add ? _mm_add_ps(_mm_loadu_ps(sums), four) : four);
}

template <int pieces>
static inline Vector readPieces(const char* at, const int64_t* places) {
  if constexpr (pieces == 1) return loadVector(at + places[0]);
  const auto piece = [at](int64_t place) { return reinterpret_cast<const float*>(at + place); };
  if constexpr (pieces == 2) {
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(piece(places[0]))), _mm_loadu_ps(piece(places[1])),
                                1);
  } else {
    const auto two = [at](int64_t low, int64_t high) {
      const __m128 first = _mm_castsi128_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(at + low)));
      return _mm_loadh_pi(first, reinterpret_cast<const __m64*>(at + high));
    };
    return _mm256_insertf128_ps(_mm256_castps128_ps256(two(places[0], places[1])), two(places[2], places[3]), 1);
  }
}

#else

typedef int32_t LaneBits __attribute__((vector_size(16)));
constexpr int slideRows = 4;
constexpr int dotRows = 3, dotColumns = 3;

static inline Vector maskLanes(Vector value, Vector mask) { return (Vector)((LaneBits)value & (LaneBits)mask); }
/// The first `byteLength` bytes, less than a vector, and zeros.
static inline Vector readSome(const void* source, int64_t byteLength) {
  Vector value = zeroVector();
  __builtin_memcpy(&value, source, static_cast<size_t>(byteLength));
  return value;
}
/// Two neighbouring vectors as their even and odd lanes, and back.
static inline void splitLanes(Vector low, Vector high, Vector* even, Vector* odd) {
  *even = Vector{low[0], low[2], high[0], high[2]};
  *odd = Vector{low[1], low[3], high[1], high[3]};
}
static inline void joinLanes(Vector even, Vector odd, Vector* low, Vector* high) {
  *low = Vector{even[0], odd[0], even[1], odd[1]};
  *high = Vector{even[2], odd[2], even[3], odd[3]};
}
/// sums (4) = or += the sums over the lanes of four vectors.
static inline void sumFour(Vector a, Vector b, Vector c, Vector d, float* sums, bool add) {
  const Vector vectors[4] = {a, b, c, d};
  for (int i = 0; i < 4; ++i) {
    const float sum = (vectors[i][0] + vectors[i][1]) + (vectors[i][2] + vectors[i][3]);
    sums[i] = add ? sums[i] + sum : sum;
  }
}

template <int pieces>
static inline Vector readPieces(const char* at, const int64_t* places) {
  if constexpr (pieces == 1) return loadVector(at + places[0]);
  Vector value;
  char* target = reinterpret_cast<char*>(&value);
  constexpr int byteLength = 16 / pieces;
  for (int i = 0; i < pieces; ++i) __builtin_memcpy(target + i * byteLength, at + places[i], byteLength);
  return value;
}

#endif

constexpr int64_t vectorByteLength = vectorLanes * 4;

}  // namespace BINADE_ISA
}  // namespace binade
