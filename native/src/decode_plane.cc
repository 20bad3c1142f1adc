// Decodes kernels over planes: the taps of rows and columns, checked to lie inside the input, and the arrays.
#include "decode.h"

namespace binade {

namespace {

float decodeFloat(Reader& reader, const char* what) {
  const uint32_t bits = static_cast<uint32_t>(reader.word(what, 0, UINT32_MAX));
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

/// Tap j's run of output positions that have it; false unless they lie `stride` apart in the input.
bool findRun(PlaneAxis* axis, int64_t tap) {
  const int32_t* positions = axis->positions + tap * axis->output;
  int64_t low = 0, high = axis->output;
  while (low < high && positions[low] < 0) ++low;
  while (high > low && positions[high - 1] < 0) --high;
  axis->low[tap] = low;
  axis->high[tap] = high;
  axis->first[tap] = low < high ? positions[low] - low * axis->stride : 0;
  for (int64_t i = low; i < high; ++i) {
    if (positions[i] != axis->first[tap] + i * axis->stride) return false;
  }
  return true;
}

/// The distance of the first two neighbouring positions that one tap has; 1 if there are none.
int64_t strideOf(const PlaneAxis& axis) {
  for (int64_t i = 0; i + 1 < axis.output * axis.count; ++i) {
    const bool neighbours = (i + 1) % axis.output != 0;
    if (neighbours && axis.positions[i] >= 0 && axis.positions[i + 1] >= 0) {
      return axis.positions[i + 1] - axis.positions[i];
    }
  }
  return 1;
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
  axis->low = reader.allocate<int64_t>(axis->count);
  axis->high = reader.allocate<int64_t>(axis->count);
  axis->first = reader.allocate<int64_t>(axis->count);
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
  axis->stride = strideOf(*axis);
  for (int64_t tap = 0; tap < axis->count && axis->stride != 0; ++tap) {
    if (!findRun(axis, tap)) axis->stride = 0;
  }
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
  const bool indexed = decoded->core == PlaneCore::maxPoolBackward, indexes = decoded->core == PlaneCore::maxPool;
  decodeArray(reader, 0, true, false, back ? outputs : inputs, decoded);
  decodeArray(reader, 1, indexed, true, outputs, decoded);
  decodeArray(reader, 2, !indexes, false, back ? inputs : outputs, decoded);
  decodeArray(reader, 3, false, true, outputs, decoded);
}

}  // namespace binade
