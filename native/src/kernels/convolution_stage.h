// Pictures in scratch: padded with zeros, split by the phases of the stride (convolution_layout.h), widened or rounded on the way.
#pragma once
#include "convert.h"
#include "convolution_layout.h"
#include "lanes.h"

namespace binade {
namespace BINADE_ISA {

enum class StagedAs { floats, bfloat16, channelPairs };

template <DType storage>
static inline float wideElement(const char* data, int64_t index) {
  if constexpr (storage == DType::float32) return reinterpret_cast<const float*>(data)[index];
  const uint16_t bits = reinterpret_cast<const uint16_t*>(data)[index];
  return storage == DType::bfloat16 ? bfloat16ToFloat(bits) : float16ToFloat(bits);
}

/// Positions [begin, end) of one column phase lie in the picture, from source column `column` on; the others are zeros.
struct PhaseSpan {
  int64_t begin, end, column;
};

/// What one call stages: channels [channel, channel + channels) of pictures [image, image + images), for the outputs from
/// (firstRow, firstColumn) on. `spare` holds two source rows, `spans` one entry per column phase.
struct StageJob {
  const ImageView* view;
  const StagedAxis *y, *x;
  StageLayout layout;
  int64_t firstRow, firstColumn;
  int64_t image, images;
  int64_t channel, channels;
  char* target;
  char* spare;
  PhaseSpan* spans;
};

static inline void findSpans(const StageJob& job) {
  const StagedAxis& x = *job.x;
  const int64_t origin = originOf(x, job.firstColumn);
  for (int64_t phase = 0; phase < x.phases; ++phase) {
    const int64_t offset = x.residue[phase] - x.before;  // position r holds column stride · (r + origin) + offset
    const int64_t begin = least(most(ceilQuotient(-offset, x.stride) - origin, 0), job.layout.pitch);
    const int64_t end = least(most(ceilQuotient(x.source - offset, x.stride) - origin, begin), job.layout.pitch);
    job.spans[phase] = {begin, end, x.stride * (begin + origin) + offset};
  }
}

/// A source row as floats or bfloat16 bits: in place where memory holds them, else converted into `spare`.
static inline const float* rowElements(const ImageView& view, const char* source, int64_t count, float* spare) {
  if (view.storage == DType::float32 && view.format == DType::float32) return reinterpret_cast<const float*>(source);
  widenArray(view.storage, source, spare, count);
  if (view.format != view.storage) roundArray(view.format, spare, count);
  return spare;
}

static inline const uint16_t* rowElements(const ImageView& view, const char* source, int64_t count, uint16_t* spare) {
  if (view.storage == DType::bfloat16) return reinterpret_cast<const uint16_t*>(source);
  if (view.storage == DType::float32) {
    narrowBfloat16(reinterpret_cast<const float*>(source), spare, count);
    return spare;
  }
  float wide[256];
  for (int64_t i = 0; i < count; i += 256) {
    const int64_t length = least(count - i, 256);
    widenArray(view.storage, source + i * 2, wide, length);
    narrowBfloat16(wide, spare + i, length);
  }
  return spare;
}

/// Clears at least `byteLength` bytes and at most a vector more: what follows is written later, or is room to spare.
static inline void clearAhead(char* target, int64_t byteLength) {
  if (byteLength <= 0) return;
  storeVector(target, zeroVector());  // most often all: compilers make a call of the loop
  for (int64_t i = vectorByteLength; i < byteLength; i += vectorByteLength) storeVector(target + i, zeroVector());
}

template <typename Element>
static inline void copyElements(const Element* source, int64_t stride, int64_t count, Element* target) {
  if (stride != 1) {
    if (stride == 2)
      for (int64_t i = 0; i < count; ++i) target[i] = source[2 * i];
    else
      for (int64_t i = 0; i < count; ++i) target[i] = source[stride * i];
    return;
  }
  constexpr int64_t perVector = vectorByteLength / static_cast<int64_t>(sizeof(Element));
  int64_t i = 0;
  for (; i + perVector <= count; i += perVector) storeVector(target + i, loadVector(source + i));
  for (; i < count; ++i) target[i] = source[i];
}

static inline void interleave(const uint16_t* low, const uint16_t* high, int64_t stride, int64_t count,
                              uint32_t* target) {
  if (stride == 1)
    for (int64_t i = 0; i < count; ++i) target[i] = low[i] | static_cast<uint32_t>(high[i]) << 16;
  else
    for (int64_t i = 0; i < count; ++i)
      target[i] = low[stride * i] | static_cast<uint32_t>(high[stride * i]) << 16;
}

/// Writes one column phase of a staged row, `pitch` words, from a source row (and, for pairs, the next channel's; null:
/// zeros).
template <StagedAs as, typename Element>
static inline void stagePhase(PhaseSpan span, int64_t stride, int64_t pitch, const Element* low, const Element* high,
                              char* target) {
  constexpr int64_t size = as == StagedAs::bfloat16 ? 2 : 4;
  const int64_t count = span.end - span.begin;
  clearAhead(target, span.begin * size);
  if constexpr (as == StagedAs::channelPairs) {
    uint32_t* words = reinterpret_cast<uint32_t*>(target) + span.begin;
    if (high != nullptr) interleave(low + span.column, high + span.column, stride, count, words);
    else
      for (int64_t i = 0; i < count; ++i) words[i] = low[span.column + i * stride];
  } else {
    copyElements(low + span.column, stride, count, reinterpret_cast<Element*>(target) + span.begin);
  }
  clearAhead(target + span.end * size, (pitch - span.end) * size);
}

/// Rows copied as they are between zeros: `vectors` whole vectors, then `rest` bytes. Up to a vector of zeros before and after
/// the row, and up to one behind it, is written.
struct RowCopy {
  int64_t rows, sourceStep, targetStep, begin, end;  // in bytes; [begin, end) of a target row is copied
  int64_t vectors, rest;
};

template <int vectors>
static inline void copyRows(const RowCopy c, const char* source, char* target) {
  const int64_t count = vectors > 0 ? vectors : c.vectors;
  for (int64_t r = 0; r < c.rows; ++r, source += c.sourceStep, target += c.targetStep) {
    char* to = target + c.begin;
    storeVector(target, zeroVector());
    if constexpr (vectors > 0) {
#pragma GCC unroll 4
      for (int64_t v = 0; v < vectors; ++v)
        storeVector(to + v * vectorByteLength, loadVector(source + v * vectorByteLength));
    } else {
      for (int64_t v = 0; v < count; ++v)
        storeVector(to + v * vectorByteLength, loadVector(source + v * vectorByteLength));
      if (c.rest > 0) storeVector(to + count * vectorByteLength, readSome(source + count * vectorByteLength, c.rest));
    }
    storeVector(target + c.end, zeroVector());
  }
}

static inline void copyRows(const RowCopy& c, const char* source, char* target) {
  if (c.rest == 0 && c.vectors == 1) return copyRows<1>(c, source, target);
  if (c.rest == 0 && c.vectors == 2) return copyRows<2>(c, source, target);
  if (c.rest == 0 && c.vectors == 4) return copyRows<4>(c, source, target);
  copyRows<0>(c, source, target);
}

/// As copyRows, of 16-bit elements that become floats: `count` to a row, or (`fixed` > 0) as many as the compiler knows.
template <DType storage, int64_t fixed>
static inline void widenRows(const RowCopy c, int64_t count, const char* source, char* target) {
  const int64_t length = fixed > 0 ? fixed : count;
  for (int64_t r = 0; r < c.rows; ++r, source += c.sourceStep, target += c.targetStep) {
    const uint16_t* from = reinterpret_cast<const uint16_t*>(source);
    float* to = reinterpret_cast<float*>(target + c.begin);
    storeVector(target, zeroVector());
    if constexpr (storage == DType::bfloat16) widenBfloat16(from, to, length);
    else widenFloat16(from, to, length);
    storeVector(target + c.end, zeroVector());
  }
}

template <DType storage>
static inline void widenRows(const RowCopy& c, const char* source, char* target) {
  const int64_t count = (c.end - c.begin) / 4;
  if (count == 8) return widenRows<storage, 8>(c, count, source, target);
  if (count == 16) return widenRows<storage, 16>(c, count, source, target);
  if (count == 32) return widenRows<storage, 32>(c, count, source, target);
  widenRows<storage, 0>(c, count, source, target);
}

/// The elements of a row that both column phases of a stride of 2 take, in turns: where each phase begins and ends in a staged row, in
/// floats, and which of them takes the first.
struct RowSplit {
  int64_t column, elements;  // of the source
  int64_t begin[2], end[2];
  int first;
};

/// Whether the phases are such, with no more zeros around them than a vector holds.
static inline bool splitsRows(const PhaseSpan* spans, int64_t pitch, RowSplit* split) {
  const int first = spans[1].column < spans[0].column;
  const PhaseSpan &from = spans[first], &then = spans[1 - first];
  const int64_t counts[2] = {from.end - from.begin, then.end - then.begin};
  *split = {from.column, counts[0] + counts[1], {spans[0].begin, pitch + spans[1].begin}, {spans[0].end, pitch + spans[1].end}, first};
  if (counts[1] == 0 || then.column != from.column + 1 || counts[0] - counts[1] > 1 || counts[0] < counts[1]) return false;
  for (int phase = 0; phase < 2; ++phase)
    if (spans[phase].begin > vectorLanes || pitch - spans[phase].end > vectorLanes) return false;
  return true;
}

/// As much of a vector as `count` elements fill, and zeros.
static inline Vector readUpTo(const float* source, int64_t count) {
  return count >= vectorLanes ? loadVector(source) : count > 0 ? readSome(source, 4 * count) : zeroVector();
}

/// Writes both phases of one row from source[0] = element `column` on, of `pairs` whole pairs of vectors or (0) as many elements as the split
/// says. Each vector may reach past its phase, with zeros, into what is written after it: hence the backward walk, and the phase in front
/// before the other. Up to a vector behind the row is written.
template <int pairs>
static inline void splitRow(const RowSplit& split, int64_t pitch, const float* source, float* target) {
  storeVector(target, zeroVector());
  storeVector(target + split.end[0], zeroVector());
  storeVector(target + pitch, zeroVector());
  storeVector(target + split.end[1], zeroVector());
  const int64_t count = pairs > 0 ? pairs : partsOf(split.elements, 2 * vectorLanes);
#pragma GCC unroll 2
  for (int64_t pair = count - 1; pair >= 0; --pair) {
    const float* from = source + 2 * pair * vectorLanes;
    const int64_t left = split.elements - 2 * pair * vectorLanes;
    const Vector low = pairs > 0 ? loadVector(from) : readUpTo(from, left);
    const Vector high = pairs > 0 ? loadVector(from + vectorLanes) : readUpTo(from + vectorLanes, left - vectorLanes);
    Vector even, odd;
    splitLanes(low, high, &even, &odd);
    storeVector(target + split.begin[0] + pair * vectorLanes, split.first == 0 ? even : odd);
    storeVector(target + split.begin[1] + pair * vectorLanes, split.first == 0 ? odd : even);
  }
}

/// Splits `rows` rows, steps in bytes.
template <int pairs>
static inline void splitRows(const RowSplit split, int64_t pitch, int64_t rows, const char* source, int64_t sourceStep, char* target,
                             int64_t targetStep) {
  for (int64_t r = 0; r < rows; ++r, source += sourceStep, target += targetStep)
    splitRow<pairs>(split, pitch, reinterpret_cast<const float*>(source), reinterpret_cast<float*>(target));
}

static inline void splitRows(const RowSplit& split, int64_t pitch, int64_t rows, const char* source, int64_t sourceStep, char* target,
                             int64_t targetStep) {
  if (split.elements == 2 * vectorLanes) return splitRows<1>(split, pitch, rows, source, sourceStep, target, targetStep);
  if (split.elements == 4 * vectorLanes) return splitRows<2>(split, pitch, rows, source, sourceStep, target, targetStep);
  splitRows<0>(split, pitch, rows, source, sourceStep, target, targetStep);
}

/// Stages the rows of one phase of one channel (or pair). Everything is held in locals: what is written might alias a job.
template <StagedAs as, typename Element>
static inline void stageRows(const ImageView view, const StageLayout layout, const PhaseSpan* spans, int64_t phases,
                             int64_t stride, int64_t width, const char* plane, int64_t firstRow, int64_t rowStep,
                             int64_t rows, bool paired, char* spare, char* target) {
  constexpr int64_t size = as == StagedAs::bfloat16 ? 2 : 4;
  const int64_t element = byteLengthOfElement(view.storage), rowByteLength = layout.rowLength * size;
  const int64_t pitch = layout.pitch, sourceStep = view.strides[2] * element, other = view.strides[1] * element;
  // Staged row r is source row firstRow + r · rowStep; those of [begin, end) exist.
  const int64_t begin = least(most(ceilQuotient(-firstRow, rowStep), 0), layout.rows);
  const int64_t end = least(most(ceilQuotient(rows - firstRow, rowStep), begin), layout.rows);
  clearAhead(target, begin * rowByteLength);
  const PhaseSpan span = spans[0];
  const char* source = plane + (firstRow + begin * rowStep) * sourceStep;
  char* const last = target + end * rowByteLength;
  target += begin * rowByteLength;
  const int64_t copied = (span.end - span.begin) * size;
  const bool asStored = as != StagedAs::channelPairs && byteLengthOfElement(view.storage) == size &&
                        (size == 2 ? view.storage == DType::bfloat16 : view.format == DType::float32);
  const bool isRow = phases == 1 && stride == 1 && span.begin * size <= vectorByteLength &&
                     (pitch - span.end) * size <= vectorByteLength;
  const RowCopy copy = {end - begin, rowStep * sourceStep, rowByteLength, span.begin * size, span.end * size,
                        copied / vectorByteLength, copied % vectorByteLength};
  if (asStored && isRow) {
    copyRows(copy, source + span.column * size, target);
  } else if (as == StagedAs::floats && isRow && element == 2 && view.format == view.storage) {
    if (view.storage == DType::bfloat16) widenRows<DType::bfloat16>(copy, source + span.column * 2, target);
    else widenRows<DType::float16>(copy, source + span.column * 2, target);
  } else if (as != StagedAs::channelPairs && !asStored && phases == 1 && stride == 1) {
    for (; target < last; source += rowStep * sourceStep, target += rowByteLength) {  // converted where they belong
      clearAhead(target, span.begin * size);
      rowElements(view, source + span.column * element, span.end - span.begin,
                  reinterpret_cast<Element*>(target) + span.begin);
      clearAhead(target + span.end * size, (pitch - span.end) * size);
    }
  } else {
    RowSplit split;
    const bool splits = as == StagedAs::floats && phases == 2 && stride == 2 && splitsRows(spans, pitch, &split);
    Element* spares[2] = {reinterpret_cast<Element*>(spare), reinterpret_cast<Element*>(spare) + width};
    for (; target < last; source += rowStep * sourceStep, target += rowByteLength) {
      if constexpr (as == StagedAs::floats) {
        if (splits) {
          const float* row = rowElements(view, source + split.column * element, split.elements, spares[0]);
          splitRows(split, pitch, asStored ? end - begin : 1, reinterpret_cast<const char*>(row), rowStep * sourceStep, target,
                    rowByteLength);
          if (asStored) break;
          continue;
        }
      }
      const Element* low = rowElements(view, source, width, spares[0]);
      const Element* high = paired ? rowElements(view, source + other, width, spares[1]) : nullptr;
      for (int64_t phase = 0; phase < phases; ++phase)
        stagePhase<as>(spans[phase], stride, pitch, low, high, target + phase * pitch * size);
    }
  }
  clearAhead(last, (layout.rows - end) * rowByteLength);
}

/// Stages pictures as floats, bfloat16, or words of two channels' bfloat16. An odd last channel is paired with zeros.
template <StagedAs as, typename Element>
static void stageAs(const StageJob& job) {
  constexpr int64_t size = as == StagedAs::bfloat16 ? 2 : 4, perWord = as == StagedAs::channelPairs ? 2 : 1;
  const ImageView& view = *job.view;
  const StagedAxis& y = *job.y;
  const int64_t element = byteLengthOfElement(view.storage);
  for (int64_t image = job.image; image < job.image + job.images; ++image) {
    char* target = job.target + (image - job.image) * job.layout.imageLength * size;
    for (int64_t word = 0; word < job.layout.words; ++word) {
      const int64_t channel = job.channel + word * perWord;
      const bool paired = perWord == 2 && channel + 1 < job.channel + job.channels;
      const char* plane = static_cast<const char*>(view.data) +
                          (image * view.strides[0] + channel * view.strides[1]) * element;
      for (int64_t phase = 0; phase < y.phases; ++phase) {
        const int64_t row = y.stride * originOf(y, job.firstRow) + y.residue[phase] - y.before;
        stageRows<as, Element>(view, job.layout, job.spans, job.x->phases, job.x->stride, job.x->source, plane, row,
                               y.stride, y.source, paired, job.spare, target);
        target += job.layout.rows * job.layout.rowLength * size;
      }
    }
  }
}

/// Fills job.target, and up to a vector behind it.
static inline void stage(const StageJob& job, StagedAs as) {
  findSpans(job);
#if BINADE_PAIRS
  if (as == StagedAs::channelPairs) return stageAs<StagedAs::channelPairs, uint16_t>(job);
  if (as == StagedAs::bfloat16) return stageAs<StagedAs::bfloat16, uint16_t>(job);
#endif
  (void)as;
  stageAs<StagedAs::floats, float>(job);
}

/// Whether bfloat16 dot products compute this problem.
static inline bool multipliesPairs(const ImageView& a, const ImageView& b) {
  return BINADE_PAIRS && a.format == DType::bfloat16 && b.format == DType::bfloat16;
}

/// Pieces of a vector (1, 2 or 4) that fill rows of `width` elements, `perVector` to a vector, with the fewest vectors; one
/// more split has to save an eighth.
static inline int piecesFor(int64_t width, int64_t perVector) {
  int best = 1;
  int64_t cost = multipleOf(width, perVector) * 8;
  for (int pieces = 2; pieces <= 4; pieces *= 2) {
    const int64_t split = multipleOf(width, perVector / pieces) * (pieces == 2 ? 9 : 10);
    if (split < cost) {
      best = pieces;
      cost = split;
    }
  }
  return best;
}

}  // namespace BINADE_ISA
}  // namespace binade
