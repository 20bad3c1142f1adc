// Pooling and resampling: every plane (rows × columns) is widened to float32, seen through the taps of its two axes, and
// rounded once. A plane is one task's, so that sums have one order whatever the number of workers.
#include "convert.h"
#include "kernels.h"
#include "octet.h"

namespace binade {
namespace BINADE_ISA {

/// Lanes of one worker: the plane that is read, the one that is written, a row of each, taps of a row. Loads of 16 lanes that
/// begin in one of them end in it.
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

static int64_t padded(int64_t lanes) { return ((lanes + 15) & ~int64_t{15}) + 16; }

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

/// The input plane of rows of `width` as float32 lanes: where it lies, or widened. Of short rows, lookups load beyond the last.
static const float* readPlane(const PlaneRun& plane, int64_t index, int64_t size, int64_t width, float* lanes) {
  const uint8_t* source = planeAt(plane, 0, index, size);
  if (plane.kernel.dtypes[0] == DType::float32 && width >= 16) return reinterpret_cast<const float*>(source);
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

/// What eight positions take from `row` at one tap; where they take nothing, any number.
static inline Octet lookUp(const PlaneTap& tap, const float* row) {
  if (tap.direct) return loadOctet(row + tap.base);
  const OctetBits places = loadOctetBits(tap.places);
  if (tap.reach == 8) return lookUpIn8(row + tap.base, places);
  if (tap.reach == 16) return lookUpIn16(row + tap.base, places);
  return lookUpOneByOne(row + tap.base, places);
}

/// The lanes of a tap that exist, as a mask.
static inline OctetBits presenceOf(const PlaneTap& tap) { return loadOctetBits(tap.places) >= 0; }

/// The sum over a block's taps of what they take from `row`, weighted, in their order.
template <bool kWeighted>
static inline Octet sumTaps(const PlaneLookup& lookup, const PlaneBlock& block, const float* row) {
  Octet sum{};
  for (const PlaneTap *tap = lookup.taps + block.first, *end = tap + block.count; tap < end; ++tap) {
    Octet value = lookUp(*tap, row);
    if (kWeighted) value *= loadOctet(tap->weights);
    sum += tap->full ? value : maskOctet(value, presenceOf(*tap));
  }
  return sum;
}

/// sums[block] for every block that has taps, through `store(block, sum)`.
template <typename Store>
static inline void sumRow(const PlaneKernel& kernel, const float* row, Store store) {
  const PlaneLookup& lookup = kernel.lookup;
  for (int64_t i = 0; i < lookup.blockCount; ++i) {
    const PlaneBlock& block = lookup.blocks[i];
    store(block, kernel.columns.weighted ? sumTaps<true>(lookup, block, row) : sumTaps<false>(lookup, block, row));
  }
}

/// The sum of the rows of x that output row `out` sees, weighted; the row itself if it is one of weight 1.
static const float* gatherRows(const PlaneKernel& kernel, const float* x, int64_t out, float* sums) {
  const PlaneAxis& rows = kernel.rows;
  const int64_t width = kernel.columns.input;
  if (rows.count == 1 && !rows.weighted && rows.positions[out] >= 0) return x + rows.positions[out] * width;
  for (int64_t i = 0; i < width; i += kOctet) {
    const int64_t lanes = smaller(kOctet, width - i);
    Octet sum{};
    for (int64_t tap = 0; tap < rows.count; ++tap) {
      const int64_t at = tap * rows.output + out;
      if (rows.positions[at] < 0) continue;
      sum += rows.weights[at] * loadSomeOctet(x + rows.positions[at] * width + i, lanes);
    }
    storeOctet(sums + i, sum);
  }
  return sums;
}

static bool isDivided(const PlaneKernel& kernel) { return kernel.rows.divided || kernel.columns.divided; }

/// Zeros a row of `extent` positions some of which no block writes.
static void clearGaps(const PlaneKernel& kernel, float* row, int64_t extent) {
  if (kernel.lookup.blockCount * kOctet < extent) fill(row, 0.0f, extent);
}

/// Whether output row `out` is a copy of the one before: nearest up-sampling has as many as its factor.
static bool repeats(const PlaneAxis& rows, int64_t out) {
  if (out == 0 || rows.divisors[out] != rows.divisors[out - 1]) return false;
  for (int64_t tap = 0; tap < rows.count; ++tap) {
    const int64_t at = tap * rows.output + out;
    if (rows.positions[at] != rows.positions[at - 1] || rows.weights[at] != rows.weights[at - 1]) return false;
  }
  return true;
}

/// row (columns.output) = what the columns' taps see of `sums` (columns.input), divided.
static void resampleRow(const PlaneKernel& kernel, const float* sums, int64_t out, float* row) {
  const float* divisors = kernel.columns.divisors;
  const Octet rowDivisor = Octet{} + kernel.rows.divisors[out];
  clearGaps(kernel, row, kernel.columns.output);
  if (!isDivided(kernel)) {
    return sumRow(kernel, sums, [=](const PlaneBlock& block, Octet sum) {
      storeSomeOctet(row + block.position, sum, block.lanes);
    });
  }
  sumRow(kernel, sums, [=](const PlaneBlock& block, Octet sum) {
    const Octet divisor = rowDivisor * loadSomeOctet(divisors + block.position, block.lanes);
    storeSomeOctet(row + block.position, sum / divisor, block.lanes);
  });
}

static void resample(const PlaneRun& plane, int64_t index, const Workspace& work) {
  const PlaneKernel& kernel = plane.kernel;
  const int64_t width = kernel.columns.output;
  const float* x = readPlane(plane, index, plane.inputSize, kernel.columns.input, work.source);
  float* y = resultPlane(plane, index, plane.outputSize, work.target);
  for (int64_t out = 0; out < kernel.rows.output; ++out) {
    float* row = y + out * width;
    if (repeats(kernel.rows, out)) __builtin_memcpy(row, row - width, static_cast<size_t>(width) * sizeof(float));
    else resampleRow(kernel, gatherRows(kernel, x, out, work.inputRow), out, row);
  }
  storePlane(plane, index, plane.outputSize, y);
}

/// Row `out` of g, divided.
static const float* dividedRow(const PlaneKernel& kernel, const float* g, int64_t out, float* __restrict quotients) {
  const PlaneAxis& columns = kernel.columns;
  const float* row = g + out * columns.output;
  if (!isDivided(kernel)) return row;
  const float rowDivisor = kernel.rows.divisors[out];
  for (int64_t i = 0; i < columns.output; ++i) quotients[i] = row[i] / (rowDivisor * columns.divisors[i]);
  return quotients;
}

static void resampleBackward(const PlaneRun& plane, int64_t index, const Workspace& work) {
  const PlaneKernel& kernel = plane.kernel;
  const PlaneAxis &rows = kernel.rows, &columns = kernel.columns;
  const float* g = readPlane(plane, index, plane.outputSize, columns.output, work.source);
  float* dx = resultPlane(plane, index, plane.inputSize, work.target);
  float* inputRow = work.inputRow;
  fill(dx, 0.0f, plane.inputSize);
  clearGaps(kernel, inputRow, columns.input);
  for (int64_t out = 0; out < rows.output; ++out) {
    sumRow(kernel, dividedRow(kernel, g, out, work.outputRow), [=](const PlaneBlock& block, Octet sum) {
      storeOctet(inputRow + block.position, sum);
    });
    for (int64_t tap = 0; tap < rows.count; ++tap) {
      const int64_t at = tap * rows.output + out;
      if (rows.positions[at] < 0) continue;
      addScaled(dx + rows.positions[at] * columns.input, inputRow, rows.weights[at], columns.input);
    }
  }
  storePlane(plane, index, plane.inputSize, dx);
}

/// Greatest so far, and at which tap of the window; −1: nothing yet.
struct Maxima {
  Octet best;
  OctetBits taps;
};

/// The first maximum stays, and NaN, met first, stays for good; of zeros that are equal, +0 is the value.
static inline Maxima takeTap(Maxima found, Octet value, OctetBits tap, OctetBits present) {
  const OctetBits isNaN = (value != value) & (found.best == found.best);
  const OctetBits replaces = ((value > found.best) | isNaN | (found.taps < 0)) & present;
  const Octet kept = selectOctet((value == found.best) & present, (Octet)((OctetBits)value & (OctetBits)found.best), found.best);
  return {selectOctet(replaces, value, kept), (tap & replaces) | (found.taps & ~replaces)};
}

/// Maxima of a block's windows over row `out`: its taps are row by row, each row's from left to right.
static inline Maxima maximaOf(const PlaneKernel& kernel, const PlaneBlock& block, const float* x, int64_t out) {
  const PlaneAxis &rows = kernel.rows, &columns = kernel.columns;
  const PlaneTap *first = kernel.lookup.taps + block.first, *end = first + block.count;
  Maxima found = {Octet{} - __builtin_inff(), OctetBits{} - 1};
  for (int64_t tap = 0; tap < rows.count; ++tap) {
    const int32_t position = rows.positions[tap * rows.output + out];
    if (position < 0) continue;
    const float* row = x + position * columns.input;
    const OctetBits number = OctetBits{} + static_cast<int32_t>(tap * columns.count);
    for (const PlaneTap* column = first; column < end; ++column) {
      found = takeTap(found, lookUp(*column, row), loadOctetBits(column->taps) + number, presenceOf(*column));
    }
  }
  return found;
}

static void storeTaps(const PlaneRun& plane, int64_t first, const int32_t* taps, int64_t count) {
  if (!isPresent(plane.kernel, 3)) return;
  uint8_t* target = bytesAt(plane.run, plane.kernel.refs[3]);
  if (plane.kernel.dtypes[3] == DType::uint8) {
    for (int64_t i = 0; i < count; ++i) target[first + i] = static_cast<uint8_t>(taps[i]);
  } else {
    __builtin_memcpy(target + first * 4, taps, static_cast<size_t>(count) * 4);
  }
}

static void maxPool(const PlaneRun& plane, int64_t index, const Workspace& work) {
  const PlaneKernel& kernel = plane.kernel;
  const int64_t width = kernel.columns.output;
  const float* x = readPlane(plane, index, plane.inputSize, kernel.columns.input, work.source);
  float* y = resultPlane(plane, index, plane.outputSize, work.target);
  for (int64_t i = 0; i < width; ++i) work.taps[i] = -1;
  if (kernel.lookup.blockCount * kOctet < width) fill(y, -__builtin_inff(), plane.outputSize);
  for (int64_t out = 0; out < kernel.rows.output; ++out) {
    for (int64_t i = 0; i < kernel.lookup.blockCount; ++i) {
      const PlaneBlock& block = kernel.lookup.blocks[i];
      const Maxima found = maximaOf(kernel, block, x, out);
      storeSomeOctet(y + out * width + block.position, found.best, block.lanes);
      storeOctet(work.taps + block.position, (Octet)found.taps);
    }
    storeTaps(plane, index * plane.outputSize + out * width, work.taps, width);
  }
  storePlane(plane, index, plane.outputSize, y);
}

/// The taps of output row `out` of plane `index` as int32 lanes.
static void readTaps(const PlaneRun& plane, int64_t index, int64_t out, int32_t* __restrict taps) {
  const int64_t width = plane.kernel.columns.output, first = index * plane.outputSize + out * width;
  const uint8_t* source = bytesAt(plane.run, plane.kernel.refs[1]);
  if (plane.kernel.dtypes[1] == DType::uint8) {
    for (int64_t i = 0; i < width; ++i) taps[i] = source[first + i];
  } else {
    __builtin_memcpy(taps, source + first * 4, static_cast<size_t>(width) * 4);
  }
}

/// dx (columns.input) += the elements of g (columns.output) that chose the taps of one row, which are numbered from `number` on.
/// Elements of other taps add zeros, so that a tap which no window has, or that lies outside the input, takes nothing.
static void giveRow(const PlaneLookup& lookup, const float* g, const int32_t* chosen, int32_t number, float* dx) {
  for (int64_t i = 0; i < lookup.blockCount; ++i) {
    const PlaneBlock& block = lookup.blocks[i];
    Octet sum = loadSomeOctet(dx + block.position, block.lanes);
    for (const PlaneTap *tap = lookup.taps + block.first, *end = tap + block.count; tap < end; ++tap) {
      const OctetBits choice = (OctetBits)lookUp(*tap, reinterpret_cast<const float*>(chosen));
      const OctetBits isChosen = (choice == loadOctetBits(tap->taps) + number) & presenceOf(*tap);
      sum += maskOctet(lookUp(*tap, g), isChosen);
    }
    storeSomeOctet(dx + block.position, sum, block.lanes);
  }
}

static void maxPoolBackward(const PlaneRun& plane, int64_t index, const Workspace& work) {
  const PlaneAxis &rows = plane.kernel.rows, &columns = plane.kernel.columns;
  const float* g = readPlane(plane, index, plane.outputSize, columns.output, work.source);
  float* dx = resultPlane(plane, index, plane.inputSize, work.target);
  fill(dx, 0.0f, plane.inputSize);
  for (int64_t out = 0; out < rows.output; ++out) {
    readTaps(plane, index, out, work.taps);
    for (int64_t tap = 0; tap < rows.count; ++tap) {
      const int32_t position = rows.positions[tap * rows.output + out];
      if (position < 0) continue;
      giveRow(plane.kernel.lookup, g + out * columns.output, work.taps, static_cast<int32_t>(tap * columns.count),
              dx + position * columns.input);
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
  const int64_t size = larger(inputSize + outputSize, 1);
  PlaneRun plane = {run, kernel, inputSize, outputSize, larger(lanesPerTask(kernel.planes * size) / size, 1)};
  parallelFor(run.pool, ceilDivide(kernel.planes, plane.planesPerTask), planeTask, &plane);
}

}  // namespace BINADE_ISA
}  // namespace binade
