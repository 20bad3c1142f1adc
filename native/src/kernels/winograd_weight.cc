// Weight gradient of 3 × 3 convolutions by Winograd's filtering (winograd_cotangent.h): 16 matrix products, one per position of a tile.
//
// Position p of dW is a product of (channels, tiles) and (tiles, outputs). Transformed inputs lie as they are written, tiles side by side,
// and are multiplied as rows in memory; transformed cotangents lie in panels of outputs, so that no sum crosses lanes. Tiles are cut into
// parts by shape; each part adds its units in order to sums of its own, and the parts are added in order.
#include "convolution.h"

#include "convolution_ahead.h"
#include "vm.h"
#include "winograd_cotangent.h"

namespace binade {
namespace BINADE_ISA {

namespace {

constexpr int64_t unitTiles = 64;                  // about; a panel of a unit's cotangents takes an eighth of L1
constexpr int64_t blockChannels = 3 * panelRows;   // with blockOutputs: a task's transformed operands and sums stay in L2
constexpr int64_t blockOutputs = 64;
constexpr int64_t stagedByteLength = 16 << 10;     // of pictures that are staged at once: half of L1
constexpr int64_t partsByteLength = 8 << 20;
constexpr int64_t combinedChannels = 32;           // of a task that adds parts up
// Floats between arrays whose lengths are powers of 2, or all of them would meet in one set of L1.
constexpr int64_t staggerLength = 16;

struct Plan {
  bool inPlace;                    // cotangents are read where they lie, in whole vectors and tiles
  int pieces;
  StagedAxis y, x, gY, gX;         // of tiles; of cotangents
  StageLayout layout, gLayout;     // of `chunk` channels; of a panel of outputs
  int64_t bandRows, rowBands, bandColumns, columnBands, images, imageBlocks;  // in tiles
  int64_t units, parts;
  int64_t chunk, channelBlock, channelBlocks;
  int64_t panels, blockPanels, panelBlocks;   // of outputs
  int64_t xLength, gLength;        // floats between positions of transformed operands
  float* sums;                     // (parts, groups, channels, tilePositions, panels, panelColumns)
  int64_t channelLength() const { return tilePositions * panels * panelColumns; }
  int64_t blocks() const { return channelBlocks * panelBlocks; }
};

struct Work {
  Pool* pool;
  const ConvolutionProblem* problem;
  const ImageSink* sink;
  Plan plan;
};

void planUnits(const ConvolutionProblem& problem, Plan* plan) {
  const int64_t rows = plan->y.result, columns = multipleOf(plan->x.result, vectorLanes / plan->pieces);
  plan->bandColumns = columns <= unitTiles ? columns : multipleOf(evenly(columns, unitTiles), vectorLanes);
  plan->bandRows = evenly(rows, most(unitTiles / plan->bandColumns, 1));
  plan->images = most(least(problem.batch, unitTiles / (rows * plan->bandColumns)), 1);
  plan->columnBands = partsOf(columns, plan->bandColumns);
  plan->rowBands = partsOf(rows, plan->bandRows);
  plan->imageBlocks = partsOf(problem.batch, plan->images);
  plan->units = plan->imageBlocks * plan->rowBands * plan->columnBands;
}

void planTasks(const ConvolutionProblem& problem, Plan* plan) {
  plan->channelBlock = evenly(problem.channels, blockChannels);
  plan->channelBlocks = partsOf(problem.channels, plan->channelBlock);
  plan->blockPanels = evenly(plan->panels, blockOutputs / panelColumns);
  plan->panelBlocks = partsOf(plan->panels, plan->blockPanels);
  const int64_t partByteLength = problem.groups * problem.channels * plan->channelLength() * 4;
  const int64_t limit = most(least(plan->units, partsByteLength / partByteLength), 1);
  plan->parts = least(partsOf(wantedUnits, problem.groups * plan->blocks()), limit);
}

/// The inputs that any output sees: what lies beyond, in the last tile of an odd axis, is no input of the convolution.
ConvolutionAxis inputAxis(const ConvolutionAxis& axis) {
  ConvolutionAxis tiles = tileAxis(axis, false);
  tiles.input = least(axis.input, axis.output + axis.kernel - 1 - axis.before);
  return tiles;
}

/// Cotangents as they lie, with zeros behind them.
ConvolutionAxis cotangentAxis(const ConvolutionAxis& axis) { return {axis.output, axis.output, 1, 1, 1, 0}; }

void planLengths(const ConvolutionProblem& problem, Plan* plan) {
  const int64_t tiles = plan->images * plan->bandRows * plan->bandColumns;
  const int64_t channelLength = layoutOf(plan->y, plan->x, plan->bandRows, plan->bandColumns, 1).imageLength;
  plan->chunk = evenly(plan->channelBlock, most(stagedByteLength / (4 * plan->images * channelLength), 1));
  plan->layout = layoutOf(plan->y, plan->x, plan->bandRows, plan->bandColumns, plan->chunk);
  plan->gLayout = layoutOf(plan->gY, plan->gX, tileOutputs * plan->bandRows, tileOutputs * plan->bandColumns, panelColumns);
  plan->xLength = plan->channelBlock * multipleOf(tiles, vectorLanes) + staggerLength;
  plan->gLength = plan->blockPanels * tiles * panelColumns + staggerLength;
  const int64_t columns = tileOutputs * multipleOf(plan->x.result, vectorLanes / plan->pieces);
  plan->inPlace = problem.g.format == problem.g.storage && problem.axes[0].output % tileOutputs == 0 &&
                  problem.axes[1].output == columns && columns % vectorLanes == 0;
}

Plan makePlan(Pool* pool, const ConvolutionProblem& problem) {
  Plan plan = {};
  plan.panels = partsOf(problem.outputs, panelColumns);
  Cut cut = {nullptr, 0};
  for (int pass = 0; pass < 2; ++pass) {
    plan.y = stageAxis(inputAxis(problem.axes[0]), false, &cut);
    plan.x = stageAxis(inputAxis(problem.axes[1]), false, &cut);
    plan.gY = stageAxis(cotangentAxis(problem.axes[0]), false, &cut);
    plan.gX = stageAxis(cotangentAxis(problem.axes[1]), false, &cut);
    if (pass == 0) {
      plan.pieces = piecesFor(plan.x.result, vectorLanes);
      planUnits(problem, &plan);
      planTasks(problem, &plan);
    }
    plan.sums = reinterpret_cast<float*>(cut.bytes(plan.parts * problem.groups * problem.channels * plan.channelLength() * 4));
    if (pass == 0) cut = {static_cast<char*>(scratch(pool, 0, kSharedSlot, static_cast<size_t>(cut.used))), 0};
  }
  planLengths(problem, &plan);
  return plan;
}

/// Some pictures, and a band of their tiles.
struct Unit {
  int64_t image, row, column;
  TileGrid tiles;
};

Unit unitAt(const Work& work, int64_t index) {
  const Plan& plan = work.plan;
  Unit unit = {};
  unit.column = index % plan.columnBands * plan.bandColumns;
  index /= plan.columnBands;
  unit.row = index % plan.rowBands * plan.bandRows;
  unit.image = index / plan.rowBands * plan.images;
  unit.tiles.images = least(plan.images, work.problem->batch - unit.image);
  unit.tiles.rows = least(plan.bandRows, plan.y.result - unit.row);
  unit.tiles.columns = least(plan.bandColumns, multipleOf(plan.x.result, vectorLanes / plan.pieces) - unit.column);
  return unit;
}

/// What a task adds up: some units, of a block of channels and a block of panels of one group.
struct Share {
  int64_t part, group, channel, channels, panel, panels;
  int64_t firstUnit, endUnit;
};

Share shareAt(const Work& work, int64_t task) {
  const Plan& plan = work.plan;
  Share share = {};
  share.channel = task % plan.channelBlocks * plan.channelBlock;
  share.channels = least(plan.channelBlock, work.problem->channels - share.channel);
  task /= plan.channelBlocks;
  share.panel = task % plan.panelBlocks * plan.blockPanels;
  share.panels = least(plan.blockPanels, plan.panels - share.panel);
  task /= plan.panelBlocks;
  share.group = task % work.problem->groups;
  share.part = task / work.problem->groups;
  share.firstUnit = share.part * plan.units / plan.parts;
  share.endUnit = (share.part + 1) * plan.units / plan.parts;
  return share;
}

/// Scratch of one worker.
struct Rooms {
  char *staged, *spare;
  PhaseSpan* spans;
  int64_t* places;  // of pieces of tiles
  float* x;         // (tilePositions, channels, whole vectors of tiles), xLength floats between positions
  float* g;         // (tilePositions, panels, tiles, panelColumns), gLength floats between positions
};

Rooms makeRooms(const Work& work, int worker) {
  const Plan& plan = work.plan;
  Rooms rooms = {};
  const int64_t tiles = multipleOf(plan.images * plan.bandRows * plan.bandColumns, vectorLanes);
  const int64_t length = most(plan.layout.imageLength, plan.inPlace ? 0 : plan.gLayout.imageLength);
  Cut cut = {nullptr, 0};
  for (int pass = 0; pass < 2; ++pass) {
    rooms.staged = cut.bytes(4 * plan.images * length + 2 * vectorByteLength);  // rows are cleared and read in whole vectors
    rooms.spare = cut.bytes(8 * most(plan.x.source, plan.gX.source));
    rooms.spans = reinterpret_cast<PhaseSpan*>(cut.bytes(plan.x.phases * static_cast<int64_t>(sizeof(PhaseSpan))));
    rooms.places = cut.words(tiles * plan.pieces / vectorLanes);
    rooms.x = reinterpret_cast<float*>(cut.bytes(4 * tilePositions * plan.xLength));
    rooms.g = reinterpret_cast<float*>(cut.bytes(4 * tilePositions * plan.gLength));
    if (pass == 0) cut = {static_cast<char*>(scratch(work.pool, worker, 0, static_cast<size_t>(cut.used))), 0};
  }
  return rooms;
}

/// Byte offsets of the pieces of all tiles; the last vector's missing pieces repeat the last, and are never multiplied.
void listPlaces(const Plan& plan, const TileGrid& tiles, int64_t* places) {
  int64_t* place = places;
  for (int64_t image = 0; image < tiles.images; ++image)
    for (int64_t row = 0; row < tiles.rows; ++row)
      for (int64_t column = 0; column < tiles.columns; column += vectorLanes / plan.pieces)
        *place++ = 4 * (image * plan.layout.imageLength + row * plan.layout.rowLength + column);
  for (; (place - places) % plan.pieces != 0; ++place) *place = place[-1];
}

/// Bᵀ d B of one staged channel, position p at target + p · stride.
template <int pieces>
void transformChannel(const char* staged, const TileShifts& shifts, const int64_t* places, int64_t vectors, float* target,
                      int64_t stride) {
  for (int64_t vector = 0; vector < vectors; ++vector, places += pieces, target += vectorLanes)
    transformTile<pieces>(staged, shifts, places, target, stride);
}

void transformInputs(const Work& work, const Unit& unit, const Share& share, const Rooms& rooms) {
  const Plan& plan = work.plan;
  const ConvolutionProblem& problem = *work.problem;
  const auto transform = plan.pieces == 1 ? transformChannel<1> : plan.pieces == 2 ? transformChannel<2> : transformChannel<4>;
  const TileShifts shifts = tileShifts(plan.y, plan.x, plan.layout);
  const int64_t vectors = partsOf(unit.tiles.count(), vectorLanes);
  listPlaces(plan, unit.tiles, rooms.places);
  float* target = rooms.x;
  for (int64_t first = 0; first < share.channels; first += plan.chunk) {
    StageJob job = {&problem.x, &plan.y, &plan.x, plan.layout, unit.row, unit.column, unit.image, unit.tiles.images,
                    share.group * problem.channels + share.channel + first, least(plan.chunk, share.channels - first),
                    rooms.staged, rooms.spare, rooms.spans};
    job.layout.words = job.channels;
    stage(job, StagedAs::floats);
    for (int64_t channel = 0; channel < job.channels; ++channel, target += vectors * vectorLanes)
      transform(rooms.staged + 4 * channel * plan.layout.wordLength, shifts, rooms.places, vectors, target, plan.xLength);
  }
}

/// One panel's cotangents of a unit, in memory or staged as floats.
CotangentPanel cotangentsOf(const Work& work, const Unit& unit, int64_t firstOutput, int64_t outputs, const Rooms& rooms) {
  const Plan& plan = work.plan;
  const ImageView& g = work.problem->g;
  if (plan.inPlace) {
    const int64_t size = byteLengthOfElement(g.storage);
    const int64_t at = unit.image * g.strides[0] + firstOutput * g.strides[1] +
                       tileOutputs * (unit.row * g.strides[2] + unit.column);
    return {static_cast<const char*>(g.data) + size * at, size * g.strides[0], size * g.strides[1], size * g.strides[2], outputs};
  }
  StageJob job = {&g, &plan.gY, &plan.gX, plan.gLayout, tileOutputs * unit.row, tileOutputs * unit.column, unit.image,
                  unit.tiles.images, firstOutput, outputs, rooms.staged, rooms.spare, rooms.spans};
  job.layout.words = outputs;
  stage(job, StagedAs::floats);
  return {rooms.staged, 4 * plan.gLayout.imageLength, 4 * plan.gLayout.wordLength, 4 * plan.gLayout.rowLength, outputs};
}

void transformPanels(const Work& work, const Unit& unit, const Share& share, const Rooms& rooms) {
  const int64_t outputs = work.problem->outputs;
  const DType storage = work.plan.inPlace ? work.problem->g.storage : DType::float32;
  float* target = rooms.g;
  for (int64_t panel = share.panel; panel < share.panel + share.panels; ++panel, target += unit.tiles.count() * panelColumns) {
    const int64_t first = panel * panelColumns, count = least(panelColumns, outputs - first);
    const CotangentPanel g = cotangentsOf(work, unit, share.group * outputs + first, count, rooms);
    panelTransform(storage, count == panelColumns)(g, unit.tiles, target, work.plan.gLength);
  }
}

/// Adds a unit's products to a part's sums, or sets them: of `sums`, the first channel of the share.
void multiplyUnit(const Work& work, const Unit& unit, const Share& share, const Rooms& rooms, float* sums, bool add,
                  Ahead* ahead) {
  const Plan& plan = work.plan;
  const int64_t tiles = unit.tiles.count(), row = multipleOf(tiles, vectorLanes), strips = partsOf(share.channels, panelRows);
  for (int64_t position = 0; position < tilePositions; ++position) {
    const float* x = rooms.x + position * plan.xLength;
    const float* g = rooms.g + position * plan.gLength;
    float* target = sums + (position * plan.panels + share.panel) * panelColumns;
    for (int64_t panel = 0; panel < share.panels; ++panel, g += tiles * panelColumns, target += panelColumns) {
      for (int64_t strip = 0; strip < strips; ++strip) {
        const int64_t first = strip * share.channels / strips, count = (strip + 1) * share.channels / strips - first;
        ahead[0].fetch();
        ahead[1].fetch();
        stripKernel<false, true>(count)(tiles, {x + first * row, nullptr, row}, g, target + first * plan.channelLength(),
                                        plan.channelLength(), add);
      }
    }
  }
}

/// Both operands of a share's unit, fetched while another one is multiplied.
void findAhead(const Work& work, int64_t index, const Share& share, Ahead* ahead) {
  const Plan& plan = work.plan;
  const ConvolutionProblem& problem = *work.problem;
  const Unit next = unitAt(work, index);
  const int64_t calls = tilePositions * share.panels * partsOf(share.channels, panelRows);
  const int64_t channel = share.group * problem.channels + share.channel;
  const int64_t output = share.group * problem.outputs + share.panel * panelColumns;
  const int64_t outputs = least(share.panels * panelColumns, problem.outputs - share.panel * panelColumns);
  const auto fetch = [&](const ImageView& view, const StagedAxis& y, const StagedAxis& x, int64_t first, int64_t count) {
    const int64_t row = most(tileOutputs * next.row - y.before, 0);
    const int64_t rows = least(tileOutputs * (next.row + next.tiles.rows + y.reach) - y.before, y.source) - row;
    return next.tiles.images > 1 ? fetchAhead(view, next.image, next.tiles.images, first, count, y.source, x.source, calls)
                                 : fetchRowsAhead(view, next.image, first, count, row, rows, x.source, calls);
  };
  ahead[0] = fetch(problem.x, plan.y, plan.x, channel, share.channels);
  ahead[1] = fetch(problem.g, plan.gY, plan.gX, output, outputs);
}

void partTask(void* context, int64_t task, int worker) {
  const Work& work = *static_cast<const Work*>(context);
  const Share share = shareAt(work, task);
  const int64_t firstChannel = (share.part * work.problem->groups + share.group) * work.problem->channels + share.channel;
  float* sums = work.plan.sums + firstChannel * work.plan.channelLength();
  const Rooms rooms = makeRooms(work, worker);
  for (int64_t index = share.firstUnit; index < share.endUnit; ++index) {
    const Unit unit = unitAt(work, index);
    Ahead ahead[2] = {};
    if (index + 1 < share.endUnit) {
      findAhead(work, index + 1, share, ahead);
    } else if (task + 1 < work.plan.parts * work.problem->groups * work.plan.blocks()) {  // most often this worker's, too
      const Share next = shareAt(work, task + 1);
      findAhead(work, next.firstUnit, next, ahead);
    }
    transformInputs(work, unit, share, rooms);
    transformPanels(work, unit, share, rooms);
    multiplyUnit(work, unit, share, rooms, sums, index > share.firstUnit, ahead);
  }
}

/// tile (outputs, stride), columns [0, 9) = the weights of one channel, of up to vectorLanes outputs: the parts added in order.
void combineChannel(const Plan& plan, const float* sums, int64_t partLength, int64_t outputs, float* tile, int64_t stride) {
  Floats m[tilePositions];
#pragma GCC unroll 16
  for (int p = 0; p < tilePositions; ++p) m[p] = loadFloats(sums + p * plan.panels * panelColumns);
  for (int64_t part = 1; part < plan.parts; ++part) {
    sums += partLength;
#pragma GCC unroll 16
    for (int p = 0; p < tilePositions; ++p) m[p] += loadFloats(sums + p * plan.panels * panelColumns);
  }
  float taps[filterTaps][vectorLanes];
  transformSums(m, taps);
  for (int64_t i = 0; i < outputs; ++i)
    for (int64_t t = 0; t < filterTaps; ++t) tile[i * stride + t] = taps[t][i];
}

/// Adds the parts of up to vectorLanes outputs and some channels, and hands their weights over.
void combineTask(void* context, int64_t task, int worker) {
  const Work& work = *static_cast<const Work*>(context);
  const ConvolutionProblem& problem = *work.problem;
  const Plan& plan = work.plan;
  const ImageSink& sink = *work.sink;
  const int64_t blocks = partsOf(problem.channels, combinedChannels), vectors = partsOf(problem.outputs, vectorLanes);
  const int64_t channel = task % blocks * combinedChannels, output = task / blocks % vectors * vectorLanes;
  const int64_t group = task / blocks / vectors;
  const int64_t channels = least(combinedChannels, problem.channels - channel), columns = channels * filterTaps;
  const int64_t outputs = least(vectorLanes, problem.outputs - output);
  const int64_t partLength = problem.groups * problem.channels * plan.channelLength();
  const float* sums = plan.sums + (group * problem.channels + channel) * plan.channelLength() + output;
  float tile[vectorLanes * combinedChannels * filterTaps];
  for (int64_t i = 0; i < channels; ++i, sums += plan.channelLength())
    combineChannel(plan, sums, partLength, outputs, tile + i * filterTaps, columns);
  const int64_t row = group * problem.outputs + output, column = channel * filterTaps;
  if (sink.direct == nullptr)
    return sink.write(sink.context, 0, row, outputs, column, columns, tile, columns, worker);
  for (int64_t i = 0; i < outputs; ++i)
    copyElements(tile + i * columns, 1, columns, sink.direct + (row + i) * sink.directChannel + column);
}

}  // namespace

void weightGradientByTiles(Pool* pool, const ConvolutionProblem& problem, const ImageSink& sink) {
  Work work = {};
  work.pool = pool;
  work.problem = &problem;
  work.sink = &sink;
  work.plan = makePlan(pool, problem);
  const int64_t groups = problem.groups;
  parallelFor(pool, work.plan.parts * groups * work.plan.blocks(), partTask, &work);
  parallelFor(pool, groups * partsOf(problem.outputs, vectorLanes) * partsOf(problem.channels, combinedChannels), combineTask,
              &work);
}

}  // namespace BINADE_ISA
}  // namespace binade
