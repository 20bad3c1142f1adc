// The kernels of a program, one function each; the executor calls them in order.
#pragma once
#include "vm.h"

namespace binade {
namespace BINADE_ISA {

void runPointwise(const Run& run, const PointwiseKernel& kernel);
void runReduce(const Run& run, const ReduceKernel& kernel);
void runMagnitudes(const Run& run, const MagnitudeKernel& kernel);
void runRows(const Run& run, const RowKernel& kernel);
void runMatmul(const Run& run, const MatmulKernel& kernel);
void runGather(const Run& run, const GatherKernel& kernel);
void runScatterAdd(const Run& run, const GatherKernel& kernel);
void runConvolution(const Run& run, const ConvolutionKernel& kernel);
void runAttention(const Run& run, const AttentionKernel& kernel);
void runAttentionBackward(const Run& run, const AttentionKernel& kernel);
void runPlanes(const Run& run, const PlaneKernel& kernel);
void runChannel(const Run& run, const ChannelKernel& kernel);

/// The bytes of a ref.
static inline uint8_t* bytesAt(const Run& run, Ref ref) {
  return static_cast<uint8_t*>(run.bases[ref.binding]) + ref.byteOffset;
}

/// Bytes of an element of a float dtype of at most 32 bits.
static inline int64_t byteLengthOfFloat(DType dtype) {
  return dtype == DType::float32 ? 4 : dtype == DType::float16 || dtype == DType::bfloat16 ? 2 : 1;
}

static inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t ceilDivide(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace BINADE_ISA
}  // namespace binade
