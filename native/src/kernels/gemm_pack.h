// Packing for the matrix product: any strided operand, widened or rounded on the way, into panels of 32-bit words.
//
// An operand is seen as (rows, depth): A's rows are the product's rows, B's "rows" are the product's columns. Panel
// number q holds rows [q · width, (q + 1) · width) as (depthWords, width) words; rows past the end and the odd half of
// a last pair are zeros. gemm_micro.h defines the words.
#pragma once
#include "convert.h"
#include "gemm_transpose.h"

namespace binade {
namespace BINADE_ISA {

/// Element (row, depth) lies at data[row * rowStride + depth * depthStride], strides in elements of `storage`.
struct Operand {
  const char* data;
  DType storage;
  DType format;
  int64_t rowStride;
  int64_t depthStride;
  int64_t rows;
  int64_t depth;
};

/// The region one packing call fills: rows [firstRow, endRow), words [firstWord, endWord) of the panels at `target`,
/// whose whole depth is `depthWords`. firstRow is a multiple of the panel width.
struct PackRegion {
  float* target;
  int64_t depthWords;
  int64_t firstRow, endRow;
  int64_t firstWord, endWord;
};

constexpr int64_t packChunk = 128;  // elements converted at a time; the buffers below stay in L1

static inline constexpr int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static inline constexpr int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t ceilDivide(int64_t a, int64_t b) { return (a + b - 1) / b; }
static inline int64_t roundUp(int64_t a, int64_t b) { return ceilDivide(a, b) * b; }

static inline int64_t byteWidth(DType dtype) {
  return dtype == DType::float32 ? 4 : dtype == DType::float8_e4m3fn || dtype == DType::float8_e5m2 ? 1 : 2;
}

/// `count` elements from `source`, `stride` elements apart, as packed elements: float, or uint16_t for bfloat16 bits.
[[gnu::noinline, maybe_unused]] static void fetch(const Operand& operand, const char* source, int64_t stride,
                                                  int64_t count, float* __restrict target) {
  const int64_t width = byteWidth(operand.storage);
  if (stride == 1 && operand.storage == DType::float32 && operand.format == DType::bfloat16) {
    const float* values = reinterpret_cast<const float*>(source);
    for (int64_t i = 0; i < count; ++i) target[i] = bfloat16ToFloat(floatToBfloat16(values[i]));
    return;
  }
  if (stride == 1) {
    widenArray(operand.storage, source, target, count);
  } else {
    for (int64_t i = 0; i < count; ++i) widenArray(operand.storage, source + i * stride * width, target + i, 1);
  }
  if (operand.format != operand.storage) roundArray(operand.format, target, count);
}

#if BINADE_PAIRS
[[gnu::noinline, maybe_unused]] static void fetch(const Operand& operand, const char* source, int64_t stride,
                                                  int64_t count, uint16_t* target) {
  if (stride == 1 && operand.storage == DType::float32)
    return narrowBfloat16(reinterpret_cast<const float*>(source), target, count);
  if (stride == 1 && operand.storage == DType::bfloat16) {
    __builtin_memcpy(target, source, static_cast<size_t>(count) * 2);
    return;
  }
  float wide[packChunk];
  fetch(operand, source, stride, count, wide);
  narrowBfloat16(wide, target, count);
}
#endif

/// Whether memory already holds packed elements: float32 words, or bfloat16 for pairs.
template <typename Element>
static inline bool storedAsPacked(const Operand& operand) {
  if (sizeof(Element) == 2) return operand.storage == DType::bfloat16;
  return operand.storage == DType::float32 && operand.format == DType::float32;
}

// --- Transposing: source rows run along the depth; words of up to `width` rows become columns of the panel. ---------

/// Packs rows that are contiguous along the depth, or (through a gathered copy) rows of any strides.
template <int width, typename Element>
static void packTransposing(const Operand& operand, const PackRegion& region) {
  constexpr int64_t perWord = 4 / sizeof(Element);
  const int64_t element = byteWidth(operand.storage);
  const bool direct = operand.depthStride == 1 && storedAsPacked<Element>(operand);
  const int64_t firstDepth = region.firstWord * perWord;
  const int64_t endDepth = smaller(region.endWord * perWord, operand.depth);
  alignas(64) Element chunk[width * packChunk];
  for (int64_t row = region.firstRow; row < region.endRow; row += width) {
    const int64_t rows = smaller(operand.rows - row, width);
    float* panel = region.target + row * region.depthWords;
    for (int64_t depth = firstDepth; depth < endDepth; depth += packChunk) {
      const int64_t count = smaller(endDepth - depth, packChunk);
      const char* source = operand.data + (row * operand.rowStride + depth * operand.depthStride) * element;
      float* target = panel + depth / perWord * width;
      if (direct) {
        transposeWords<width>(source, operand.rowStride * element, rows, count * sizeof(Element), target);
        continue;
      }
      for (int64_t i = 0; i < rows; ++i)
        fetch(operand, source + i * operand.rowStride * element, operand.depthStride, count, chunk + i * packChunk);
      transposeWords<width>(reinterpret_cast<const char*>(chunk), packChunk * sizeof(Element), rows,
                            count * sizeof(Element), target);
    }
  }
}

// --- Straight: rows are contiguous at each depth, and become words of the panel in order. ---------------------------

constexpr int straightWords = 8;  // packed of every panel of a strip at a time: panels' starts often share a cache set, and so do depths

/// `count` of `width` words from elements at one depth (and, for pairs, the next); zeros after them.
template <int width>
static inline void writeWords(const float* low, const float*, int64_t count, float* target) {
  if (count >= width) {
    __builtin_memcpy(target, low, width * sizeof(float));
    return;
  }
#pragma GCC unroll 1
  for (int64_t i = 0; i < width; ++i) target[i] = i < count ? low[i] : 0.0f;
}

/// One vector of words from elements at one depth, or at two.
static inline Vector loadWords(const float* low, const float*) { return loadVector(low); }

#if BINADE_PAIRS
static inline Vector pairWords(const __m256i& low, const __m256i& high) {
  const __m512i odd = _mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16);
  return _mm512_castsi512_ps(_mm512_or_si512(_mm512_cvtepu16_epi32(low), odd));
}

static inline Vector loadWords(const uint16_t* low, const uint16_t* high) {
  return pairWords(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(low)),
                   _mm256_loadu_si256(reinterpret_cast<const __m256i*>(high)));
}

