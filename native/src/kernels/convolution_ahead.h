// Pictures that are read next, fetched into the caches a little at a time while the ones before are multiplied. Changes no bit.
#pragma once
#include "convolution_layout.h"

namespace binade {
namespace BINADE_ISA {

/// What is left to fetch, and how much of it at once.
struct Ahead {
  const char* at;
  int64_t byteLength, step;

  void fetch() {
    const char* const end = at + least(step, byteLength);
    byteLength -= end - at;
    for (; at < end; at += 64) __builtin_prefetch(at, 0, 2);
  }
};

/// Channels [channel, channel + channels) of pictures of `pixels` pixels, fetched in `calls` parts; nothing where they have gaps.
static inline Ahead fetchAhead(const ImageView& view, int64_t image, int64_t images, int64_t channel, int64_t channels,
                               int64_t rows, int64_t columns, int64_t calls) {
  const int64_t pixels = rows * columns;
  const bool dense = view.strides[2] == columns && view.strides[1] == pixels &&
                     (images == 1 || view.strides[0] == channels * pixels);
  if (!dense || calls == 0) return {nullptr, 0, 0};
  const int64_t element = byteLengthOfElement(view.storage), byteLength = images * channels * pixels * element;
  const char* at = static_cast<const char*>(view.data) + (image * view.strides[0] + channel * view.strides[1]) * element;
  return {at, byteLength, multipleOf(partsOf(byteLength, calls), 64)};
}

}  // namespace BINADE_ISA
}  // namespace binade
