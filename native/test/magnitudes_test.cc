// Checks counts of magnitudes against float64 arithmetic: formats, one exponent and many, tails, tasks, and any worker count.
//
// Argument: one case in so many is checked (for slow emulators).
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "kernels/convert.h"
#include "kernels/kernels.h"

using namespace binade;
using namespace binade::BINADE_ISA;

namespace {

int failures = 0;
uint32_t randomState = 1;

uint32_t randomBits() {
  randomState = randomState * 1664525u + 1013904223u;
  return randomState ^ randomState >> 15;
}

/// How the elements of a case are drawn: any bits, bits of one exponent, or nothing but zeros.
enum class Draw { any, alike, zero };

struct Case {
  int64_t count;
  DType dtype;
  std::vector<char> bytes;
  std::vector<float> values;

  Case(int64_t n, DType d, Draw draw) : count(n), dtype(d), bytes(static_cast<size_t>(n * byteLengthOfFloat(d))) {
    for (int64_t i = 0; i < n; ++i) {
      uint32_t bits = draw == Draw::zero ? 0 : randomBits();
      if (draw == Draw::alike) bits = (bits & 0x803fffffu) | 0x3c000000u;
      if (d != DType::float32) bits >>= 32 - 8 * byteLengthOfFloat(d);
      std::memcpy(bytes.data() + i * byteLengthOfFloat(d), &bits, static_cast<size_t>(byteLengthOfFloat(d)));
    }
    values.resize(static_cast<size_t>(n));
    widenArray(d, bytes.data(), values.data(), n);
  }

  std::vector<int32_t> expected() const {
    std::vector<int32_t> counts(kMagnitudeCounts);
    for (const float value : values) {
      const double magnitude = std::fabs(static_cast<double>(value));
      int exponent = 255;
      if (std::isfinite(magnitude)) exponent = magnitude < std::ldexp(1.0, -126) ? 0 : std::ilogb(magnitude) + 127;
      ++counts[static_cast<size_t>(exponent)];
      counts[256] += magnitude == 0 ? 1 : 0;
      counts[257] += std::isfinite(magnitude) && magnitude > 65504 ? 1 : 0;
    }
    return counts;
  }

  std::vector<int32_t> run(Pool* pool) {
    std::vector<int32_t> counts(kMagnitudeCounts, -7);
    Operand load = {}, store = {};
    load.rowBuffer = -1;
    load.dtype = dtype;
    load.ref = {1, 0};
    load.strides[0] = 1;
    MagnitudeKernel kernel = {};
    Vm& vm = kernel.prologue;
    vm.grid = {1, {count}, {1}, 1, count};
    vm.registerCount = vm.loadCount = vm.storeCount = 1;
    vm.loads = &load;
    vm.stores = &store;
    void* bases[] = {counts.data(), bytes.data()};
    Fault fault = {-1, 0, 0, 0};
    runMagnitudes({bases, pool, &fault, 0}, kernel);
    return counts;
  }
};

}  // namespace

int main(int argumentCount, char** arguments) {
  const int share = argumentCount > 1 ? std::atoi(arguments[1]) : 1;
  Pool* const pools[] = {createPool(1), createPool(3)};
  constexpr DType dtypes[] = {DType::float32, DType::bfloat16, DType::float16, DType::float8_e4m3fn, DType::float8_e5m2};
  int index = 0;
  for (const int64_t count : {0, 1, 7, 8, 9, 511, 512, 513, 8191, 8192, 8193, 70001}) {
    for (const DType dtype : dtypes) {
      for (const Draw draw : {Draw::any, Draw::alike, Draw::zero}) {
        if (index++ % share != 0) continue;
        Case one(count, dtype, draw);
        for (Pool* const pool : pools) {
          if (one.run(pool) == one.expected() || ++failures > 10) continue;
          std::printf("%lld elements, dtype %d, draw %d, %d workers: other counts\n", static_cast<long long>(count),
                      static_cast<int>(dtype), static_cast<int>(draw), workerCount(pool));
        }
      }
    }
  }
  for (Pool* const pool : pools) destroyPool(pool);
  std::printf("magnitudes: %d of %d cases checked, %d failures\n", (index + share - 1) / share, index, failures);
  return failures == 0 ? 0 : 1;
}
