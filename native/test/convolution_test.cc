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

#include "convolution_reference.h"

namespace {

int failures = 0;
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
  convolveByTiles(pool, problem, sink, gradient);
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
                      {"weight gradient, directly", 2, false, weightGradientDirectly},
                      {"forward by tiles", 0, true, byTiles<false>},
                      {"input gradient by tiles", 1, true, byTiles<true>},
                      {"weight gradient by tiles", 2, true, weightGradientByTiles}};

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
    convolveByTiles(pool, problem, {nullptr, nullptr, result.data(), problem.outputs * pixels, pixels}, false);
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

/// A weight gradient of float32 pictures.
struct FilteredGradient {
  Stored x, g;
  ConvolutionProblem problem;

  explicit FilteredGradient(const ConvolutionProblem& p)
      : x(p.batch, p.channels, p.axes[0].input, p.axes[1].input, DType::float32, DType::float32, 0),
        g(p.batch, p.outputs, p.axes[0].output, p.axes[1].output, DType::float32, DType::float32, 0),
        problem(p) {
    problem.x = x.view;
    problem.g = g.view;
  }

  std::vector<float> byTiles(Pool* pool) const {
    const int64_t taps = problem.channels * 9;
    std::vector<float> result(static_cast<size_t>(problem.outputs * taps));
    weightGradientByTiles(pool, problem, {nullptr, nullptr, result.data(), problem.outputs * taps, taps});
    return result;
  }
};

/// Sums that round. Every position of a tile is at most Σ|g| Σ|d|, of its 4 cotangents and 16 inputs; a weight takes 9 of the 16, by axis
/// with factors 1, 1/2 and 1/2, so 4 in all; each product passes through at most tiles + 12 roundings: 4 of the transforms of its factors,
/// its own addition and those of later tiles, which joining units and parts makes no more of, and 4 of the transform of sums.
void checkGradientRounding(Pool* pool) {
  const int64_t size = 13, tiles = (size + 1) / 2;
  FilteredGradient f(plainProblem(3, 9, 19, size, size));
  for (Stored* operand : {&f.x, &f.g}) {
    float* data = reinterpret_cast<float*>(operand->bytes.data());
    for (size_t i = 0; i < operand->values.size(); ++i)
      operand->values[i] = data[i] = (static_cast<float>(below(1 << 20)) - 0.5e6f) / 0.5e6f;
  }
  const std::vector<float> got = f.byTiles(pool);
  std::vector<double> expected(got.size(), 0.0);
  addAll(f.problem, 2, f.x, f.x, f.g, &expected);
  for (int64_t o = 0; o < f.problem.outputs; ++o) {
    for (int64_t c = 0; c < f.problem.channels; ++c) {
      double products = 0;
      for (int64_t n = 0; n < f.problem.batch; ++n)
        for (int64_t t = 0; t < tiles * tiles; ++t) {
          const int64_t y = t / tiles * 2, x = t % tiles * 2;
          products += absoluteSum(f.g, n, o, y, x, 2) * absoluteSum(f.x, n, c, y - 1, x - 1, 4);
        }
      const double bound = 4 * products * static_cast<double>(f.problem.batch * tiles * tiles + 12) * std::ldexp(1.0, -24);
      for (int64_t t = 0; t < 9; ++t) {
        const size_t i = static_cast<size_t>((o * f.problem.channels + c) * 9 + t);
        if (std::fabs(got[i] - expected[i]) <= bound) continue;
        std::printf("rounding: weight [%zu] is %.9g instead of %.9g, more than %g apart\n", i, got[i], expected[i], bound);
        ++failures;
        return;
      }
    }
  }
}

/// An infinity at one place of one picture, of an input or (cotangent) of a cotangent, becomes finite in no weight that takes it, and
/// touches weights of its own channel or output alone; none at all if no output sees it.
void checkGradientInfinity(const ConvolutionProblem& p, bool cotangent, Pool* pool) {
  FilteredGradient f(p);
  const std::vector<float> finite = f.byTiles(pool);
  Stored& operand = cotangent ? f.g : f.x;
  const int64_t rows = operand.extents[2], columns = operand.extents[3], plane = 1;
  const auto takes = [&](const ConvolutionAxis& axis, int64_t tap, int64_t at) {
    const int64_t other = cotangent ? at + tap - axis.before : at + axis.before - tap;
    return other >= 0 && other < (cotangent ? axis.input : axis.output);
  };
  const auto seen = [&](const ConvolutionAxis& axis, int64_t at) { return takes(axis, 0, at) || takes(axis, 1, at) || takes(axis, 2, at); };
  for (int64_t at = 0; at < rows * columns; ++at) {
    const int64_t y = at / columns, x = at % columns;
    float& element = reinterpret_cast<float*>(operand.bytes.data())[plane * rows * columns + at];
    const float kept = element;
    element = INFINITY;
    const std::vector<float> got = f.byTiles(pool);
    element = kept;
    for (int64_t i = 0; i < static_cast<int64_t>(got.size()); ++i) {
      const int64_t channel = i / 9 % p.channels, output = i / 9 / p.channels, ky = i % 9 / 3, kx = i % 3;
      const bool own = (cotangent ? output : channel) == plane;
      const bool taken = own && takes(p.axes[0], ky, y) && takes(p.axes[1], kx, x);
      const bool free = own && seen(p.axes[0], y) && seen(p.axes[1], x);
      const size_t place = static_cast<size_t>(i);
      if (taken ? !std::isfinite(got[place]) : free || got[place] == finite[place]) continue;
      std::printf("an infinity at (%ld, %ld) of %s: weight [%ld] is %g\n", (long)y, (long)x, cotangent ? "a cotangent" : "an input",
                  (long)i, got[place]);
      ++failures;
      return;
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
  const int64_t tiled[][5] = {{1, 18, 3, 60, 40}, {1, 3, 2, 3, 2300}, {2, 90, 17, 10, 6}, {37, 6, 7, 8, 8}, {3, 5, 150, 6, 9}, {1, 8, 9, 4, 88}};
  for (const int64_t(&size)[5] : tiled) {
    const ConvolutionProblem p = plainProblem(size[0], size[1], size[2], size[3], size[4]);
    for (const DType(&kind)[2] : kinds)
      if (cases++ % share == 0) check(p, kind[0], kind[1], 0, one, three);
  }
  checkRounding(one);
  checkInfinity(one);
  checkGradientRounding(one);
  // Same extents; an odd result that crops its input, so that its last tiles reach beyond what any output sees.
  ConvolutionProblem cropped = plainProblem(1, 3, 5, 11, 11);
  cropped.axes[0] = {11, 7, 3, 1, 1, -1};
  cropped.axes[1] = {11, 5, 3, 1, 1, -2};
  for (const ConvolutionProblem& problem : {plainProblem(1, 3, 5, 11, 11), cropped})
    for (const bool cotangent : {false, true}) checkGradientInfinity(problem, cotangent, one);
  destroyPool(one);
  destroyPool(three);
  if (failures > 0) std::printf("%d failures\n", failures);
  return failures > 0 ? 1 : 0;
}
