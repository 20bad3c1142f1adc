// Runs a decoded program on one instruction set: its kernels in order, commits only while no fault was raised.
#include "kernels.h"

namespace binade {
namespace BINADE_ISA {

void raiseFault(const Run& run, int64_t position, int64_t value) {
  Fault* fault = run.fault;
  while (__atomic_test_and_set(&fault->lock, __ATOMIC_ACQUIRE)) {
  }
  if (fault->kernel < 0 || (fault->kernel == run.kernel && position < fault->position)) {
    fault->kernel = run.kernel;
    fault->position = position;
    fault->value = value;
  }
  __atomic_clear(&fault->lock, __ATOMIC_RELEASE);
}

static void runKernel(const Run& run, const Kernel& kernel) {
  switch (kernel.code) {
    case KernelCode::pointwise:
      return runPointwise(run, *kernel.pointwise);
    case KernelCode::reduce:
      return runReduce(run, *kernel.reduce);
    case KernelCode::magnitudes:
      return runMagnitudes(run, *kernel.magnitudes);
    case KernelCode::row:
      return runRows(run, *kernel.row);
    case KernelCode::matmul:
      return runMatmul(run, *kernel.matmul);
    case KernelCode::gather:
      return runGather(run, *kernel.gather);
    case KernelCode::scatterAdd:
      return runScatterAdd(run, *kernel.gather);
    case KernelCode::convolution:
      return runConvolution(run, *kernel.convolution);
    case KernelCode::attention:
      return runAttention(run, *kernel.attention);
    case KernelCode::attentionBackward:
      return runAttentionBackward(run, *kernel.attention);
    case KernelCode::plane:
      return runPlanes(run, *kernel.plane);
    case KernelCode::channel:
      return runChannel(run, *kernel.channel);
  }
}

void runProgram(const Program& program, void* const* bases, Pool* pool, Fault* fault) {
  for (int64_t i = 0; i < program.kernelCount; ++i) {
    if (i >= program.firstCommitKernel && fault->kernel >= 0) return;
    runKernel({bases, pool, fault, i}, program.kernels[i]);
  }
}

}  // namespace BINADE_ISA
}  // namespace binade
