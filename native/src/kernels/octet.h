// Eight floats at a time, on every instruction set, and lookups of eight elements near one another in a row.
#pragma once
#include "vector.h"

namespace binade {
namespace BINADE_ISA {

using Octet = float __attribute__((vector_size(32)));
using OctetBits = int32_t __attribute__((vector_size(32)));

static inline Octet loadOctet(const void* source) {
  Octet values;
  __builtin_memcpy(&values, source, sizeof values);
  return values;
}

static inline void storeOctet(void* target, Octet values) { __builtin_memcpy(target, &values, sizeof values); }

static inline OctetBits loadOctetBits(const void* source) { return (OctetBits)loadOctet(source); }

/// The first `count` of eight, and zeros.
static inline Octet loadSomeOctet(const float* source, int64_t count) {
  if (count == 8) return loadOctet(source);
  Octet values{};
  __builtin_memcpy(&values, source, static_cast<size_t>(count) * sizeof(float));
  return values;
}

static inline void storeSomeOctet(float* target, Octet values, int64_t count) {
  if (count == 8) return storeOctet(target, values);
  __builtin_memcpy(target, &values, static_cast<size_t>(count) * sizeof(float));
}

/// Lane by lane `values` where the mask's bits are all ones, and +0 where they are zeros.
static inline Octet maskOctet(Octet values, OctetBits mask) { return (Octet)((OctetBits)values & mask); }

static inline Octet selectOctet(OctetBits mask, Octet values, Octet others) {
#if defined(__AVX2__)
  return (Octet)_mm256_blendv_ps((__m256)others, (__m256)values, (__m256)mask);
#else
  return (Octet)(((OctetBits)values & mask) | ((OctetBits)others & ~mask));
#endif
}

/// Element `place` of a row of floats or of other words of 32 bits.
static inline int32_t bitsAt(const float* row, int32_t place) {
  int32_t bits;
  __builtin_memcpy(&bits, row + place, sizeof bits);
  return bits;
}

/// row[places[l]] in lane l, and 0 where the place is negative.
static inline Octet lookUpOneByOne(const float* row, OctetBits places) {
  OctetBits bits{};
  for (int lane = 0; lane < 8; ++lane) bits[lane] = places[lane] < 0 ? 0 : bitsAt(row, places[lane]);
  return (Octet)bits;
}

/// row[places[l]] in lane l, of places below 8; any number where the place is negative.
static inline Octet lookUpIn8(const float* row, OctetBits places) {
#if defined(__AVX2__)
  return (Octet)_mm256_permutevar8x32_ps(_mm256_loadu_ps(row), (__m256i)places);
#else
  return lookUpOneByOne(row, places);
#endif
}

/// row[places[l]] in lane l, of places below 16; any number where the place is negative.
static inline Octet lookUpIn16(const float* row, OctetBits places) {
#if defined(__AVX512VL__)
  return (Octet)_mm256_permutex2var_ps(_mm256_loadu_ps(row), (__m256i)places, _mm256_loadu_ps(row + 8));
#elif defined(__AVX2__)
  // A place's bit of 8, moved to the sign, says which half it is in.
  return selectOctet(places << 28, lookUpIn8(row + 8, places), lookUpIn8(row, places));
#else
  return lookUpOneByOne(row, places);
#endif
}

}  // namespace BINADE_ISA
}  // namespace binade
