// Weight gradient of convolution: every weight is a dot product of the cotangent's pixels with shifted input pixels.
//
// Vector run along pixels, so that neither operand is transposed: the input is staged as for the convolution itself (one
// copy, not one per tap), and the cotangent is read where it lies. Pictures are cut into parts by shape; each part adds its
// units in order to sums of its own, and the parts are added in order. Sums lie column by column (channel, tap), the rows of
// a column side by side, as the kernels yield them.
#include "convolution.h"

#include "convolution_ahead.h"
#include "convolution_micro.h"
#include "convolution_stage.h"
#include "vm.h"
#include "winograd_cotangent.h"

namespace binade {
namespace BINADE_ISA {

namespace {

constexpr int64_t unitByteLength = 4096;         // of a row of a unit's cotangents: a strip of them stays in L1
constexpr int64_t stagedByteLength = 256 << 10;  // of the input, and of the cotangent, in L2
constexpr int64_t mostParts = 8;
constexpr int64_t partsByteLength = 8 << 20;
// Cotangents that are converted are staged once for every block of channels, so those are cut into more parts instead.
constexpr int64_t wantedTasks[2] = {16, 8};      // read in place; converted
constexpr int64_t leastUnits[2] = {4, 8};        // as long as they hold whole pictures
constexpr int64_t leastChannels = 4;             // of a task's block

struct Plan {
  bool pairs;
  bool converts;                   // cotangents, to the kernel's elements
  int pieces;
  int64_t size, perPiece;          // bytes of a staged element; elements of a piece
  StagedAxis y, x;
  StageLayout layout;              // of one channel block
  int64_t images, imageBlocks, bandRows, rowBands, bandColumns, columnBands;
  int64_t units, parts;
  int64_t channelBlock, channelBlocks;
  int64_t strips, blockStrips;     // of the rows of one group; those whose cotangents are staged at once
  int64_t taps, columns;           // columns: channels · taps of one row of the weight
  int64_t pitch, steps;            // of staged cotangents; vectors of a unit
  int64_t* shifts;                 // [channelBlock · taps] bytes from the staged input to each column
  float* sums;                     // (parts, groups, columns, strips, dotSlots)
  int64_t columnLength() const { return strips * dotSlots; }
};

struct Work {
  Pool* pool;
  const ConvolutionProblem* problem;
  const ImageSink* sink;
  Plan plan;
};

/// First row of strip `index` of a group: heights differ by at most one.
int64_t stripStart(const Work& work, int64_t index) { return index * work.problem->outputs / work.plan.strips; }

void planUnits(const ConvolutionProblem& problem, Plan* plan) {
  const int64_t rows = problem.axes[0].output, columns = problem.axes[1].output;
  const int64_t perVector = vectorByteLength / plan->size, unitPixels = unitByteLength / plan->size;
  plan->bandColumns = columns <= unitPixels ? columns : multipleOf(evenly(columns, unitPixels), perVector);
  plan->bandRows = evenly(rows, most(unitPixels / plan->bandColumns, 1));
  plan->images = most(least(problem.batch, unitPixels / (rows * columns)), 1);
  plan->columnBands = partsOf(columns, plan->bandColumns);
  plan->rowBands = partsOf(rows, plan->bandRows);
  const int64_t bands = plan->rowBands * plan->columnBands;
  while (plan->images > 1 && partsOf(problem.batch, plan->images) * bands < leastUnits[plan->converts])
    plan->images = partsOf(plan->images, 2);
  plan->imageBlocks = partsOf(problem.batch, plan->images);
  plan->units = plan->imageBlocks * bands;
  const int64_t partByteLength = problem.groups * plan->columns * plan->columnLength() * 4;
  plan->parts = most(least(least(plan->units, mostParts), partsByteLength / partByteLength), 1);
}

void planBlocks(const ConvolutionProblem& problem, Plan* plan) {
  const StagedAxis &y = plan->y, &x = plan->x;
  const int64_t phases = least(y.axis.stride, y.axis.kernel) * least(x.axis.stride, x.axis.kernel);
  const int64_t plane = plan->images * phases * (plan->bandRows + y.reach) * (plan->bandColumns + x.reach) * plan->size;
  plan->channelBlock = evenly(problem.channels, most(stagedByteLength / plane, 1));
  while (plan->parts * problem.groups * partsOf(problem.channels, plan->channelBlock) < wantedTasks[plan->converts] &&
         plan->channelBlock >= 2 * leastChannels)
    plan->channelBlock = partsOf(plan->channelBlock, 2);
  plan->channelBlocks = partsOf(problem.channels, plan->channelBlock);
  plan->pieces = piecesFor(plan->bandColumns, vectorByteLength / plan->size);
  plan->perPiece = vectorByteLength / plan->size / plan->pieces;
  plan->pitch = multipleOf(plan->bandColumns, plan->perPiece);
  const int64_t pixels = plan->images * plan->bandRows * plan->pitch;
  plan->steps = partsOf(pixels, plan->perPiece * plan->pieces);
  plan->blockStrips = least(most(stagedByteLength / (plan->steps * vectorByteLength * dotRows), 1), plan->strips);
}

Plan makePlan(Pool* pool, const ConvolutionProblem& problem) {
  Plan plan = {};
  plan.pairs = multipliesPairs(problem.x, problem.g);
  plan.size = plan.pairs ? 2 : 4;
  plan.converts = plan.pairs ? problem.g.storage != DType::bfloat16
                             : problem.g.storage != DType::float32 || problem.g.format != DType::float32;
  plan.taps = problem.axes[0].kernel * problem.axes[1].kernel;
  plan.columns = problem.channels * plan.taps;
  plan.strips = partsOf(problem.outputs, dotRows);
  planUnits(problem, &plan);
  Cut measure = {nullptr, 0};
  plan.y = stageAxis(problem.axes[0], false, &measure);
  plan.x = stageAxis(problem.axes[1], false, &measure);
  planBlocks(problem, &plan);
  Cut cut = {nullptr, 0};
  for (int pass = 0; pass < 2; ++pass) {
    plan.y = stageAxis(problem.axes[0], false, &cut);
    plan.x = stageAxis(problem.axes[1], false, &cut);
    plan.shifts = cut.words(plan.channelBlock * plan.taps);
    plan.sums = reinterpret_cast<float*>(
        cut.bytes(plan.parts * problem.groups * plan.columns * plan.columnLength() * 4 + vectorByteLength));
    if (pass == 0) cut = {static_cast<char*>(scratch(pool, 0, kSharedSlot, static_cast<size_t>(cut.used))), 0};
  }
  plan.layout = layoutOf(plan.y, plan.x, plan.bandRows, plan.bandColumns, plan.channelBlock);
  int64_t* shift = plan.shifts;
  for (int64_t channel = 0; channel < plan.channelBlock; ++channel)
    for (int64_t ky = 0; ky < plan.y.axis.kernel; ++ky)
      for (int64_t kx = 0; kx < plan.x.axis.kernel; ++kx)
        *shift++ = plan.size * (channel * plan.layout.wordLength + tapShift(plan.y, plan.x, plan.layout, ky, kx));
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

/// Scratch of one worker. The staged cotangent is (blockStrips · dotRows, steps) vectors: (images, rows, pitch), then zeros.
struct Rooms {
  char *x, *g, *spare, *masks;
  PhaseSpan* spans;
  int64_t *gPlaces, *xPlaces;  // [steps], [steps · pieces]
};

Rooms makeRooms(const Work& work, int worker) {
  const Plan& plan = work.plan;
  Rooms rooms = {};
  Cut cut = {nullptr, 0};
  for (int pass = 0; pass < 2; ++pass) {
    // The masked lanes of a row's last piece may lie up to a vector past the last picture.
    rooms.x = cut.bytes(plan.images * plan.layout.imageLength * plan.size + vectorByteLength);
    rooms.g = cut.bytes((plan.blockStrips * dotRows * plan.steps + 1) * vectorByteLength);
    rooms.spare = cut.bytes(8 * plan.x.source);
    rooms.masks = cut.bytes((plan.steps + 1) * vectorByteLength);
    rooms.spans = reinterpret_cast<PhaseSpan*>(cut.bytes(plan.x.phases * static_cast<int64_t>(sizeof(PhaseSpan))));
    rooms.gPlaces = cut.words(plan.steps);
    rooms.xPlaces = cut.words(plan.steps * plan.pieces);
    if (pass == 0) cut = {static_cast<char*>(scratch(work.pool, worker, 0, static_cast<size_t>(cut.used))), 0};
  }
  return rooms;
}

/// Whether the cotangent of a unit is read where it lies: its elements are the kernel's, and its pixels fill whole vectors.
bool readsInPlace(const Work& work, const Unit& unit) {
  const Plan& plan = work.plan;
  const ImageView& g = work.problem->g;
  const int64_t perVector = plan.perPiece * plan.pieces, columns = unit.columns.count;
  const int64_t pixels = unit.rows.count * columns;
  const bool wholeRows = columns % perVector == 0;
  const bool wholeImages = columns % plan.perPiece == 0 && pixels % perVector == 0 &&
                           (unit.rows.count == 1 || g.strides[2] == columns);
  return !plan.converts && (wholeRows || wholeImages);
}

/// Fills the places and masks of a unit, and the operands' parts that all its strips share.
DotOperands listSteps(const Work& work, const Unit& unit, bool inPlace, const Rooms& rooms) {
  const Plan& plan = work.plan;
  const ImageView& g = work.problem->g;
  const int64_t size = plan.size;
  int64_t piece = 0;
  bool whole = true;  // every lane of every step is a pixel
  clearAhead(rooms.masks, (plan.steps + 1) * vectorByteLength);
  for (int64_t image = 0; image < unit.images; ++image) {
    for (int64_t row = 0; row < unit.rows.count; ++row) {
      for (int64_t column = 0; column < unit.columns.count; column += plan.perPiece, ++piece) {
        if (inPlace && piece % plan.pieces == 0)
          rooms.gPlaces[piece / plan.pieces] = size * (image * g.strides[0] + row * g.strides[2] + column);
        rooms.xPlaces[piece] = size * (image * plan.layout.imageLength + row * plan.layout.rowLength + column);
        const int64_t valid = least(plan.perPiece, unit.columns.count - column);
        whole = whole && valid == plan.perPiece;
        __builtin_memset(rooms.masks + piece * plan.perPiece * size, 0xff, static_cast<size_t>(valid * size));
      }
    }
  }
  DotOperands operands = {};
  operands.steps = partsOf(piece, plan.pieces);
  whole = whole && piece == operands.steps * plan.pieces;
  for (; piece < operands.steps * plan.pieces; ++piece) rooms.xPlaces[piece] = rooms.xPlaces[piece - 1];  // masked
  for (int64_t step = 0; step < operands.steps && !inPlace; ++step) rooms.gPlaces[step] = step * vectorByteLength;
  operands.gPlaces = rooms.gPlaces;
  operands.xPlaces = rooms.xPlaces;
  operands.masks = rooms.masks;
  operands.maskByteLength = whole ? 0 : vectorByteLength;
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
    const bool whole = plan.pitch == unit.columns.count && g.strides[2] == plan.pitch;  // the lines of a picture are one
    const int64_t lines = whole ? 1 : unit.rows.count, columns = unit.columns.count * (whole ? unit.rows.count : 1);
    const int64_t pitch = plan.pitch * (whole ? unit.rows.count : 1);
    for (int64_t image = 0; image < unit.images; ++image) {
      for (int64_t line = 0; line < lines; ++line, target += pitch) {
        const int64_t at = (unit.image + image) * g.strides[0] + row * g.strides[1] +
                           (unit.rows.first + line) * g.strides[2] + unit.columns.first;
        const Element* source = rowElements(g, static_cast<const char*>(g.data) + at * element, columns, target);
        if (source != target) copyElements(source, 1, columns, target);
        clearAhead(reinterpret_cast<char*>(target + columns), (pitch - columns) * static_cast<int64_t>(sizeof(Element)));
      }
    }
    char* end = reinterpret_cast<char*>(target);
    clearAhead(end, start + steps * vectorByteLength - end);
  }
}

void stageCotangent(const Work& work, const Unit& unit, int64_t firstRow, int64_t rows, int64_t steps,
                    const Rooms& rooms) {
#if BINADE_PAIRS
  if (work.plan.pairs) return stageCotangentAs<uint16_t>(work, unit, firstRow, rows, steps, rooms);
#endif
  stageCotangentAs<float>(work, unit, firstRow, rows, steps, rooms);
}

DotKernel kernelFor(const Plan& plan, int64_t rows) {
#if BINADE_PAIRS
  if (plan.pairs)
    return plan.pieces == 1 ? dotKernel<true, 1>(rows) : plan.pieces == 2 ? dotKernel<true, 2>(rows)
                                                                          : dotKernel<true, 4>(rows);
#endif
  return plan.pieces == 1 ? dotKernel<false, 1>(rows) : plan.pieces == 2 ? dotKernel<false, 2>(rows)
                                                                         : dotKernel<false, 4>(rows);
}

/// Adds a strip of `rows` rows times the columns [0, columns) of a channel block to `sums`, or sets them.
void dotStrips(const Work& work, DotOperands operands, int64_t rows, int64_t columns, const char* staged, float* sums,
               bool add, Ahead* ahead) {
  const Plan& plan = work.plan;
  const DotKernel kernel = kernelFor(plan, rows);
  const int64_t width = dotWidth(static_cast<int>(rows)), stride = plan.columnLength();
  const char* x[dotWidth(1)];
  operands.x = x;
  for (int64_t first = 0; first < columns; first += width) {
    const int64_t count = least(columns - first, width);
    for (int64_t j = 0; j < width; ++j) x[j] = staged + plan.shifts[first + least(j, count - 1)];
    ahead[0].fetch();
    ahead[1].fetch();
    kernel(operands, count, sums + first * stride, stride, add);
  }
}

/// What a task adds up: some units, of a block of channels of one group.
struct Share {
  int64_t part, group, channel, channels;
  int64_t firstUnit, endUnit;
};

Share shareAt(const Work& work, int64_t task) {
  const Plan& plan = work.plan;
  Share share = {};
  share.channel = task % plan.channelBlocks * plan.channelBlock;
  share.channels = least(plan.channelBlock, work.problem->channels - share.channel);
  share.group = task / plan.channelBlocks % work.problem->groups;
  share.part = task / plan.channelBlocks / work.problem->groups;
  share.firstUnit = share.part * plan.units / plan.parts;
  share.endUnit = (share.part + 1) * plan.units / plan.parts;
  return share;
}

/// Both operands of a share's unit, or the input alone, where units are whole pictures. They are fetched during another unit of as many
/// channels or so.
void findAhead(const Work& work, const Unit& next, const Share& share, bool cotangents, Ahead* ahead) {
  const Plan& plan = work.plan;
  const ConvolutionProblem& problem = *work.problem;
  const ConvolutionAxis &y = problem.axes[0], &x = problem.axes[1];
  if (plan.rowBands > 1 || plan.columnBands > 1) return;
  const int64_t calls = plan.strips * partsOf(share.channels * plan.taps, dotColumns);
  ahead[0] = fetchAhead(problem.x, next.image, next.images, share.group * problem.channels + share.channel, share.channels,
                        y.input, x.input, calls);
  if (!cotangents) return;
  ahead[1] = fetchAhead(problem.g, next.image, next.images, share.group * problem.outputs, problem.outputs, y.output, x.output,
                        calls);
}

/// Adds one unit to a part's sums of one group, for the channels [channel, channel + channels): `sums` is their first column.
void runUnit(const Work& work, const Unit& unit, int64_t group, int64_t channel, int64_t channels, const Rooms& rooms,
             float* sums, bool add, Ahead* ahead) {
  const Plan& plan = work.plan;
  const ConvolutionProblem& problem = *work.problem;
  StageJob job = {&problem.x, &plan.y, &plan.x, plan.layout, unit.rows.first, unit.columns.first, unit.image,
                  unit.images, group * problem.channels + channel, channels, rooms.x, rooms.spare, rooms.spans};
  job.layout.words = channels;
  stage(job, plan.pairs ? StagedAs::bfloat16 : StagedAs::floats);
  const bool inPlace = readsInPlace(work, unit);
  DotOperands operands = listSteps(work, unit, inPlace, rooms);
  operands.rowByteLength = inPlace ? problem.g.strides[1] * plan.size : operands.steps * vectorByteLength;
  const int64_t block = inPlace ? plan.strips : plan.blockStrips;
  for (int64_t firstStrip = 0; firstStrip < plan.strips; firstStrip += block) {
    const int64_t endStrip = least(firstStrip + block, plan.strips);
    const int64_t first = stripStart(work, firstStrip), row = group * problem.outputs + first;
    if (!inPlace) stageCotangent(work, unit, row, stripStart(work, endStrip) - first, operands.steps, rooms);
    const char* base = inPlace ? static_cast<const char*>(problem.g.data) +
                                     plan.size * (unit.image * problem.g.strides[0] + row * problem.g.strides[1] +
                                                  unit.rows.first * problem.g.strides[2] + unit.columns.first)
                               : rooms.g;
    for (int64_t strip = firstStrip; strip < endStrip; ++strip) {
      const int64_t start = stripStart(work, strip), height = stripStart(work, strip + 1) - start;
      operands.g = base + (start - first) * operands.rowByteLength;
      dotStrips(work, operands, height, channels * plan.taps, rooms.x, sums + strip * dotSlots, add,
                ahead);
    }
  }
}

void partTask(void* context, int64_t task, int worker) {
  const Work& work = *static_cast<const Work*>(context);
  const Plan& plan = work.plan;
  const int64_t groups = work.problem->groups;
  const Share share = shareAt(work, task);
  float* sums = plan.sums + ((share.part * groups + share.group) * plan.columns + share.channel * plan.taps) * plan.columnLength();
  const Rooms rooms = makeRooms(work, worker);
  for (int64_t unit = share.firstUnit; unit < share.endUnit; ++unit) {
    Ahead ahead[2] = {};
    if (unit + 1 < share.endUnit) {
      findAhead(work, unitAt(work, unit + 1), share, true, ahead);
    } else if (task + 1 < plan.parts * groups * plan.channelBlocks) {  // most often this worker's, too
      const Share next = shareAt(work, task + 1);
      const bool cotangents = next.part != share.part || next.group != share.group;
      findAhead(work, unitAt(work, next.firstUnit), next, cotangents, ahead);
    }
    runUnit(work, unitAt(work, unit), share.group, share.channel, share.channels, rooms, sums, unit > share.firstUnit, ahead);
  }
}

/// Adds the parts of one strip of rows, in order, and hands its rows over.
void combineTask(void* context, int64_t task, int worker) {
  const Work& work = *static_cast<const Work*>(context);
  const Plan& plan = work.plan;
  const ImageSink& sink = *work.sink;
  const int64_t group = task / plan.strips, strip = task % plan.strips;
  const int64_t start = stripStart(work, strip), height = stripStart(work, strip + 1) - start;
  const int64_t partLength = work.problem->groups * plan.columns * plan.columnLength();
  const float* sums = plan.sums + group * plan.columns * plan.columnLength() + strip * dotSlots;
  float* tile = static_cast<float*>(scratch(work.pool, worker, 1, static_cast<size_t>(4 * height * plan.columns)));
  for (int64_t column = 0; column < plan.columns; ++column, sums += plan.columnLength()) {
    float total[dotSlots];
    for (int i = 0; i < dotSlots; ++i) total[i] = sums[i];
    for (int64_t part = 1; part < plan.parts; ++part)
      for (int i = 0; i < dotSlots; ++i) total[i] += sums[part * partLength + i];
    for (int64_t i = 0; i < height; ++i) tile[i * plan.columns + column] = total[i];
  }
  const int64_t row = group * work.problem->outputs + start;
  if (sink.direct == nullptr)
    return sink.write(sink.context, 0, row, height, 0, plan.columns, tile, plan.columns, worker);
  for (int64_t i = 0; i < height; ++i)
    copyElements(tile + i * plan.columns, 1, plan.columns, sink.direct + (row + i) * sink.directChannel);
}

}  // namespace

void weightGradientDirectly(Pool* pool, const ConvolutionProblem& problem, const ImageSink& sink) {
  Work work = {};
  work.pool = pool;
  work.problem = &problem;
  work.sink = &sink;
  work.plan = makePlan(pool, problem);
  const Plan& plan = work.plan;
  const int64_t columns = problem.groups * plan.columns;
  if (problem.batch == 0) clearAhead(reinterpret_cast<char*>(plan.sums), columns * plan.columnLength() * 4);
  else parallelFor(pool, plan.parts * problem.groups * plan.channelBlocks, partTask, &work);
  parallelFor(pool, problem.groups * plan.strips, combineTask, &work);
}

void convolutionWeightGradient(Pool* pool, const ConvolutionProblem& problem, const ImageSink& sink) {
  (gradientTakesTiles(problem) ? weightGradientByTiles : weightGradientDirectly)(pool, problem, sink);
}

}  // namespace BINADE_ISA
}  // namespace binade
