// Checks convolution and its gradients against float64 loops: geometries, formats, sinks, and bits for any worker count.
//
// bfloat16 subnormals are not among the inputs: vdpbf16ps, which the avx512bf16 kernels use, takes them as zeros.
// Argument: one case in so many is checked (for slow emulators).
#include "kernels/convolution.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "kernels/winograd.h"

using namespace binade;
using namespace binade::BINADE_ISA;

namespace {

int failures = 0;
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

struct Output {
  std::vector<float> data;
  int64_t channels, pixels;
};

void store(void* context, int64_t image, int64_t channel, int64_t channels, int64_t pixel, int64_t pixels,
           const float* tile, int64_t stride, int) {
  Output& output = *static_cast<Output*>(context);
  for (int64_t i = 0; i < channels; ++i)
    for (int64_t j = 0; j < pixels; ++j)
      output.data[static_cast<size_t>((image * output.channels + channel + i) * output.pixels + pixel + j)] +=
          tile[i * stride + j];
}

using Run = void (*)(Pool*, const ConvolutionProblem&, const ImageSink&);

template <bool gradient>
void directly(Pool* pool, const ConvolutionProblem& problem, const ImageSink& sink) {
  convolveDirectly(pool, problem, sink, gradient);
}
template <bool gradient>
void byTiles(Pool* pool, const ConvolutionProblem& problem, const ImageSink& sink) {
  convolveTiles(pool, problem, sink, gradient);
}

/// Each form by itself, and what it chooses between.
struct Path {
  const char* name;
  int form;  // 0: forward, 1: input gradient, 2: weight gradient
  bool tiles;
  Run run;
};
const Path paths[] = {{"forward", 0, false, convolutionForward},
                      {"input gradient", 1, false, convolutionInputGradient},
                      {"weight gradient", 2, false, convolutionWeightGradient},
                      {"forward, directly", 0, false, directly<false>},
                      {"input gradient, directly", 1, false, directly<true>},
                      {"forward by tiles", 0, true, byTiles<false>},
                      {"input gradient by tiles", 1, true, byTiles<true>}};

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

void report(const ConvolutionProblem& p, const Path& path, int variant, DType storage, DType format) {
  const ConvolutionAxis &ay = p.axes[0], &ax = p.axes[1];
  std::printf("%s, variant %d: %ld pictures, %ld groups of %ld to %ld, rows %ld to %ld by %ld/%ld/%ld-%ld, columns %ld to %ld by "
              "%ld/%ld/%ld-%ld, dtype %d as %d",
              path.name, variant, (long)p.batch, (long)p.groups, (long)p.channels, (long)p.outputs, (long)ay.input,
              (long)ay.output, (long)ay.kernel, (long)ay.stride, (long)ay.dilation, (long)ay.before, (long)ax.input,
              (long)ax.output, (long)ax.kernel, (long)ax.stride, (long)ax.dilation, (long)ax.before, (int)storage, (int)format);
}

void check(const ConvolutionProblem& base, DType storage, DType format, int64_t gap, Pool* one, Pool* three) {
  ConvolutionProblem p = base;
  const ConvolutionAxis &ay = p.axes[0], &ax = p.axes[1];
  const int64_t inputs = p.groups * p.channels, outputs = p.groups * p.outputs;
  const Stored x(p.batch, inputs, ay.input, ax.input, storage, format, gap);
  const Stored w(outputs, p.channels, ay.kernel, ax.kernel, storage, format, gap);
  const Stored g(p.batch, outputs, ay.output, ax.output, storage, format, gap);
  p.x = x.view;
  p.w = w.view;
  p.g = g.view;
  const int64_t channels[] = {outputs, inputs, outputs};
  const int64_t pixels[] = {ay.output * ax.output, ay.input * ax.input, p.channels * ay.kernel * ax.kernel};
  for (int form = 0; form < 3; ++form) {
    const int64_t images = form == 2 ? 1 : p.batch;
    const size_t size = static_cast<size_t>(images * channels[form] * pixels[form]);
    std::vector<double> expected(size, 0.0);
    addAll(p, form, x, w, g, &expected);
    for (const Path& path : paths) {
      if (path.form != form || (path.tiles && !fitsTiles(p))) continue;
      for (int variant = 0; variant < 3; ++variant) {
        Output output{std::vector<float>(size, variant == 1 ? NAN : 0.0f), channels[form], pixels[form]};
        ImageSink sink = {store, &output, nullptr, channels[form] * pixels[form], pixels[form]};
        if (variant == 1) sink.direct = output.data.data();
        path.run(variant == 2 ? three : one, p, sink);
        for (size_t i = 0; i < size; ++i) {
          if (output.data[i] == static_cast<float>(expected[i])) continue;
          if (++failures > 10) return;
          report(p, path, variant, storage, format);
          std::printf(": [%zu] is %g instead of %g\n", i, output.data[i], expected[i]);
          break;
        }
      }
    }
  }
}

/// An axis of about `input` elements; the geometry of one in three is the plain one of residual networks.
ConvolutionAxis axisOf(int64_t input) {
  const bool plain = below(3) == 0;
  for (;;) {
    ConvolutionAxis axis = {input, 0, 1 + below(4), 1 + below(3), 1 + below(2), below(4) - 1};
    if (plain) axis = {input, 0, 3, 1 + below(2), 1, 1};
    const int64_t after = plain ? 1 : below(4) - 1;
    const int64_t slack = input + axis.before + after - (axis.kernel - 1) * axis.dilation - 1;
    if (slack < 0) continue;
    axis.output = slack / axis.stride + 1;
    return axis;
  }
}

/// A kernel of 3 with any padding.
ConvolutionAxis tiledAxisOf(int64_t input) {
  for (;;) {
    const int64_t before = below(5) - 1, output = input + before + below(5) - 3;
    if (output > 0) return {input, output, 3, 1, 1, before};
  }
}

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

struct Filtered {
  Stored x, w;
  ConvolutionProblem problem;

