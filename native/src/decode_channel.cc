// Decodes norms of channels: extents, arrays of elements and of one number per channel, results or an epilogue.
#include "decode.h"

namespace binade {

namespace {

/// A core: its inputs, of which the first `elementwise` have every element and the others one number per channel.
struct CoreRow {
  ChannelCore core;
  int inputs, elementwise;
  bool statistic;
};

constexpr CoreRow kCores[] = {
    {ChannelCore::channelMoments, 1, 1, true},
    {ChannelCore::channelSums, 4, 2, true},
    {ChannelCore::channelNormalize, 5, 1, false},
    {ChannelCore::channelGradient, 7, 2, false},
};
static_assert(sizeof kCores / sizeof kCores[0] == kChannelCoreCount, "one row per core");

DType decodeArray(Reader& reader, int64_t count, Ref* ref) {
  const DType dtype = reader.dtype("an array's dtype");
  if (dtype < DType::float32 || dtype > DType::float8_e5m2) {
    reader.fail("channel: expected floats of at most 32 bits, got dtype %d", static_cast<int>(dtype));
  }
  *ref = reader.ref();
  reader.touchArray(*ref, count, byteLengthOf(dtype));
  return dtype;
}

/// A result, one number per channel; dtype -1: absent.
void decodeResult(Reader& reader, int result, ChannelKernel* decoded) {
  const int64_t dtype = reader.word("a result's dtype", -1, kDTypeCount - 1);
  if (dtype < 0) {
    reader.word("the binding of an absent result", INT64_MIN, kMaxWord);
    reader.word("the byte offset of an absent result", INT64_MIN, kMaxWord);
    decoded->results[result].binding = -1;
    return;
  }
  decoded->resultDtypes[result] = static_cast<DType>(dtype);
  if (decoded->resultDtypes[result] < DType::float32 || decoded->resultDtypes[result] > DType::float8_e5m2) {
    reader.fail("channel: expected floats of at most 32 bits, got dtype %d", static_cast<int>(dtype));
  }
  decoded->results[result] = reader.ref();
  reader.touchArray(decoded->results[result], decoded->channels, byteLengthOf(decoded->resultDtypes[result]));
}

}  // namespace

void decodeChannel(Reader& reader, Kernel* kernel) {
  ChannelKernel* decoded = reader.allocate<ChannelKernel>(1);
  kernel->channel = decoded;
  const CoreRow& row = kCores[reader.word("a channel core", 0, kChannelCoreCount - 1)];
  decoded->core = row.core;
  decoded->outer = reader.word("an outer extent", 0, INT32_MAX);
  decoded->channels = reader.word("a channel count", 0, INT32_MAX);
  decoded->inner = reader.word("an inner extent", 0, INT32_MAX);
  const uint32_t eps = static_cast<uint32_t>(reader.word("the bits of eps", 0, UINT32_MAX));
  __builtin_memcpy(&decoded->eps, &eps, sizeof eps);
  const __int128 elements = static_cast<__int128>(decoded->outer) * decoded->channels * decoded->inner;
  if (elements > kMaxStride) reader.fail("expected at most 2^44 elements, got more");
  for (int i = 0; i < row.inputs && !reader.failed(); ++i) {
    const int64_t count = i < row.elementwise ? static_cast<int64_t>(elements) : decoded->channels;
    decoded->dtypes[i] = decodeArray(reader, count, &decoded->refs[i]);
  }
  if (row.statistic) {
    for (int result = 0; result < 2; ++result) decodeResult(reader, result, decoded);
    return;
  }
  const Domain domain = reader.domain();
  if (!reader.failed() && domain.size != static_cast<int64_t>(elements)) {
    reader.fail("channel: expected a domain of outer x channels x inner elements, got another one");
  }
  decodeVm(reader, domain, {1, 0}, &decoded->epilogue);
  if (reader.failed()) return;
  int ends[1] = {domain.rank};
  mergeAxes(&decoded->epilogue, ends, 1);
  finishVm(reader, &decoded->epilogue);
}

}  // namespace binade
