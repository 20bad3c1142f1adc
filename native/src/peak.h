// The yardstick of `binade bench`: how fast this machine multiplies and reads at best.
#pragma once
#include <cstdint>

#include "core.h"

namespace binade {

/// float32: multiply-adds in registers. bfloat16: the same as the matrix product does them, dot products where the
/// instruction set has them. memory: reads of what no cache holds.
enum class PeakKind { float32, bfloat16, memory };

/// Runs one burst on the calling thread and returns what it did: float operations (a multiply-add counts as two), or bytes
/// read. `memory` (`byteLength` bytes, 64-byte aligned) is read by PeakKind::memory alone.
using Burst = double (*)(PeakKind kind, int64_t repeats, const void* memory, int64_t byteLength);

/// Best rate of all workers of the pool together, over bursts of about a millisecond (reads: 192 MiB) that fill `seconds`:
/// operations or bytes per second. 0 if there is no memory to read.
double measurePeak(Pool* pool, Burst burst, PeakKind kind, double seconds);

}  // namespace binade
