// AVX-512, with bfloat16 dot products if BINADE_EMULATES_PAIRS is set, on a processor that has AVX2, FMA and F16C. Forced
// in front of a kernel (-include): it defines the intrinsics that kernels use and says that the instructions exist. An
// intrinsic that is missing here stops the compiler ("target specific option mismatch"): add it.
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>
#include <initializer_list>

namespace binade_emulation {

template <typename To, typename From>
inline To bitsAs(const From& from) {
  static_assert(sizeof(To) <= sizeof(From), "no more bits than there are");
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

template <typename Vector>
inline Vector load(const void* source) {
  Vector vector;
  std::memcpy(&vector, source, sizeof vector);
  return vector;
}

template <typename Vector, typename Element>
inline Vector loadMasked(uint64_t mask, const void* source) {
  Element elements[sizeof(Vector) / sizeof(Element)] = {};
  const char* bytes = static_cast<const char*>(source);
  for (size_t i = 0; i < sizeof(Vector) / sizeof(Element); ++i)
    if (mask >> i & 1) std::memcpy(elements + i, bytes + i * sizeof(Element), sizeof(Element));
  return load<Vector>(elements);
}

template <typename Element, typename Vector>
inline void storeMasked(void* target, uint64_t mask, const Vector& vector) {
  char* bytes = static_cast<char*>(target);
  const char* elements = reinterpret_cast<const char*>(&vector);
  for (size_t i = 0; i < sizeof(Vector) / sizeof(Element); ++i)
    if (mask >> i & 1) std::memcpy(bytes + i * sizeof(Element), elements + i * sizeof(Element), sizeof(Element));
}

/// Copies bits: a lane may hold a pair of bfloat16.
inline __m512 repeat(float value) {
  float lanes[16];
  for (float& lane : lanes) std::memcpy(&lane, &value, sizeof lane);
  return load<__m512>(lanes);
}

struct Halves {
  __m256 half[2];
};

inline __m512 multiplyAdd(const __m512& a, const __m512& b, const __m512& sum) {
  const auto x = bitsAs<Halves>(a), y = bitsAs<Halves>(b), z = bitsAs<Halves>(sum);
  return bitsAs<__m512>(
      Halves{{_mm256_fmadd_ps(x.half[0], y.half[0], z.half[0]), _mm256_fmadd_ps(x.half[1], y.half[1], z.half[1])}});
}

inline __m512 insertHalf(const __m512& a, const __m256& half, int place) {
  auto halves = bitsAs<Halves>(a);
  halves.half[place] = half;
  return bitsAs<__m512>(halves);
}

inline __m256 takeHalf(const __m512& a, int place) {
  __m256 half;
  __builtin_memcpy(&half, reinterpret_cast<const char*>(&a) + 32 * place, sizeof half);
  return half;
}

/// Lane i is lane places[i] of a (0 to 15) or of b (16 to 31).
inline __m512 permute(const __m512& a, const __m512i& places, const __m512& b) {
  int32_t from[16];
  __builtin_memcpy(from, &places, sizeof from);
  __m512 result;
  for (int i = 0; i < 16; ++i) result[i] = (from[i] & 16) != 0 ? b[from[i] & 15] : a[from[i] & 15];
  return result;
}

template <typename... Values>
inline __m512i fromHighest(Values... values) {
  const int32_t reversed[16] = {values...};
  int32_t lanes[16];
  for (int i = 0; i < 16; ++i) lanes[i] = reversed[15 - i];
  __m512i result;
  __builtin_memcpy(&result, lanes, sizeof result);
  return result;
}

inline __m512 fromHalf(const __m256& half) { return insertHalf(__m512{}, half, 0); }

/// Sums in the order of GCC's _mm512_reduce_add_ps: halves, quarters, pairs, lanes.
inline float sumLanes(const __m512& a) {
  float sums[16];
  std::memcpy(sums, &a, sizeof sums);
  for (int width = 8; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) sums[i] += sums[i + width];
  return sums[0];
}

/// In every block of 16 bytes, elements `from`, `from` + 1, … of a and of b in turns: unpacklo (0) and unpackhi.
template <typename Element, typename Vector>
inline Vector interleave(const Vector& a, const Vector& b, bool high) {
  constexpr size_t perBlock = 16 / sizeof(Element), count = sizeof(Vector) / sizeof(Element);
  Element left[count], right[count], result[count];
  std::memcpy(left, &a, sizeof left);
  std::memcpy(right, &b, sizeof right);
  for (size_t i = 0; i < count; ++i) {
    const size_t source = i / perBlock * perBlock + (high ? perBlock / 2 : 0) + i % perBlock / 2;
    result[i] = i % 2 == 0 ? left[source] : right[source];
  }
  return load<Vector>(result);
}

/// Blocks of four lanes: two of a, then two of b, each chosen by two bits.
inline __m512 shuffleBlocks(const __m512& a, const __m512& b, int choice) {
  float from[2][16], to[16];
  std::memcpy(from[0], &a, sizeof from[0]);
  std::memcpy(from[1], &b, sizeof from[1]);
  for (int block = 0; block < 4; ++block)
    std::memcpy(to + 4 * block, from[block / 2] + 4 * (choice >> 2 * block & 3), 4 * sizeof(float));
  return load<__m512>(to);
}

inline __m512i widenUnsigned(const __m256i& a) {
  uint16_t narrow[16];
  uint32_t wide[16];
  std::memcpy(narrow, &a, sizeof narrow);
  for (int i = 0; i < 16; ++i) wide[i] = narrow[i];
  return load<__m512i>(wide);
}

inline __m512i shiftLeft(const __m512i& a, int count) {
  uint32_t lanes[16];
  std::memcpy(lanes, &a, sizeof lanes);
  for (uint32_t& lane : lanes) lane <<= count;
  return load<__m512i>(lanes);
}

/// Lanes in which either value is a NaN: the only comparison of float32 that kernels spell as an intrinsic.
template <int predicate>
inline __mmask16 compare(const __m512& a, const __m512& b) {
  static_assert(predicate == _CMP_UNORD_Q, "no other predicate is emulated");
  const auto x = bitsAs<Halves>(a), y = bitsAs<Halves>(b);
  const int low = _mm256_movemask_ps(_mm256_cmp_ps(x.half[0], y.half[0], _CMP_UNORD_Q));
  const int high = _mm256_movemask_ps(_mm256_cmp_ps(x.half[1], y.half[1], _CMP_UNORD_Q));
  return static_cast<__mmask16>(low | high << 8);
}

inline __m512 widenFloat16(uint64_t mask, const __m256i& a) {
  __m128i parts[2];
  std::memcpy(parts, &a, sizeof parts);
  const __m256 wide[2] = {_mm256_cvtph_ps(parts[0]), _mm256_cvtph_ps(parts[1])};
  return loadMasked<__m512, float>(mask, wide);
}

template <int rounding>
inline __m256i narrowFloat16(uint64_t mask, const __m512& a) {
  const auto halves = bitsAs<Halves>(a);
  const __m128i narrow[2] = {_mm256_cvtps_ph(halves.half[0], rounding), _mm256_cvtps_ph(halves.half[1], rounding)};
  return loadMasked<__m256i, uint16_t>(mask, narrow);
}

inline float flushed(float value) { return __builtin_fabsf(value) < 0x1p-126f ? value * 0.0f : value; }

/// vdpbf16ps: two fused multiply-adds per lane, the upper bfloat16 first; subnormal operands and results become zeros.
template <typename Pairs>
inline __m512 addPairs(const __m512& sums, const Pairs& a, const Pairs& b) {
  float result[16];
  uint32_t left[16], right[16];
  std::memcpy(result, &sums, sizeof result);
  std::memcpy(left, &a, sizeof left);
  std::memcpy(right, &b, sizeof right);
  for (const int shift : {0, 16})
    for (int i = 0; i < 16; ++i) {
      const float x = bitsAs<float>((left[i] << shift) & 0xffff0000u);
      const float y = bitsAs<float>((right[i] << shift) & 0xffff0000u);
      result[i] = flushed(__builtin_fmaf(flushed(x), flushed(y), flushed(result[i])));
    }
  return load<__m512>(result);
}

}  // namespace binade_emulation

#define _mm512_setzero_ps() (__m512{})
#define _mm512_set1_ps(value) binade_emulation::repeat(value)
#define _mm512_loadu_ps(source) binade_emulation::load<__m512>(source)
#define _mm512_storeu_ps(target, value) binade_emulation::storeMasked<__m512>(target, 1, value)
#define _mm512_maskz_loadu_ps(mask, source) binade_emulation::loadMasked<__m512, float>(mask, source)
#define _mm512_maskz_loadu_epi16(mask, source) binade_emulation::loadMasked<__m512i, uint16_t>(mask, source)
#define _mm256_maskz_loadu_epi16(mask, source) binade_emulation::loadMasked<__m256i, uint16_t>(mask, source)
#define _mm512_mask_storeu_ps(target, mask, value) binade_emulation::storeMasked<float>(target, mask, value)
#define _mm256_mask_storeu_epi16(target, mask, value) binade_emulation::storeMasked<uint16_t>(target, mask, value)
#define _mm512_add_ps(a, b) ((__m512)(a) + (__m512)(b))
#define _mm512_max_ps(a, b) ((__m512)(a) > (__m512)(b) ? (__m512)(a) : (__m512)(b))
#define _mm512_min_ps(a, b) ((__m512)(a) < (__m512)(b) ? (__m512)(a) : (__m512)(b))
#define _mm512_and_ps(a, b) ((__m512)((__m512i)(a) & (__m512i)(b)))
#define _mm512_or_si512(a, b) ((__m512i)(a) | (__m512i)(b))
#define _mm512_slli_epi32(a, count) binade_emulation::shiftLeft(a, count)
#define _mm512_fmadd_ps(a, b, sum) binade_emulation::multiplyAdd(a, b, sum)
#define _mm512_reduce_add_ps(a) binade_emulation::sumLanes(a)
#define _mm512_castps_pd(a) ((__m512d)(a))
#define _mm512_castpd_ps(a) ((__m512)(a))
#define _mm512_castsi512_ps(a) ((__m512)(a))
#define _mm512_castps_si512(a) ((__m512i)(a))
#define _mm512_castps256_ps512(a) binade_emulation::fromHalf(a)
#define _mm512_insertf32x8(a, half, place) binade_emulation::insertHalf(a, half, place)
#define _mm512_castps512_ps256(a) binade_emulation::takeHalf(a, 0)
#define _mm512_extractf32x8_ps(a, place) binade_emulation::takeHalf(a, place)
#define _mm512_permutex2var_ps(a, places, b) binade_emulation::permute(a, places, b)
#define _mm512_set_epi32(...) binade_emulation::fromHighest(__VA_ARGS__)
#define _mm512_set1_epi32(v) binade_emulation::fromHighest(v, v, v, v, v, v, v, v, v, v, v, v, v, v, v, v)
#define _mm512_unpacklo_ps(a, b) binade_emulation::interleave<float>((__m512)(a), (__m512)(b), false)
#define _mm512_unpackhi_ps(a, b) binade_emulation::interleave<float>((__m512)(a), (__m512)(b), true)
#define _mm512_unpacklo_pd(a, b) binade_emulation::interleave<double>((__m512d)(a), (__m512d)(b), false)
#define _mm512_unpackhi_pd(a, b) binade_emulation::interleave<double>((__m512d)(a), (__m512d)(b), true)
#define _mm512_shuffle_f32x4(a, b, choice) binade_emulation::shuffleBlocks(a, b, choice)
#define _mm512_cvtepu16_epi32(a) binade_emulation::widenUnsigned(a)
#define _mm512_cvtph_ps(a) binade_emulation::widenFloat16(0xffff, a)
#define _mm512_maskz_cvtph_ps(mask, a) binade_emulation::widenFloat16(mask, a)
#undef _mm512_cmp_ps_mask
#undef _mm512_cvtps_ph
#undef _mm512_maskz_cvtps_ph
#define _mm512_cmp_ps_mask(a, b, predicate) binade_emulation::compare<predicate>(a, b)
#define _mm512_cvtps_ph(a, rounding) binade_emulation::narrowFloat16<rounding>(0xffff, a)
#define _mm512_maskz_cvtps_ph(mask, a, rounding) binade_emulation::narrowFloat16<rounding>(mask, a)

#define __AVX512F__ 1
#define __AVX512BW__ 1
#define __AVX512DQ__ 1
#define __AVX512VL__ 1
#if defined(BINADE_EMULATES_PAIRS)
#define _mm512_dpbf16_ps(sums, a, b) binade_emulation::addPairs(sums, a, b)
#define __AVX512BF16__ 1
#endif
