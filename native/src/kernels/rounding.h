// Vectors of floats rounded to a float format, and loaded from and stored to arrays of it.
//
// A vector that was rounded here, or widened from 16 bits, holds no NaN with a bit in the lower half, and neither does what
// arithmetic makes of such NaNs: their payload is an operand's or nothing. So bfloat16's carry stays below their upper half.
#pragma once
#include "bundle.h"
#include "convert.h"

namespace binade {
namespace BINADE_ISA {

/// An element of an array of the format: float32, or the bits of 16.
template <DType format>
struct ElementOf {
  using Type = uint16_t;
};
template <>
struct ElementOf<DType::float32> {
  using Type = float;
};
template <DType format>
using Element = typename ElementOf<format>::Type;

using Halves = uint16_t __attribute__((vector_size(lanes * 2)));
using Words32 = uint32_t __attribute__((vector_size(lanes * 4)));

/// Bits of which the upper half is the nearest bfloat16; not of NaNs with a bit in the lower half.
BINADE_INLINE Words32 nearestBfloat16(Floats x) {
  const Words32 bits = (Words32)x;
  return bits + 0x7fffu + ((bits >> 16) & 1u);
}

/// Each value rounded to the format, still as float32. NaNs that are quiet, as all that arithmetic yields, stay NaNs.
template <DType format>
BINADE_INLINE Floats roundFloats(Floats x) {
  if constexpr (format == DType::bfloat16) {
    const Floats nearest = x == x ? (Floats)nearestBfloat16(x) : x;
    return (Floats)((Words32)nearest & 0xffff0000u);
  } else if constexpr (format == DType::float16) {
#if defined(__AVX512F__)
    return (Floats)_mm512_cvtph_ps(_mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__)
    return (Floats)_mm256_cvtph_ps(_mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__aarch64__)
    return (Floats)vcvt_f32_f16(vcvt_f16_f32((float32x4_t)x));
#else
    for (int l = 0; l < lanes; ++l) x[l] = float16ToFloat(floatToFloat16(x[l]));
    return x;
#endif
  } else {
    return x;
  }
}

template <DType format>
BINADE_INLINE Floats loadElements(const Element<format>* source) {
  if constexpr (format == DType::float32) {
    return loadFloats(source);
  } else {
    Halves halves;
    __builtin_memcpy(&halves, source, sizeof halves);
    if constexpr (format == DType::bfloat16) return (Floats)(__builtin_convertvector(halves, Words32) << 16);
#if defined(__AVX512F__)
    return (Floats)_mm512_cvtph_ps((__m256i)halves);
#elif defined(__F16C__)
    return (Floats)_mm256_cvtph_ps((__m128i)halves);
#elif defined(__aarch64__)
    return (Floats)vcvt_f32_f16(vreinterpret_f16_u16((uint16x4_t)halves));
#else
    Floats values{};
    for (int l = 0; l < lanes; ++l) values[l] = float16ToFloat(halves[l]);
    return values;
#endif
  }
}

/// The nearest float16 of each value.
BINADE_INLINE Halves halvesOf(Floats x) {
#if defined(__AVX512F__)
  return (Halves)_mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT);
#elif defined(__F16C__)
  return (Halves)_mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT);
#elif defined(__aarch64__)
  return (Halves)vreinterpret_u16_f16(vcvt_f16_f32((float32x4_t)x));
#else
  Halves halves{};
  for (int l = 0; l < lanes; ++l) halves[l] = floatToFloat16(x[l]);
  return halves;
#endif
}

BINADE_INLINE void storeUpperHalves(uint16_t* target, Words32 bits) {
  const Halves halves = __builtin_convertvector(bits >> 16, Halves);
  __builtin_memcpy(target, &halves, sizeof halves);
}

/// Of two neighbouring vectors.
BINADE_INLINE void storeUpperHalves(uint16_t* target, Words32 low, Words32 high) {
#if defined(__AVX2__) && !defined(__AVX512F__)
  // The compiler packs one vector at a time, and masks what is a half already.
  const __m256i packed = _mm256_packus_epi32((__m256i)(low >> 16), (__m256i)(high >> 16));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(target), _mm256_permute4x64_epi64(packed, 0xd8));
#else
  storeUpperHalves(target, low);
  storeUpperHalves(target + lanes, high);
#endif
}

/// Stores values, rounded to the format; `exact`: they are rounded already.
template <DType format, bool exact, int count>
BINADE_INLINE void storeElements(Element<format>* target, const Bundle<count>& values) {
  if constexpr (format == DType::float32) {
    storeBundle(target, values);
  } else if constexpr (format == DType::float16) {
#pragma GCC unroll 8
    for (int j = 0; j < count; ++j) {
      const Halves halves = halvesOf(values.each[j]);
      __builtin_memcpy(target + j * lanes, &halves, sizeof halves);
    }
  } else {
    const auto bitsAt = [&](int j) { return exact ? (Words32)values.each[j] : nearestBfloat16(values.each[j]); };
#pragma GCC unroll 8
    for (int j = 0; j + 1 < count; j += 2) storeUpperHalves(target + j * lanes, bitsAt(j), bitsAt(j + 1));
    if constexpr (count % 2 == 1) storeUpperHalves(target + (count - 1) * lanes, bitsAt(count - 1));
  }
}

}  // namespace BINADE_ISA
}  // namespace binade
