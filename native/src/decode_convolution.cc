// Decodes convolutions: extents that fit together, operands and their bounds, the epilogue over the result's pixels.
#include "decode.h"

namespace binade {

namespace {

/// One axis of a convolution: extents that fit together, so that a result's extents bound all the others.
void decodeConvolutionAxis(Reader& reader, ConvolutionAxis* axis) {
  axis->input = reader.word("an input extent", 1, INT32_MAX);
  axis->output = reader.word("an output extent", 1, INT32_MAX);
  axis->kernel = reader.word("a kernel extent", 1, INT32_MAX);
  axis->stride = reader.word("a convolution's stride", 1, INT32_MAX);
  axis->dilation = reader.word("a dilation", 1, INT32_MAX);
  axis->before = reader.word("padding before", -INT32_MAX, INT32_MAX);
  const int64_t after = reader.word("padding after", -INT32_MAX, INT32_MAX);
  const int64_t slack = axis->input + axis->before + after - (axis->kernel - 1) * axis->dilation - 1;
  if (reader.failed()) return;
  if (slack < 0 || slack / axis->stride + 1 != axis->output) {
    reader.fail("convolution: expected the output extent that its input, kernel and padding have, got another one");
  }
}

/// Notes the elements of one operand, (extents[0], …, extents[3]) with neighbouring columns.
void touchImage(Reader& reader, const ConvolutionKernel& kernel, int side, const int64_t* extents) {
  if (reader.failed()) return;
  __int128 least = 0, greatest = extents[3] - 1;
  for (int axis = 0; axis < 3; ++axis) {
    if (extents[axis] == 0) return;
    const __int128 span = static_cast<__int128>(kernel.strides[side][axis]) * (extents[axis] - 1);
    (span < 0 ? least : greatest) += span;
  }
  reader.touch(kernel.refs[side], least, greatest, byteLengthOf(kernel.storage[side]));
}

/// Words of scratch that one picture's channel takes with its padding, at most.
constexpr __int128 kMaxPaddedPixels = __int128{1} << 31;

void requireModestPadding(Reader& reader, const ConvolutionKernel& kernel) {
  __int128 pixels = 1;
  for (const ConvolutionAxis& axis : kernel.axes) {
    const __int128 span = static_cast<__int128>(axis.kernel - 1) * axis.dilation;
    pixels *= (axis.output > axis.input ? axis.output : axis.input) + span + axis.stride;
  }
  if (pixels > kMaxPaddedPixels) reader.fail("convolution: expected pictures of at most 2^31 padded pixels, got more");
}

/// Whether the epilogue stores what it loads from row buffer 0, unchanged, row-major in float32.
bool storesSums(const Vm& vm, int64_t channels, int64_t pixels) {
  if (vm.loadCount != 1 || vm.instructionCount != 0 || vm.storeCount != 1) return false;
  const Operand &load = vm.loads[0], &store = vm.stores[0];
  const Grid& grid = vm.grid;
  if (load.rowBuffer != 0 || store.rowBuffer >= 0 || store.reg != load.reg || store.dtype != DType::float32) return false;
  int64_t stride = 1;
  for (int axis = grid.rank - 1; axis >= 0; --axis) {
    if (grid.extents[axis] != 1 && store.strides[axis] != stride) return false;
    stride *= grid.extents[axis];
  }
  return grid.lanes > 0 && stride % (channels * pixels) == 0;
}

}  // namespace

void decodeConvolution(Reader& reader, Kernel* kernel) {
  ConvolutionKernel* decoded = reader.allocate<ConvolutionKernel>(1);
  kernel->convolution = decoded;
  decoded->form = static_cast<ConvolutionForm>(reader.word("a form of convolution", 0, kConvolutionFormCount - 1));
  decoded->batch = reader.word("a batch", 0, INT32_MAX);
  decoded->groups = reader.word("a group count", 1, INT32_MAX);
  decoded->channels = reader.word("a channel count", 1, INT32_MAX);
  decoded->outputs = reader.word("an output channel count", 1, INT32_MAX);
  for (ConvolutionAxis& axis : decoded->axes) decodeConvolutionAxis(reader, &axis);
  for (int side = 0; side < 2; ++side) {
    decoded->storage[side] = decodeMatrixDType(reader, "an operand's storage");
    decoded->format[side] = decodeMatrixDType(reader, "an operand's format");
    decoded->refs[side] = reader.ref();
    for (int64_t& stride : decoded->strides[side]) stride = reader.word("a stride", -kMaxStride, kMaxStride);
  }
  if (reader.failed()) return;
  requireModestPadding(reader, *decoded);
  const ConvolutionAxis &y = decoded->axes[0], &x = decoded->axes[1];
  const int64_t allChannels = decoded->groups * decoded->channels, allOutputs = decoded->groups * decoded->outputs;
  const int64_t input[4] = {decoded->batch, allChannels, y.input, x.input};
  const int64_t weight[4] = {allOutputs, decoded->channels, y.kernel, x.kernel};
  const int64_t output[4] = {decoded->batch, allOutputs, y.output, x.output};
  // Operands and result of each form.
  const int64_t* const shapes[3][3] = {{input, weight, output}, {output, weight, input}, {input, output, weight}};
  const int64_t* const* const shape = shapes[static_cast<int>(decoded->form)];
  for (int side = 0; side < 2; ++side) touchImage(reader, *decoded, side, shape[side]);
  const Domain domain = reader.domain();
  const int64_t* result = shape[2];
  if (domain.rank < 3 || domain.extents[0] != result[0] || domain.extents[1] != result[1] ||
      static_cast<__int128>(productOf(domain.extents, 2, domain.rank)) != static_cast<__int128>(result[2]) * result[3]) {
    reader.fail("convolution: expected the domain (batch, channels, rows, columns) of its result, got another one");
  }
  decodeVm(reader, domain, {1, 0}, &decoded->epilogue);
  if (reader.failed()) return;
  // The weight's channels and taps are its pixels.
  const bool weights = decoded->form == ConvolutionForm::weightGradient;
  int ends[2] = {weights ? 1 : 2, domain.rank};
  mergeAxes(&decoded->epilogue, ends, 2);
  finishVm(reader, &decoded->epilogue);
  const int64_t pixels = result[2] * result[3] * (weights ? result[1] : 1);
  decoded->plainStore = storesSums(decoded->epilogue, weights ? result[0] : result[1], pixels);
}

}  // namespace binade
