// Combining lanes of a reduction: 64 accumulators that take neighbouring lanes in turn, folded by halves at the end.
//
// The order of every sum follows from the positions of the lanes alone, and not from the blocks in which they come: how
// operands lie in memory, and so which other values a kernel stores, changes no bit. 64 accumulators also keep sums
// short: each adds every 64th lane, so that errors grow with count / 64.
#pragma once
#include "loops.h"
#include "program.h"
#include "vm_math.h"

namespace binade {
namespace BINADE_ISA {

constexpr int kAccumulators = 64;
/// No position yet: larger than any, so that on ties the first lane wins.
constexpr int32_t kNoPosition = INT32_MAX;

/// Values (float32, or uint32 bits for sumInt) and, for argMax and argMin, the positions they came from.
struct Accumulators {
  alignas(64) float values[kAccumulators];
  alignas(64) int32_t positions[kAccumulators];
};

static inline bool findsPosition(Combine combine) { return combine == Combine::argMax || combine == Combine::argMin; }

/// The value that changes nothing; argMin works on negated values, so that one comparison serves both.
static inline float identityOf(Combine combine) {
  switch (combine) {
    case Combine::product:
      return 1.0f;
    case Combine::min:
      return __builtin_inff();
    case Combine::max:
    case Combine::argMax:
    case Combine::argMin:
      return -__builtin_inff();
    default:
      return 0.0f;  // also the bits of integer 0
  }
}

static inline float combineSum(float a, float b) { return a + b; }
static inline float combineProduct(float a, float b) { return a * b; }
static inline float combineMax(float a, float b) { return maxOf(a, b); }
static inline float combineMin(float a, float b) { return minOf(a, b); }
static inline float combineInt(float a, float b) { return floatOfBits(bitsOfFloat(a) + bitsOfFloat(b)); }

/// values[i] = values[i] ∘ other[i] for i < count.
template <typename F>
static inline void combineLoop(float* values, const float* other, int64_t count, F combine) {
  BINADE_INDEPENDENT
  for (int64_t i = 0; i < count; ++i) values[i] = combine(values[i], other[i]);
}

/// Combines lanes whose results carry no position.
static inline void combineValues(Combine combine, float* values, const float* other, int64_t count) {
  switch (combine) {
    case Combine::product:
      return combineLoop(values, other, count, [](float a, float b) { return combineProduct(a, b); });
    case Combine::max:
      return combineLoop(values, other, count, [](float a, float b) { return combineMax(a, b); });
    case Combine::min:
      return combineLoop(values, other, count, [](float a, float b) { return combineMin(a, b); });
    case Combine::sumInt:
      return combineLoop(values, other, count, [](float a, float b) { return combineInt(a, b); });
    default:
      return combineLoop(values, other, count, [](float a, float b) { return combineSum(a, b); });
  }
}

/// Whether (b, j) goes before (a, i): the greater value, a NaN before any number, the lower position on ties.
static inline bool goesBefore(float b, int32_t j, float a, int32_t i) {
  const bool aNaN = a != a, bNaN = b != b;
  const bool equal = (a == b) | (aNaN & bNaN);
  return (b > a) | (bNaN & !aNaN) | (equal & (j < i));
}

static inline void combinePositions(float* values, int32_t* positions, const float* other,
                                    const int32_t* otherPositions, int64_t count) {
  BINADE_INDEPENDENT
  for (int64_t i = 0; i < count; ++i) {
    const bool replace = goesBefore(other[i], otherPositions[i], values[i], positions[i]);
    values[i] = replace ? other[i] : values[i];
    positions[i] = replace ? otherPositions[i] : positions[i];
  }
}

/// As combinePositions, for lanes (negated if `sign` is -1) at positions first, first + step, …
static inline void combineLanesAt(float* values, int32_t* positions, const float* lanes, int64_t count, float sign,
                                  int32_t first, int32_t step) {
  const int32_t length = static_cast<int32_t>(count);
  BINADE_INDEPENDENT
  for (int32_t i = 0; i < length; ++i) {
    const float value = lanes[i] * sign;
    const int32_t position = first + i * step;
    const bool replace = goesBefore(value, position, values[i], positions[i]);
    values[i] = replace ? value : values[i];
    positions[i] = replace ? position : positions[i];
  }
}

static inline void fillAccumulators(Combine combine, float* values, int32_t* positions, int64_t count) {
  const float identity = identityOf(combine);
  for (int64_t i = 0; i < count; ++i) values[i] = identity;
  for (int64_t i = 0; i < count; ++i) positions[i] = kNoPosition;
}

/// Takes `count` lanes, the first of them at `position`: the lane at position p goes to accumulator p mod 64.
static inline void accumulate(Combine combine, Accumulators* sums, const float* lanes, int64_t count,
                              int64_t position) {
  const float sign = combine == Combine::argMin ? -1.0f : 1.0f;
  int64_t first = position % kAccumulators;
  for (int64_t i = 0, length = 0; i < count; i += length, first = 0) {
    length = count - i < kAccumulators - first ? count - i : kAccumulators - first;
    if (findsPosition(combine)) {
      combineLanesAt(sums->values + first, sums->positions + first, lanes + i, length, sign,
                     static_cast<int32_t>(position + i), 1);
    } else if (length == kAccumulators) {
      combineValues(combine, sums->values, lanes + i, kAccumulators);
    } else {
      combineValues(combine, sums->values + first, lanes + i, length);
    }
  }
}

/// Folds the accumulators by halves into the first.
static inline void foldAccumulators(Combine combine, Accumulators* sums) {
  for (int half = kAccumulators / 2; half > 0; half /= 2) {
    if (findsPosition(combine)) {
      combinePositions(sums->values, sums->positions, sums->values + half, sums->positions + half, half);
    } else {
      combineValues(combine, sums->values, sums->values + half, half);
    }
  }
}

}  // namespace BINADE_ISA
}  // namespace binade
