// Where a unit's part of a convolution's result goes: the sink's memory, or scratch that is handed to the sink.
#pragma once
#include "core.h"

namespace binade {
namespace BINADE_ISA {

/// Where sums go: (row, image, line, column) at data[row * rowStride + image * imageStride + line * lineStride + column].
struct Target {
  float* data;
  int64_t rowStride, imageStride, lineStride;
};

/// Part of the result: some images, channels (the rows of a target), and a rectangle of pixels in pictures of `pictureWidth` columns.
struct Region {
  int64_t image, images, channel, channels;
  int64_t top, left, height, width, pictureWidth;
};

/// The target of a region: in the sink's memory, or `sums`, (channels, images, height, width).
static inline Target targetOf(const ImageSink& sink, const Region& region, float* sums) {
  if (sink.direct == nullptr) {
    const int64_t pixels = region.height * region.width;
    return {sums, region.images * pixels, pixels, region.width};
  }
  float* data = sink.direct + region.image * sink.directImage + region.channel * sink.directChannel +
                region.top * region.pictureWidth + region.left;
  return {data, sink.directChannel, sink.directImage, region.pictureWidth};
}

/// Hands a region over that lies in `target`, unless the sink's memory is where it lies.
static inline void deliver(const ImageSink& sink, const Region& region, const Target& target, int worker) {
  if (sink.direct != nullptr) return;
  const bool whole = region.width == region.pictureWidth;  // else lines are delivered one by one
  const int64_t runs = whole ? 1 : region.height, pixels = whole ? region.height * region.width : region.width;
  for (int64_t image = 0; image < region.images; ++image)
    for (int64_t run = 0; run < runs; ++run)
      sink.write(sink.context, region.image + image, region.channel, region.channels,
                 (region.top + run) * region.pictureWidth + region.left, pixels,
                 target.data + image * target.imageStride + run * region.width, target.rowStride, worker);
}

}  // namespace BINADE_ISA
}  // namespace binade
