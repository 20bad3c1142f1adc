// Pictures that are read next, fetched into the caches a little at a time while the ones before are multiplied. Changes no bit.
#pragma once
#include "convolution_layout.h"

namespace binade {
namespace BINADE_ISA {

/// What is left to fetch, and how much of it at once: `pieces` of one length, a distance apart.
struct Ahead {
  const char* at;
  int64_t left, pieces;  // of the piece at `at`; pieces, this one included
  int64_t byteLength, gap, step;

  void fetch() {
    for (int64_t wanted = pieces > 0 ? step : 0; wanted > 0;) {
      const int64_t count = least(wanted, left);
      for (const char* const end = at + count; at < end; at += 64) __builtin_prefetch(at, 0, 2);
      wanted -= count;
      left -= count;
      if (left > 0) continue;
      if (--pieces == 0) return;
      at += gap;
      left = byteLength;
    }
  }
};

/// Channels [channel, channel + channels) of pictures of `rows` by `columns` pixels, fetched in `calls` parts; nothing where a channel has
/// gaps. Pieces are whole cache lines: of others, up to a line more is fetched.
static inline Ahead fetchAhead(const ImageView& view, int64_t image, int64_t images, int64_t channel, int64_t channels,
                               int64_t rows, int64_t columns, int64_t calls) {
  const int64_t pixels = rows * columns;
  if (view.strides[2] != columns || view.strides[1] != pixels || calls == 0) return {};
  const int64_t element = byteLengthOfElement(view.storage), byteLength = multipleOf(channels * pixels * element, 64);
  const char* at = static_cast<const char*>(view.data) + (image * view.strides[0] + channel * view.strides[1]) * element;
  return {at, byteLength, images, byteLength, view.strides[0] * element - byteLength,
          multipleOf(partsOf(images * byteLength, calls), 64)};
}

/// As fetchAhead, of `rows` rows of one picture from `row` on.
static inline Ahead fetchRowsAhead(const ImageView& view, int64_t image, int64_t channel, int64_t channels, int64_t row,
                                   int64_t rows, int64_t columns, int64_t calls) {
  if (view.strides[2] != columns || calls == 0) return {};
  const int64_t element = byteLengthOfElement(view.storage), byteLength = multipleOf(rows * columns * element, 64);
  const char* at = static_cast<const char*>(view.data) +
                   (image * view.strides[0] + channel * view.strides[1] + row * view.strides[2]) * element;
  return {at, byteLength, channels, byteLength, view.strides[1] * element - byteLength,
          multipleOf(partsOf(channels * byteLength, calls), 64)};
}

}  // namespace BINADE_ISA
}  // namespace binade
