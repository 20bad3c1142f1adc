// Pooling and resampling: every plane (rows × columns) is widened to float32, seen through the taps of its two axes, and
// rounded once. A plane is one task's, so that sums have one order whatever the number of workers.
#include "kernels.h"
#include "loops.h"
#include "vm_math.h"

namespace binade {
namespace BINADE_ISA {

/// Lanes of one worker, 16 to a step: the plane that is read, the one that is written, a row of each, taps of a row.
struct Workspace {
  float* source;
  float* target;
  float* inputRow;   // (columns.input)
  float* outputRow;  // (columns.output)
  int32_t* taps;     // (columns.output)
};

struct PlaneRun {
  const Run& run;
  const PlaneKernel& kernel;
  int64_t inputSize, outputSize;
  int64_t planesPerTask;
};

static int64_t padded(int64_t lanes) { return (lanes + 15) & ~int64_t{15}; }

static Workspace allocateWorkspace(const PlaneRun& plane, int worker) {
  const PlaneKernel& kernel = plane.kernel;
  const int64_t lanes = padded(larger(plane.inputSize, plane.outputSize));
  const int64_t input = padded(kernel.columns.input), output = padded(kernel.columns.output);
  const size_t byteLength = static_cast<size_t>(2 * lanes + input + 2 * output) * sizeof(float);
  float* data = static_cast<float*>(scratch(plane.run.pool, worker, kRowSlot, byteLength));
  float* rows = data + 2 * lanes;
  return {data, data + lanes, rows, rows + input, reinterpret_cast<int32_t*>(rows + input + output)};
}

static int64_t byteLengthOf(DType dtype) {
  if (dtype == DType::float32 || dtype == DType::int32) return 4;
  return dtype == DType::float16 || dtype == DType::bfloat16 ? 2 : 1;
}

static bool isPresent(const PlaneKernel& kernel, int place) { return kernel.refs[place].binding >= 0; }

/// Where plane `index` of array `place` begins.
static uint8_t* planeAt(const PlaneRun& plane, int place, int64_t index, int64_t size) {
  return bytesAt(plane.run, plane.kernel.refs[place]) + index * size * byteLengthOf(plane.kernel.dtypes[place]);
}

/// The input plane as float32 lanes: where it lies, or widened.
static const float* readPlane(const PlaneRun& plane, int64_t index, int64_t size, float* lanes) {
  const uint8_t* source = planeAt(plane, 0, index, size);
  if (plane.kernel.dtypes[0] == DType::float32) return reinterpret_cast<const float*>(source);
  widenArray(plane.kernel.dtypes[0], source, lanes, size);
  return lanes;
}

/// Where a result plane is computed: in place if it is float32.
static float* resultPlane(const PlaneRun& plane, int64_t index, int64_t size, float* lanes) {
  if (!isPresent(plane.kernel, 2) || plane.kernel.dtypes[2] != DType::float32) return lanes;
  return reinterpret_cast<float*>(planeAt(plane, 2, index, size));
}

static void storePlane(const PlaneRun& plane, int64_t index, int64_t size, const float* lanes) {
  if (!isPresent(plane.kernel, 2) || plane.kernel.dtypes[2] == DType::float32) return;
  narrowArray(plane.kernel.dtypes[2], lanes, planeAt(plane, 2, index, size), size);
}

static void fill(float* lanes, float value, int64_t count) {
  for (int64_t i = 0; i < count; ++i) lanes[i] = value;
}

static void addScaled(float* __restrict sums, const float* __restrict lanes, float weight, int64_t count) {
  for (int64_t i = 0; i < count; ++i) sums[i] += weight * lanes[i];
}

/// A stride that the compiler knows.
template <int64_t kStride>
struct Step {
  constexpr operator int64_t() const { return kStride; }
};

/// Calls body(stride, low, high, first) with the stride as a constant where it is 1 or 2: such loops vectorise.
template <typename F>
static inline void withStride(const PlaneAxis& axis, int64_t tap, F body) {
  const int64_t low = axis.low[tap], high = axis.high[tap], first = axis.first[tap];
  if (axis.stride == 1) body(Step<1>{}, low, high, first);
  else if (axis.stride == 2) body(Step<2>{}, low, high, first);
  else body(axis.stride, low, high, first);
}

/// output (axis.output) += weight · row (axis.input) at tap `tap`.
static void gatherTap(const PlaneAxis& axis, int64_t tap, const float* __restrict row, float* __restrict output) {
  if (axis.stride != 0 && !axis.weighted) {
    return withStride(axis, tap, [=](auto stride, int64_t low, int64_t high, int64_t first) {
      const float* source = row + first;
      for (int64_t i = low; i < high; ++i) output[i] += source[i * stride];
    });
  }
  const int32_t* positions = axis.positions + tap * axis.output;
  const float* weights = axis.weights + tap * axis.output;
  for (int64_t i = 0; i < axis.output; ++i) {
    if (positions[i] >= 0) output[i] += weights[i] * row[positions[i]];
  }
}

/// The transpose: row (axis.input) += weight · output (axis.output) at tap `tap`. In order of the output positions.
static void scatterTap(const PlaneAxis& axis, int64_t tap, const float* __restrict output, float* __restrict row) {
  if (axis.stride > 0 && !axis.weighted) {
    return withStride(axis, tap, [=](auto stride, int64_t low, int64_t high, int64_t first) {
      float* target = row + first;
      for (int64_t i = low; i < high; ++i) target[i * stride] += output[i];
    });
  }
  const int32_t* positions = axis.positions + tap * axis.output;
  const float* weights = axis.weights + tap * axis.output;
  for (int64_t i = 0; i < axis.output; ++i) {
    if (positions[i] >= 0) row[positions[i]] += weights[i] * output[i];
  }
}

/// The sum of the rows of x that output row `out` sees, weighted; the row itself if it is one of weight 1.
static const float* gatherRows(const PlaneKernel& kernel, const float* x, int64_t out, float* sums) {
  const PlaneAxis& rows = kernel.rows;
  const int64_t width = kernel.columns.input;
  if (rows.count == 1 && !rows.weighted && rows.positions[out] >= 0) return x + rows.positions[out] * width;
  fill(sums, 0.0f, width);
  for (int64_t tap = 0; tap < rows.count; ++tap) {
    const int64_t at = tap * rows.output + out;
    if (rows.positions[at] >= 0) addScaled(sums, x + rows.positions[at] * width, rows.weights[at], width);
  }
  return sums;
}

static bool isDivided(const PlaneKernel& kernel) { return kernel.rows.divided || kernel.columns.divided; }

static void resample(const PlaneRun& plane, int64_t index, const Workspace& work) {
  const PlaneKernel& kernel = plane.kernel;
  const PlaneAxis& columns = kernel.columns;
  const float* x = readPlane(plane, index, plane.inputSize, work.source);
  float* y = resultPlane(plane, index, plane.outputSize, work.target);
  for (int64_t out = 0; out < kernel.rows.output; ++out) {
    float* row = y + out * columns.output;
    const float* sums = gatherRows(kernel, x, out, work.inputRow);
    fill(row, 0.0f, columns.output);
    for (int64_t tap = 0; tap < columns.count; ++tap) gatherTap(columns, tap, sums, row);
    if (!isDivided(kernel)) continue;
    for (int64_t i = 0; i < columns.output; ++i) row[i] /= kernel.rows.divisors[out] * columns.divisors[i];
  }
  storePlane(plane, index, plane.outputSize, y);
}

static void resampleBackward(const PlaneRun& plane, int64_t index, const Workspace& work) {
  const PlaneKernel& kernel = plane.kernel;
  const PlaneAxis &rows = kernel.rows, &columns = kernel.columns;
  const float* g = readPlane(plane, index, plane.outputSize, work.source);
  float* dx = resultPlane(plane, index, plane.inputSize, work.target);
  fill(dx, 0.0f, plane.inputSize);
  for (int64_t out = 0; out < rows.output; ++out) {
    const float* row = g + out * columns.output;
    if (isDivided(kernel)) {
      for (int64_t i = 0; i < columns.output; ++i) work.outputRow[i] = row[i] / (rows.divisors[out] * columns.divisors[i]);
      row = work.outputRow;
    }
    fill(work.inputRow, 0.0f, columns.input);
    for (int64_t tap = 0; tap < columns.count; ++tap) scatterTap(columns, tap, row, work.inputRow);
    for (int64_t tap = 0; tap < rows.count; ++tap) {
      const int64_t at = tap * rows.output + out;
      if (rows.positions[at] < 0) continue;
      addScaled(dx + rows.positions[at] * columns.input, work.inputRow, rows.weights[at], columns.input);
    }
  }
  storePlane(plane, index, plane.inputSize, dx);
}

/// Whether `value`, met later, takes the place of `best`, found at tap `found` (−1: nothing yet): the first maximum stays,
/// and NaN, met first, stays for good.
static inline bool replaces(float value, float best, int32_t found) {
  return (value > best) | ((value != value) & (best == best)) | (found < 0);
}

/// best (axis.output) and taps: greatest so far and where, after tap `tap` of the row, which is number `number` in the window.
static void takeTap(const PlaneAxis& axis, int64_t tap, const float* __restrict row, int32_t number,
                    float* __restrict best, int32_t* __restrict taps) {
  const auto take = [=](int64_t i, float value) {
    const bool replace = replaces(value, best[i], taps[i]);
    best[i] = replace ? value : (value == best[i] ? maxOf(value, best[i]) : best[i]);  // +0 is above -0
    taps[i] = replace ? number : taps[i];
  };
  if (axis.stride != 0) {
    return withStride(axis, tap, [=](auto stride, int64_t low, int64_t high, int64_t first) {
      const float* source = row + first;
      BINADE_INDEPENDENT
      for (int64_t i = low; i < high; ++i) take(i, source[i * stride]);
    });
  }
  const int32_t* positions = axis.positions + tap * axis.output;
  for (int64_t i = 0; i < axis.output; ++i) {
    if (positions[i] >= 0) take(i, row[positions[i]]);
  }
}

static void storeTaps(const PlaneRun& plane, int64_t first, const int32_t* taps, int64_t count) {
  if (!isPresent(plane.kernel, 3)) return;
  uint8_t* target = bytesAt(plane.run, plane.kernel.refs[3]);
  if (plane.kernel.dtypes[3] == DType::uint8) {
    for (int64_t i = 0; i < count; ++i) target[first + i] = static_cast<uint8_t>(taps[i]);
  } else {
    for (int64_t i = 0; i < count; ++i) reinterpret_cast<int32_t*>(target)[first + i] = taps[i];
  }
}

static void maxPool(const PlaneRun& plane, int64_t index, const Workspace& work) {
  const PlaneAxis &rows = plane.kernel.rows, &columns = plane.kernel.columns;
  const float* x = readPlane(plane, index, plane.inputSize, work.source);
  float* y = resultPlane(plane, index, plane.outputSize, work.target);
  for (int64_t out = 0; out < rows.output; ++out) {
    float* best = y + out * columns.output;
    fill(best, -__builtin_inff(), columns.output);
    for (int64_t i = 0; i < columns.output; ++i) work.taps[i] = -1;
    for (int64_t tap = 0; tap < rows.count; ++tap) {
      const int32_t position = rows.positions[tap * rows.output + out];
      if (position < 0) continue;
      const float* row = x + position * columns.input;
      for (int64_t column = 0; column < columns.count; ++column) {
        takeTap(columns, column, row, static_cast<int32_t>(tap * columns.count + column), best, work.taps);
      }
    }
    storeTaps(plane, index * plane.outputSize + out * columns.output, work.taps, columns.output);
  }
  storePlane(plane, index, plane.outputSize, y);
}

static int64_t tapAt(const PlaneRun& plane, int64_t element) {
  const uint8_t* taps = bytesAt(plane.run, plane.kernel.refs[1]);
  if (plane.kernel.dtypes[1] == DType::uint8) return taps[element];
  return reinterpret_cast<const int32_t*>(taps)[element];
}

/// A tap that the window does not have, or that lies outside the input, takes nothing.
static void maxPoolBackward(const PlaneRun& plane, int64_t index, const Workspace& work) {
  const PlaneAxis &rows = plane.kernel.rows, &columns = plane.kernel.columns;
  const float* g = readPlane(plane, index, plane.outputSize, work.source);
  float* dx = resultPlane(plane, index, plane.inputSize, work.target);
  fill(dx, 0.0f, plane.inputSize);
  const uint32_t width = static_cast<uint32_t>(columns.count);
  for (int64_t out = 0; out < rows.output; ++out) {
    for (int64_t i = 0; i < columns.output; ++i) {
      const int64_t element = out * columns.output + i;
      const int64_t tap = tapAt(plane, index * plane.outputSize + element);
      if (tap < 0 || tap >= rows.count * columns.count) continue;
      const uint32_t row = static_cast<uint32_t>(tap) / width, column = static_cast<uint32_t>(tap) - row * width;
      const int32_t y = rows.positions[row * rows.output + out], x = columns.positions[column * columns.output + i];
      if (y >= 0 && x >= 0) dx[y * columns.input + x] += g[element];
    }
  }
  storePlane(plane, index, plane.inputSize, dx);
}

static void planeTask(void* context, int64_t task, int worker) {
  const PlaneRun& plane = *static_cast<PlaneRun*>(context);
  const Workspace work = allocateWorkspace(plane, worker);
  const int64_t end = smaller((task + 1) * plane.planesPerTask, plane.kernel.planes);
  for (int64_t index = task * plane.planesPerTask; index < end; ++index) {
    switch (plane.kernel.core) {
      case PlaneCore::resample: resample(plane, index, work); break;
      case PlaneCore::resampleBackward: resampleBackward(plane, index, work); break;
      case PlaneCore::maxPool: maxPool(plane, index, work); break;
      case PlaneCore::maxPoolBackward: maxPoolBackward(plane, index, work); break;
    }
  }
}

void runPlanes(const Run& run, const PlaneKernel& kernel) {
  const int64_t inputSize = kernel.rows.input * kernel.columns.input;
  const int64_t outputSize = kernel.rows.output * kernel.columns.output;
  PlaneRun plane = {run, kernel, inputSize, outputSize, larger(kTaskLanes / larger(inputSize + outputSize, 1), 1)};
  parallelFor(run.pool, ceilDivide(kernel.planes, plane.planesPerTask), planeTask, &plane);
}

}  // namespace BINADE_ISA
}  // namespace binade
