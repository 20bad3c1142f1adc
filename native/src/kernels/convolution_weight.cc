// Weight gradient of convolution: every weight is a dot product of the cotangent's pixels with shifted input pixels.
//
// Lanes run along pixels, so that neither operand is transposed: the input is staged as for the convolution itself (one
// copy, not one per tap), and the cotangent is read where it lies. Pictures are cut into parts by shape; each part adds its
// units in order to sums of its own, and the parts are added in order.
#include "convolution.h"

#include "convolution_micro.h"
#include "convolution_stage.h"
#include "vm.h"

namespace binade {
namespace BINADE_ISA {

namespace {

constexpr int64_t unitPixels = 1024;             // of a unit: a strip of cotangents stays in L1
constexpr int64_t stagedByteLength = 256 << 10;  // of the input, and of the cotangent, in L2
constexpr int64_t mostParts = 8;
constexpr int64_t partsByteLength = 8 << 20;
constexpr int64_t wantedTasks = 16;
constexpr int64_t leastChannels = 4;             // of a task's block
constexpr int64_t combineLength = 1 << 14;

struct Plan {
  bool pairs;
  int pieces;
  int64_t size, perPiece;          // bytes of a staged element; elements of a piece
  StagedAxis y, x;
  StageLayout layout;              // of one channel block
  int64_t images, imageBlocks, bandRows, rowBands, bandColumns, columnBands;
  int64_t units, parts;
  int64_t channelBlock, channelBlocks;
  int64_t outputBlock;             // rows of the cotangent staged at once
  int64_t strips, taps, columns;   // columns: channels · taps of one row of the weight
  int64_t pitch, steps;            // of staged cotangents; vectors of a unit
  int64_t* shifts;                 // [taps] bytes
  float* sums;                     // (parts, groups · outputs, columns)
};

struct Work {
  Pool* pool;
  const ConvolutionProblem* problem;
  const ImageSink* sink;
  Plan plan;
  int64_t rowsPerTask;
};

int64_t evenly(int64_t count, int64_t limit) { return partsOf(count, partsOf(count, limit)); }

void planUnits(const ConvolutionProblem& problem, Plan* plan) {
  const int64_t rows = problem.axes[0].output, columns = problem.axes[1].output;
  const int64_t perVector = vectorByteLength / plan->size;
  plan->bandColumns = columns <= unitPixels ? columns : multipleOf(evenly(columns, unitPixels), perVector);
  plan->bandRows = evenly(rows, most(unitPixels / plan->bandColumns, 1));
  plan->images = most(least(problem.batch, unitPixels / (rows * columns)), 1);
  plan->columnBands = partsOf(columns, plan->bandColumns);
  plan->rowBands = partsOf(rows, plan->bandRows);
  const int64_t bands = plan->rowBands * plan->columnBands;
  while (plan->images > 1 && partsOf(problem.batch, plan->images) * bands < mostParts)
    plan->images = partsOf(plan->images, 2);
  plan->imageBlocks = partsOf(problem.batch, plan->images);
  plan->units = plan->imageBlocks * bands;
  const int64_t partByteLength = problem.groups * problem.outputs * plan->columns * 4;
  plan->parts = most(least(least(plan->units, mostParts), partsByteLength / partByteLength), 1);
}

void planBlocks(const ConvolutionProblem& problem, Plan* plan) {
  const StagedAxis &y = plan->y, &x = plan->x;
  const int64_t phases = least(y.axis.stride, y.axis.kernel) * least(x.axis.stride, x.axis.kernel);
  const int64_t plane = plan->images * phases * (plan->bandRows + y.reach) * (plan->bandColumns + x.reach) * plan->size;
  plan->channelBlock = evenly(problem.channels, most(stagedByteLength / plane, 1));
  while (plan->parts * problem.groups * partsOf(problem.channels, plan->channelBlock) < wantedTasks &&
         plan->channelBlock >= 2 * leastChannels)
    plan->channelBlock = partsOf(plan->channelBlock, 2);
  plan->channelBlocks = partsOf(problem.channels, plan->channelBlock);
  plan->pieces = piecesFor(plan->bandColumns, vectorByteLength / plan->size);
  plan->perPiece = vectorByteLength / plan->size / plan->pieces;
  plan->pitch = multipleOf(plan->bandColumns, plan->perPiece);
  const int64_t pixels = plan->images * plan->bandRows * plan->pitch;
  plan->steps = partsOf(pixels, plan->perPiece * plan->pieces);
  plan->outputBlock = least(multipleOf(most(stagedByteLength / (pixels * plan->size), 1), dotRows), problem.outputs);
}

Plan makePlan(Pool* pool, const ConvolutionProblem& problem) {
  Plan plan = {};
  plan.pairs = multipliesPairs(problem.x, problem.g);
  plan.size = plan.pairs ? 2 : 4;
  plan.taps = problem.axes[0].kernel * problem.axes[1].kernel;
  plan.columns = problem.channels * plan.taps;
  planUnits(problem, &plan);
  Cut cut = {nullptr, 0};
  for (int pass = 0; pass < 2; ++pass) {
    plan.y = stageAxis(problem.axes[0], false, &cut);
    plan.x = stageAxis(problem.axes[1], false, &cut);
    plan.shifts = cut.words(plan.taps);
    plan.sums = reinterpret_cast<float*>(
        cut.bytes(plan.parts * problem.groups * problem.outputs * plan.columns * static_cast<int64_t>(sizeof(float))));
    if (pass == 0) cut = {static_cast<char*>(scratch(pool, 0, kSharedSlot, static_cast<size_t>(cut.used))), 0};
  }
  planBlocks(problem, &plan);
  plan.layout = layoutOf(plan.y, plan.x, plan.bandRows, plan.bandColumns, plan.channelBlock);
  for (int64_t t = 0; t < plan.taps; ++t)
    plan.shifts[t] = plan.size * tapShift(plan.y, plan.x, plan.layout, t / plan.x.axis.kernel, t % plan.x.axis.kernel);
  return plan;
}

/// Some pictures, and a band of their outputs.
struct Unit {
  int64_t image, images;
  Band rows, columns;
};

Unit unitAt(const Work& work, int64_t index) {
  const Plan& plan = work.plan;
  Unit unit = {};
  unit.columns.first = index % plan.columnBands * plan.bandColumns;
  unit.columns.count = least(plan.bandColumns, plan.x.end - unit.columns.first);
  index /= plan.columnBands;
  unit.rows.first = index % plan.rowBands * plan.bandRows;
  unit.rows.count = least(plan.bandRows, plan.y.end - unit.rows.first);
  unit.image = index / plan.rowBands * plan.images;
  unit.images = least(plan.images, work.problem->batch - unit.image);
  return unit;
}

/// Scratch of one worker. The staged cotangent is (outputBlock, steps) vectors: (images, rows, pitch), then zeros.
struct Rooms {
  char *x, *g, *spare, *masks;
  PhaseSpan* spans;
  int64_t *gPlaces, *xPlaces;  // [steps · pieces]
};

Rooms makeRooms(const Work& work, int worker) {
  const Plan& plan = work.plan;
  Rooms rooms = {};
  Cut cut = {nullptr, 0};
  for (int pass = 0; pass < 2; ++pass) {
    // The masked lanes of a row's last piece may lie up to a vector past the last picture.
    rooms.x = cut.bytes(plan.images * plan.layout.imageLength * plan.size + vectorByteLength);
    rooms.g = cut.bytes(plan.outputBlock * plan.steps * vectorByteLength);
    rooms.spare = cut.bytes(8 * most(plan.x.source, plan.x.result));
    rooms.masks = cut.bytes((plan.steps + 1) * vectorByteLength);
    rooms.spans = reinterpret_cast<PhaseSpan*>(cut.bytes(plan.x.phases * static_cast<int64_t>(sizeof(PhaseSpan))));
    rooms.gPlaces = cut.words(plan.steps * plan.pieces);
    rooms.xPlaces = cut.words(plan.steps * plan.pieces);
    if (pass == 0) cut = {static_cast<char*>(scratch(work.pool, worker, 0, static_cast<size_t>(cut.used))), 0};
  }
  return rooms;
}

/// Whether the cotangent of a unit is read where it lies: its elements are the kernel's, and whole vectors of pixels.
bool readsInPlace(const Work& work, const Unit& unit) {
  const Plan& plan = work.plan;
  const ImageView& g = work.problem->g;
  const bool stored = plan.pairs ? g.storage == DType::bfloat16
                                 : g.storage == DType::float32 && g.format == DType::float32;
  const int64_t pixels = unit.images * unit.rows.count * unit.columns.count;
  return stored && unit.columns.count % plan.perPiece == 0 && pixels % (plan.perPiece * plan.pieces) == 0;
}

/// Fills the places and masks of a unit, and the operands' parts that all its strips share.
DotOperands listSteps(const Work& work, const Unit& unit, bool inPlace, const Rooms& rooms) {
  const Plan& plan = work.plan;
  const ImageView& g = work.problem->g;
  const int64_t perVector = plan.perPiece * plan.pieces, size = plan.size;
  int64_t piece = 0;
  clearElements(rooms.masks, (plan.steps + 1) * vectorByteLength);
  for (int64_t image = 0; image < unit.images; ++image) {
    for (int64_t row = 0; row < unit.rows.count; ++row) {
      for (int64_t column = 0; column < unit.columns.count; column += plan.perPiece, ++piece) {
        rooms.gPlaces[piece] =
            size * (inPlace ? image * g.strides[0] + row * g.strides[2] + column : piece * plan.perPiece);
        rooms.xPlaces[piece] = size * (image * plan.layout.imageLength + row * plan.layout.rowLength + column);
        const int64_t valid = least(plan.perPiece, unit.columns.count - column);
        __builtin_memset(rooms.masks + piece * plan.perPiece * size, 0xff, static_cast<size_t>(valid * size));
      }
    }
  }
  DotOperands operands = {};
  operands.steps = partsOf(piece, plan.pieces);
  for (; piece < operands.steps * plan.pieces; ++piece) {
    rooms.gPlaces[piece] = size * piece * plan.perPiece;
    rooms.xPlaces[piece] = rooms.xPlaces[piece - 1];
  }
  operands.gPlaces = rooms.gPlaces;
  operands.xPlaces = rooms.xPlaces;
  operands.masks = rooms.masks;
  operands.maskByteLength = inPlace ? 0 : perVector * size;
  return operands;
}

template <typename Element>
void stageCotangentAs(const Work& work, const Unit& unit, int64_t firstRow, int64_t rows, int64_t steps,
                      const Rooms& rooms) {
  const Plan& plan = work.plan;
  const ImageView& g = work.problem->g;
  const int64_t element = byteLengthOfElement(g.storage);
  for (int64_t row = firstRow; row < firstRow + rows; ++row) {
    char* start = rooms.g + (row - firstRow) * steps * vectorByteLength;
    Element* target = reinterpret_cast<Element*>(start);
    for (int64_t image = 0; image < unit.images; ++image) {
      for (int64_t line = 0; line < unit.rows.count; ++line, target += plan.pitch) {
        const int64_t at = (unit.image + image) * g.strides[0] + row * g.strides[1] +
                           (unit.rows.first + line) * g.strides[2] + unit.columns.first;
        const Element* source = rowElements(g, static_cast<const char*>(g.data) + at * element, unit.columns.count,
                                            reinterpret_cast<Element*>(rooms.spare));
        copyElements(source, 1, unit.columns.count, target);
        clearElements(reinterpret_cast<char*>(target + unit.columns.count),
                      (plan.pitch - unit.columns.count) * static_cast<int64_t>(sizeof(Element)));
      }
    }
    char* end = reinterpret_cast<char*>(target);
    clearElements(end, start + steps * vectorByteLength - end);
  }
}

void stageCotangent(const Work& work, const Unit& unit, int64_t firstRow, int64_t rows, int64_t steps,
                    const Rooms& rooms) {
#if BINADE_LANE_PAIRS
  if (work.plan.pairs) return stageCotangentAs<uint16_t>(work, unit, firstRow, rows, steps, rooms);
#endif
  stageCotangentAs<float>(work, unit, firstRow, rows, steps, rooms);
}

DotKernel kernelFor(const Plan& plan, int64_t rows) {
#if BINADE_LANE_PAIRS
  if (plan.pairs)
    return plan.pieces == 1 ? dotKernel<true, 1>(rows) : plan.pieces == 2 ? dotKernel<true, 2>(rows)
                                                                          : dotKernel<true, 4>(rows);
#endif
  return plan.pieces == 1 ? dotKernel<false, 1>(rows) : plan.pieces == 2 ? dotKernel<false, 2>(rows)
                                                                         : dotKernel<false, 4>(rows);
}

/// Adds a strip of rows times the columns [0, columns) of a channel block to `sums` (rows, plan.columns), or sets them.
void dotStrips(const Work& work, DotOperands operands, int64_t rows, int64_t columns, const char* staged, float* sums,
               bool add) {
  const Plan& plan = work.plan;
  const DotKernel kernel = kernelFor(plan, rows);
  const int64_t width = dotWidth(static_cast<int>(rows));
  const char* x[dotWidth(1)];
  float tile[dotRows * dotWidth(1)];
  operands.x = x;
  for (int64_t first = 0; first < columns; first += width) {
    const int64_t count = least(columns - first, width);
    for (int64_t j = 0; j < width; ++j) {
      const int64_t column = first + least(j, count - 1);
      x[j] = staged + column / plan.taps * plan.layout.wordLength * plan.size + plan.shifts[column % plan.taps];
    }
    kernel(operands, tile);
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < count; ++j) {
        float* sum = sums + i * plan.columns + first + j;
        *sum = add ? *sum + tile[i * width + j] : tile[i * width + j];
      }
  }
}

/// Adds one unit to a part's sums, (outputs, columns) of one group, for the channels [channel, channel + channels).
void runUnit(const Work& work, const Unit& unit, int64_t group, int64_t channel, int64_t channels, const Rooms& rooms,
             float* sums, bool add) {
  const Plan& plan = work.plan;
  const ConvolutionProblem& problem = *work.problem;
  StageJob job = {&problem.x, &plan.y, &plan.x, plan.layout, unit.rows.first, unit.columns.first, unit.image,
                  unit.images, group * problem.channels + channel, channels, rooms.x, rooms.spare, rooms.spans};
  job.layout.words = channels;
  stage(job, plan.pairs ? StagedAs::bfloat16 : StagedAs::floats);
  const bool inPlace = readsInPlace(work, unit);
  DotOperands operands = listSteps(work, unit, inPlace, rooms);
  operands.rowByteLength = inPlace ? problem.g.strides[1] * plan.size : operands.steps * vectorByteLength;
  const int64_t block = inPlace ? problem.outputs : plan.outputBlock;
  for (int64_t first = 0; first < problem.outputs; first += block) {
    const int64_t rows = least(block, problem.outputs - first);
    const int64_t row = group * problem.outputs + first;
    if (!inPlace) stageCotangent(work, unit, row, rows, operands.steps, rooms);
    const char* base = inPlace ? static_cast<const char*>(problem.g.data) +
                                     plan.size * (unit.image * problem.g.strides[0] + row * problem.g.strides[1] +
                                                  unit.rows.first * problem.g.strides[2] + unit.columns.first)
                               : rooms.g;
    const int64_t strips = partsOf(rows, dotRows);
    for (int64_t strip = 0; strip < strips; ++strip) {
      const int64_t start = strip * rows / strips, height = (strip + 1) * rows / strips - start;
      operands.g = base + start * operands.rowByteLength;
      dotStrips(work, operands, height, channels * plan.taps, rooms.x, sums + (first + start) * plan.columns, add);
    }
  }
}

void partTask(void* context, int64_t task, int worker) {
  const Work& work = *static_cast<const Work*>(context);
  const Plan& plan = work.plan;
  const ConvolutionProblem& problem = *work.problem;
  const int64_t block = task % plan.channelBlocks, group = task / plan.channelBlocks % problem.groups;
  const int64_t part = task / plan.channelBlocks / problem.groups;
  const int64_t channel = block * plan.channelBlock, channels = least(plan.channelBlock, problem.channels - channel);
  float* sums = plan.sums + (part * problem.groups + group) * problem.outputs * plan.columns + channel * plan.taps;
  const Rooms rooms = makeRooms(work, worker);
  const int64_t first = part * plan.units / plan.parts, end = (part + 1) * plan.units / plan.parts;
  for (int64_t unit = first; unit < end; ++unit)
    runUnit(work, unitAt(work, unit), group, channel, channels, rooms, sums, unit > first);
}

/// Adds the parts of some rows of the weight, in order, and hands them over.
void combineTask(void* context, int64_t task, int worker) {
  const Work& work = *static_cast<const Work*>(context);
  const Plan& plan = work.plan;
  const int64_t allRows = work.problem->groups * work.problem->outputs;
  const int64_t row = task * work.rowsPerTask, rows = least(work.rowsPerTask, allRows - row);
  float* sums = plan.sums + row * plan.columns;
  for (int64_t part = 1; part < plan.parts; ++part) {
    const float* next = sums + part * allRows * plan.columns;
    for (int64_t i = 0; i < rows * plan.columns; ++i) sums[i] += next[i];
  }
  const ImageSink& sink = *work.sink;
  if (sink.direct == nullptr)
    return sink.write(sink.context, 0, row, rows, 0, plan.columns, sums, plan.columns, worker);
  for (int64_t i = 0; i < rows; ++i)
    copyElements(sums + i * plan.columns, 1, plan.columns, sink.direct + (row + i) * sink.directChannel);
}

}  // namespace

void convolutionWeightGradient(Pool* pool, const ConvolutionProblem& problem, const ImageSink& sink) {
  Work work = {};
  work.pool = pool;
  work.problem = &problem;
  work.sink = &sink;
  work.plan = makePlan(pool, problem);
  const Plan& plan = work.plan;
  const int64_t rows = problem.groups * problem.outputs;
  if (problem.batch == 0) clearElements(reinterpret_cast<char*>(plan.sums), rows * plan.columns * 4);
  else parallelFor(pool, plan.parts * problem.groups * plan.channelBlocks, partTask, &work);
  work.rowsPerTask = most(combineLength / most(plan.columns, 1), 1);
  parallelFor(pool, partsOf(rows, work.rowsPerTask), combineTask, &work);
}

}  // namespace BINADE_ISA
}  // namespace binade
