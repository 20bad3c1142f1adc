// How a convolution by Winograd's filtering is cut into units of work, and its transformed weights: functions of shapes, formats and
// instruction set.
#pragma once
#include "convolution_micro.h"
#include "vm.h"
#include "winograd.h"

namespace binade {
namespace BINADE_ISA {

namespace {

constexpr int64_t pictureLength = 32 << 10;        // floats of a unit's transformed pictures, about: a quarter of L2
constexpr int64_t productsLength = 4 << 10;        // floats of products between two transforms, about: half of L1
constexpr int64_t sumDepth = 64;                   // channels summed at once: sums of sums round less
constexpr int64_t stagedByteLength = 16 << 10;     // of the channels that are staged at once: half of L1

struct TilePlan {
  bool gradient;
  int pieces;
  StagedAxis y, x;                   // of tiles
  int64_t resultRows, resultColumns;
  int64_t rows, channels;            // of one group: result channels, and those that are summed
  int64_t strips, blockStrips;
  int64_t depth, chunkChannels;      // channels summed, and staged, at once
  int64_t images, imageBlocks;
  int64_t bandRows, rowBands, bandColumns, columnBands;  // of tiles
  int64_t blocks;                    // of groupLanes tiles, in a unit
  int64_t pictureStride;             // floats between positions of transformed pictures
  StageLayout layout;
  TileShifts shifts;
  int64_t* channelShifts;            // [channels] bytes between transformed channels
  int64_t* stripStarts;              // [strips + 1]: first rows; heights differ by at most one
  SlideKernel* kernels;              // [strips]
  float* packed;                     // (groups, strips, tilePositions, channels, slideRows), panelStride floats between positions
  int64_t panelStride;
};

int64_t tilesOfLine(const TilePlan& plan, int64_t columns) { return multipleOf(columns, vectorLanes / plan.pieces); }

void planTileUnits(const ConvolutionProblem& problem, TilePlan* plan) {
  const int64_t rows = plan->y.result, columns = plan->x.result;
  const int64_t limit = multipleOf(most(pictureLength / (tilePositions * plan->channels), 1), groupLanes);
  plan->pieces = piecesFor(columns, vectorLanes);
  plan->bandColumns = columns <= limit ? columns : multipleOf(evenly(columns, limit), groupLanes);
  plan->columnBands = partsOf(columns, plan->bandColumns);
  const int64_t line = tilesOfLine(*plan, plan->bandColumns);
  plan->bandRows = plan->columnBands > 1 ? 1 : evenly(rows, most(limit / line, 1));
  plan->images = plan->bandRows == rows ? least(problem.batch, most(limit / (rows * line), 1)) : 1;
  for (;;) {
    plan->rowBands = partsOf(rows, plan->bandRows);
    plan->imageBlocks = partsOf(problem.batch, plan->images);
    const int64_t units = plan->imageBlocks * problem.groups * plan->rowBands * plan->columnBands;
    if (units >= wantedUnits || plan->images * plan->bandRows * line <= groupLanes) break;
    if (plan->images > 1) plan->images = partsOf(plan->images, 2);
    else if (plan->bandRows > 1) plan->bandRows = partsOf(plan->bandRows, 2);
    else break;
  }
  plan->blocks = partsOf(plan->images * plan->bandRows * line, groupLanes);
}

/// The plan of a problem, with its tables in scratch that all workers read.
TilePlan planTiles(Pool* pool, const ConvolutionProblem& problem, bool gradient) {
  TilePlan plan = {};
  plan.gradient = gradient;
  plan.resultRows = gradient ? problem.axes[0].input : problem.axes[0].output;
  plan.resultColumns = gradient ? problem.axes[1].input : problem.axes[1].output;
  plan.rows = gradient ? problem.channels : problem.outputs;
  plan.channels = gradient ? problem.outputs : problem.channels;
  plan.depth = evenly(plan.channels, sumDepth);
  plan.strips = partsOf(plan.rows, slideRows);
  plan.blockStrips = most(productsLength / (tilePositions * groupLanes * slideRows), 1);
  plan.pictureStride = (plan.channels + 1) * groupLanes;  // a power of 2 would put all positions into one set of L1
  plan.panelStride = multipleOf(plan.channels * slideRows + vectorLanes, 16);
  Cut cut = {nullptr, 0};
  for (int pass = 0; pass < 2; ++pass) {
    plan.y = stageAxis(tileAxis(problem.axes[0], gradient), false, &cut);
    plan.x = stageAxis(tileAxis(problem.axes[1], gradient), false, &cut);
    plan.channelShifts = cut.words(plan.channels);
    plan.stripStarts = cut.words(plan.strips + 1);
    plan.kernels = reinterpret_cast<SlideKernel*>(cut.words(plan.strips));
    plan.packed = reinterpret_cast<float*>(cut.bytes(problem.groups * plan.strips * tilePositions * plan.panelStride * 4));
    if (pass == 0) cut = {static_cast<char*>(scratch(pool, 0, kSharedSlot, static_cast<size_t>(cut.used))), 0};
  }
  planTileUnits(problem, &plan);
  const int64_t channelByteLength = 4 * layoutOf(plan.y, plan.x, plan.bandRows, plan.bandColumns, 1).imageLength * plan.images;
  plan.chunkChannels = evenly(plan.channels, most(stagedByteLength / channelByteLength, 1));
  plan.layout = layoutOf(plan.y, plan.x, plan.bandRows, plan.bandColumns, plan.chunkChannels);
  plan.shifts = tileShifts(plan.y, plan.x, plan.layout);
  for (int64_t channel = 0; channel < plan.channels; ++channel) plan.channelShifts[channel] = 4 * channel * groupLanes;
  for (int64_t strip = 0; strip <= plan.strips; ++strip) plan.stripStarts[strip] = strip * plan.rows / plan.strips;
  for (int64_t strip = 0; strip < plan.strips; ++strip)
    plan.kernels[strip] = slideKernel<false, 1>(plan.stripStarts[strip + 1] - plan.stripStarts[strip]);
  return plan;
}

// --- Weights -------------------------------------------------------------------------------------------------------

struct TilePackJob {
  const TilePlan* plan;
  const ConvolutionProblem* problem;
  int64_t stripsPerTask;
};

/// G g along one axis: 3 vectors, `step` apart, into 4.
static inline void transformTaps(const Floats* g, int step, Floats* u) {
  const Floats half = broadcast(0.5f), outer = g[0] + g[2 * step];
  u[0] = g[0];
  u[1] = half * (outer + g[step]);
  u[2] = half * (outer - g[step]);
  u[3] = g[2 * step];
}

/// taps (9, vectorLanes) of a strip's rows into position p at target + p · stride: vectorLanes floats, of which slideRows count.
static inline void transformWeights(const float* taps, float* target, int64_t stride) {
  Floats g[9], rows[tileReads][3], u[tileReads];
#pragma GCC unroll 9
  for (int t = 0; t < 9; ++t) g[t] = loadFloats(taps + t * vectorLanes);
#pragma GCC unroll 3
  for (int x = 0; x < 3; ++x) {
    transformTaps(g + x, 3, u);
#pragma GCC unroll 4
    for (int i = 0; i < tileReads; ++i) rows[i][x] = u[i];
  }
#pragma GCC unroll 4
  for (int i = 0; i < tileReads; ++i) {
    transformTaps(rows[i], 1, u);
#pragma GCC unroll 4
    for (int j = 0; j < tileReads; ++j) storeFloats(target + (tileReads * i + j) * stride, u[j]);
  }
}

/// The weights of one strip of a group, tap by tap turned round for the gradient.
template <DType storage>
void packTileStrip(const TilePackJob& job, int64_t group, int64_t strip) {
  static_assert(slideRows <= vectorLanes, "a strip's rows fill a vector");
  const TilePlan& plan = *job.plan;
  const ImageView& w = job.problem->w;
  const char* data = static_cast<const char*>(w.data);
  const int64_t rowStride = w.strides[plan.gradient ? 1 : 0], channelStride = w.strides[plan.gradient ? 0 : 1];
  const int64_t start = plan.stripStarts[strip], height = plan.stripStarts[strip + 1] - start;
  float* panel = plan.packed + (group * plan.strips + strip) * tilePositions * plan.panelStride;
  alignas(64) float taps[9 * vectorLanes] = {};
  for (int64_t channel = 0; channel < plan.channels; ++channel, panel += slideRows) {
    const int64_t at = group * job.problem->outputs * w.strides[0] + start * rowStride + channel * channelStride;
    for (int t = 0; t < 9; ++t) {
      const int64_t tap = plan.gradient ? 8 - t : t, index = at + tap / 3 * w.strides[2] + tap % 3;
      float* tapRows = taps + t * vectorLanes;
      for (int64_t i = 0; i < height; ++i) tapRows[i] = wideElement<storage>(data, index + i * rowStride);
      if (w.format != storage) roundArray(w.format, tapRows, vectorLanes);
    }
    transformWeights(taps, panel, plan.panelStride);
  }
}

void packTilesTask(void* context, int64_t task, int) {
  const TilePackJob& job = *static_cast<const TilePackJob*>(context);
  const int64_t strips = job.plan->strips;
  const int64_t end = least((task + 1) * job.stripsPerTask, job.problem->groups * strips);
  for (int64_t index = task * job.stripsPerTask; index < end; ++index) {
    switch (job.problem->w.storage) {
      case DType::float32:
        packTileStrip<DType::float32>(job, index / strips, index % strips);
        break;
      case DType::bfloat16:
        packTileStrip<DType::bfloat16>(job, index / strips, index % strips);
        break;
      default:
        packTileStrip<DType::float16>(job, index / strips, index % strips);
    }
  }
}

/// Transforms all weights of a problem into plan.packed: G g Gᵀ.
void packTileWeights(Pool* pool, const TilePlan& plan, const ConvolutionProblem& problem) {
  TilePackJob job = {&plan, &problem, most(packWork / (9 * slideRows * plan.channels), 1)};
  parallelFor(pool, partsOf(problem.groups * plan.strips, job.stripsPerTask), packTilesTask, &job);
}

}  // namespace

}  // namespace BINADE_ISA
}  // namespace binade
