// The single-thread building block of products and attention: pack operands, multiply panels into a float32 tile.
#pragma once
#include "gemm_pack.h"

namespace binade {
namespace BINADE_ISA {

/// An operand in panels: panel q (see gemm_pack.h) starts at data + q * width * depthWords. A's rows may also lie as they are in
/// memory: row i starts at data + i * depthWords.
struct Packed {
  const float* data;
  int64_t depthWords;
  bool inRows = false;
};

// Words: a strip of B, one of A and the next of A share L1 (48 KiB where there is AVX-512, else 32 KiB or more).
constexpr int64_t depthBlock = vectorLanes >= 16 ? 192 : 256;
constexpr size_t scratchAlignment = 64;

/// Whether a product of these formats runs on bfloat16 dot products. vdpbf16ps flushes subnormal inputs and sums.
static inline bool usesPairs(DType a, DType b) {
  return BINADE_PAIRS && a == DType::bfloat16 && b == DType::bfloat16;
}

static inline int64_t wordsOf(int64_t depth, bool pairs) { return pairs ? (depth + 1) / 2 : depth; }

/// Floats a packed operand of `rows` rows takes, a whole number of cache lines.
static inline int64_t packedLength(int64_t rows, int64_t width, int64_t depthWords) {
  return roundUp(roundUp(rows, width) * depthWords, 16);
}

/// Packs a whole operand into panels of `width` rows at `target`, packedLength floats long.
template <int width>
static Packed packWhole(const Operand& operand, bool pairs, float* target) {
  const int64_t words = wordsOf(operand.depth, pairs);
  packRegion<width>(operand, pairs, PackRegion{target, words, 0, operand.rows, 0, words});
  return Packed{target, words};
}

/// One tile: A panels from row `row` and B panels from column `column` (multiples of the panel sizes), over the depth
/// words [firstWord, endWord).
struct Tile {
  int64_t row, rows;
  int64_t column, columns;
  int64_t firstWord, endWord;
};

/// Asks for part number `part` of `parts` of a strip of `words` words of packed B, which the next columns will read.
static inline void prefetchPart(const float* strip, int64_t words, int64_t part, int64_t parts) {
  const int64_t share = ceilDivide(words, parts);
  const int64_t end = smaller((part + 1) * share, words);
  for (int64_t word = part * share; word < end; ++word)
    for (int64_t j = 0; j < panelColumns; j += 16) __builtin_prefetch(strip + word * panelColumns + j, 0, 2);
}

/// Words of one block of a tile's depth: `words` cut into equal blocks for which L1 has room.
static inline int64_t blockWordsOf(int64_t words) {
  const int64_t blocks = larger(ceilDivide(words, depthBlock), 1);
  return larger(roundUp(ceilDivide(words, blocks), 8), 8);
}

/// What a block of a tile's depth is multiplied from.
struct PackedOperands {
  Packed a, b;
};

/// c (tile.rows, roundUp(tile.columns, panelColumns)), row stride `stride`, = A · B. `supply(tile, word, depth)` yields the operands
/// just before the words [word, word + depth) of the tile are read.
template <bool pairs, bool inRows, typename Supply>
static void multiplyPanels(const Supply& supply, const Tile& tile, float* c, int64_t stride) {
  const int64_t step = blockWordsOf(tile.endWord - tile.firstWord);
  const StripKernel fullKernel = multiplyStrips<pairs, inRows, panelRows>;
  const StripKernel lastKernel = stripKernel<pairs, inRows>((tile.rows - 1) % panelRows + 1);
  const int64_t strips = ceilDivide(tile.rows, panelRows);
  for (int64_t word = tile.firstWord; word == tile.firstWord || word < tile.endWord; word += step) {
    const int64_t depth = smaller(step, tile.endWord - word);
    const bool add = word > tile.firstWord;
    const PackedOperands operands = supply(tile, word, depth);
    const Packed &a = operands.a, &b = operands.b;
    const float* firstRows = a.data + tile.row * a.depthWords + word * (inRows ? 1 : panelRows);
    for (int64_t j = 0; j < tile.columns; j += panelColumns) {
      const float* columns = b.data + (tile.column + j) * b.depthWords + word * panelColumns;
      const bool lastStrip = j + panelColumns >= tile.columns;
      for (int64_t i = 0; i < strips; ++i) {
        const float* rows = firstRows + i * panelRows * a.depthWords;
        const float* next = i + 1 < strips ? rows + panelRows * a.depthWords : firstRows;
        if (!lastStrip) prefetchPart(columns + panelColumns * b.depthWords, depth, i, strips);
        const StripKernel kernel = (i + 1) * panelRows <= tile.rows ? fullKernel : lastKernel;
        kernel(depth, {rows, next, a.depthWords}, columns, c + i * panelRows * stride + j, stride, add);
      }
    }
  }
}

/// multiplyPanels for operands packed as pairs or as floats, or for rows of A that lie so in memory.
template <typename Supply>
static inline void multiplyTile(bool pairs, bool inRows, const Supply& supply, const Tile& tile, float* c,
                                int64_t stride) {
#if BINADE_PAIRS
  if (pairs && inRows) return multiplyPanels<true, true>(supply, tile, c, stride);
  if (pairs) return multiplyPanels<true, false>(supply, tile, c, stride);
#endif
  (void)pairs;
  if (inRows) return multiplyPanels<false, true>(supply, tile, c, stride);
  multiplyPanels<false, false>(supply, tile, c, stride);
}

}  // namespace BINADE_ISA
}  // namespace binade
