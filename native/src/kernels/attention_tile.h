// The product that attention is made of: 6 rows of A times a few vectors of B's columns, on operands that need no panels.
//
// Operands are 32-bit words: floats, or (pairs) two bfloat16 of neighbouring depths, the lower depth in the lower half.
// A's words are broadcast one by one, so A may lie by rows or across them; B's are loaded as vectors of neighbouring
// columns. Depths are added in ascending order: a result depends on shape and instruction set alone.
#pragma once
#include "convert.h"
#include "floats.h"

namespace binade {
namespace BINADE_ISA {

/// Rows of a product's tile; with two vectors of columns, 12 sums hide the latency of a multiply-add.
constexpr int64_t tileRows = 6;
constexpr int64_t tileColumns = 2 * lanes;

/// sum + the products of both halves of each word.
static inline Floats multiplyAddPairs(Floats a, Floats b, Floats sum) {
#if defined(__AVX512BF16__)
  return (Floats)multiplyAdd<true>((Vector)a, (Vector)b, (Vector)sum);
#else
  const Integers high = Integers{} + static_cast<int32_t>(0xffff0000u);
  sum = multiplyAdd((Floats)((Integers)a & high), (Floats)((Integers)b & high), sum);
  return multiplyAdd((Floats)((Integers)a << 16), (Floats)((Integers)b << 16), sum);
#endif
}

/// What becomes of a tile's sums: c = scale · sum, c = c + sum, or c = factors[row] · c + sum.
struct Finish {
  enum { scaled, added, rescaled } kind;
  float scale;
  const float* factors;
};

/// The operands of a product; strides in words. Word (i, p) of A lies at a[i * aStride + p], or `across` at
/// a[p * aStride + i]; word (p, j) of B at b[p * bStride + j].
struct Factors {
  int64_t depth;
  const float* a;
  int64_t aStride;
  const float* b;
  int64_t bStride;
};

template <int vectors, typename F>
static inline void forSums(float* c, int64_t stride, F store) {
#pragma GCC unroll 6
  for (int i = 0; i < tileRows; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) store(c + i * stride + v * lanes, i, v);
}

template <int vectors>
static inline void storeSums(const Floats (&sums)[tileRows][vectors], float* c, int64_t stride, const Finish& finish) {
  if (finish.kind == Finish::scaled) {
    const Floats scale = broadcast(finish.scale);
    forSums<vectors>(c, stride, [&](float* to, int i, int v) { storeFloats(to, sums[i][v] * scale); });
  } else if (finish.kind == Finish::added) {
    forSums<vectors>(c, stride, [&](float* to, int i, int v) { storeFloats(to, loadFloats(to) + sums[i][v]); });
  } else {
    forSums<vectors>(c, stride, [&](float* to, int i, int v) {
      storeFloats(to, multiplyAdd(loadFloats(to), broadcast(finish.factors[i]), sums[i][v]));
    });
  }
}

/// c (tileRows, vectors * lanes), row stride `stride`, from A (tileRows, depth) · B (depth, vectors * lanes).
template <bool pairs, bool across, int vectors>
[[gnu::noinline]] static void multiplyTile(const Factors& factors, float* c, int64_t stride, const Finish& finish) {
  const int64_t depth = factors.depth, aStride = factors.aStride, bStride = factors.bStride;
  const float* a = factors.a;
  const float* b = factors.b;
  Floats sums[tileRows][vectors];
#pragma GCC unroll 6
  for (int i = 0; i < tileRows; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) sums[i][v] = Floats{};
  for (int64_t p = 0; p < depth; ++p, b += bStride, a += across ? aStride : 1) {
    Floats right[vectors];
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) right[v] = loadFloats(b + v * lanes);
#pragma GCC unroll 6
    for (int i = 0; i < tileRows; ++i) {
      const Floats left = broadcast(a[across ? i : i * aStride]);
#pragma GCC unroll 2
      for (int v = 0; v < vectors; ++v)
        sums[i][v] = pairs ? multiplyAddPairs(left, right[v], sums[i][v]) : multiplyAdd(left, right[v], sums[i][v]);
    }
  }
  storeSums<vectors>(sums, c, stride, finish);
}

/// One tile of `columns` columns, a multiple of `lanes` that is at most tileColumns.
template <bool across>
static inline void multiplyColumns(bool pairs, const Factors& factors, int64_t columns, float* c, int64_t stride,
                                   const Finish& finish) {
#if BINADE_PAIRS
  if (pairs && columns == tileColumns) return multiplyTile<true, across, 2>(factors, c, stride, finish);
  if (pairs) return multiplyTile<true, across, 1>(factors, c, stride, finish);
#endif
  (void)pairs;
  if (columns == tileColumns) return multiplyTile<false, across, 2>(factors, c, stride, finish);
  multiplyTile<false, across, 1>(factors, c, stride, finish);
}

}  // namespace BINADE_ISA
}  // namespace binade
