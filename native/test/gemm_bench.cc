// Matrix products against the arithmetic peak of one core, measured from registers in turns. Prints; asserts nothing.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

#include "kernels/gemm.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

using namespace binade;

namespace {

double secondsNow() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

#if defined(__AVX512F__)
constexpr int chains = 20;  // independent sums: more than latency times throughput

#define BINADE_PEAK(instruction, flopsPerLane)                                             \
  __m512 sums[chains];                                                                     \
  _Pragma("GCC unroll 20") for (int i = 0; i < chains; ++i) sums[i] = _mm512_setzero_ps(); \
  const __m512 factor = _mm512_setzero_ps();                                               \
  const int64_t repeats = 50000;                                                           \
  const double start = secondsNow();                                                       \
  for (int64_t n = 0; n < repeats; ++n) {                                                  \
    _Pragma("GCC unroll 20") for (int i = 0; i < chains; ++i) asm volatile(                \
        instruction " %1, %1, %0" : "+v"(sums[i]) : "v"(factor));                          \
  }                                                                                        \
  return 16.0 * flopsPerLane * chains * static_cast<double>(repeats) / (secondsNow() - start) / 1e9;

double floatPeak() { BINADE_PEAK("vfmadd231ps", 2) }
#if defined(__AVX512BF16__)
double pairPeak() { BINADE_PEAK("vdpbf16ps", 4) }
#else
double pairPeak() { return floatPeak(); }
#endif
#else
double floatPeak() { return 0; }
double pairPeak() { return 0; }
#endif

struct Output {
  float* data;
  int64_t columns;
};

void store(void* context, int64_t, int64_t row, int64_t column, int64_t rows, int64_t columns, const float* tile,
           int64_t stride, int) {
  const Output& output = *static_cast<const Output*>(context);
  for (int64_t i = 0; i < rows; ++i)
    std::memcpy(output.data + (row + i) * output.columns + column, tile + i * stride,
                static_cast<size_t>(columns) * sizeof(float));
}

struct Shape {
  int64_t m, n, k;
};

constexpr double secondsPerCase = 0.4;

/// One product; `layout` is two letters, N row-major and T transposed. The peak is one thread's, for these formats.
void measure(Pool* pool, const Shape& shape, const char* layout, DType storage, DType format) {
  const size_t element = storage == DType::float32 ? 4 : 2;
  std::vector<char> a(static_cast<size_t>(shape.m * shape.k) * element, 0);
  std::vector<char> b(static_cast<size_t>(shape.k * shape.n) * element, 0);
  std::vector<float> c(static_cast<size_t>(shape.m * shape.n));
  const int64_t offset = 0;
  const bool aTransposed = layout[0] == 'T', bTransposed = layout[1] == 'T';
  const MatrixView left{a.data(), storage, format, aTransposed ? 1 : shape.k, aTransposed ? shape.m : 1};
  const MatrixView right{b.data(), storage, format, bTransposed ? 1 : shape.n, bTransposed ? shape.k : 1};
  const GemmProblem problem{1, shape.m, shape.n, shape.k, left, right, &offset, &offset};
  Output output{c.data(), shape.n};
  const TileSink sink{store, &output};
  const double flops = 2.0 * static_cast<double>(shape.m * shape.n) * static_cast<double>(shape.k);
  double best = 0, peak = 0;
  for (const double begin = secondsNow(); secondsNow() - begin < secondsPerCase;) {
    const double start = secondsNow();
    BINADE_ISA::gemm(pool, problem, sink);
    best = std::max(best, flops / (secondsNow() - start) / 1e9);
    peak = std::max(peak, format == DType::bfloat16 ? pairPeak() : floatPeak());
  }
  std::printf("%5ld %5ld %5ld %s  %6.1f GFLOP/s, peak %6.1f, share %.3f\n", static_cast<long>(shape.m),
              static_cast<long>(shape.n), static_cast<long>(shape.k), layout, best, peak, peak > 0 ? best / peak : 0.0);
}

}  // namespace

int main() {
  const Shape shapes[] = {{1024, 1024, 1024}, {2048, 384, 384}, {2048, 1152, 384}, {2048, 384, 1536},
                          {384, 1152, 2048},  {128, 512, 784},  {64, 64, 64},      {32, 32, 32}};
  const DType dtypes[][2] = {{DType::float32, DType::float32},
                             {DType::bfloat16, DType::bfloat16},
                             {DType::float32, DType::bfloat16},
                             {DType::float16, DType::float16}};
  const char* names[] = {"float32", "bfloat16", "float32 rounded to bfloat16", "float16"};
  for (int threads = 1; threads <= 2; ++threads) {
    Pool* pool = createPool(threads);
    for (int i = 0; i < 4; ++i) {
      std::printf("%s, %d thread(s)\n", names[i], threads);
      for (const Shape& shape : shapes)
        for (const char* layout : {"NN", "NT", "TN"}) measure(pool, shape, layout, dtypes[i][0], dtypes[i][1]);
    }
    destroyPool(pool);
  }
}
