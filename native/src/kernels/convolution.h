// Convolutions of pictures and their gradients for one instruction set (BINADE_ISA, given on the command line).
#pragma once
#include "core.h"

namespace binade {
namespace BINADE_ISA {

// Operands are float32, float16 or bfloat16 in memory. Sums are float32; where both operands' formats are bfloat16,
// avx512bf16 adds bfloat16 dot products (which flush bfloat16 subnormals and float32 subnormal sums to zero). The bits of
// a result depend on shapes, formats and the instruction set, never on the number of workers. All use scratch slots 0 and 1
// of every worker and slot 4 of worker 0; a sink may use slots 2, 3, 5 to 7.

/// The two ways to compute a convolution, or (gradient) its input gradient. Tiles take 3×3 kernels of stride 1, float32 products.
void convolveDirectly(Pool* pool, const ConvolutionProblem& problem, const ImageSink& sink, bool gradient);
void convolveByTiles(Pool* pool, const ConvolutionProblem& problem, const ImageSink& sink, bool gradient);

/// out (batch, groups · outputs, output) from problem.x and problem.w.
void convolutionForward(Pool* pool, const ConvolutionProblem& problem, const ImageSink& sink);

/// dx (batch, groups · channels, input) from problem.g and problem.w.
void convolutionInputGradient(Pool* pool, const ConvolutionProblem& problem, const ImageSink& sink);

/// dw from problem.x and problem.g, handed over as one picture of groups · outputs channels of channels · taps pixels.
void convolutionWeightGradient(Pool* pool, const ConvolutionProblem& problem, const ImageSink& sink);

/// The two ways to compute it. Tiles take at least one picture, 3×3 kernels of stride 1, float32 products.
void weightGradientDirectly(Pool* pool, const ConvolutionProblem& problem, const ImageSink& sink);
void weightGradientByTiles(Pool* pool, const ConvolutionProblem& problem, const ImageSink& sink);

}  // namespace BINADE_ISA
}  // namespace binade
