// Exact conversions between float32 and the narrow formats: round to nearest even, subnormals kept, NaN stays a NaN.
//
// Include inside no namespace; every function lives in binade::BINADE_ISA, so each instruction set has its own copy.
// The scalar functions are branch-free integer code that loops over them vectorise; the array functions below them
// take F16C, AVX-512 or NEON conversions for float16 where those exist, with the same bits. bfloat16 always goes through
// integer code: vcvtneps2bf16 flushes subnormal inputs to zero.
//
// Overflow gives an infinity, in float8_e4m3fn (which has none) a NaN. A NaN keeps its sign and as much of its payload as
// fits, and becomes quiet only where nothing would be left of that, which would read as an infinity; float8_e4m3fn has one
// NaN per sign. So narrowing what was widened gives back the bits, whatever they are: a value that is selected, as the
// weights of a skipped step are, is never changed by its way through float32. Conversion instructions make NaNs quiet, in
// both directions; arrays that hold one are converted again by the integer code.
#pragma once
#include <cstddef>
#include <cstdint>

#if defined(__F16C__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "abi.h"

namespace binade {
namespace BINADE_ISA {

static inline uint32_t bitsOfFloat(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  return bits;
}

static inline float floatOfBits(uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

static inline float bfloat16ToFloat(uint16_t bits) { return floatOfBits(static_cast<uint32_t>(bits) << 16); }

/// The bits of a NaN, made `quiet` where none of the `payload` that its format keeps is set.
static inline uint32_t nanOfPayload(uint32_t bits, uint32_t payload, uint32_t quiet) {
  return bits | ((bits & payload) == 0 ? quiet : 0u);
}

/// The bits of a number of which the upper half is the nearest bfloat16; the lower half is not cleared. Not for NaNs.
static inline uint32_t roundedNumber(uint32_t bits) {
  // Adding 0x7fff + (lowest kept bit) carries into the kept half exactly when nearest-even rounds up; the carry out of
  // the mantissa increments the exponent, which is right for binade ends and for overflow to infinity alike.
  return bits + 0x7fffu + ((bits >> 16) & 1u);
}

/// The float32 bits whose upper half is the nearest bfloat16; the lower half is not cleared.
static inline uint32_t roundedToBfloat16(float value) {
  const uint32_t bits = bitsOfFloat(value);
  return value == value ? roundedNumber(bits) : nanOfPayload(bits, 0x007f0000u, 0x00400000u);
}

static inline uint16_t floatToBfloat16(float value) { return static_cast<uint16_t>(roundedToBfloat16(value) >> 16); }

/// The nearest bfloat16 as float32.
static inline float roundToBfloat16(float value) { return floatOfBits(roundedToBfloat16(value) & 0xffff0000u); }

/// Widens a narrow magnitude (sign removed) whose exponent and mantissa stand at float32's places, biased by
/// 127 - rebias. `infinity`: the magnitude's all-ones exponent in place; magnitudes >= it are infinity or NaN.
static inline uint32_t widenMagnitude(uint32_t shifted, uint32_t rebias, uint32_t infinity) {
  const uint32_t normal = shifted + (rebias << 23);
  // A subnormal is mantissa · 2^(1 - bias): give it that exponent's implicit one, then subtract the one exactly.
  const uint32_t subnormal =
      bitsOfFloat(floatOfBits(shifted + ((rebias + 1u) << 23)) - floatOfBits((rebias + 1u) << 23));
  const uint32_t special = shifted | 0x7f800000u;  // keeps the payload, quiet or not
  const uint32_t finite = shifted < 0x00800000u ? subnormal : normal;
  return shifted >= infinity ? special : finite;
}

/// Rounds a float32 magnitude's mantissa to `keep` bits and rebiases its exponent by `rebias`; `magic` is the power of
/// two whose unit in the last place is the narrow format's smallest subnormal, so that adding it rounds subnormals.
static inline uint32_t narrowMagnitude(uint32_t magnitude, uint32_t keep, uint32_t rebias, float magic) {
  const uint32_t shift = 23u - keep;
  const uint32_t rounded = (magnitude + ((1u << (shift - 1u)) - 1u) + ((magnitude >> shift) & 1u)) >> shift;
  const uint32_t normal = rounded - (rebias << keep);
  const uint32_t subnormal = bitsOfFloat(floatOfBits(magnitude) + magic) - bitsOfFloat(magic);
  return magnitude < ((rebias + 1u) << 23) ? subnormal : normal;
}

static inline float float16ToFloat(uint16_t bits) {
  const uint32_t magnitude = widenMagnitude((bits & 0x7fffu) << 13, 112u, 0x1fu << 23);
  return floatOfBits(magnitude | (static_cast<uint32_t>(bits & 0x8000u) << 16));
}

static inline uint16_t floatToFloat16(float value) {
  const uint32_t bits = bitsOfFloat(value);
  const uint32_t magnitude = bits & 0x7fffffffu;
  uint32_t result = narrowMagnitude(magnitude, 10u, 112u, 0.5f);
  result = magnitude >= 0x477ff000u ? 0x7c00u : result;  // 65520, halfway from 65504 to 65536, rounds to infinity
  result = magnitude > 0x7f800000u ? 0x7c00u | nanOfPayload((magnitude >> 13) & 0x3ffu, 0x3ffu, 0x200u) : result;
  return static_cast<uint16_t>(result | ((bits >> 16) & 0x8000u));
}

static inline float e4m3fnToFloat(uint8_t bits) {
  const uint32_t shifted = (bits & 0x7fu) << 20;
  // The all-ones exponent is an ordinary binade here; only mantissa 7 of it is a NaN.
  const uint32_t magnitude = widenMagnitude(shifted, 120u, 0x7fu << 20);
  const uint32_t result = (bits & 0x7fu) == 0x7fu ? 0x7fc00000u : magnitude;
  return floatOfBits(result | (static_cast<uint32_t>(bits & 0x80u) << 24));
}

static inline uint8_t floatToE4m3fn(float value) {
  const uint32_t bits = bitsOfFloat(value);
  const uint32_t magnitude = bits & 0x7fffffffu;
  uint32_t result = narrowMagnitude(magnitude, 3u, 120u, 16384.0f);
  result = magnitude > 0x43e80000u ? 0x7fu : result;  // 464 is halfway from 448 to 480 and rounds to the even 448
  return static_cast<uint8_t>(result | ((bits >> 24) & 0x80u));
}

static inline float e5m2ToFloat(uint8_t bits) { return float16ToFloat(static_cast<uint16_t>(bits << 8)); }

static inline uint8_t floatToE5m2(float value) {
  const uint32_t bits = bitsOfFloat(value);
  const uint32_t magnitude = bits & 0x7fffffffu;
  uint32_t result = narrowMagnitude(magnitude, 2u, 112u, 128.0f);
  result = magnitude >= 0x47700000u ? 0x7cu : result;  // 61440, halfway from 57344 to 65536, rounds to infinity
  result = magnitude > 0x7f800000u ? 0x7cu | nanOfPayload((magnitude >> 21) & 3u, 3u, 2u) : result;
  return static_cast<uint8_t>(result | ((bits >> 24) & 0x80u));
}

// Arrays: source and target of `count` elements; they do not overlap.

static inline void widenBfloat16(const uint16_t* __restrict source, float* __restrict target, int64_t count) {
  for (int64_t i = 0; i < count; ++i) target[i] = bfloat16ToFloat(source[i]);
}

static inline void narrowBfloat16(const float* __restrict source, uint16_t* __restrict target, int64_t count) {
  uint32_t nans = 0;
  for (int64_t i = 0; i < count; ++i) {
    nans |= source[i] == source[i] ? 0u : ~0u;
    target[i] = static_cast<uint16_t>(roundedNumber(bitsOfFloat(source[i])) >> 16);
  }
  if (nans == 0) return;
  for (int64_t i = 0; i < count; ++i) target[i] = floatToBfloat16(source[i]);
}

static inline void widenFloat16(const uint16_t* __restrict source, float* __restrict target, int64_t count) {
  int64_t i = 0;
  bool hasNaN = false;
#if defined(__AVX512BW__) && defined(__AVX512VL__)
  __mmask16 nans = 0;
  for (; i < count; i += 16) {
    const __mmask16 lanes = count - i >= 16 ? 0xffff : static_cast<__mmask16>((1u << (count - i)) - 1u);
    const __m512 values = _mm512_maskz_cvtph_ps(lanes, _mm256_maskz_loadu_epi16(lanes, source + i));
    nans = static_cast<__mmask16>(nans | _mm512_cmp_ps_mask(values, values, _CMP_UNORD_Q));
    _mm512_mask_storeu_ps(target + i, lanes, values);
  }
  hasNaN = nans != 0;
#elif defined(__F16C__)
  __m256 nans = _mm256_setzero_ps();
  for (; i + 8 <= count; i += 8) {
    const __m256 values = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source + i)));
    nans = _mm256_or_ps(nans, _mm256_cmp_ps(values, values, _CMP_UNORD_Q));
    _mm256_storeu_ps(target + i, values);
  }
  hasNaN = _mm256_movemask_ps(nans) != 0;
#elif defined(__aarch64__)
  uint32x4_t numbers = vdupq_n_u32(~0u);
  for (; i + 4 <= count; i += 4) {
    const float32x4_t values = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(source + i)));
    numbers = vandq_u32(numbers, vceqq_f32(values, values));
    vst1q_f32(target + i, values);
  }
  hasNaN = vminvq_u32(numbers) == 0;
