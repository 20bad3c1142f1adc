// Scaled dot-product attention, forward and backward, for one instruction set (BINADE_ISA, given on the command line).
#pragma once
#include "core.h"

namespace binade {
namespace BINADE_ISA {

/// out = softmax(scale · q kᵀ + mask) v. Scores, softmax and sums are float32; exponentials, at most 1, are rounded to q's
/// dtype before they meet v, and their sum divides the output. A query that sees no key gives zeros and logSumExp
/// -infinity.
///
/// q, k, v are float32, float16 or bfloat16, all alike; out may be any of them. Keys that causality hides from a block of
/// queries are not computed. Bits depend on shapes, dtypes and the instruction set, never on the number of workers. Uses
/// scratch slot 0 of every worker while it runs, a few hundred KiB whatever the number of queries and keys.
void attention(Pool* pool, const AttentionProblem& problem);

/// The cotangents dq, dk, dv of attention, from g, out and logSumExp: with p recomputed and d = rowsum(g · out),
/// dv = pᵀ g, ds = scale · p · (g vᵀ - d), dq = ds k, dk = dsᵀ q. g, p and ds are rounded to q's dtype before the
/// products, sums are float32. Scratch as forward; up to 512 KiB of dq besides.
void attentionBackward(Pool* pool, const AttentionProblem& problem);

}  // namespace BINADE_ISA
}  // namespace binade
