// Operands with their exact values beside them, and convolutions as float64 loops.
#pragma once
#include <cmath>
#include <vector>

#include "kernels/winograd.h"

using namespace binade;
using namespace binade::BINADE_ISA;

namespace {

uint32_t randomState = 1;

int64_t below(int64_t bound) {
  randomState = randomState * 1664525u + 1013904223u;
  return static_cast<int64_t>(randomState >> 8) % bound;
}

/// Multiples of 1/16 below 2: sums of them are exact in float32, whatever the order.
float randomValue() { return static_cast<float>(below(63) - 31) / 16.0f; }

/// An operand (a, b, rows, columns) whose rows lie `gap` elements apart, with its exact values beside it.
struct Stored {
  int64_t extents[4];
  ImageView view;
  std::vector<char> bytes;
  std::vector<double> values;

  Stored(int64_t a, int64_t b, int64_t rows, int64_t columns, DType storage, DType format, int64_t gap)
      : extents{a, b, rows, columns} {
    const int64_t row = columns + gap, size = storage == DType::float32 ? 4 : 2;
    bytes.assign(static_cast<size_t>(a * b * rows * row * size), static_cast<char>(0xff));  // gaps hold NaN
    values.resize(static_cast<size_t>(a * b * rows * columns));
    for (int64_t i = 0; i < a * b * rows; ++i) {
      for (int64_t j = 0; j < columns; ++j) {
        const float value = randomValue();
        narrowArray(storage, &value, bytes.data() + (i * row + j) * size, 1);
        values[static_cast<size_t>(i * columns + j)] = value;
      }
    }
    view = {bytes.data(), storage, format, {b * rows * row, rows * row, row}};
  }

  double at(int64_t a, int64_t b, int64_t y, int64_t x) const {
    return values[static_cast<size_t>(((a * extents[1] + b) * extents[2] + y) * extents[3] + x)];
  }
};

/// A 3×3 convolution whose result has the extents of its input.
ConvolutionProblem plainProblem(int64_t batch, int64_t channels, int64_t outputs, int64_t rows, int64_t columns) {
  ConvolutionProblem p = {};
  p.batch = batch;
  p.groups = 1;
  p.channels = channels;
  p.outputs = outputs;
  p.axes[0] = {rows, rows, 3, 1, 1, 1};
  p.axes[1] = {columns, columns, 3, 1, 1, 1};
  return p;
}

/// Adds x · w to the result of one form, wherever the convolution joins them.
void addAll(const ConvolutionProblem& p, int form, const Stored& x, const Stored& w, const Stored& g,
            std::vector<double>* result) {
  const ConvolutionAxis &ay = p.axes[0], &ax = p.axes[1];
  const int64_t inputs = p.groups * p.channels, outputs = p.groups * p.outputs;
  for (int64_t n = 0; n < p.batch; ++n)
    for (int64_t o = 0; o < outputs; ++o)
      for (int64_t oy = 0; oy < ay.output; ++oy)
        for (int64_t ox = 0; ox < ax.output; ++ox)
          for (int64_t c = 0; c < p.channels; ++c)
            for (int64_t ky = 0; ky < ay.kernel; ++ky)
              for (int64_t kx = 0; kx < ax.kernel; ++kx) {
                const int64_t y = oy * ay.stride + ky * ay.dilation - ay.before;
                const int64_t z = ox * ax.stride + kx * ax.dilation - ax.before;
                if (y < 0 || y >= ay.input || z < 0 || z >= ax.input) continue;
                const int64_t channel = o / p.outputs * p.channels + c;
                const size_t at[] = {static_cast<size_t>(((n * outputs + o) * ay.output + oy) * ax.output + ox),
                                     static_cast<size_t>(((n * inputs + channel) * ay.input + y) * ax.input + z),
                                     static_cast<size_t>(((o * p.channels + c) * ay.kernel + ky) * ax.kernel + kx)};
                const double xv = form == 1 ? 1 : x.at(n, channel, y, z), wv = form == 2 ? 1 : w.at(o, c, ky, kx);
                (*result)[at[form]] += xv * wv * (form == 0 ? 1 : g.at(n, o, oy, ox));
              }
}

/// The sum of |elements| of the square of `side` from (y, x) on of one plane; nothing lies outside.
double absoluteSum(const Stored& s, int64_t a, int64_t b, int64_t y, int64_t x, int64_t side) {
  double sum = 0;
  for (int64_t i = most(y, 0); i < least(y + side, s.extents[2]); ++i)
    for (int64_t j = most(x, 0); j < least(x + side, s.extents[3]); ++j) sum += std::fabs(s.at(a, b, i, j));
  return sum;
}

}  // namespace