#endif
  if (hasNaN) i = 0;
  for (; i < count; ++i) target[i] = float16ToFloat(source[i]);
}

static inline void narrowFloat16(const float* __restrict source, uint16_t* __restrict target, int64_t count) {
  int64_t i = 0;
  bool hasNaN = false;
#if defined(__AVX512BW__) && defined(__AVX512VL__)
  __mmask16 nans = 0;
  for (; i < count; i += 16) {
    const __mmask16 lanes = count - i >= 16 ? 0xffff : static_cast<__mmask16>((1u << (count - i)) - 1u);
    const __m512 values = _mm512_maskz_loadu_ps(lanes, source + i);
    nans = static_cast<__mmask16>(nans | _mm512_cmp_ps_mask(values, values, _CMP_UNORD_Q));
    _mm256_mask_storeu_epi16(target + i, lanes, _mm512_maskz_cvtps_ph(lanes, values, _MM_FROUND_TO_NEAREST_INT));
  }
  hasNaN = nans != 0;
#elif defined(__F16C__)
  __m256 nans = _mm256_setzero_ps();
  for (; i + 8 <= count; i += 8) {
    const __m256 values = _mm256_loadu_ps(source + i);
    nans = _mm256_or_ps(nans, _mm256_cmp_ps(values, values, _CMP_UNORD_Q));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(target + i), _mm256_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT));
  }
  hasNaN = _mm256_movemask_ps(nans) != 0;
