// Decodes kernels over planes: the taps of rows and columns, checked to lie inside the input, and the arrays.
#include <algorithm>
#include <vector>

#include "decode.h"

namespace binade {

namespace {

float decodeFloat(Reader& reader, const char* what) {
  const uint32_t bits = static_cast<uint32_t>(reader.word(what, 0, UINT32_MAX));
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

void decodeAxis(Reader& reader, PlaneAxis* axis) {
  axis->input = reader.word("a plane's input extent", 0, INT32_MAX);
  axis->output = reader.word("a plane's output extent", 0, INT32_MAX);
  axis->count = reader.word("a count of taps", 1, INT32_MAX);
  const __int128 entries = static_cast<__int128>(axis->output) * axis->count;
  if (entries > reader.count()) reader.fail("expected the taps of a plane's axis, got fewer words");
  if (reader.failed()) return;
  axis->positions = reader.allocate<int32_t>(axis->output * axis->count);
  axis->weights = reader.allocate<float>(axis->output * axis->count);
  axis->divisors = reader.allocate<float>(axis->output);
  for (int64_t i = 0; i < axis->output; ++i) {
    for (int64_t tap = 0; tap < axis->count; ++tap) {
      axis->positions[tap * axis->output + i] = static_cast<int32_t>(reader.word("a position", -1, axis->input - 1));
    }
  }
  for (int64_t i = 0; i < axis->output; ++i) {
    for (int64_t tap = 0; tap < axis->count; ++tap) {
      const float weight = decodeFloat(reader, "a weight's bits");
      axis->weights[tap * axis->output + i] = weight;
      axis->weighted = axis->weighted || weight != 1.0f;
    }
  }
  for (int64_t i = 0; i < axis->output; ++i) {
    axis->divisors[i] = decodeFloat(reader, "a divisor's bits");
    axis->divided = axis->divided || axis->divisors[i] != 1.0f;
  }
}

/// A tap seen from the side that is written: position `to` takes element `from`, as number `order` of what it takes.
struct Entry {
  int32_t to, from, tap;
  float weight;
  int64_t order;
};

/// Every tap of an axis, by position that is written, and in the order of the taps at each.
std::vector<Entry> entriesOf(const PlaneAxis& axis, bool back) {
  std::vector<Entry> entries;
  for (int64_t tap = 0; tap < axis.count; ++tap) {
    for (int64_t i = 0; i < axis.output; ++i) {
      const int64_t at = tap * axis.output + i;
      const int32_t input = axis.positions[at], output = static_cast<int32_t>(i);
      if (input < 0) continue;
      entries.push_back({back ? input : output, back ? output : input, static_cast<int32_t>(tap), axis.weights[at], at});
    }
  }
  std::sort(entries.begin(), entries.end(),
            [](const Entry& a, const Entry& b) { return a.to != b.to ? a.to < b.to : a.order < b.order; });
  return entries;
}

/// Sets base and reach of places that are still positions in a row of `extent` elements, and makes them relative.
void rebase(PlaneTap* tap, int64_t extent) {
  int32_t least = INT32_MAX, greatest = 0;
  for (int32_t place : tap->places) {
    if (place < 0) continue;
    least = std::min(least, place);
    greatest = std::max(greatest, place);
  }
  // Loads of whole vectors end inside the row, if it is long enough.
  const auto within = [=](int64_t reach) { return std::max<int64_t>(0, std::min<int64_t>(least, extent - reach)); };
  tap->reach = greatest < within(8) + 8 ? 8 : greatest < within(16) + 16 ? 16 : 0;
  tap->base = static_cast<int32_t>(tap->reach == 0 ? least : within(tap->reach));
  tap->full = tap->direct = true;
  for (int lane = 0; lane < kOctet; ++lane) {
    int32_t& place = tap->places[lane];
    place = place < 0 ? -1 : place - tap->base;
    tap->full = tap->full && place >= 0;
    tap->direct = tap->direct && place == lane;
  }
}

/// The taps of `axis` by blocks of output positions, or (`back`) of input positions.
void buildLookup(Reader& reader, const PlaneAxis& axis, bool back, PlaneLookup* lookup) {
  const std::vector<Entry> entries = entriesOf(axis, back);
  const int64_t extent = back ? axis.input : axis.output;
  std::vector<PlaneBlock> blocks;
  std::vector<PlaneTap> taps;
  for (size_t i = 0, end; i < entries.size(); i = end) {
    const int32_t position = entries[i].to / kOctet * kOctet;
    PlaneBlock block = {position, static_cast<int32_t>(std::min<int64_t>(kOctet, extent - position)),
                        static_cast<int64_t>(taps.size()), 0};
    int64_t taken[kOctet] = {};
    for (end = i; end < entries.size() && entries[end].to < position + int64_t{kOctet}; ++end) {
      const Entry& entry = entries[end];
      const int lane = entry.to - position;
      const int64_t row = taken[lane]++;
      if (row == block.count) {
        taps.push_back({0, 0, false, false, {-1, -1, -1, -1, -1, -1, -1, -1}, {}, {}});
        ++block.count;
      }
      PlaneTap& tap = taps[static_cast<size_t>(block.first + row)];
      tap.places[lane] = entry.from;
      tap.taps[lane] = entry.tap;
      tap.weights[lane] = entry.weight;
    }
    blocks.push_back(block);
  }
  for (PlaneTap& tap : taps) rebase(&tap, back ? axis.output : axis.input);
  lookup->blockCount = static_cast<int64_t>(blocks.size());
  lookup->blocks = reader.allocate<PlaneBlock>(lookup->blockCount);
  lookup->taps = reader.allocate<PlaneTap>(static_cast<int64_t>(taps.size()));
  std::copy(blocks.begin(), blocks.end(), lookup->blocks);
  std::copy(taps.begin(), taps.end(), lookup->taps);
}

bool isIndex(DType dtype) { return dtype == DType::uint8 || dtype == DType::int32; }

/// Array `place` of `count` elements; absent, or a float, or (`index`) the number of a tap.
void decodeArray(Reader& reader, int place, bool required, bool index, __int128 count, PlaneKernel* decoded) {
  const int64_t dtype = reader.word("an array's dtype", required ? 0 : -1, kDTypeCount - 1);
  if (dtype < 0) {
    reader.word("the binding of an absent array", INT64_MIN, kMaxWord);
    reader.word("the byte offset of an absent array", INT64_MIN, kMaxWord);
    decoded->refs[place].binding = -1;
    return;
  }
  decoded->dtypes[place] = static_cast<DType>(dtype);
  const DType given = decoded->dtypes[place];
  const bool isFloat = given >= DType::float32 && given <= DType::float8_e5m2;
  if (index ? !isIndex(given) : !isFloat) {
    reader.fail("plane: expected %s, got dtype %d", index ? "taps as uint8 or int32" : "floats of at most 32 bits",
                static_cast<int>(dtype));
  }
  decoded->refs[place] = reader.ref();
  if (count > kMaxStride) return reader.fail("expected at most 2^44 elements, got more");
  reader.touchArray(decoded->refs[place], count, byteLengthOf(given));
}

}  // namespace

void decodePlane(Reader& reader, Kernel* kernel) {
  PlaneKernel* decoded = reader.allocate<PlaneKernel>(1);
  kernel->plane = decoded;
  decoded->core = static_cast<PlaneCore>(reader.word("a plane core", 0, kPlaneCoreCount - 1));
  decoded->planes = reader.word("a count of planes", 0, kMaxExtent);
  decodeAxis(reader, &decoded->rows);
  if (!reader.failed()) decodeAxis(reader, &decoded->columns);
  if (reader.failed()) return;
  const __int128 planes = decoded->planes;
  const __int128 inputs = planes * decoded->rows.input * decoded->columns.input;
  const __int128 outputs = planes * decoded->rows.output * decoded->columns.output;
  const bool back = decoded->core == PlaneCore::resampleBackward || decoded->core == PlaneCore::maxPoolBackward;
  buildLookup(reader, decoded->columns, back, &decoded->lookup);
  const bool indexed = decoded->core == PlaneCore::maxPoolBackward, indexes = decoded->core == PlaneCore::maxPool;
  decodeArray(reader, 0, true, false, back ? outputs : inputs, decoded);
  decodeArray(reader, 1, indexed, true, outputs, decoded);
  decodeArray(reader, 2, !indexes, false, back ? inputs : outputs, decoded);
  decodeArray(reader, 3, false, true, outputs, decoded);
}

}  // namespace binade
