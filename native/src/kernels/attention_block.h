// Operands of attention's products in scratch memory, and the products of one block of queries with one block of keys.
//
// Rows of q, k, v and g are widened to (rows, widthPadded) floats, zeros around them. From there they enter products as
// floats or, where dot products of bfloat16 exist, as pairs: of neighbouring columns (depth along the row) or of
// neighbouring rows (depth across rows). Scores lie in (blockRows, blockKeys) tiles that stay in the caches.
#pragma once
#include "attention_rows.h"
#include "core.h"
#include "kernels.h"

namespace binade {
namespace BINADE_ISA {

constexpr int64_t blockRows = 96;
constexpr int64_t blockKeys = 96;
static_assert(blockRows % tileRows == 0 && blockKeys % tileRows == 0, "blocks are whole tiles of rows");
static_assert(blockRows % lanes == 0 && blockKeys % tileColumns == 0, "blocks are whole tiles of columns");

static inline int64_t roundUp(int64_t a, int64_t b) { return ceilDivide(a, b) * b; }

/// Cuts one scratch allocation into 64-byte aligned arrays; with a null start it only measures.
struct ScratchCutter {
  char* start;
  int64_t used;

  float* floats(int64_t count) {
    char* here = start == nullptr ? nullptr : start + used;
    used += roundUp(count * 4, 64);
    return reinterpret_cast<float*>(here);
  }
};

/// One (batch, head) pair of a problem.
struct Head {
  const AttentionProblem* problem;
  int64_t batch, head;
  DType dtype;
  bool pairs;
  int64_t widthPadded;  // row stride of widened operands
  int64_t widthWords;   // depth of q kᵀ and g vᵀ
};

static inline Head headAt(const AttentionProblem& problem, int64_t index) {
  const bool pairs = BINADE_PAIRS && problem.q.dtype == DType::bfloat16;
  return Head{&problem,
              index / problem.heads,
              index % problem.heads,
              problem.q.dtype,
              pairs,
              roundUp(problem.width, lanes),
              pairs ? ceilDivide(problem.width, 2) : problem.width};
}

static inline char* rowOf(const Head& head, const HeadsView& view, int64_t time) {
  const int64_t element = head.batch * view.strides[0] + time * view.strides[1] + head.head * view.strides[2];
  return static_cast<char*>(view.data) + element * (view.dtype == DType::float32 ? 4 : 2);
}

static inline float* logSumExpOf(const Head& head) {
  const AttentionProblem& problem = *head.problem;
  return problem.logSumExp + (head.batch * problem.heads + head.head) * problem.queries;
}

/// Widens times [first, first + count) of a view, in the problem's format, to target (padded, widthPadded).
static inline void widenRows(const Head& head, const HeadsView& view, int64_t first, int64_t count, int64_t padded,
                             float* target) {
  const int64_t width = head.problem->width;
  for (int64_t i = 0; i < count; ++i, target += head.widthPadded) {
    widenArray(view.dtype, rowOf(head, view, first + i), target, width);
    if (view.dtype != head.dtype) roundArray(head.dtype, target, width);
    for (int64_t d = width; d < head.widthPadded; ++d) target[d] = 0.0f;
  }
  for (int64_t i = 0; i < (padded - count) * head.widthPadded; ++i) target[i] = 0.0f;
}

/// Rounds a row of sums to one time of a view.
static inline void storeRow(const Head& head, const HeadsView& view, int64_t time, const float* row) {
  narrowArray(view.dtype, row, rowOf(head, view, time), head.problem->width);
}

/// An operand of products: word (row, column) at data[row * stride + column].
struct Words {
  const float* data;
  int64_t stride;
};

/// `source` (rows, columns) with its depth along the columns, as words; pairs go to `paired`, (rows, stride / 2).
static inline Words alongRows(const Head& head, const float* source, int64_t stride, int64_t rows, int64_t columns,
                              float* paired) {
  if (!head.pairs) return Words{source, stride};
  for (int64_t i = 0; i < rows; ++i) {
    uint16_t* const halves = reinterpret_cast<uint16_t*>(paired + i * (stride / 2));
    for (int64_t j = 0; j < columns; j += lanes)
      storeUpperHalves(halves + j, (Words32)loadFloats(source + i * stride + j));
  }
  return Words{paired, stride / 2};
}

/// `source` (rows, columns) with its depth across the rows, as words; pairs go to `paired`, (ceil(rows / 2), stride).
static inline Words acrossRows(const Head& head, const float* source, int64_t stride, int64_t rows, int64_t columns,
                               float* paired) {
  if (!head.pairs) return Words{source, stride};
  const Integers lowHalf = Integers{} + 0xffff;
  for (int64_t i = 0; i < rows; i += 2)
    for (int64_t j = 0; j < columns; j += lanes) {
      const Integers low = (Integers)loadFloats(source + i * stride + j);
      const Integers high = i + 1 < rows ? (Integers)loadFloats(source + (i + 1) * stride + j) : Integers{};
      storeFloats(paired + i / 2 * stride + j, (Floats)(((low >> 16) & lowHalf) | (high & ~lowHalf)));
    }
  return Words{paired, stride};
}

using Quad = float __attribute__((vector_size(16)));
#if defined(__clang__)
#define BINADE_SHUFFLE(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
using QuadMask = int32_t __attribute__((vector_size(16)));
#define BINADE_SHUFFLE(a, b, i, j, k, l) __builtin_shuffle(a, b, (QuadMask){i, j, k, l})
#endif

/// target (words, rows), row stride blockKeys, = the transpose of source (rows, words). Both extents are rounded up to
/// multiples of 4, which both buffers hold.
static inline void transposeKeys(const Words& source, int64_t rows, int64_t words, float* target) {
  for (int64_t i = 0; i < rows; i += 4)
    for (int64_t j = 0; j < words; j += 4) {
      Quad row[4];
      for (int r = 0; r < 4; ++r)
        __builtin_memcpy(&row[r], source.data + (i + r) * source.stride + j, sizeof row[r]);
      const Quad low01 = BINADE_SHUFFLE(row[0], row[1], 0, 4, 1, 5), high01 = BINADE_SHUFFLE(row[0], row[1], 2, 6, 3, 7);
      const Quad low23 = BINADE_SHUFFLE(row[2], row[3], 0, 4, 1, 5), high23 = BINADE_SHUFFLE(row[2], row[3], 2, 6, 3, 7);
      const Quad column[4] = {
          BINADE_SHUFFLE(low01, low23, 0, 1, 4, 5), BINADE_SHUFFLE(low01, low23, 2, 3, 6, 7),
          BINADE_SHUFFLE(high01, high23, 0, 1, 4, 5), BINADE_SHUFFLE(high01, high23, 2, 3, 6, 7)};
      for (int c = 0; c < 4; ++c) __builtin_memcpy(target + (j + c) * blockKeys + i, &column[c], sizeof column[c]);
    }
}

/// A block of queries [row, row + rows) and one of keys [key, key + keys).
struct Pairing {
  int64_t row, rows;
  int64_t key, keys;
};

/// How many keys of the pairing query number `index` of it sees: they come first.
static inline int64_t visibleKeys(const AttentionProblem& problem, const Pairing& pairing, int64_t index) {
  if (!problem.causal) return pairing.keys;
  const int64_t seen = pairing.row + index + 1 + problem.keys - problem.queries - pairing.key;
  return smaller(larger(seen, 0), pairing.keys);
}

/// As visibleKeys, for the query of a tile of rows that sees most: its last.
static inline int64_t visibleToTile(const AttentionProblem& problem, const Pairing& pairing, int64_t firstIndex) {
  return visibleKeys(problem, pairing, smaller(firstIndex + tileRows, pairing.rows) - 1);
}

/// scores (blockRows, blockKeys) = scale · A · B, tile by tile as far as queries see; A (rows, widthWords),
/// B (widthWords, blockKeys).
static inline void multiplyByKeys(const Head& head, const Pairing& pairing, const Words& a, const float* b,
                                  float scale, float* scores) {
  const Finish finish{Finish::scaled, scale, nullptr};
  for (int64_t j = 0; j < pairing.keys; j += tileColumns)
    for (int64_t i = 0; i < pairing.rows; i += tileRows) {
      const int64_t columns = roundUp(visibleToTile(*head.problem, pairing, i), lanes) - j;
      if (columns <= 0) continue;
      multiplyColumns<false>(head.pairs, Factors{head.widthWords, a.data + i * a.stride, a.stride, b + j, blockKeys},
                             smaller(columns, tileColumns), scores + i * blockKeys + j, blockKeys, finish);
    }
}

/// sums (rows, widthPadded) take A · B, tile by tile, as `finish` says; A (rows, keys), B (keys, widthPadded). Rows of
/// tiles that see no key stay as they are.
static inline void multiplyByWidth(const Head& head, const Pairing& pairing, const Words& a, const Words& b,
                                   Finish finish, float* sums) {
  const float* factors = finish.factors;
  for (int64_t j = 0; j < head.widthPadded; j += tileColumns)
    for (int64_t i = 0; i < pairing.rows; i += tileRows) {
      const int64_t visible = visibleToTile(*head.problem, pairing, i);
      if (visible == 0) continue;
      finish.factors = factors + i;
      const int64_t depth = head.pairs ? ceilDivide(visible, 2) : visible;
      multiplyColumns<false>(head.pairs, Factors{depth, a.data + i * a.stride, a.stride, b.data + j, b.stride},
                             smaller(head.widthPadded - j, tileColumns), sums + i * head.widthPadded + j,
                             head.widthPadded, finish);
    }
}

}  // namespace BINADE_ISA
}  // namespace binade
