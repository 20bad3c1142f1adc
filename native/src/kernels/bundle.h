// Several vectors whose operations alternate. Those of one vector mostly wait for each other, and a processor's window holds the
// operations of hardly two vectors, fewer beside a busy neighbour; in this order most find their operands ready.
#pragma once
#include "floats.h"

namespace binade {
namespace BINADE_ISA {

template <int count>
struct Bundle {
  Floats each[count];
};

/// Vectors of a bundle: as many as leave room for constants and intermediate results. Without an instruction for fused operations one
/// vector is work enough.
#if defined(__FMA__) || defined(__aarch64__)
constexpr int kBundleVectors = 4;
#else
constexpr int kBundleVectors = 1;
#endif
constexpr int64_t kBundleLanes = kBundleVectors * lanes;

#define BINADE_INLINE static inline __attribute__((always_inline))

/// Operand of vector number `j`: a bundle's own, else the same for all.
template <typename T>
BINADE_INLINE T ofVector(T value, int) {
  return value;
}
template <int count>
BINADE_INLINE Floats ofVector(const Bundle<count>& bundle, int j) {
  return bundle.each[j];
}

template <int... numbers>
struct Places {};

/// Places 0 … count - 1.
template <int count, int... numbers>
struct PlacesUpTo : PlacesUpTo<count - 1, count - 1, numbers...> {};
template <int... numbers>
struct PlacesUpTo<0, numbers...> {
  using All = Places<numbers...>;
};

// Places are constants from the start: vectors of an array that a loop walks would go through memory.
template <int... numbers, typename F, typename... T>
BINADE_INLINE auto atPlaces(Places<numbers...>, F operation, const T&... operands) {
  const auto at = [&](int j) { return operation(ofVector(operands, j)...); };
  return Bundle<static_cast<int>(sizeof...(numbers))>{{at(numbers)...}};
}

/// operation(operands…) of every vector; the first operand says how many there are.
template <typename F, typename... T>
BINADE_INLINE Floats forEach(F operation, Floats first, const T&... others) {
  return operation(first, others...);
}
template <int count, typename F, typename... T>
BINADE_INLINE Bundle<count> forEach(F operation, const Bundle<count>& first, const T&... others) {
  return atPlaces(typename PlacesUpTo<count>::All(), operation, first, others...);
}

// Operators; the second operand is a bundle, or the same for all.

template <int count, typename T>
BINADE_INLINE Bundle<count> operator+(const Bundle<count>& a, const T& b) {
  return forEach([](Floats x, auto y) { return x + y; }, a, b);
}
template <int count, typename T>
BINADE_INLINE Bundle<count> operator-(const Bundle<count>& a, const T& b) {
  return forEach([](Floats x, auto y) { return x - y; }, a, b);
}
template <int count, typename T>
BINADE_INLINE Bundle<count> operator*(const Bundle<count>& a, const T& b) {
  return forEach([](Floats x, auto y) { return x * y; }, a, b);
}

/// a · b + c, rounded once; a is a bundle, b and c may be the same for all.
template <int count, typename B, typename C>
BINADE_INLINE Bundle<count> fused(const Bundle<count>& a, const B& b, const C& c) {
  return forEach([](Floats x, Floats y, Floats z) { return fused(x, y, z); }, a, b, c);
}

/// As fused, where the instruction set has it; else rounded twice.
template <int count, typename B, typename C>
BINADE_INLINE Bundle<count> multiplyAdd(const Bundle<count>& a, const B& b, const C& c) {
  return forEach([](Floats x, Floats y, Floats z) { return multiplyAdd(x, y, z); }, a, b, c);
}

/// `count` vectors one after another.
template <int count>
BINADE_INLINE Bundle<count> loadBundle(const float* source) {
  Bundle<count> bundle;
#pragma GCC unroll 8
  for (int j = 0; j < count; ++j) bundle.each[j] = loadFloats(source + j * lanes);
  return bundle;
}

template <int count>
BINADE_INLINE void storeBundle(float* target, const Bundle<count>& bundle) {
#pragma GCC unroll 8
  for (int j = 0; j < count; ++j) storeFloats(target + j * lanes, bundle.each[j]);
}

}  // namespace BINADE_ISA
}  // namespace binade
