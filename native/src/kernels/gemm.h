// Batched matrix products for one instruction set (BINADE_ISA, given on the command line).
#pragma once
#include "core.h"

namespace binade {
namespace BINADE_ISA {

/// Runs a GemmProblem and hands every finished tile to the sink. Operands are float32, float16, bfloat16 or float8 in
/// memory; both `format`s bfloat16 on avx512bf16 run on bfloat16 dot products (which flush bfloat16 subnormals and
/// float32 subnormal sums to zero), everything else on float32 multiply-adds. k = 0 gives zeros.
///
/// The result's bits depend on shapes, formats and the instruction set, never on the number of workers.
/// Uses scratch slots 0, 1 and 5 of every worker while it runs; a sink may use the others.
void gemm(Pool* pool, const GemmProblem& problem, const TileSink& sink);

}  // namespace BINADE_ISA
}  // namespace binade