#elif defined(__aarch64__)
  uint32x4_t numbers = vdupq_n_u32(~0u);
  for (; i + 4 <= count; i += 4) {
    const float32x4_t values = vld1q_f32(source + i);
    numbers = vandq_u32(numbers, vceqq_f32(values, values));
    vst1_u16(target + i, vreinterpret_u16_f16(vcvt_f16_f32(values)));
  }
  hasNaN = vminvq_u32(numbers) == 0;
#endif
  if (hasNaN) i = 0;
  for (; i < count; ++i) target[i] = floatToFloat16(source[i]);
}

static inline void widenE4m3fn(const uint8_t* __restrict source, float* __restrict target, int64_t count) {
  for (int64_t i = 0; i < count; ++i) target[i] = e4m3fnToFloat(source[i]);
}

static inline void narrowE4m3fn(const float* __restrict source, uint8_t* __restrict target, int64_t count) {
  for (int64_t i = 0; i < count; ++i) target[i] = floatToE4m3fn(source[i]);
}

static inline void widenE5m2(const uint8_t* __restrict source, float* __restrict target, int64_t count) {
  for (int64_t i = 0; i < count; ++i) target[i] = e5m2ToFloat(source[i]);
}

static inline void narrowE5m2(const float* __restrict source, uint8_t* __restrict target, int64_t count) {
  for (int64_t i = 0; i < count; ++i) target[i] = floatToE5m2(source[i]);
}

/// Widens `count` elements of a float32, 16-bit or 8-bit float dtype to float32.
static inline void widenArray(DType dtype, const void* source, float* target, int64_t count) {
  switch (dtype) {
    case DType::float16:
      return widenFloat16(static_cast<const uint16_t*>(source), target, count);
    case DType::bfloat16:
      return widenBfloat16(static_cast<const uint16_t*>(source), target, count);
    case DType::float8_e4m3fn:
      return widenE4m3fn(static_cast<const uint8_t*>(source), target, count);
    case DType::float8_e5m2:
      return widenE5m2(static_cast<const uint8_t*>(source), target, count);
    default:
      __builtin_memcpy(target, source, static_cast<size_t>(count) * sizeof(float));
  }
}

/// Rounds `count` float32 values to a float32, 16-bit or 8-bit float dtype.
static inline void narrowArray(DType dtype, const float* source, void* target, int64_t count) {
  switch (dtype) {
    case DType::float16:
      return narrowFloat16(source, static_cast<uint16_t*>(target), count);
    case DType::bfloat16:
      return narrowBfloat16(source, static_cast<uint16_t*>(target), count);
    case DType::float8_e4m3fn:
      return narrowE4m3fn(source, static_cast<uint8_t*>(target), count);
    case DType::float8_e5m2:
      return narrowE5m2(source, static_cast<uint8_t*>(target), count);
    default:
      __builtin_memcpy(target, source, static_cast<size_t>(count) * sizeof(float));
  }
}

/// Rounds each value to the format's nearest and widens it again, in place.
static inline void roundArray(DType format, float* values, int64_t count) {
  uint16_t narrow[256];
  if (format == DType::float32) return;
  if (format == DType::bfloat16) {
    for (int64_t i = 0; i < count; ++i) values[i] = roundToBfloat16(values[i]);
    return;
  }
  for (int64_t i = 0; i < count; i += 256) {
    const int64_t length = count - i < 256 ? count - i : 256;
    narrowArray(format, values + i, narrow, length);
    widenArray(format, narrow, values + i, length);
  }
}

}  // namespace BINADE_ISA
}  // namespace binade
