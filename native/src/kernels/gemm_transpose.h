// Transposition of 32-bit words through registers: rows in memory become columns of a panel.
#pragma once
#include "gemm_micro.h"

namespace binade {
namespace BINADE_ISA {

// transposeRegisters: rows r[i] of vectorLanes words become columns r[j].

#if defined(__AVX512F__)

[[gnu::always_inline]] static inline void transposeRegisters(Vector r[16]) {
  Vector t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    t[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m512d a = _mm512_castps_pd(t[4 * i]), b = _mm512_castps_pd(t[4 * i + 1]);
    const __m512d c = _mm512_castps_pd(t[4 * i + 2]), d = _mm512_castps_pd(t[4 * i + 3]);
    r[4 * i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
    r[4 * i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
    r[4 * i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
    r[4 * i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
  }
  // Now r[4i + j] holds, in 128-bit lane l, column 4l + j of rows 4i .. 4i + 3.
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const Vector low01 = _mm512_shuffle_f32x4(r[j], r[4 + j], 0x88), odd01 = _mm512_shuffle_f32x4(r[j], r[4 + j], 0xdd);
    const Vector low23 = _mm512_shuffle_f32x4(r[8 + j], r[12 + j], 0x88);
    const Vector odd23 = _mm512_shuffle_f32x4(r[8 + j], r[12 + j], 0xdd);
    t[j] = _mm512_shuffle_f32x4(low01, low23, 0x88);
    t[8 + j] = _mm512_shuffle_f32x4(low01, low23, 0xdd);
    t[4 + j] = _mm512_shuffle_f32x4(odd01, odd23, 0x88);
    t[12 + j] = _mm512_shuffle_f32x4(odd01, odd23, 0xdd);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) r[i] = t[i];
}

#elif defined(__AVX2__)

[[gnu::always_inline]] static inline void transposeRegisters(Vector r[8]) {
  Vector t[8];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    r[4 * i] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0x44);
    r[4 * i + 1] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0xee);
    r[4 * i + 2] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0x44);
    r[4 * i + 3] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0xee);
  }
  // Now r[4i + j] holds, in 128-bit lane l, column 4l + j of rows 4i .. 4i + 3.
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    t[j] = _mm256_permute2f128_ps(r[j], r[4 + j], 0x20);
    t[4 + j] = _mm256_permute2f128_ps(r[j], r[4 + j], 0x31);
  }
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) r[i] = t[i];
}

#else

[[gnu::always_inline]] static inline void transposeRegisters(Vector r[4]) {
  Vector columns[4];
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) columns[j] = Vector{r[0][j], r[1][j], r[2][j], r[3][j]};
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) r[j] = columns[j];
}

#endif

/// The first `byteLength` < sizeof(Vector) bytes at `source`, then zeros.
static inline Vector loadBytes(const char* source, int64_t byteLength) {
  Vector value = zeroVector();
  __builtin_memcpy(&value, source, static_cast<size_t>(byteLength));
  return value;
}

/// The first `lanes` words of `value`; a constant number of them costs one or two instructions.
template <int lanes>
static inline void storeWords(float* target, const Vector& value) {
#if defined(__AVX512F__)
  if constexpr (lanes < vectorLanes) return _mm512_mask_storeu_ps(target, static_cast<__mmask16>((1u << lanes) - 1u), value);
#endif
  __builtin_memcpy(target, &value, lanes * sizeof(float));
}

/// target (words, width), columns [0, lanes) of it, = transpose of `count` <= vectorLanes rows of `byteLength` bytes,
/// `rowBytes` apart, in blocks of vectorLanes² words. `all`: count is `lanes`.
template <int width, int lanes, bool all>
static inline void transposeColumns(const char* source, int64_t rowBytes, int64_t count, int64_t byteLength,
                                    float* target) {
  constexpr int64_t vectorBytes = sizeof(Vector);
  Vector r[vectorLanes];
  const int64_t wholeBytes = byteLength / vectorBytes * vectorBytes;
  for (int64_t offset = 0; offset < wholeBytes; offset += vectorBytes, target += vectorLanes * width) {
#pragma GCC unroll 16
    for (int i = 0; i < vectorLanes; ++i)
      r[i] = i < (all ? lanes : count)
                 ? loadVector(reinterpret_cast<const float*>(source + i * rowBytes + offset))
                 : zeroVector();
    transposeRegisters(r);
    // Where a word is less than a vector, its store also writes the start of the next word, whose own store follows.
    constexpr int overlapping = lanes == width ? vectorLanes - 1 : 0;
#pragma GCC unroll 16
    for (int j = 0; j < vectorLanes; ++j) {
      if (j < overlapping) storeVector(target + j * width, r[j]);
      else storeWords<lanes>(target + j * width, r[j]);
    }
  }
  const int64_t rest = byteLength - wholeBytes;
  if (rest == 0) return;
#pragma GCC unroll 16
  for (int i = 0; i < vectorLanes; ++i)
    r[i] = i < count ? loadBytes(source + i * rowBytes + wholeBytes, rest) : zeroVector();
  transposeRegisters(r);
  for (int64_t j = 0; j < (rest + 3) / 4; ++j) storeWords<lanes>(target + j * width, r[j]);
}

/// target (ceil(byteLength / 4), width) = transpose of `rows` <= width rows of `byteLength` bytes, `rowBytes` apart. Rows
/// past the end and the odd half of a last word are zeros.
template <int width, int first = 0>
static void transposeWords(const char* source, int64_t rowBytes, int64_t rows, int64_t byteLength, float* target) {
  constexpr int lanes = width - first < vectorLanes ? width - first : vectorLanes;
  const int64_t count = rows - first < lanes ? (rows > first ? rows - first : 0) : lanes;
  const char* corner = source + (count > 0 ? first * rowBytes : 0);
  if (count == lanes) transposeColumns<width, lanes, true>(corner, rowBytes, count, byteLength, target + first);
  else transposeColumns<width, lanes, false>(corner, rowBytes, count, byteLength, target + first);
  if constexpr (first + lanes < width) transposeWords<width, first + lanes>(source, rowBytes, rows, byteLength, target);
}

}  // namespace BINADE_ISA
}  // namespace binade
