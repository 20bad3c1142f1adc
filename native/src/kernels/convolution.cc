// Convolution and its input gradient: packed weights times staged pictures, without a matrix of windows.
//
// Both are one computation over q (see convolution_layout.h). A unit of work holds the pictures of one task: some pictures,
// one group, a band of outputs, a block of result channels. It stages a chunk of channels at a time and adds that chunk's
// products to its sums, which lie in the result itself where the sink allows it.
#include "convolution.h"

#include "convolution_ahead.h"
#include "convolution_pack.h"
#include "convolution_target.h"
#include "winograd.h"

namespace binade {
namespace BINADE_ISA {

namespace {

constexpr int64_t taskWork = 1 << 16;              // multiply-adds under which units share a task

struct Work {
  Pool* pool;
  const ConvolutionProblem* problem;
  const ImageView* source;
  const ImageSink* sink;
  Plan plan;
  int64_t unitsPerTask, units;
};

// --- Units ---------------------------------------------------------------------------------------------------------

/// A run of neighbouring outputs of one line of one phase: at most vectorLanes / pieces of them.
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
  const int64_t perPiece = vectorLanes / plan.pieces;
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
                const Target& target, const char* staged, int64_t firstWord, int64_t words, Ahead* ahead) {
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
    ahead->fetch();
    const float* panel = panels + unit.firstStrip * panelLength + firstWord * taps * slideRows;
    for (int64_t strip = unit.firstStrip; strip < unit.endStrip; ++strip, panel += panelLength) {
      float* rows = target.data + (plan.stripStarts[strip] - firstRow) * target.rowStride;
      if (direct) {
        plan.kernels[strip](words * taps, panel, staged, shifts, places, rows + list[first].at, target.rowStride,
                            firstWord > 0);
        continue;
      }
      plan.kernels[strip](words * taps, panel, staged, shifts, places, tile, groupLanes, false);
      scatterTile(tile, list + first, count, vectorLanes / plan.pieces, plan.stripStarts[strip + 1] - plan.stripStarts[strip],
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
  rooms.piecesPerPhase = plan.images * plan.bandRows * (plan.bandColumns * plan.pieces / vectorLanes + 1);
  const int64_t rows = plan.blockStrips * slideRows;
  rooms.phaseLength = rows * plan.images * plan.bandRows * plan.bandColumns;
  Cut cut = {nullptr, 0};
  for (int pass = 0; pass < 2; ++pass) {
    // Vector past the end of a row are computed and dropped: they may read two vectors past the last picture.
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

Region regionOf(const Work& work, const Unit& unit) {
  const Plan& plan = work.plan;
  const int64_t first = plan.stripStarts[unit.firstStrip];
  return {unit.image, unit.images, unit.group * plan.rows + first, plan.stripStarts[unit.endStrip] - first,
          unit.top, unit.left, unit.bottom - unit.top, unit.right - unit.left, plan.x.result};
}

/// to (count · step) from the sums of one column phase, or of two (step 2): `odd` follows `even`, one column later.
void mergeLine(const float* even, const float* odd, int64_t evens, int64_t odds, int64_t step, float* to) {
  int64_t j = 0;
  for (; j + vectorLanes <= odds; j += vectorLanes) {
    Vector low, high;
    joinLanes(loadVector(even + j), loadVector(odd + j), &low, &high);
    storeVector(to + 2 * j, low);
    storeVector(to + 2 * j + vectorLanes, high);
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

/// The pictures of a unit that holds whole ones, fetched while the unit before it is computed.
Ahead findAhead(const Work& work, const Unit& next) {
  const Plan& plan = work.plan;
  if (plan.rowBands > 1 || plan.columnBands > 1 || plan.rowBlocks > 1) return {};
  const int64_t pixels = plan.images * plan.bandRows * plan.bandColumns;
  const int64_t calls = plan.phases * (plan.words / plan.chunkWords) * partsOf(pixels, groupLanes);
  return fetchAhead(*work.source, next.image, next.images, next.group * plan.channels, plan.channels, plan.y.source,
                    plan.x.source, calls);
}

void runUnit(const Work& work, const Unit& unit, const Rooms& rooms, int worker, Ahead ahead) {
  const Plan& plan = work.plan;
  if (unit.bottom <= unit.top || unit.right <= unit.left) return;
  const Region region = regionOf(work, unit);
  const Target target = targetOf(*work.sink, region, rooms.sums);
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
                    rooms.targets[phase], rooms.staged, word, words, &ahead);
  }
  if (plan.phases > 1) mergePhases(work, unit, rooms, target, region.channels);
  deliver(*work.sink, region, target, worker);
}

void unitTask(void* context, int64_t task, int worker) {
  const Work& work = *static_cast<const Work*>(context);
  const Rooms rooms = makeRooms(work, worker);
  const int64_t end = least((task + 1) * work.unitsPerTask, work.units);
  // The next task is most often this worker's, too.
  for (int64_t index = task * work.unitsPerTask; index < end; ++index)
    runUnit(work, unitAt(work, index), rooms, worker,
            index + 1 < work.units ? findAhead(work, unitAt(work, index + 1)) : Ahead{});
}

}  // namespace

void convolveDirectly(Pool* pool, const ConvolutionProblem& problem, const ImageSink& sink, bool gradient) {
  if (problem.batch == 0) return;
  Work work = {};
  work.pool = pool;
  work.problem = &problem;
  work.source = gradient ? &problem.g : &problem.x;
  work.sink = &sink;
  work.plan = makePlan(pool, problem, gradient);
  const Plan& plan = work.plan;
  packWeights(pool, plan, problem);
  work.units = plan.imageBlocks * problem.groups * plan.rowBands * plan.columnBands * plan.rowBlocks;
  const int64_t pixels = plan.images * plan.bandRows * plan.bandColumns;
  const int64_t unitWork = pixels * plan.blockStrips * least(plan.rows, slideRows) * plan.words * plan.taps;
  work.unitsPerTask = most(taskWork / most(unitWork, 1), 1);
  parallelFor(pool, partsOf(work.units, work.unitsPerTask), unitTask, &work);
}

static void convolve(Pool* pool, const ConvolutionProblem& problem, const ImageSink& sink, bool gradient) {
  (takesTiles(problem, gradient) ? convolveByTiles : convolveDirectly)(pool, problem, sink, gradient);
}

void convolutionForward(Pool* pool, const ConvolutionProblem& problem, const ImageSink& sink) {
  convolve(pool, problem, sink, false);
}

void convolutionInputGradient(Pool* pool, const ConvolutionProblem& problem, const ImageSink& sink) {
  convolve(pool, problem, sink, true);
}

}  // namespace BINADE_ISA
}  // namespace binade