template <int width>
static inline void writeWords(const uint16_t* low, const uint16_t* high, int64_t count, float* target) {
  constexpr auto maskOf = [](int64_t lanes) {
    return static_cast<__mmask16>((uint64_t{1} << smaller(larger(lanes, 0), 16)) - 1u);
  };
#pragma GCC unroll 2
  for (int first = 0; first < width; first += 16) {
    const __mmask16 lanes = maskOf(count - first);
    const Vector words = pairWords(_mm256_maskz_loadu_epi16(lanes, low + first), _mm256_maskz_loadu_epi16(lanes, high + first));
    _mm512_mask_storeu_ps(target + first, maskOf(width - first), words);
  }
}
#endif

/// straightWords words of `width` rows from evenly spaced depths, of which whole vectors may be read.
template <int width, typename Element>
static inline void copyWords(const Element* const* sources, int64_t first, float* target) {
  constexpr int perWord = 4 / sizeof(Element), last = width / vectorLanes * vectorLanes;
  const Element* low = sources[0] + first;
  const int64_t depth = sources[1] - sources[0];
#pragma GCC unroll 8
  for (int i = 0; i < straightWords; ++i, low += perWord * depth, target += width) {
#pragma GCC unroll 4
    for (int j = 0; j < last; j += vectorLanes) storeVector(target + j, loadWords(low + j, low + depth + j));
    if constexpr (last < width) {
      // The store of a whole vector also writes the start of the next word, whose own store follows.
      const Vector words = loadWords(low + last, low + depth + last);
      if (i + 1 < straightWords) storeVector(target + last, words);
      else storeWords<width - last>(target + last, words);
    }
  }
}

/// Rows [row, row + count) at one depth as packed elements: in place where memory holds them, else through `copy`; zeros
/// past the last depth, which only the second half of a pair reaches.
template <typename Element>
static inline const Element* elementsAt(const Operand& operand, int64_t row, int64_t depth, int64_t count,
                                        Element* copy) {
  static const Element zeros[packChunk] = {};
  if (depth >= operand.depth) return zeros;
  const char* source = operand.data + (row + depth * operand.depthStride) * byteWidth(operand.storage);
  if (storedAsPacked<Element>(operand)) return reinterpret_cast<const Element*>(source);
  fetch(operand, source, 1, count, copy);
  return copy;
}

template <int width, typename Element>
static void packStraight(const Operand& operand, const PackRegion& region) {
  constexpr int64_t perWord = 4 / sizeof(Element);
  constexpr int64_t stripRows = packChunk / width * width;
  alignas(64) Element copies[straightWords * perWord][packChunk];
  const Element* sources[straightWords * perWord];
  const int64_t endRow = smaller(region.endRow, operand.rows);
  for (int64_t word = region.firstWord; word < region.endWord; word += straightWords) {
    const int64_t words = smaller(region.endWord - word, straightWords);
    const bool spacedEvenly = words == straightWords && (word + straightWords) * perWord <= operand.depth;
    for (int64_t row = region.firstRow; row < endRow; row += stripRows) {
      const int64_t count = smaller(endRow - row, stripRows);
      const int64_t readable = storedAsPacked<Element>(operand) ? operand.rows - row : packChunk;
      for (int64_t i = 0; i < words * perWord; ++i)
        sources[i] = elementsAt(operand, row, word * perWord + i, count, copies[i]);
      for (int64_t first = 0; first < count; first += width) {
        float* target = region.target + (row + first) * region.depthWords + word * width;
        if (spacedEvenly && first + width <= count && first + roundUp(width, vectorLanes) <= readable) {
          copyWords<width>(sources, first, target);
          continue;
        }
        for (int64_t i = 0; i < words; ++i)
          writeWords<width>(sources[i * perWord] + first, sources[i * perWord + perWord - 1] + first, count - first,
                            target + i * width);
      }
    }
  }
}

/// Whether memory's rows run across the packed ones, depth after depth.
static inline bool runsAcrossRows(const Operand& operand) { return operand.rowStride == 1 && operand.depthStride != 1; }

template <int width, typename Element>
static void packElements(const Operand& operand, const PackRegion& region) {
  if (runsAcrossRows(operand)) {
    packStraight<width, Element>(operand, region);
  } else {
    packTransposing<width, Element>(operand, region);
  }
}

/// Packs one region of an operand into panels of `width` rows, as pairs of bfloat16 or as floats.
template <int width>
static void packRegion(const Operand& operand, bool pairs, const PackRegion& region) {
#if BINADE_PAIRS
  if (pairs) return packElements<width, uint16_t>(operand, region);
#endif
  (void)pairs;
  packElements<width, float>(operand, region);
}

}  // namespace BINADE_ISA
}  // namespace binade
