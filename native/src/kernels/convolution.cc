// Convolution and its input gradient: packed weights times staged pictures, without a matrix of windows.
//
// Both are one computation over q (see convolution_stage.h). A unit of work holds the pictures of one task: some pictures,
// one group, a band of outputs, a block of result channels. It stages a chunk of channels at a time and adds that chunk's
// products to its sums, which lie in the result itself where the sink allows it.
#include "convolution.h"

#include "convolution_micro.h"
#include "convolution_stage.h"
#include "vm.h"

namespace binade {
namespace BINADE_ISA {

namespace {

constexpr int64_t groupLanes = 2 * laneCount;      // columns of one kernel call
constexpr int64_t wantedUnits = 16;                // enough for eight workers that finish at different times
constexpr int64_t unitPixels = 1024;               // outputs of a unit, about
constexpr int64_t chunkDepth = 320;                // words of weights per row and chunk: a strip of them stays in L1
constexpr int64_t chunkByteLength = 192 << 10;     // of staged pictures, which stay in L2
constexpr int64_t sumsLength = 96 << 10;           // floats of a unit's sums, about
constexpr int64_t taskWork = 1 << 16;              // multiply-adds under which units share a task
constexpr int64_t packWork = 1 << 12;              // weights under which panels share a task

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

struct Work {
  Pool* pool;
  const ConvolutionProblem* problem;
  const ImageView* source;
  const ImageSink* sink;
  Plan plan;
  int64_t panelsPerTask, unitsPerTask, units;
};

int64_t evenly(int64_t count, int64_t limit) { return partsOf(count, partsOf(count, limit)); }

template <bool pairs>
SlideKernel kernelWith(int pieces, int64_t rows) {
  return pieces == 1 ? slideKernel<pairs, 1>(rows) : pieces == 2 ? slideKernel<pairs, 2>(rows)
                                                                  : slideKernel<pairs, 4>(rows);
}

SlideKernel kernelOf(const Plan& plan, int64_t rows) {
#if BINADE_LANE_PAIRS
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
  plan.pieces = piecesFor(least(mostOutputs(plan.x), plan.bandColumns), laneCount);
  for (int64_t strip = 0; strip <= plan.strips; ++strip) plan.stripStarts[strip] = strip * plan.rows / plan.strips;
  for (int64_t strip = 0; strip < plan.strips; ++strip)
    plan.kernels[strip] = kernelOf(plan, plan.stripStarts[strip + 1] - plan.stripStarts[strip]);
  planTaps(&plan);
  return plan;
}

// --- Weights ------------------------------------------------------------------------------------------------------

template <DType storage>
float wideElement(const char* data, int64_t index) {
  if constexpr (storage == DType::float32) return reinterpret_cast<const float*>(data)[index];
  const uint16_t bits = reinterpret_cast<const uint16_t*>(data)[index];
  return storage == DType::bfloat16 ? bfloat16ToFloat(bits) : float16ToFloat(bits);
}

float roundedTo(DType format, float value) {
  if (format == DType::bfloat16) return bfloat16ToFloat(floatToBfloat16(value));
  return format == DType::float16 ? float16ToFloat(floatToFloat16(value)) : value;
}

/// The weights of one phase, for one strip: (words, taps, slideRows), of which the strip's rows are written.
template <DType storage>
void packPanel(const Work& work, int64_t group, int64_t phase, int64_t strip) {
  const Plan& plan = work.plan;
  const ImageView& w = work.problem->w;
  const char* data = static_cast<const char*>(w.data);
  const int64_t firstTap = plan.tapStart[phase], taps = plan.tapStart[phase + 1] - firstTap;
  const int64_t rowStride = w.strides[plan.gradient ? 1 : 0], channelStride = w.strides[plan.gradient ? 0 : 1];
  const int64_t start = plan.stripStarts[strip], height = plan.stripStarts[strip + 1] - start;
  float* panel = plan.packed + group * plan.packedLength +
                 (firstTap * plan.strips + taps * strip) * plan.words * slideRows;
  const int64_t perWord = plan.pairs ? 2 : 1;
  const int64_t base = group * work.problem->outputs * w.strides[0];
  for (int64_t i = 0; i < height; ++i) {
    float* target = panel + i;
    for (int64_t word = 0; word < plan.words; ++word) {
      const int64_t channel = word * perWord;
      const int64_t at = base + (start + i) * rowStride + channel * channelStride;
      for (int64_t t = firstTap; t < firstTap + taps; ++t, target += slideRows) {
        const int64_t index = at + plan.tapY[t] * w.strides[2] + plan.tapX[t];
        const float low = wideElement<storage>(data, index);
        if (!plan.pairs) {
          *target = w.format == storage ? low : roundedTo(w.format, low);
          continue;
        }
        const float high = channel + 1 < plan.channels ? wideElement<storage>(data, index + channelStride) : 0.0f;
        *target = floatOfBits(floatToBfloat16(low) | static_cast<uint32_t>(floatToBfloat16(high)) << 16);
      }
    }
  }
}

void packTask(void* context, int64_t task, int) {
  const Work& work = *static_cast<const Work*>(context);
  const int64_t panels = work.plan.phases * work.plan.strips;
  const int64_t end = least((task + 1) * work.panelsPerTask, work.problem->groups * panels);
  for (int64_t index = task * work.panelsPerTask; index < end; ++index) {
    const int64_t group = index / panels, phase = index % panels / work.plan.strips, strip = index % work.plan.strips;
    switch (work.problem->w.storage) {
      case DType::float32:
        packPanel<DType::float32>(work, group, phase, strip);
        break;
      case DType::bfloat16:
        packPanel<DType::bfloat16>(work, group, phase, strip);
        break;
      default:
        packPanel<DType::float16>(work, group, phase, strip);
    }
  }
}

// --- Units ---------------------------------------------------------------------------------------------------------

/// Where sums go: (row, image, line, column) at data[row * rowStride + image * imageStride + line * lineStride + column].
struct Target {
  float* data;
  int64_t rowStride, imageStride, lineStride;
};

/// A run of neighbouring outputs of one line of one phase: at most laneCount / pieces of them.
struct Piece {
  int64_t place;  // bytes from the staged pictures
  int64_t at;     // in a target
  int64_t count;
};

/// One unit of work, and the outputs that it computes.
struct Unit {
  int64_t image, images, group;
  Band rows, columns;              // in q
  int64_t firstStrip, endStrip;
  int64_t top, bottom, left, right;  // of the result
};

Unit unitAt(const Work& work, int64_t index) {
  const Plan& plan = work.plan;
  Unit unit = {};
  unit.firstStrip = index % plan.rowBlocks * plan.blockStrips;
  unit.endStrip = least(unit.firstStrip + plan.blockStrips, plan.strips);
  index /= plan.rowBlocks;
  unit.columns.first = plan.x.first + index % plan.columnBands * plan.bandColumns;
  unit.columns.count = least(plan.bandColumns, plan.x.end - unit.columns.first);
  index /= plan.columnBands;
  unit.rows.first = plan.y.first + index % plan.rowBands * plan.bandRows;
  unit.rows.count = least(plan.bandRows, plan.y.end - unit.rows.first);
  index /= plan.rowBands;
  unit.group = index % work.problem->groups;
  unit.image = index / work.problem->groups * plan.images;
  unit.images = least(plan.images, work.problem->batch - unit.image);
  const auto begin = [](const StagedAxis& axis, const Band& band) {
    return most(outputAt(axis, 0, band.first), 0);
  };
  const auto end = [](const StagedAxis& axis, const Band& band) {
    return most(least(outputAt(axis, 0, band.first + band.count), axis.result), 0);
  };
  unit.top = begin(plan.y, unit.rows);
  unit.bottom = end(plan.y, unit.rows);
  unit.left = begin(plan.x, unit.columns);
  unit.right = end(plan.x, unit.columns);
  return unit;
}

/// The q of one phase that a band holds.
Band clipped(const StagedAxis& axis, int64_t phase, const Band& band) {
  const int64_t first = most(band.first, firstOutput(axis, phase));
  return {first, most(least(band.first + band.count, endOutput(axis, phase)) - first, 0)};
}

/// The outputs of one phase in a unit: pieces in row-major order, and whether they follow each other in the target.
struct PhaseOutputs {
  Band rows, columns;
  int64_t pieces;
  bool dense;  // pieces are full, and kernel calls write `groupLanes` neighbouring floats of the target
};

PhaseOutputs listPieces(const Plan& plan, const Unit& unit, int64_t phase, const Target& target, Piece* pieces) {
  const int64_t perPiece = laneCount / plan.pieces;
  PhaseOutputs outputs = {};
  outputs.rows = clipped(plan.y, phase / plan.x.outputPhases, unit.rows);
  outputs.columns = clipped(plan.x, phase % plan.x.outputPhases, unit.columns);
  Piece* piece = pieces;
  for (int64_t image = 0; image < unit.images; ++image) {
    for (int64_t line = 0; line < outputs.rows.count; ++line) {
      const int64_t row = outputs.rows.first + line - unit.rows.first;
      const int64_t place = image * plan.layout.imageLength + row * plan.layout.rowLength +
                            (outputs.columns.first - unit.columns.first);
      for (int64_t column = 0; column < outputs.columns.count; column += perPiece)
        *piece++ = {4 * (place + column), image * target.imageStride + line * target.lineStride + column,
                    least(perPiece, outputs.columns.count - column)};
    }
  }
  outputs.pieces = piece - pieces;
  const int64_t pixels = outputs.rows.count * outputs.columns.count;
  outputs.dense = outputs.columns.count % perPiece == 0 &&
                  (outputs.rows.count == 1 || target.lineStride == outputs.columns.count) &&
                  (unit.images == 1 || target.imageStride == pixels || pixels % groupLanes == 0);
  return outputs;
}

/// Copies or adds a kernel's tile (rows, groupLanes) to where its pieces belong.
void scatterTile(const float* tile, const Piece* pieces, int64_t count, int64_t perPiece, int64_t rows,
                 const Target& target, bool add) {
  for (int64_t i = 0; i < rows; ++i, tile += groupLanes) {
    float* row = target.data + i * target.rowStride;
    for (int64_t j = 0; j < count; ++j) {
      float* to = row + pieces[j].at;
      const float* from = tile + j * perPiece;
      if (add)
        for (int64_t lane = 0; lane < pieces[j].count; ++lane) to[lane] += from[lane];
      else
        for (int64_t lane = 0; lane < pieces[j].count; ++lane) to[lane] = from[lane];
    }
  }
}

/// Adds one chunk of channels (words [firstWord, firstWord + words)) to the sums of one phase.
void slidePhase(const Work& work, const Unit& unit, int64_t phase, const PhaseOutputs& outputs, const Piece* list,
                const Target& target, const char* staged, int64_t firstWord, int64_t words) {
  const Plan& plan = work.plan;
  const int64_t perGroup = 2 * plan.pieces;
  const int64_t firstTap = plan.tapStart[phase], taps = plan.tapStart[phase + 1] - firstTap;
  const float* panels = plan.packed + unit.group * plan.packedLength + firstTap * plan.strips * plan.words * slideRows;
  const int64_t* shifts = plan.shifts + firstTap * plan.chunkWords;
  const int64_t firstRow = plan.stripStarts[unit.firstStrip], panelLength = plan.words * taps * slideRows;
  alignas(64) float tile[slideRows * groupLanes];
  for (int64_t first = 0; first < outputs.pieces; first += perGroup) {
    const int64_t count = least(outputs.pieces - first, perGroup);
    int64_t places[8];
    for (int64_t j = 0; j < perGroup; ++j) places[j] = list[first + least(j, count - 1)].place;
    const bool direct = outputs.dense && count == perGroup;
    const float* panel = panels + unit.firstStrip * panelLength + firstWord * taps * slideRows;
    for (int64_t strip = unit.firstStrip; strip < unit.endStrip; ++strip, panel += panelLength) {
      float* rows = target.data + (plan.stripStarts[strip] - firstRow) * target.rowStride;
      if (direct) {
        plan.kernels[strip](words * taps, panel, staged, shifts, places, rows + list[first].at, target.rowStride,
                            firstWord > 0);
        continue;
      }
      plan.kernels[strip](words * taps, panel, staged, shifts, places, tile, groupLanes, false);
      scatterTile(tile, list + first, count, laneCount / plan.pieces, plan.stripStarts[strip + 1] - plan.stripStarts[strip],
                  {rows, target.rowStride, 0, 0}, firstWord > 0);
    }
  }
}

/// Scratch of one worker.
struct Rooms {
  char *staged, *spare;
  PhaseSpan* spans;
  Piece* pieces;         // phase by phase, `piecesPerPhase` each
  PhaseOutputs* outputs;  // [phases]
  Target* targets;        // [phases]
  float *sums, *phaseSums;
  int64_t piecesPerPhase, phaseLength;
};

Rooms makeRooms(const Work& work, int worker) {
  const Plan& plan = work.plan;
  Rooms rooms = {};
  rooms.piecesPerPhase = plan.images * plan.bandRows * (plan.bandColumns * plan.pieces / laneCount + 1);
  const int64_t rows = plan.blockStrips * slideRows;
  rooms.phaseLength = rows * plan.images * plan.bandRows * plan.bandColumns;
  Cut cut = {nullptr, 0};
  for (int pass = 0; pass < 2; ++pass) {
    // Lanes past the end of a row are computed and dropped: they may read two vectors past the last picture.
    rooms.staged = cut.bytes(4 * plan.images * plan.layout.imageLength + 2 * vectorByteLength);
    rooms.spare = cut.bytes(8 * plan.x.source);
    rooms.spans = reinterpret_cast<PhaseSpan*>(cut.bytes(plan.x.phases * static_cast<int64_t>(sizeof(PhaseSpan))));
    rooms.pieces = reinterpret_cast<Piece*>(
        cut.bytes(plan.phases * rooms.piecesPerPhase * static_cast<int64_t>(sizeof(Piece))));
    rooms.outputs =
        reinterpret_cast<PhaseOutputs*>(cut.bytes(plan.phases * static_cast<int64_t>(sizeof(PhaseOutputs))));
    rooms.targets = reinterpret_cast<Target*>(cut.bytes(plan.phases * static_cast<int64_t>(sizeof(Target))));
    if (pass == 0) cut = {static_cast<char*>(scratch(work.pool, worker, 0, static_cast<size_t>(cut.used))), 0};
  }
  const int64_t tiles = plan.phases + (plan.phases > 1 ? plan.phases : 0);
  rooms.sums = static_cast<float*>(scratch(work.pool, worker, 1, static_cast<size_t>(4 * tiles * rooms.phaseLength)));
  rooms.phaseSums = rooms.sums + plan.phases * rooms.phaseLength;
  return rooms;
}

/// The unit's part of the result: in the sink's memory, or in scratch, row after row of (images, lines, columns).
Target targetOf(const Work& work, const Unit& unit, const Rooms& rooms) {
  const ImageSink& sink = *work.sink;
  const Plan& plan = work.plan;
  if (sink.direct != nullptr) {
    const int64_t channel = unit.group * plan.rows + plan.stripStarts[unit.firstStrip];
    float* data = sink.direct + unit.image * sink.directImage + channel * sink.directChannel +
                  unit.top * plan.x.result + unit.left;
    return {data, sink.directChannel, sink.directImage, plan.x.result};
  }
  const int64_t width = unit.right - unit.left, pixels = (unit.bottom - unit.top) * width;
  return {rooms.sums, unit.images * pixels, pixels, width};
}

/// to (count · step) from the sums of one column phase, or of two (step 2): `odd` follows `even`, one column later.
void mergeLine(const float* even, const float* odd, int64_t evens, int64_t odds, int64_t step, float* to) {
  int64_t j = 0;
  for (; j + laneCount <= odds; j += laneCount) {
    Lanes low, high;
    joinLanes(readLanes(even + j), readLanes(odd + j), &low, &high);
    writeLanes(to + 2 * j, low);
    writeLanes(to + 2 * j + laneCount, high);
  }
  for (; j < odds; ++j) {
    to[2 * j] = even[j];
    to[2 * j + 1] = odd[j];
  }
  for (; j < evens; ++j) to[j * step] = even[j];
}

/// Puts the sums of all phases into the result: neighbouring outputs belong to neighbouring phases.
void mergePhases(const Work& work, const Unit& unit, const Rooms& rooms, const Target& target, int64_t rows) {
  const Plan& plan = work.plan;
  const int64_t step = plan.x.outputPhases;
  for (int64_t phase = 0; phase < plan.phases; ++phase) {
    const PhaseOutputs& outputs = rooms.outputs[phase];
    const Target& from = rooms.targets[phase];
    const int64_t left = outputAt(plan.x, phase % step, outputs.columns.first) - unit.left;
    // The columns of two phases side by side are interleaved at once, by the phase that comes first in the line.
    const int64_t other = step == 2 ? phase ^ 1 : phase;
    const int64_t others = step == 2 ? rooms.outputs[other].columns.count : 0;
    if (others > 0 && left != 0) continue;
    const Target& odd = rooms.targets[other];
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t image = 0; image < unit.images; ++image) {
        for (int64_t line = 0; line < outputs.rows.count; ++line) {
          const int64_t y = outputAt(plan.y, phase / step, outputs.rows.first + line) - unit.top;
          mergeLine(from.data + row * from.rowStride + image * from.imageStride + line * from.lineStride,
                    odd.data + row * odd.rowStride + image * odd.imageStride + line * odd.lineStride,
                    outputs.columns.count, others, step,
                    target.data + row * target.rowStride + image * target.imageStride + y * target.lineStride + left);
        }
      }
    }
  }
}

void deliver(const Work& work, const Unit& unit, const Target& target, int64_t rows, int worker) {
  const ImageSink& sink = *work.sink;
  if (sink.direct != nullptr) return;
  const Plan& plan = work.plan;
  const int64_t channel = unit.group * plan.rows + plan.stripStarts[unit.firstStrip];
  const int64_t width = unit.right - unit.left;
  const bool whole = width == plan.x.result;  // else lines are delivered one by one
  const int64_t runs = whole ? 1 : unit.bottom - unit.top, pixels = whole ? (unit.bottom - unit.top) * width : width;
  for (int64_t image = 0; image < unit.images; ++image)
    for (int64_t run = 0; run < runs; ++run)
      sink.write(sink.context, unit.image + image, channel, rows, (unit.top + run) * plan.x.result + unit.left, pixels,
                 target.data + image * target.imageStride + run * width, target.rowStride, worker);
}

void runUnit(const Work& work, const Unit& unit, const Rooms& rooms, int worker) {
  const Plan& plan = work.plan;
  if (unit.bottom <= unit.top || unit.right <= unit.left) return;
  const int64_t rows = plan.stripStarts[unit.endStrip] - plan.stripStarts[unit.firstStrip];
  const Target target = targetOf(work, unit, rooms);
  for (int64_t phase = 0; phase < plan.phases; ++phase) {
    const Band lines = clipped(plan.y, phase / plan.x.outputPhases, unit.rows);
    const Band columns = clipped(plan.x, phase % plan.x.outputPhases, unit.columns);
    const int64_t pixels = lines.count * columns.count;
    rooms.targets[phase] = plan.phases == 1 ? target
                                            : Target{rooms.phaseSums + phase * rooms.phaseLength,
                                                     unit.images * pixels, pixels, columns.count};
    rooms.outputs[phase] =
        listPieces(plan, unit, phase, rooms.targets[phase], rooms.pieces + phase * rooms.piecesPerPhase);
  }
  const int64_t perWord = plan.pairs ? 2 : 1;
  for (int64_t word = 0; word < plan.words; word += plan.chunkWords) {
    const int64_t words = least(plan.chunkWords, plan.words - word);
    StageJob job = {work.source, &plan.y, &plan.x, plan.layout, unit.rows.first, unit.columns.first, unit.image,
                    unit.images, unit.group * plan.channels + word * perWord,
                    least(words * perWord, plan.channels - word * perWord), rooms.staged, rooms.spare, rooms.spans};
    job.layout.words = words;
    job.layout.imageLength = plan.layout.imageLength;
    stage(job, plan.pairs ? StagedAs::channelPairs : StagedAs::floats);
    for (int64_t phase = 0; phase < plan.phases; ++phase)
      slidePhase(work, unit, phase, rooms.outputs[phase], rooms.pieces + phase * rooms.piecesPerPhase,
                    rooms.targets[phase], rooms.staged, word, words);
  }
  if (plan.phases > 1) mergePhases(work, unit, rooms, target, rows);
  deliver(work, unit, target, rows, worker);
}

void unitTask(void* context, int64_t task, int worker) {
  const Work& work = *static_cast<const Work*>(context);
  const Rooms rooms = makeRooms(work, worker);
  const int64_t end = least((task + 1) * work.unitsPerTask, work.units);
  for (int64_t index = task * work.unitsPerTask; index < end; ++index)
    runUnit(work, unitAt(work, index), rooms, worker);
}

void slide(Pool* pool, const ConvolutionProblem& problem, const ImageSink& sink, bool gradient) {
  if (problem.batch == 0) return;
  Work work = {};
  work.pool = pool;
  work.problem = &problem;
  work.source = gradient ? &problem.g : &problem.x;
  work.sink = &sink;
  work.plan = makePlan(pool, problem, gradient);
  const Plan& plan = work.plan;
  const int64_t panels = problem.groups * plan.phases * plan.strips;
  work.panelsPerTask = most(packWork / most(problem.groups * plan.packedLength / panels, 1), 1);
  parallelFor(pool, partsOf(panels, work.panelsPerTask), packTask, &work);
  work.units = plan.imageBlocks * problem.groups * plan.rowBands * plan.columnBands * plan.rowBlocks;
  const int64_t pixels = plan.images * plan.bandRows * plan.bandColumns;
  const int64_t unitWork = pixels * plan.blockStrips * least(plan.rows, slideRows) * plan.words * plan.taps;
  work.unitsPerTask = most(taskWork / most(unitWork, 1), 1);
  parallelFor(pool, partsOf(work.units, work.unitsPerTask), unitTask, &work);
}

}  // namespace

void convolutionForward(Pool* pool, const ConvolutionProblem& problem, const ImageSink& sink) {
  slide(pool, problem, sink, false);
}

void convolutionInputGradient(Pool* pool, const ConvolutionProblem& problem, const ImageSink& sink) {
  slide(pool, problem, sink, true);
}

}  // namespace BINADE_ISA
}  // namespace binade
