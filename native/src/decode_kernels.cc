// Decodes the payloads of kernels: extents, views and their bounds. Pointwise programs are decoded in decode_vm.cc.
#include "decode.h"

namespace binade {

int64_t productOf(const int64_t* extents, int begin, int end) {
  int64_t product = 1;
  for (int axis = begin; axis < end; ++axis) product *= extents[axis];
  return product;
}

DType decodeMatrixDType(Reader& reader, const char* what) {
  const DType dtype = reader.dtype(what);
  if (dtype != DType::float32 && dtype != DType::float16 && dtype != DType::bfloat16) {
    reader.fail("expected %s float32, float16 or bfloat16, got dtype %d", what, static_cast<int>(dtype));
  }
  return dtype;
}

namespace {

struct CoreRow {
  RowCore core;
  int inputCount, outputCount, parameterCount;
};

constexpr CoreRow kCores[] = {
    {RowCore::softmax, 1, 1, 0},           {RowCore::softmaxBackward, 2, 1, 0},
    {RowCore::logSoftmax, 1, 1, 0},        {RowCore::logSoftmaxBackward, 2, 1, 0},
    {RowCore::logSumExp, 1, 1, 0},         {RowCore::normalize, 1, 2, 2},
    {RowCore::normalizeBackward, 3, 1, 1}, {RowCore::crossEntropy, 2, 1, 1},
    {RowCore::crossEntropyBackward, 3, 1, 1},
};
static_assert(sizeof kCores / sizeof kCores[0] == kRowCoreCount, "one row per core");

/// Checks that the program stores each row buffer in [0, count) exactly once; yields their registers.
void requireBuffers(Reader& reader, const Vm& vm, int count, int* registers) {
  for (int buffer = 0; buffer < count && !reader.failed(); ++buffer) {
    int stores = 0;
    for (int i = 0; i < vm.storeCount; ++i) {
      if (vm.stores[i].rowBuffer != buffer) continue;
      stores += 1;
      if (registers != nullptr) registers[buffer] = vm.stores[i].reg;
    }
    if (stores != 1) reader.fail("expected row buffer %d to be stored once, got %d stores", buffer, stores);
  }
}

void decodePointwise(Reader& reader, Kernel* kernel) {
  PointwiseKernel* decoded = reader.allocate<PointwiseKernel>(1);
  kernel->pointwise = decoded;
  const Domain domain = reader.domain();
  decodeVm(reader, domain, {0, 0}, &decoded->vm);
  if (reader.failed()) return;
  int groupEnds[1] = {domain.rank};
  mergeAxes(&decoded->vm, groupEnds, 1);
  finishVm(reader, &decoded->vm);
}

/// Orders the prologue's axes so that the lanes are the contiguous axis, and counts outputs and reduced elements.
void arrangeReduction(Reader& reader, int keptRank, bool lanesKept, ReduceKernel* decoded) {
  Vm& prologue = decoded->prologue;
  int ends[2] = {keptRank, prologue.grid.rank};
  mergeAxes(&prologue, ends, 2);
  const int64_t* extents = prologue.grid.extents;
  decoded->reduced = productOf(extents, ends[0], ends[1]);
  decoded->alongLanes = !lanesKept || extents[ends[0] - 1] == 1;
  if (!decoded->alongLanes) {
    moveAxisToEnd(&prologue, ends[0] - 1);
    ends[0] -= 1;
    ends[1] -= 1;
  } else {
    ends[1] -= 1;
  }
  decoded->outerKept = productOf(extents, 0, ends[0]);
  decoded->reducedRows = productOf(extents, ends[0], ends[1]);
  finishVm(reader, &prologue);
}

void decodeReduce(Reader& reader, Kernel* kernel) {
  ReduceKernel* decoded = reader.allocate<ReduceKernel>(1);
  kernel->reduce = decoded;
  const Domain domain = reader.domain();
  const int keptRank = static_cast<int>(reader.word("a kept rank below the rank", 1, domain.rank - 1));
  const bool lanesKept = reader.word("a vector axis", 0, 1) == 1;
  decoded->count = static_cast<int>(reader.word("a count of combines", 1, kMaxCombines));
  for (int i = 0; i < decoded->count; ++i) {
    decoded->combines[i] = static_cast<Combine>(reader.word("a combine", 0, kCombineCount - 1));
  }
  decodeVm(reader, domain, {0, decoded->count}, &decoded->prologue);
  requireBuffers(reader, decoded->prologue, decoded->count, decoded->registers);
  Domain kept = domain;
  kept.rank = keptRank;
  kept.size = productOf(domain.extents, 0, keptRank);
  decodeVm(reader, kept, {decoded->count, 0}, &decoded->epilogue);
  if (reader.failed()) return;
  arrangeReduction(reader, keptRank, lanesKept, decoded);
  for (int i = 0; i < decoded->count && decoded->reduced > INT32_MAX; ++i) {
    if (decoded->combines[i] == Combine::argMax || decoded->combines[i] == Combine::argMin) {
      reader.fail("expected at most 2^31 - 1 elements to find a position among, got more");
    }
  }
  int ends[1] = {keptRank};
  mergeAxes(&decoded->epilogue, ends, 1);
  finishVm(reader, &decoded->epilogue);
}

void decodeMagnitudes(Reader& reader, Kernel* kernel) {
  MagnitudeKernel* decoded = reader.allocate<MagnitudeKernel>(1);
  kernel->magnitudes = decoded;
  const Domain domain = reader.domain();
  if (domain.size > INT32_MAX) reader.fail("expected at most 2^31 - 1 elements to count, got more");
  decodeVm(reader, domain, {0, 1}, &decoded->prologue);
  requireBuffers(reader, decoded->prologue, 1, &decoded->operand);
  decoded->counts = reader.ref();
  reader.touchArray(decoded->counts, kMagnitudeCounts, sizeof(int32_t));
  if (reader.failed()) return;
  int ends[1] = {domain.rank};
  mergeAxes(&decoded->prologue, ends, 1);
  finishVm(reader, &decoded->prologue);
}

/// Merges the row axes of a program that runs over whole rows; the last axis stays the row.
void finishRowVm(Reader& reader, Vm* vm) {
  if (reader.failed()) return;
  int ends[2] = {vm->grid.rank - 1, vm->grid.rank};
  const int first = ends[0] == 0 ? 1 : 0;
  mergeAxes(vm, ends + first, 2 - first);
  finishVm(reader, vm);
}

void decodeRow(Reader& reader, Kernel* kernel) {
  RowKernel* decoded = reader.allocate<RowKernel>(1);
  kernel->row = decoded;
  const Domain domain = reader.domain();
  const CoreRow& row = kCores[reader.word("a row core", 0, kRowCoreCount - 1)];
  decoded->core = row.core;
  reader.word("the core's parameter count", row.parameterCount, row.parameterCount);
  for (int i = 0; i < row.parameterCount; ++i) {
    decoded->parameters[i] = reader.word("a parameter", INT32_MIN, UINT32_MAX);
  }
  decoded->inputCount = static_cast<int>(reader.word("the core's input count", row.inputCount, row.inputCount));
  decoded->outputCount = static_cast<int>(reader.word("the core's output count", row.outputCount, row.outputCount));
  decodeVm(reader, domain, {0, row.inputCount}, &decoded->prologue);
  requireBuffers(reader, decoded->prologue, row.inputCount, nullptr);
  decodeVm(reader, domain, {row.inputCount + row.outputCount, 0}, &decoded->epilogue);
  finishRowVm(reader, &decoded->prologue);
  finishRowVm(reader, &decoded->epilogue);
}

/// Notes the elements that operand `side` (rows × columns, shifted by each of its offsets) touches.
void touchMatrix(Reader& reader, const MatmulKernel& matmul, int side, int64_t rows, int64_t columns) {
  if (reader.failed() || rows == 0 || columns == 0 || matmul.batch == 0) return;
  __int128 least = matmul.offsets[side][0], greatest = least;
  for (int64_t i = 1; i < matmul.batch; ++i) {
    const int64_t offset = matmul.offsets[side][i];
    least = offset < least ? offset : least;
    greatest = offset > greatest ? offset : greatest;
  }
  const __int128 rowSpan = static_cast<__int128>(matmul.rowStrides[side]) * (rows - 1);
  const __int128 columnSpan = static_cast<__int128>(matmul.columnStrides[side]) * (columns - 1);
  (rowSpan < 0 ? least : greatest) += rowSpan;
  (columnSpan < 0 ? least : greatest) += columnSpan;
  reader.touch(matmul.refs[side], least, greatest, byteLengthOf(matmul.storage[side]));
}

void decodeMatmul(Reader& reader, Kernel* kernel) {
  MatmulKernel* decoded = reader.allocate<MatmulKernel>(1);
  kernel->matmul = decoded;
  decoded->batch = reader.word("a batch", 0, reader.count());
  decoded->m = reader.word("m", 0, kMaxExtent);
  decoded->n = reader.word("n", 0, kMaxExtent);
  decoded->k = reader.word("k", 0, kMaxExtent);
  for (int side = 0; side < 2; ++side) {
    decoded->storage[side] = decodeMatrixDType(reader, "a matrix's storage");
    decoded->format[side] = decodeMatrixDType(reader, "a matrix's format");
    decoded->refs[side] = reader.ref();
    decoded->rowStrides[side] = reader.word("a row stride", -kMaxStride, kMaxStride);
    decoded->columnStrides[side] = reader.word("a column stride", -kMaxStride, kMaxStride);
  }
  for (int side = 0; side < 2; ++side) {
    decoded->offsets[side] = reader.allocate<int64_t>(decoded->batch);
    for (int64_t i = 0; i < decoded->batch; ++i) {
      decoded->offsets[side][i] = reader.word("an element offset", -kMaxStride, kMaxStride);
    }
  }
  touchMatrix(reader, *decoded, 0, decoded->m, decoded->k);
  touchMatrix(reader, *decoded, 1, decoded->k, decoded->n);
  const Domain domain = reader.domain();
  const int rank = domain.rank;
  if (rank < 2 || domain.extents[rank - 2] != decoded->m || domain.extents[rank - 1] != decoded->n ||
      productOf(domain.extents, 0, rank - 2) != decoded->batch) {
    reader.fail("matmul: expected the domain (batch…, m, n), got another one");
  }
  decodeVm(reader, domain, {1, 0}, &decoded->epilogue);
  finishRowVm(reader, &decoded->epilogue);
}

DType decodeIndexDType(Reader& reader) {
  const DType dtype = reader.dtype("an index dtype");
  if (dtype != DType::int32 && dtype != DType::uint32 && dtype != DType::uint8) {
    reader.fail("expected an index dtype int32, uint32 or uint8, got dtype %d", static_cast<int>(dtype));
  }
  return dtype;
}

DType decodeFloatDType(Reader& reader, const char* what) {
  const DType dtype = reader.dtype(what);
  if (dtype < DType::float32 || dtype > DType::float8_e5m2) {
    reader.fail("expected %s to be a float dtype of at most 32 bits, got dtype %d", what, static_cast<int>(dtype));
  }
  return dtype;
}

void decodeGather(Reader& reader, Kernel* kernel) {
  GatherKernel* decoded = reader.allocate<GatherKernel>(1);
  kernel->gather = decoded;
  const bool scatter = kernel->code == KernelCode::scatterAdd;
  decoded->outer = reader.word("an outer extent", 0, kMaxExtent);
  decoded->rows = reader.word("a row count", 0, kMaxExtent);
  decoded->indices = reader.word("an index count", 0, kMaxExtent);
  decoded->inner = reader.word("an inner extent", 0, kMaxExtent);
  if (scatter) decoded->dtype = decodeFloatDType(reader, "the values");
  else decoded->elementByteLength = reader.word("an element size", 1, 8);
  if (!scatter && (decoded->elementByteLength & (decoded->elementByteLength - 1)) != 0) {
    reader.fail("expected an element size of 1, 2, 4 or 8 bytes, got another one");
  }
  decoded->table = reader.ref();
  decoded->indexDtype = decodeIndexDType(reader);
  decoded->index = reader.ref();
  if (scatter) decoded->outDtype = decodeFloatDType(reader, "the sums");
  decoded->out = reader.ref();
  if (reader.failed()) return;
  const __int128 row = static_cast<__int128>(decoded->outer) * decoded->inner;
  const __int128 ofTable = row * decoded->rows, ofIndices = row * decoded->indices;
  if (row > kMaxStride || ofTable > kMaxStride || ofIndices > kMaxStride) {
    return reader.fail("expected at most 2^44 elements, got more");
  }
  const int64_t inByteLength = scatter ? byteLengthOf(decoded->dtype) : decoded->elementByteLength;
  const int64_t outByteLength = scatter ? byteLengthOf(decoded->outDtype) : decoded->elementByteLength;
  reader.touchArray(decoded->table, scatter ? ofIndices : ofTable, inByteLength);
  reader.touchArray(decoded->index, decoded->indices, byteLengthOf(decoded->indexDtype));
  reader.touchArray(decoded->out, scatter ? ofTable : ofIndices, outByteLength);
}

constexpr int kQ = 0, kV = 2, kOut = 3, kG = 4;  // places in AttentionKernel::refs

/// Decodes q, k, v, out, g, dq, dk or dv, (batch, length, heads, width); dtype -1: absent.
void decodeHeads(Reader& reader, int place, bool required, int64_t length, AttentionKernel* decoded) {
  const int64_t dtype = reader.word("a heads view's dtype", required ? 0 : -1, kDTypeCount - 1);
  if (dtype < 0) {
    reader.word("the binding of an absent view", INT64_MIN, kMaxWord);
    reader.word("the byte offset of an absent view", INT64_MIN, kMaxWord);
    for (int axis = 0; axis < 3; ++axis) reader.word("a stride of an absent view", INT64_MIN, kMaxWord);
    decoded->refs[place].binding = -1;
    return;
  }
  decoded->dtypes[place] = static_cast<DType>(dtype);
  const bool narrow = dtype == static_cast<int64_t>(DType::float16) || dtype == static_cast<int64_t>(DType::bfloat16);
  if (!narrow && dtype != static_cast<int64_t>(DType::float32)) {
    reader.fail("attention: expected float32, float16 or bfloat16, got dtype %d", static_cast<int>(dtype));
  }
  if (place <= kV && decoded->dtypes[place] != decoded->dtypes[kQ]) {
    reader.fail("attention: expected q, k and v of one dtype, got two");
  }
  decoded->refs[place] = reader.ref();
  const int64_t extents[3] = {decoded->batch, length, decoded->heads};
  __int128 least = 0, greatest = decoded->width - 1;
  bool empty = decoded->width == 0;
  for (int axis = 0; axis < 3; ++axis) {
    decoded->strides[place][axis] = reader.word("a stride", -kMaxStride, kMaxStride);
    const __int128 span = static_cast<__int128>(decoded->strides[place][axis]) * (extents[axis] - 1);
    (span < 0 ? least : greatest) += span;
    empty = empty || extents[axis] == 0;
  }
  if (!empty) reader.touch(decoded->refs[place], least, greatest, byteLengthOf(decoded->dtypes[place]));
}

void decodeLogSumExp(Reader& reader, bool required, AttentionKernel* decoded) {
  decoded->logSumExp.binding = reader.word("a binding of logSumExp", required ? 0 : -1, INT32_MAX);
  decoded->logSumExp.byteOffset = reader.word("a byte offset", INT64_MIN, kMaxWord);
  if (decoded->logSumExp.binding < 0) return;
  if (decoded->logSumExp.binding > reader.bindingCount() || decoded->logSumExp.byteOffset < 0) {
    return reader.fail("expected logSumExp in a binding of the program, got another ref");
  }
  reader.touchArray(decoded->logSumExp, static_cast<__int128>(decoded->batch) * decoded->heads * decoded->queries, 4);
}

void decodeAttention(Reader& reader, Kernel* kernel) {
  AttentionKernel* decoded = reader.allocate<AttentionKernel>(1);
  kernel->attention = decoded;
  const bool backward = kernel->code == KernelCode::attentionBackward;
  decoded->batch = reader.word("a batch", 0, INT32_MAX);
  decoded->queries = reader.word("a query count", 0, INT32_MAX);
  decoded->keys = reader.word("a key count", 0, INT32_MAX);
  decoded->heads = reader.word("a head count", 0, INT32_MAX);
  decoded->width = reader.word("a width", 0, INT32_MAX);
  const uint32_t scaleBits = static_cast<uint32_t>(reader.word("a scale's bits", 0, UINT32_MAX));
  __builtin_memcpy(&decoded->scale, &scaleBits, sizeof scaleBits);
  decoded->causal = reader.word("causal, 0 or 1", 0, 1) == 1;
  for (int place = kQ; place <= kOut; ++place) {
    const bool ofQueries = place == kQ || place == kOut;
    decodeHeads(reader, place, place != kOut || backward, ofQueries ? decoded->queries : decoded->keys, decoded);
  }
  decodeLogSumExp(reader, backward, decoded);
  for (int place = kG; place < 8; ++place) {
    decoded->refs[place].binding = -1;
    const int64_t length = place <= kG + 1 ? decoded->queries : decoded->keys;
    if (backward) decodeHeads(reader, place, place == kG, length, decoded);
  }
}

}  // namespace

void decodeKernel(Reader& reader, Kernel* kernel) {
  switch (kernel->code) {
    case KernelCode::pointwise:
      return decodePointwise(reader, kernel);
    case KernelCode::reduce:
      return decodeReduce(reader, kernel);
    case KernelCode::magnitudes:
      return decodeMagnitudes(reader, kernel);
    case KernelCode::row:
      return decodeRow(reader, kernel);
    case KernelCode::matmul:
      return decodeMatmul(reader, kernel);
    case KernelCode::gather:
    case KernelCode::scatterAdd:
      return decodeGather(reader, kernel);
    case KernelCode::convolution:
      return decodeConvolution(reader, kernel);
    case KernelCode::attention:
    case KernelCode::attentionBackward:
      return decodeAttention(reader, kernel);
    case KernelCode::plane:
      return decodePlane(reader, kernel);
    case KernelCode::channel:
      return decodeChannel(reader, kernel);
  }
}

}  // namespace binade
