// How a convolution or its input gradient is cut into units of work: a function of shapes, formats and instruction set.
#pragma once
#include "convolution_micro.h"
#include "convolution_stage.h"
#include "vm.h"

namespace binade {
namespace BINADE_ISA {

namespace {

constexpr int64_t unitPixels = 1024;               // outputs of a unit, about
constexpr int64_t chunkDepth = 320;                // words of weights per row and chunk: a strip of them stays in L1
constexpr int64_t chunkByteLength = 192 << 10;     // of staged pictures, which stay in L2
constexpr int64_t sumsLength = 96 << 10;           // floats of a unit's sums, about

struct Plan {
  bool gradient, pairs;
  int pieces;
  StagedAxis y, x;
  int64_t rows, channels, words;     // of one group: result channels, staged channels and their words
  int64_t strips, blockStrips, rowBlocks;
  int64_t chunkWords;
  int64_t images, imageBlocks;
  int64_t bandRows, rowBands, bandColumns, columnBands;
  int64_t taps, phases;              // of the kernel; of the outputs
  StageLayout layout;
  int64_t *tapStart, *tapY, *tapX;   // [phases + 1], [taps], [taps]: the taps of each phase of outputs
  int64_t* shifts;                   // [taps · chunkWords] bytes: phase by phase, (words, taps)
  int64_t* stripStarts;              // [strips + 1]: first rows; heights differ by at most one
  SlideKernel* kernels;              // [strips]
  float* packed;                     // (groups, phase by phase: (strips, words, taps, slideRows))
  int64_t packedLength;              // of one group
};

template <bool pairs>
SlideKernel kernelWith(int pieces, int64_t rows) {
  return pieces == 1 ? slideKernel<pairs, 1>(rows) : pieces == 2 ? slideKernel<pairs, 2>(rows)
                                                                  : slideKernel<pairs, 4>(rows);
}

SlideKernel kernelOf(const Plan& plan, int64_t rows) {
#if BINADE_PAIRS
  if (plan.pairs) return kernelWith<true>(plan.pieces, rows);
#endif
  return kernelWith<false>(plan.pieces, rows);
}

void planUnits(const ConvolutionProblem& problem, Plan* plan) {
  const int64_t rows = plan->y.end - plan->y.first, columns = plan->x.end - plan->x.first;
  plan->bandColumns = columns <= unitPixels ? columns : multipleOf(evenly(columns, unitPixels), groupLanes);
  plan->columnBands = partsOf(columns, plan->bandColumns);
  plan->bandRows = plan->columnBands > 1 ? 1 : evenly(rows, most(unitPixels / columns, 1));
  const int64_t pixels = rows * columns;
  plan->images = pixels * 4 <= unitPixels ? least(problem.batch, unitPixels / 4 / pixels) : 1;
  plan->blockStrips = plan->strips;
  for (;;) {
    const int64_t lanes = plan->images * plan->bandRows * plan->bandColumns * plan->phases;
    plan->rowBands = partsOf(rows, plan->bandRows);
    plan->rowBlocks = partsOf(plan->strips, plan->blockStrips);
    plan->imageBlocks = partsOf(problem.batch, plan->images);
    const int64_t units =
        plan->imageBlocks * problem.groups * plan->rowBands * plan->columnBands * plan->rowBlocks;
    if (plan->blockStrips > 1 && plan->blockStrips * slideRows * lanes > sumsLength) {
      plan->blockStrips = partsOf(plan->blockStrips, 2);
    } else if (units >= wantedUnits) {
      break;
    } else if (plan->images > 1) {
      plan->images = partsOf(plan->images, 2);
    } else if (plan->bandRows > 1 && plan->bandRows * plan->bandColumns > 4 * groupLanes) {
      plan->bandRows = partsOf(plan->bandRows, 2);
    } else if (plan->blockStrips > 1) {
      plan->blockStrips = partsOf(plan->blockStrips, 2);
    } else {
      break;
    }
  }
}

/// Lists the taps of every phase of outputs, and where each reads.
void planTaps(Plan* plan) {
  int64_t taps = 0, phase = 0;
  for (int64_t py = 0; py < plan->y.outputPhases; ++py) {
    for (int64_t px = 0; px < plan->x.outputPhases; ++px, ++phase) {
      plan->tapStart[phase] = taps;
      for (int64_t ky = 0; ky < plan->y.axis.kernel; ++ky) {
        if (plan->gradient && plan->y.phaseOf[ky] != py) continue;
        for (int64_t kx = 0; kx < plan->x.axis.kernel; ++kx) {
          if (plan->gradient && plan->x.phaseOf[kx] != px) continue;
          plan->tapY[taps] = ky;
          plan->tapX[taps++] = kx;
        }
      }
    }
  }
  plan->tapStart[phase] = taps;
  for (phase = 0; phase < plan->phases; ++phase) {
    int64_t* shift = plan->shifts + plan->tapStart[phase] * plan->chunkWords;
    for (int64_t word = 0; word < plan->chunkWords; ++word)
      for (int64_t t = plan->tapStart[phase]; t < plan->tapStart[phase + 1]; ++t)
        *shift++ = 4 * (word * plan->layout.wordLength +
                        tapShift(plan->y, plan->x, plan->layout, plan->tapY[t], plan->tapX[t]));
  }
}

/// The plan of a problem, with its tables in scratch that all workers read.
Plan makePlan(Pool* pool, const ConvolutionProblem& problem, bool gradient) {
  Plan plan = {};
  plan.gradient = gradient;
  plan.pairs = multipliesPairs(gradient ? problem.g : problem.x, problem.w);
  plan.rows = gradient ? problem.channels : problem.outputs;
  plan.channels = gradient ? problem.outputs : problem.channels;
  plan.words = plan.pairs ? partsOf(plan.channels, 2) : plan.channels;
  plan.strips = partsOf(plan.rows, slideRows);
  plan.taps = problem.axes[0].kernel * problem.axes[1].kernel;
  Cut cut = {nullptr, 0};
  for (int pass = 0; pass < 2; ++pass) {
    plan.y = stageAxis(problem.axes[0], gradient, &cut);
    plan.x = stageAxis(problem.axes[1], gradient, &cut);
    plan.phases = plan.y.outputPhases * plan.x.outputPhases;
    if (pass == 0) planUnits(problem, &plan);
    const int64_t wide = gradient ? 1 : least(plan.taps, problem.axes[0].stride * problem.axes[1].stride);
    const int64_t wordByteLength = layoutOf(plan.y, plan.x, plan.bandRows, plan.bandColumns, 1).rows *
                                   (plan.bandColumns + plan.x.reach) * wide * 4 * plan.images;
    const int64_t limit = most(least(chunkDepth / plan.taps, chunkByteLength / wordByteLength), 1);
    plan.chunkWords = evenly(plan.words, limit);
    plan.tapStart = cut.words(plan.phases + 1);
    plan.tapY = cut.words(plan.taps);
    plan.tapX = cut.words(plan.taps);
    plan.shifts = cut.words(plan.taps * plan.chunkWords);
    plan.stripStarts = cut.words(plan.strips + 1);
    plan.kernels = reinterpret_cast<SlideKernel*>(cut.words(plan.strips));
    plan.packedLength = plan.strips * slideRows * plan.words * plan.taps;
    plan.packed = reinterpret_cast<float*>(cut.bytes(problem.groups * plan.packedLength * 4));
    if (pass == 0) cut = {static_cast<char*>(scratch(pool, 0, kSharedSlot, static_cast<size_t>(cut.used))), 0};
  }
  plan.layout = layoutOf(plan.y, plan.x, plan.bandRows, plan.bandColumns, plan.chunkWords);
  plan.pieces = piecesFor(least(mostOutputs(plan.x), plan.bandColumns), vectorLanes);
  for (int64_t strip = 0; strip <= plan.strips; ++strip) plan.stripStarts[strip] = strip * plan.rows / plan.strips;
  for (int64_t strip = 0; strip < plan.strips; ++strip)
    plan.kernels[strip] = kernelOf(plan, plan.stripStarts[strip + 1] - plan.stripStarts[strip]);
  planTaps(&plan);
  return plan;
}

}  // namespace

}  // namespace BINADE_ISA
}  // namespace binade
