// 3×3 convolutions of stride 1 and their input gradients by Winograd's filtering (winograd.h).
//
// A unit of work holds the tiles of some pictures, one group, a band of rows and columns. It transforms all channels of its
// tiles; then, for some strips of rows and a block of tiles at a time, sums products over channels for each of the 16 positions, and
// turns these sums into outputs while they lie in L1.
#include "convolution.h"

#include "convolution_ahead.h"
#include "convolution_target.h"
#include "winograd_plan.h"

namespace binade {
namespace BINADE_ISA {

namespace {

struct TileWork {
  Pool* pool;
  const ConvolutionProblem* problem;
  const ImageView* source;
  const ImageSink* sink;
  TilePlan plan;
  int64_t units;
};

/// One unit of work: its tiles, and the outputs that it computes.
struct TileUnit {
  int64_t image, images, group;
  Band rows, columns;                // of tiles
  int64_t top, left, height, width;  // of the result
};

TileUnit tileUnitAt(const TileWork& work, int64_t index) {
  const TilePlan& plan = work.plan;
  const auto band = [&index](const StagedAxis& axis, int64_t bands, int64_t size) {
    const int64_t first = index % bands * size;
    index /= bands;
    return Band{first, least(size, axis.result - first)};
  };
  TileUnit unit = {};
  unit.columns = band(plan.x, plan.columnBands, plan.bandColumns);
  unit.rows = band(plan.y, plan.rowBands, plan.bandRows);
  unit.group = index % work.problem->groups;
  unit.image = index / work.problem->groups * plan.images;
  unit.images = least(plan.images, work.problem->batch - unit.image);
  unit.top = tileOutputs * unit.rows.first;
  unit.left = tileOutputs * unit.columns.first;
  unit.height = least(tileOutputs * unit.rows.count, plan.resultRows - unit.top);
  unit.width = least(tileOutputs * unit.columns.count, plan.resultColumns - unit.left);
  return unit;
}

/// Neighbouring tiles of one line, vectorLanes / pieces at most, and their outputs.
struct TilePiece {
  int64_t at;              // in a target
  int64_t lines, columns;  // of outputs: those past the picture are computed and dropped
};

/// Scratch of one worker.
struct TileRooms {
  char *staged, *spare;
  PhaseSpan* spans;
  int64_t* places;    // [blocks · 2 · pieces] bytes from a staged channel
  TilePiece* pieces;  // [blocks · 2 · pieces]
  float* pictures;    // (blocks, tilePositions, channels, groupLanes), pictureStride floats between positions
  float* products;    // (blockStrips · slideRows, tilePositions, groupLanes)
  float* sums;        // (rows, images, lines, columns) of a unit whose sink has no memory of its own
};

TileRooms makeTileRooms(const TileWork& work, int worker) {
  const TilePlan& plan = work.plan;
  TileRooms rooms = {};
  const int64_t pieces = plan.blocks * 2 * plan.pieces;
  Cut cut = {nullptr, 0};
  for (int pass = 0; pass < 2; ++pass) {
    // Tiles past the end of a line are computed and dropped: they may read two vectors past the last picture.
    rooms.staged = cut.bytes(4 * plan.images * plan.layout.imageLength + 2 * vectorByteLength);
    rooms.spare = cut.bytes(8 * plan.x.source);
    rooms.spans = reinterpret_cast<PhaseSpan*>(cut.bytes(plan.x.phases * static_cast<int64_t>(sizeof(PhaseSpan))));
    rooms.places = cut.words(pieces);
    rooms.pieces = reinterpret_cast<TilePiece*>(cut.bytes(pieces * static_cast<int64_t>(sizeof(TilePiece))));
    rooms.pictures = reinterpret_cast<float*>(cut.bytes(4 * plan.blocks * tilePositions * plan.pictureStride));
    rooms.products = reinterpret_cast<float*>(cut.bytes(4 * plan.blockStrips * slideRows * tilePositions * groupLanes));
    if (pass == 0) cut = {static_cast<char*>(scratch(work.pool, worker, 0, static_cast<size_t>(cut.used))), 0};
  }
  if (work.sink->direct != nullptr) return rooms;
  const int64_t length = plan.rows * plan.images * tileOutputs * plan.bandRows * tileOutputs * plan.bandColumns;
  rooms.sums = static_cast<float*>(scratch(work.pool, worker, 1, static_cast<size_t>(4 * length)));
  return rooms;
}

Region regionOf(const TileWork& work, const TileUnit& unit) {
  const TilePlan& plan = work.plan;
  return {unit.image, unit.images, unit.group * plan.rows, plan.rows, unit.top, unit.left, unit.height, unit.width, plan.resultColumns};
}

/// Lists the pieces of a unit in row-major order, and empty ones up to a whole block; returns how many blocks there are.
int64_t listTiles(const TilePlan& plan, const TileUnit& unit, const Target& target, const TileRooms& rooms) {
  const int64_t perPiece = vectorLanes / plan.pieces, perBlock = 2 * plan.pieces;
  int64_t count = 0;
  for (int64_t image = 0; image < unit.images; ++image) {
    for (int64_t row = 0; row < unit.rows.count; ++row) {
      const int64_t line = tileOutputs * row, lines = least(tileOutputs, unit.height - line);
      for (int64_t tile = 0; tile < unit.columns.count; tile += perPiece, ++count) {
        const int64_t column = tileOutputs * tile;
        rooms.places[count] = 4 * (image * plan.layout.imageLength + row * plan.layout.rowLength + tile);
        rooms.pieces[count] = {image * target.imageStride + line * target.lineStride + column, lines,
                               least(tileOutputs * perPiece, unit.width - column)};
      }
    }
  }
  for (; count % perBlock != 0; ++count) {
    rooms.places[count] = rooms.places[count - 1];
    rooms.pieces[count] = {0, 0, 0};
  }
  return count / perBlock;
}

// --- Transforms ----------------------------------------------------------------------------------------------------

/// Bᵀ d B of staged channels [channel, channel + channels) of `blocks` blocks.
template <int pieces>
void transformPictures(const TilePlan& plan, const TileRooms& rooms, int64_t channel, int64_t channels, int64_t blocks) {
  const TileShifts shifts = plan.shifts;
  const int64_t stride = plan.pictureStride, step = 4 * plan.layout.wordLength;
  for (int64_t c = 0; c < channels; ++c) {
    const char* staged = rooms.staged + c * step;
    const int64_t* places = rooms.places;
    float* v = rooms.pictures + (channel + c) * groupLanes;
    for (int64_t block = 0; block < blocks; ++block, v += tilePositions * stride, places += 2 * pieces) {
      transformTile<pieces>(staged, shifts, places, v, stride);
      transformTile<pieces>(staged, shifts, places + pieces, v + vectorLanes, stride);
    }
  }
}

/// Aᵀ m A of a vector of tiles, position p at m + p · groupLanes: even and odd columns of the two lines of outputs.
static inline void transformProducts(const float* m, Floats (&even)[tileOutputs], Floats (&odd)[tileOutputs]) {
  Floats left[tileReads], right[tileReads];
#pragma GCC unroll 4
  for (int i = 0; i < tileReads; ++i, m += tileReads * groupLanes) {
    const Floats m1 = loadFloats(m + groupLanes), m2 = loadFloats(m + 2 * groupLanes);
    left[i] = loadFloats(m) + (m1 + m2);
    right[i] = (m1 - m2) - loadFloats(m + 3 * groupLanes);
  }
  even[0] = left[0] + (left[1] + left[2]);
  even[1] = (left[1] - left[2]) - left[3];
  odd[0] = right[0] + (right[1] + right[2]);
  odd[1] = (right[1] - right[2]) - right[3];
}

/// One line of a vector of tiles' outputs to where its pieces belong.
template <int pieces>
static inline void storeLine(Vector low, Vector high, const TilePiece* list, int line, float* row) {
  constexpr int64_t perPiece = tileOutputs * vectorLanes / pieces;
  alignas(64) float outputs[tileOutputs * vectorLanes];
  storeVector(outputs, low);
  storeVector(outputs + vectorLanes, high);
#pragma GCC unroll 4
  for (int j = 0; j < pieces; ++j) {
    float* to = row + list[j].at;
    if (line >= list[j].lines) continue;
    if (list[j].columns == perPiece) __builtin_memcpy(to, outputs + j * perPiece, 4 * perPiece);
    else
      for (int64_t lane = 0; lane < list[j].columns; ++lane) to[lane] = outputs[j * perPiece + lane];
  }
}

/// Outputs of a vector of tiles of one row of products.
template <int pieces>
static inline void storeTiles(const float* m, const TilePiece* list, bool full, int64_t lineStride, float* row) {
  Floats even[tileOutputs], odd[tileOutputs];
  transformProducts(m, even, odd);
#pragma GCC unroll 2
  for (int line = 0; line < tileOutputs; ++line, row += lineStride) {
    Vector low, high;
    joinLanes((Vector)even[line], (Vector)odd[line], &low, &high);
    if (pieces <= 2 && full) {
      storeVector(row + list[0].at, low);
      storeVector(row + (pieces == 1 ? list[0].at + vectorLanes : list[1].at), high);
    } else {
      storeLine<pieces>(low, high, list, line, row);
    }
  }
}

template <int pieces>
void storeBlock(const float* products, int64_t rows, const TilePiece* list, const Target& target, float* row) {
  bool full = true;
  for (int j = 0; j < 2 * pieces; ++j)
    full = full && list[j].lines == tileOutputs && list[j].columns == tileOutputs * vectorLanes / pieces;
  for (int64_t i = 0; i < rows; ++i, products += tilePositions * groupLanes, row += target.rowStride) {
    storeTiles<pieces>(products, list, full, target.lineStride, row);
    storeTiles<pieces>(products + vectorLanes, list + pieces, full, target.lineStride, row);
  }
}

// --- Units ---------------------------------------------------------------------------------------------------------

/// Sums of products of one block of tiles with strips [first, end), and their outputs.
void multiplyBlock(const TileWork& work, const TileRooms& rooms, int64_t group, int64_t block, int64_t first, int64_t end,
                   const Target& target, Ahead* ahead) {
  const TilePlan& plan = work.plan;
  const int64_t places[2] = {0, vectorByteLength}, start = plan.stripStarts[first];
  // In locals: a kernel might write a plan, for all that the compiler knows.
  const int64_t channels = plan.channels, depth = plan.depth, panelStride = plan.panelStride, pictureStride = plan.pictureStride;
  const int64_t* const starts = plan.stripStarts;
  const int64_t* const shifts = plan.channelShifts;
  const SlideKernel* const kernels = plan.kernels;
  const float* v = rooms.pictures + block * tilePositions * pictureStride;
  const float* weights = plan.packed + (group * plan.strips + first) * tilePositions * panelStride;
  float* products = rooms.products;
  for (int64_t position = 0; position < tilePositions;
       ++position, v += pictureStride, weights += panelStride, products += groupLanes) {
    ahead->fetch();
    const float* panel = weights;
    for (int64_t strip = first; strip < end; ++strip, panel += tilePositions * panelStride) {
      float* to = products + (starts[strip] - start) * tilePositions * groupLanes;
      for (int64_t channel = 0; channel < channels; channel += depth)
        kernels[strip](least(depth, channels - channel), panel + channel * slideRows, reinterpret_cast<const char*>(v),
                       shifts + channel, places, to, tilePositions * groupLanes, channel > 0);
    }
  }
  const TilePiece* list = rooms.pieces + block * 2 * plan.pieces;
  const auto store = plan.pieces == 1 ? storeBlock<1> : plan.pieces == 2 ? storeBlock<2> : storeBlock<4>;
  store(rooms.products, plan.stripStarts[end] - start, list, target, target.data + start * target.rowStride);
}

/// The rows that a unit reads, fetched while the unit before it is computed.
Ahead findTilesAhead(const TileWork& work, const TileUnit& next) {
  const TilePlan& plan = work.plan;
  const int64_t calls = plan.blocks * partsOf(plan.strips, plan.blockStrips) * tilePositions, channel = next.group * plan.channels;
  if (plan.columnBands > 1) return {};
  if (plan.rowBands == 1)
    return fetchAhead(*work.source, next.image, next.images, channel, plan.channels, plan.y.source, plan.x.source, calls);
  const int64_t first = most(next.top - plan.y.before, 0);
  const int64_t rows = least(next.top - plan.y.before + next.height + tileReads - tileOutputs, plan.y.source) - first;
  return rows > 0 ? fetchRowsAhead(*work.source, next.image, channel, plan.channels, first, rows, plan.x.source, calls) : Ahead{};
}

void runTileUnit(const TileWork& work, const TileUnit& unit, const TileRooms& rooms, int worker, Ahead ahead) {
  const TilePlan& plan = work.plan;
  const Region region = regionOf(work, unit);
  const Target target = targetOf(*work.sink, region, rooms.sums);
  const int64_t blocks = listTiles(plan, unit, target, rooms);
  const auto transform = plan.pieces == 1 ? transformPictures<1> : plan.pieces == 2 ? transformPictures<2> : transformPictures<4>;
  for (int64_t channel = 0; channel < plan.channels; channel += plan.chunkChannels) {
    const int64_t channels = least(plan.chunkChannels, plan.channels - channel);
    StageJob job = {work.source, &plan.y, &plan.x, plan.layout, unit.rows.first, unit.columns.first, unit.image, unit.images,
                    unit.group * plan.channels + channel, channels, rooms.staged, rooms.spare, rooms.spans};
    job.layout.words = channels;
    stage(job, StagedAs::floats);
    transform(plan, rooms, channel, channels, blocks);
  }
  for (int64_t strip = 0; strip < plan.strips; strip += plan.blockStrips)
    for (int64_t block = 0; block < blocks; ++block)
      multiplyBlock(work, rooms, unit.group, block, strip, least(strip + plan.blockStrips, plan.strips), target, &ahead);
  deliver(*work.sink, region, target, worker);
}

void tileTask(void* context, int64_t task, int worker) {
  const TileWork& work = *static_cast<const TileWork*>(context);
  // The next unit is most often this worker's, too.
  const Ahead ahead = task + 1 < work.units ? findTilesAhead(work, tileUnitAt(work, task + 1)) : Ahead{};
  runTileUnit(work, tileUnitAt(work, task), makeTileRooms(work, worker), worker, ahead);
}

}  // namespace

void convolveByTiles(Pool* pool, const ConvolutionProblem& problem, const ImageSink& sink, bool gradient) {
  if (problem.batch == 0) return;
  TileWork work = {};
  work.pool = pool;
  work.problem = &problem;
  work.source = gradient ? &problem.g : &problem.x;
  work.sink = &sink;
  work.plan = planTiles(pool, problem, gradient);
  const TilePlan& plan = work.plan;
  packTileWeights(pool, plan, problem);
  work.units = plan.imageBlocks * problem.groups * plan.rowBands * plan.columnBands;
  parallelFor(pool, work.units, tileTask, &work);
}

}  // namespace BINADE_ISA
}  // namespace binade