  explicit Filtered(const ConvolutionProblem& p)
      : x(p.batch, p.channels, p.axes[0].input, p.axes[1].input, DType::float32, DType::float32, 0),
        w(p.outputs, p.channels, 3, 3, DType::float32, DType::float32, 0),
        problem(p) {
    problem.x = x.view;
    problem.w = w.view;
  }

  std::vector<float> byTiles(Pool* pool) const {
    const int64_t pixels = problem.axes[0].output * problem.axes[1].output;
    std::vector<float> result(static_cast<size_t>(problem.batch * problem.outputs * pixels));
    convolveTiles(pool, problem, {nullptr, nullptr, result.data(), problem.outputs * pixels, pixels}, false);
    return result;
  }
};

/// Sums that round. With Σ|w| over an output's channels and taps, and d the largest element: |Bᵀ d B| <= 4 d, Σ|A| |G w Gᵀ| |A| <= 4 Σ|w|,
/// and each product passes through at most channels + 12 roundings, of the transforms and of sums.
void checkRounding(Pool* pool) {
  const int64_t channels = 24, outputs = 7, size = 13;
  Filtered f(plainProblem(2, channels, outputs, size, size));
  for (Stored* operand : {&f.x, &f.w}) {
    float* data = reinterpret_cast<float*>(operand->bytes.data());
    for (size_t i = 0; i < operand->values.size(); ++i)
      operand->values[i] = data[i] = (static_cast<float>(below(1 << 20)) - 0.5e6f) / 0.5e6f;
  }
  const std::vector<float> got = f.byTiles(pool);
  std::vector<double> expected(got.size(), 0.0);
  addAll(f.problem, 0, f.x, f.w, f.x, &expected);
  for (size_t i = 0; i < got.size(); ++i) {
    const size_t output = i / static_cast<size_t>(size * size) % outputs;
    double weights = 0, largest = 1.1;
    for (size_t j = 0; j < channels * 9; ++j) weights += std::fabs(f.w.values[output * channels * 9 + j]);
    const double bound = 16 * weights * largest * (channels + 12) * std::ldexp(1.0, -24);
    if (std::fabs(got[i] - expected[i]) <= bound) continue;
    std::printf("rounding: [%zu] is %.9g instead of %.9g, more than %g apart\n", i, got[i], expected[i], bound);
    ++failures;
    return;
  }
}

/// An infinity becomes finite nowhere, and touches only the tiles that it is in.
void checkInfinity(Pool* pool) {
  const int64_t size = 11;
  Filtered f(plainProblem(1, 9, 8, size, size));
  const std::vector<float> finite = f.byTiles(pool);
  for (int64_t y = 0; y < size; ++y) {
    for (int64_t x = 0; x < size; ++x) {
      float& pixel = reinterpret_cast<float*>(f.x.bytes.data())[(4 * size + y) * size + x];
      const float kept = pixel;
      pixel = INFINITY;
      const std::vector<float> got = f.byTiles(pool);
      pixel = kept;
      for (size_t i = 0; i < got.size(); ++i) {
        const int64_t row = static_cast<int64_t>(i) / size % size, column = static_cast<int64_t>(i) % size;
        const bool sees = std::abs(row - y) <= 1 && std::abs(column - x) <= 1;
        const auto inTile = [](int64_t output, int64_t at) { return at >= output / 2 * 2 - 1 && at <= output / 2 * 2 + 2; };
        if (sees ? !std::isfinite(got[i]) : (inTile(row, y) && inTile(column, x)) || got[i] == finite[i]) continue;
        std::printf("an infinity at (%ld, %ld): output %ld, %ld is %g\n", (long)y, (long)x, (long)row, (long)column, got[i]);
        ++failures;
        return;
      }
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  const int share = argc > 1 ? std::atoi(argv[1]) : 1;
  Pool* one = createPool(1);
  Pool* three = createPool(3);
  const DType kinds[][2] = {{DType::float32, DType::float32},
                            {DType::bfloat16, DType::bfloat16},
                            {DType::float16, DType::float16},
                            {DType::float32, DType::bfloat16}};
  const int64_t widths[] = {1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 24, 31, 32, 33, 40, 64};
  int cases = 0;
  for (int64_t width : widths) {
    for (int repeat = 0; repeat < 6; ++repeat) {
      ConvolutionProblem p = {};
      p.batch = 1 + below(width < 6 ? 40 : 3);
      p.groups = below(3) == 0 ? 1 + below(4) : 1;
      p.channels = 1 + below(repeat == 0 ? 40 : 5);
      p.outputs = 1 + below(repeat == 1 ? 40 : 9);
      p.axes[0] = axisOf(1 + below(width < 10 ? 10 : 5));
      p.axes[1] = axisOf(width);
      const int64_t gap = below(3) == 0 ? 3 : 0;
      for (const DType(&kind)[2] : kinds)
        if (cases++ % share == 0) check(p, kind[0], kind[1], gap, one, three);
    }
  }
  // Bands of rows and of columns, pictures beyond a chunk of channels.
  const int64_t large[][5] = {{1, 2, 3, 60, 40}, {1, 1, 2, 3, 2300}, {2, 90, 2, 5, 6}, {1, 2, 2, 1, 4500}};
  for (const int64_t(&size)[5] : large) {
    ConvolutionProblem p = {};
    p.batch = size[0];
    p.groups = 1;
    p.channels = size[1];
    p.outputs = size[2];
    p.axes[0] = size[3] == 1 ? ConvolutionAxis{1, 1, 1, 1, 1, 0} : ConvolutionAxis{size[3], size[3], 3, 1, 1, 1};
    p.axes[1] = {size[4], (size[4] - 1) / 2 + 1, 3, 2, 1, 1};
    for (const DType(&kind)[2] : kinds)
      if (cases++ % share == 0) check(p, kind[0], kind[1], 0, one, three);
  }
  for (int64_t width : widths) {
    for (int repeat = 0; repeat < 8; ++repeat) {
      ConvolutionProblem p = {};
      p.batch = 1 + below(width < 6 ? 40 : 3);
      p.groups = 1 + (repeat < 2 ? below(3) : 0);
      p.channels = 1 + below(repeat == 2 ? 40 : 9);
      p.outputs = 1 + below(repeat == 3 ? 40 : 9);
      p.axes[0] = tiledAxisOf(1 + below(width < 17 ? 20 : 5));
      p.axes[1] = tiledAxisOf(width);
      const int64_t gap = below(3) == 0 ? 3 : 0;
      const DType(&kind)[2] = kinds[(repeat + width) % 4];
      if (cases++ % share == 0) check(p, kind[0], kind[1], gap, one, three);
    }
  }
  // Bands of rows and of columns of tiles, channels beyond what is staged at once, pictures in several units.
  const int64_t tiled[][5] = {{1, 18, 3, 60, 40}, {1, 3, 2, 3, 2300}, {2, 90, 17, 10, 6}, {37, 6, 7, 8, 8}};
  for (const int64_t(&size)[5] : tiled) {
    const ConvolutionProblem p = plainProblem(size[0], size[1], size[2], size[3], size[4]);
    for (const DType(&kind)[2] : kinds)
      if (cases++ % share == 0) check(p, kind[0], kind[1], 0, one, three);
  }
  checkRounding(one);
  checkInfinity(one);
  destroyPool(one);
  destroyPool(three);
  if (failures > 0) std::printf("%d failures\n", failures);
  return failures > 0 ? 1 : 0;
}
