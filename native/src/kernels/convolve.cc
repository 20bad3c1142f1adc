// The convolution kernel: from a decoded kernel to the problem that the convolution code solves, and its epilogue.
#include "convolution.h"
#include "direct_store.h"
#include "kernels.h"

namespace binade {
namespace BINADE_ISA {

struct ConvolutionRun {
  const Run& run;
  const ConvolutionKernel& kernel;
  int64_t channels, pixels;  // of one picture of the result
  DirectStore direct;        // of rows of pixels
};

/// Runs the epilogue over `rows` rows of `count` lanes each; the tile is row buffer 0.
static void runEpilogue(const VmState& state, int64_t row, int64_t lane, int64_t rows, int64_t count) {
  const Tiling tiling = tilingOf(rows, count);
  for (int64_t index = 0; index < tiling.blocks; ++index) {
    Block block = blockAt(tiling, index);
    block.row += row;
    block.lane += lane;
    runBlock(state, block);
  }
}

static void writePixels(void* context, int64_t image, int64_t channel, int64_t channels, int64_t pixel, int64_t pixels,
                        const float* tile, int64_t stride, int worker) {
  const ConvolutionRun& convolution = *static_cast<ConvolutionRun*>(context);
  const Vm& vm = convolution.kernel.epilogue;
  const int64_t first = image * convolution.channels + channel, lanes = vm.grid.lanes;
  if (convolution.direct.target != nullptr)
    return storeRows(convolution.run, *convolution.direct.target, first, pixel, channels, pixels, tile, stride);
  VmState state;
  beginVm(&state, vm, convolution.run.bases, scratch(convolution.run.pool, worker, kSinkSlot, registerByteLength(vm)));
  state.readsInPlace = true;
  if (lanes == convolution.pixels) {
    state.buffers[0] = {const_cast<float*>(tile), stride, false};
    return runEpilogue(state, first, pixel, channels, pixels);
  }
  // An operand walks the pixels in another order: they are rows of `lanes` lanes, begun or ended within one.
  const int64_t rowsPerChannel = convolution.pixels / lanes;
  for (int64_t i = 0; i < channels; ++i) {
    for (int64_t at = pixel; at < pixel + pixels;) {
      const int64_t row = at / lanes, lane = at % lanes, count = smaller(lanes - lane, pixel + pixels - at);
      state.buffers[0] = {const_cast<float*>(tile) + i * stride + (at - pixel), 0, false};
      runEpilogue(state, (first + i) * rowsPerChannel + row, lane, 1, count);
      at += count;
    }
  }
}

void runConvolution(const Run& run, const ConvolutionKernel& kernel) {
  const ConvolutionAxis &y = kernel.axes[0], &x = kernel.axes[1];
  ConvolutionProblem problem = {};
  problem.batch = kernel.batch;
  problem.groups = kernel.groups;
  problem.channels = kernel.channels;
  problem.outputs = kernel.outputs;
  problem.axes[0] = y;
  problem.axes[1] = x;
  ImageView* const operands[3][2] = {{&problem.x, &problem.w}, {&problem.g, &problem.w}, {&problem.x, &problem.g}};
  for (int side = 0; side < 2; ++side) {
    ImageView& view = *operands[static_cast<int>(kernel.form)][side];
    view = {bytesAt(run, kernel.refs[side]), kernel.storage[side], kernel.format[side], {}};
    for (int axis = 0; axis < 3; ++axis) view.strides[axis] = kernel.strides[side][axis];
  }
  ConvolutionRun convolution = {run, kernel, 0, 0, directStoreOf(kernel.epilogue)};
  switch (kernel.form) {
    case ConvolutionForm::forward:
      convolution.channels = kernel.groups * kernel.outputs;
      convolution.pixels = y.output * x.output;
      break;
    case ConvolutionForm::inputGradient:
      convolution.channels = kernel.groups * kernel.channels;
      convolution.pixels = y.input * x.input;
      break;
    case ConvolutionForm::weightGradient:
      convolution.channels = kernel.groups * kernel.outputs;
      convolution.pixels = kernel.channels * y.kernel * x.kernel;
  }
  // A bias per pixel has no use; rows of pixels are all that the direct store knows.
  if (convolution.direct.bias != nullptr || kernel.epilogue.grid.lanes != convolution.pixels) convolution.direct = {};
  ImageSink sink = {writePixels, &convolution, nullptr, convolution.channels * convolution.pixels, convolution.pixels};
  if (kernel.plainStore) sink.direct = reinterpret_cast<float*>(bytesAt(run, kernel.epilogue.stores[0].ref));
  switch (kernel.form) {
    case ConvolutionForm::forward:
      return convolutionForward(run.pool, problem, sink);
    case ConvolutionForm::inputGradient:
      return convolutionInputGradient(run.pool, problem, sink);
    case ConvolutionForm::weightGradient:
      return convolutionWeightGradient(run.pool, problem, sink);
  }
}

}  // namespace BINADE_ISA
}  // namespace binade
