// Norms of channels over (outer, channels, inner): statistics of every channel in one pass, then functions of an element
// and its channel's numbers, whose epilogue runs over blocks of neighbouring elements.
//
// Lanes go along `inner` where planes fill vectors; shorter planes lie side by side, and every lane of (channels, inner)
// has sums and numbers of its own. Both ways elements are summed in chunks, in float32, and chunks in order, in double.
#include "convert.h"
#include "kernels.h"
#include "loops.h"
#include "vector.h"

namespace binade {
namespace BINADE_ISA {

constexpr int64_t kPlaneLanes = 32;     // elements of the shortest plane that fills vectors
constexpr int64_t kChunkLanes = 16384;  // elements of a chunk: the longest sum in float32
constexpr int64_t kChunkRows = 512;     // of short planes
constexpr int64_t kWantedChunks = 8;    // so that workers share the outer axis, as in the kernels before and after
constexpr int kNumbers = 4;             // per channel, at most

struct ChannelRun {
  const Run& run;
  const ChannelKernel& kernel;
  bool byPlane;
  int64_t width;                    // sums side by side: channels, or lanes of a row of short planes
  int64_t rowsPerChunk, segment, segments;  // a chunk: some planes or rows, of planes perhaps a segment
  int64_t chunks, blockWidth, blocks;       // a task sums one chunk of a block of the width
  float* numbers;                   // [kNumbers][width]
  float* sums;                      // [2][chunks][width]
  Tiling tiling;                    // of the epilogue
  int64_t blocksPerTask;
};

/// Part of every plane or row, rows [row, row + rows) of `outer` and lanes [lane, lane + lanes) of a plane.
struct Chunk {
  int64_t row, rows, lane, lanes;
};

static Chunk chunkAt(const ChannelRun& channel, int64_t index) {
  const ChannelKernel& kernel = channel.kernel;
  const int64_t row = index / channel.segments * channel.rowsPerChunk, lane = index % channel.segments * channel.segment;
  const int64_t inner = channel.byPlane ? kernel.inner : 1;
  return {row, smaller(channel.rowsPerChunk, kernel.outer - row), lane, smaller(channel.segment, inner - lane)};
}

static const uint8_t* elementsAt(const ChannelRun& channel, int input, int64_t position) {
  const DType dtype = channel.kernel.dtypes[input];
  return bytesAt(channel.run, channel.kernel.refs[input]) + position * byteLengthOfFloat(dtype);
}

/// `count` (<= kBlockLanes) elements as float32 lanes, in place or in `buffer`; with zeros up to whole vectors.
static const float* lanesAt(const ChannelRun& channel, int input, int64_t position, int64_t count, float* buffer) {
  const DType dtype = channel.kernel.dtypes[input];
  const uint8_t* source = elementsAt(channel, input, position);
  const int64_t whole = ceilDivide(count, vectorLanes) * vectorLanes;
  if (dtype == DType::float32 && whole == count) return reinterpret_cast<const float*>(source);
  widenArray(dtype, source, buffer, count);
  for (int64_t i = count; i < whole; ++i) buffer[i] = 0.0f;
  return buffer;
}

// --- Statistics -----------------------------------------------------------------------------------------------------

/// Two sums, a lane each of every vector.
struct LaneSums {
  Vector first, second;
};

static float sumOfLanes(Vector value) {
  float lanes[vectorLanes];
  storeVector(lanes, value);
  for (int64_t half = vectorLanes / 2; half > 0; half /= 2)
    for (int64_t i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  return lanes[0];
}

/// Adds `add(i, &sums)` of every vector i < count, four at a time so that none waits for the one before.
template <typename F>
static inline void addVectorwise(int64_t count, LaneSums* sums, F add) {
  LaneSums parts[4] = {*sums, {zeroVector(), zeroVector()}, {zeroVector(), zeroVector()}, {zeroVector(), zeroVector()}};
  int64_t i = 0;
  for (; i + 4 <= count; i += 4) {
    add(i, &parts[0]);
    add(i + 1, &parts[1]);
    add(i + 2, &parts[2]);
    add(i + 3, &parts[3]);
  }
  for (; i < count; ++i) add(i, &parts[0]);
  sums->first = addVectors(addVectors(parts[0].first, parts[1].first), addVectors(parts[2].first, parts[3].first));
  sums->second = addVectors(addVectors(parts[0].second, parts[1].second), addVectors(parts[2].second, parts[3].second));
}

/// Adds x − shift and its square. Lanes behind the last element repeat the shift.
static void addMoments(const float* x, int64_t count, float shift, LaneSums* sums) {
  const Vector negated = splatVector(-shift);
  addVectorwise(count / vectorLanes, sums, [x, negated](int64_t i, LaneSums* into) {
    const Vector d = addVectors(loadVector(x + i * vectorLanes), negated);
    into->first = addVectors(into->first, d);
    into->second = multiplyAdd<false>(d, d, into->second);
  });
  if (count % vectorLanes == 0) return;
  float tail[vectorLanes];
  for (int64_t i = 0; i < vectorLanes; ++i) tail[i] = i < count % vectorLanes ? x[count - count % vectorLanes + i] : shift;
  const Vector d = addVectors(loadVector(tail), negated);
  sums->first = addVectors(sums->first, d);
  sums->second = multiplyAdd<false>(d, d, sums->second);
}

/// Adds g and g · (x − mean); g is 0 behind the last element.
static void addProducts(const float* g, const float* x, int64_t count, float mean, LaneSums* sums) {
  const Vector negated = splatVector(-mean);
  addVectorwise(ceilDivide(count, vectorLanes), sums, [g, x, negated](int64_t i, LaneSums* into) {
    const Vector weight = loadVector(g + i * vectorLanes);
    into->first = addVectors(into->first, weight);
    into->second = multiplyAdd<false>(weight, addVectors(loadVector(x + i * vectorLanes), negated), into->second);
  });
}

static float meanOf(const float* lanes, int64_t count) {
  LaneSums sums = {zeroVector(), zeroVector()};
  addMoments(lanes, count, 0.0f, &sums);
  return sumOfLanes(sums.first) / static_cast<float>(count);
}

/// What a task keeps of one channel while it goes through the planes of its chunk.
struct ChannelSums {
  LaneSums lanes;
  float shift;
};

static void addPlane(const ChannelRun& channel, const Chunk& chunk, int64_t row, int64_t entry, ChannelSums* sums) {
  const ChannelKernel& kernel = channel.kernel;
  alignas(64) float buffers[2][kBlockLanes];
  const bool moments = kernel.core == ChannelCore::channelMoments;
  const int64_t start = (row * kernel.channels + entry) * kernel.inner + chunk.lane;
  for (int64_t lane = 0; lane < chunk.lanes; lane += kBlockLanes) {
    const int64_t count = smaller(chunk.lanes - lane, kBlockLanes);
    const float* first = lanesAt(channel, 0, start + lane, count, buffers[0]);
    if (!moments) {
      const float* x = lanesAt(channel, 1, start + lane, count, buffers[1]);
      addProducts(first, x, count, channel.numbers[entry], &sums->lanes);
      continue;
    }
    if (row == chunk.row && lane == 0) sums->shift = meanOf(first, count);
    addMoments(first, count, sums->shift, &sums->lanes);
  }
}

/// Mean and sum of squared deviations of a chunk's `count` elements, from sums of x − shift and of its square.
static void storeMoments(float shift, float sum, float squares, int64_t count, float* mean, float* deviations) {
  const float offset = sum / static_cast<float>(count);
  *mean = shift + offset;
  *deviations = squares - sum * offset;
}

static void sumPlanes(const ChannelRun& channel, const Chunk& chunk, int64_t first, int64_t count, int worker, float* at) {
  const size_t byteLength = static_cast<size_t>(count) * sizeof(ChannelSums);
  ChannelSums* sums = static_cast<ChannelSums*>(scratch(channel.run.pool, worker, kRowSlot, byteLength));
  for (int64_t i = 0; i < count; ++i) sums[i] = {{zeroVector(), zeroVector()}, 0.0f};
  for (int64_t row = chunk.row; row < chunk.row + chunk.rows; ++row)
    for (int64_t i = 0; i < count; ++i) addPlane(channel, chunk, row, first + i, &sums[i]);
  float* others = at + channel.chunks * channel.width;
  for (int64_t i = 0; i < count; ++i) {
    const float sum = sumOfLanes(sums[i].lanes.first), second = sumOfLanes(sums[i].lanes.second);
    at[i] = sum;
    others[i] = second;
    if (channel.kernel.core == ChannelCore::channelMoments)
      storeMoments(sums[i].shift, sum, second, chunk.rows * chunk.lanes, &at[i], &others[i]);
  }
}

/// Every lane of a row is summed by itself, over the rows of the chunk.
static void sumRows(const ChannelRun& channel, const Chunk& chunk, int64_t first, int64_t count, float* at) {
  alignas(64) float buffers[2][kBlockLanes], shift[kBlockLanes], sums[kBlockLanes] = {}, seconds[kBlockLanes] = {};
  const bool moments = channel.kernel.core == ChannelCore::channelMoments;
  for (int64_t row = chunk.row; row < chunk.row + chunk.rows; ++row) {
    const float* x = lanesAt(channel, moments ? 0 : 1, row * channel.width + first, count, buffers[0]);
    if (row == chunk.row) {
      const float* source = moments ? x : channel.numbers + first;
      for (int64_t i = 0; i < count; ++i) shift[i] = source[i];
    }
    const float* g = moments ? nullptr : lanesAt(channel, 0, row * channel.width + first, count, buffers[1]);
    BINADE_INDEPENDENT
    for (int64_t i = 0; i < count; ++i) {
      const float d = x[i] - shift[i], weight = moments ? d : g[i];
      sums[i] += weight;
      seconds[i] += weight * d;
    }
  }
  float* others = at + channel.chunks * channel.width;
  for (int64_t i = 0; i < count; ++i) {
    at[i] = sums[i];
    others[i] = seconds[i];
    if (moments) storeMoments(shift[i], sums[i], seconds[i], chunk.rows, &at[i], &others[i]);
  }
}

static void statisticTask(void* context, int64_t task, int worker) {
  const ChannelRun& channel = *static_cast<ChannelRun*>(context);
  const int64_t index = task / channel.blocks, first = task % channel.blocks * channel.blockWidth;
  const int64_t count = smaller(channel.blockWidth, channel.width - first);
  const Chunk chunk = chunkAt(channel, index);
  float* at = channel.sums + index * channel.width + first;
  if (channel.byPlane) sumPlanes(channel, chunk, first, count, worker, at);
  else sumRows(channel, chunk, first, count, at);
}

/// The two statistics of a channel, from its chunks in order.
struct Pair {
  double first, second;
};

template <typename F>
static inline void forChunks(const ChannelRun& channel, int64_t channelIndex, F visit) {
  const int64_t entries = channel.width / channel.kernel.channels, others = channel.chunks * channel.width;
  for (int64_t index = 0; index < channel.chunks; ++index) {
    const Chunk chunk = chunkAt(channel, index);
    const double count = static_cast<double>(chunk.rows * chunk.lanes);
    const float* at = channel.sums + index * channel.width + channelIndex * entries;
    for (int64_t i = 0; i < entries; ++i)
      visit(count, static_cast<double>(at[i]), static_cast<double>(at[others + i]));
  }
}

static Pair momentsOf(const ChannelRun& channel, int64_t index) {
  const double count = static_cast<double>(channel.kernel.outer * channel.kernel.inner);
  double mean = 0.0, deviations = 0.0;
  forChunks(channel, index, [&mean](double n, double m, double) { mean += n * m; });
  mean /= count;
  forChunks(channel, index, [&deviations, mean](double n, double m, double d) {
    deviations += d + n * (m - mean) * (m - mean);
  });
  const double variance = deviations / count;
  return {mean, variance < 0.0 ? 0.0 : variance};  // a NaN stays one
}

static float inverseOf(float variance, float eps) { return 1.0f / __builtin_sqrtf(variance + eps); }

static Pair sumsOf(const ChannelRun& channel, int64_t index) {
  Pair sums = {0.0, 0.0};
  forChunks(channel, index, [&sums](double, double sum, double products) {
    sums.first += sum;
    sums.second += products;
  });
  float variance;
  widenArray(channel.kernel.dtypes[3], elementsAt(channel, 3, index), &variance, 1);
  return {sums.first, sums.second * static_cast<double>(inverseOf(variance, channel.kernel.eps))};
}

static void storeResults(const ChannelRun& channel) {
  const ChannelKernel& kernel = channel.kernel;
  for (int64_t i = 0; i < kernel.channels; ++i) {
    const Pair pair = kernel.core == ChannelCore::channelMoments ? momentsOf(channel, i) : sumsOf(channel, i);
    const float values[2] = {static_cast<float>(pair.first), static_cast<float>(pair.second)};
    for (int result = 0; result < 2; ++result) {
      if (kernel.results[result].binding < 0) continue;
      const DType dtype = kernel.resultDtypes[result];
      narrowArray(dtype, &values[result], bytesAt(channel.run, kernel.results[result]) + i * byteLengthOfFloat(dtype), 1);
    }
  }
}

/// Chooses chunks and tasks from the shape.
static void planStatistics(ChannelRun* channel) {
  const ChannelKernel& kernel = channel->kernel;
  const int64_t inner = channel->byPlane ? kernel.inner : 1;
  channel->segments = larger(ceilDivide(inner, kChunkLanes), 1);
  channel->segment = ceilDivide(inner, channel->segments);
  if (channel->byPlane) {
    const int64_t rows = smaller(kChunkLanes / larger(inner, 1), ceilDivide(kernel.outer, kWantedChunks));
    channel->rowsPerChunk = larger(rows, 1);
    const int64_t elements = smaller(channel->rowsPerChunk, larger(kernel.outer, 1)) * channel->segment;
    channel->blockWidth = larger(lanesPerTask(kernel.outer * kernel.channels * inner) / larger(elements, 1), 1);
  } else {
    channel->blockWidth = kBlockLanes;
    const int64_t lanes = larger(smaller(channel->width, kBlockLanes), 1);
    channel->rowsPerChunk = smaller(larger(lanesPerTask(kernel.outer * channel->width) / lanes, 1), kChunkRows);
  }
  channel->blocks = ceilDivide(channel->width, channel->blockWidth);
  channel->chunks = kernel.inner == 0 ? 0 : channel->segments * ceilDivide(kernel.outer, channel->rowsPerChunk);
}

// --- Maps -----------------------------------------------------------------------------------------------------------

/// The numbers of one channel, or (`perLane`) of a lane each.
template <bool perLane>
struct Numbers {
  const float* lanes;
  float value;
  float operator[](int64_t i) const { return perLane ? lanes[i] : value; }
};

/// (x − mean) · scale + bias, or ((g − shift) − (x − mean) · slope) · scale, for `count` elements from `entry` of the width on.
template <bool perLane>
static void mapLanes(const ChannelRun& channel, const float* first, const float* second, int64_t entry, int64_t count,
                     float* target) {
  Numbers<perLane> numbers[kNumbers];
  for (int i = 0; i < kNumbers; ++i) {
    const float* at = channel.numbers + i * channel.width + entry;
    numbers[i] = {at, *at};
  }
  const Numbers<perLane> means = numbers[0], scales = numbers[1], shifts = numbers[2], slopes = numbers[3];
  if (channel.kernel.core == ChannelCore::channelNormalize) {
    BINADE_INDEPENDENT
    for (int64_t i = 0; i < count; ++i) target[i] = (first[i] - means[i]) * scales[i] + shifts[i];
  } else {
    BINADE_INDEPENDENT
    for (int64_t i = 0; i < count; ++i)
      target[i] = ((first[i] - shifts[i]) - (second[i] - means[i]) * slopes[i]) * scales[i];
  }
}

/// Elements [start, start + count) of the result before its epilogue.
static void mapBlock(const ChannelRun& channel, int64_t start, int64_t count, float* target) {
  const ChannelKernel& kernel = channel.kernel;
  alignas(64) float buffers[2][kBlockLanes];
  const bool gradient = kernel.core == ChannelCore::channelGradient;
  const float* first = lanesAt(channel, 0, start, count, buffers[0]);
  const float* second = gradient ? lanesAt(channel, 1, start, count, buffers[1]) : first;
  const int64_t run = channel.byPlane ? kernel.inner : channel.width;
  for (int64_t at = 0; at < count;) {
    const int64_t row = (start + at) / run, lane = (start + at) % run, lanes = smaller(run - lane, count - at);
    if (channel.byPlane) mapLanes<false>(channel, first + at, second + at, row % kernel.channels, lanes, target + at);
    else mapLanes<true>(channel, first + at, second + at, lane, lanes, target + at);
    at += lanes;
  }
}

static void mapTask(void* context, int64_t task, int worker) {
  const ChannelRun& channel = *static_cast<ChannelRun*>(context);
  const Vm& vm = channel.kernel.epilogue;
  alignas(64) float tile[kBlockLanes];
  VmState state = {};
  beginVm(&state, vm, channel.run.bases, scratch(channel.run.pool, worker, kEpilogueSlot, registerByteLength(vm)));
  state.readsInPlace = true;
  const int64_t end = smaller((task + 1) * channel.blocksPerTask, channel.tiling.blocks);
  for (int64_t index = task * channel.blocksPerTask; index < end; ++index) {
    Block block = blockAt(channel.tiling, index);
    mapBlock(channel, block.row * vm.grid.lanes + block.lane, block.rows * block.lanes, tile);
    state.buffers[0] = {tile, block.lanes, false};
    block.bufferRow = block.bufferLane = 0;
    runBlock(state, block);
  }
}

// --- Numbers of channels ---------------------------------------------------------------------------------------------

/// Input `input`, one number per channel, repeated over the lanes of a row where those have numbers of their own.
static void spreadInput(const ChannelRun& channel, int input, float* target) {
  const ChannelKernel& kernel = channel.kernel;
  const int64_t repeats = channel.width / kernel.channels;
  for (int64_t i = 0; i < kernel.channels; ++i) {
    float value;
    widenArray(kernel.dtypes[input], elementsAt(channel, input, i), &value, 1);
    for (int64_t j = 0; j < repeats; ++j) target[i * repeats + j] = value;
  }
}

/// Of sums: means. Of a map: means, scales, then biases, or shifts and slopes.
static void fillNumbers(const ChannelRun& channel) {
  const ChannelKernel& kernel = channel.kernel;
  const int64_t width = channel.width;
  float *means = channel.numbers, *scales = means + width, *shifts = scales + width, *slopes = shifts + width;
  if (kernel.core == ChannelCore::channelSums) return spreadInput(channel, 2, means);
  const bool gradient = kernel.core == ChannelCore::channelGradient;
  spreadInput(channel, 3, means);
  spreadInput(channel, gradient ? 2 : 1, scales);
  spreadInput(channel, 4, slopes);
  spreadInput(channel, gradient ? 5 : 2, shifts);
  for (int64_t i = 0; i < width; ++i) slopes[i] = inverseOf(slopes[i], kernel.eps);
  for (int64_t i = 0; i < width; ++i) scales[i] *= slopes[i];
  if (!gradient) return;
  const float share = 1.0f / static_cast<float>(kernel.outer * kernel.inner);
  for (int64_t i = 0; i < width; ++i) shifts[i] *= share;
  float* along = slopes + width;
  spreadInput(channel, 6, along);
  for (int64_t i = 0; i < width; ++i) slopes[i] *= along[i] * share;
}

void runChannel(const Run& run, const ChannelKernel& kernel) {
  ChannelRun channel = {run, kernel, kernel.inner >= kPlaneLanes, 0, 0, 0, 0, 0, 0, 0, nullptr, nullptr, {}, 0};
  channel.width = kernel.channels * (channel.byPlane ? 1 : kernel.inner);
  const bool statistic = kernel.core == ChannelCore::channelMoments || kernel.core == ChannelCore::channelSums;
  if (kernel.channels == 0 || (kernel.inner == 0 && !statistic)) return;
  if (kernel.inner == 0) channel.width = kernel.channels;  // of planes without elements
  if (statistic) planStatistics(&channel);
  const int64_t length = channel.width * (kNumbers + 1 + 2 * channel.chunks);
  channel.numbers = static_cast<float*>(scratch(run.pool, 0, kSharedSlot, static_cast<size_t>(length) * sizeof(float)));
  channel.sums = channel.numbers + (kNumbers + 1) * channel.width;
  if (kernel.core != ChannelCore::channelMoments) fillNumbers(channel);
  if (statistic) {
    parallelFor(run.pool, channel.blocks * channel.chunks, statisticTask, &channel);
    return storeResults(channel);
  }
  const Grid& grid = kernel.epilogue.grid;
  channel.tiling = tilingOf(grid.rows, grid.lanes);
  channel.blocksPerTask = lanesPerTask(grid.rows * grid.lanes) / kBlockLanes;
  parallelFor(run.pool, ceilDivide(channel.tiling.blocks, channel.blocksPerTask), mapTask, &channel);
}

}  // namespace BINADE_ISA
}  // namespace binade
