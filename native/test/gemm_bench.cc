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
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

using namespace binade;

namespace {

double secondsNow() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// GFLOP/s of `instruction` on `chains` independent sums, more than its latency times its rate, all in registers.
#define BINADE_PEAK(Vector, zero, chains, instruction, lanes, flopsPerLane)                        \
  Vector sums[chains];                                                                             \
  _Pragma("GCC unroll 24") for (int i = 0; i < chains; ++i) sums[i] = zero;                        \
  const Vector factor = zero;                                                                      \
  const int64_t repeats = 50000;                                                                   \
  const double start = secondsNow();                                                               \
  for (int64_t n = 0; n < repeats; ++n) {                                                          \
    _Pragma("GCC unroll 24") for (int i = 0; i < chains; ++i) asm volatile(                        \
        instruction : "+" BINADE_REGISTER(sums[i]) : BINADE_REGISTER(factor));                     \
  }                                                                                                \
  return (lanes) * (flopsPerLane) * (chains) * static_cast<double>(repeats) / (secondsNow() - start) / 1e9;

#if defined(__AVX512F__)
#define BINADE_REGISTER "v"
double floatPeak() { BINADE_PEAK(__m512, _mm512_setzero_ps(), 20, "vfmadd231ps %1, %1, %0", 16, 2) }
#elif defined(__AVX2__)
#define BINADE_REGISTER "x"
double floatPeak() { BINADE_PEAK(__m256, _mm256_setzero_ps(), 12, "vfmadd231ps %1, %1, %0", 8, 2) }
#elif defined(__aarch64__)
#define BINADE_REGISTER "w"
double floatPeak() { BINADE_PEAK(float32x4_t, vdupq_n_f32(0), 24, "fmla %0.4s, %1.4s, %1.4s", 4, 2) }
#else
double floatPeak() { return 0; }
#endif
#if defined(__AVX512BF16__)
double pairPeak() { BINADE_PEAK(__m512, _mm512_setzero_ps(), 20, "vdpbf16ps %1, %1, %0", 16, 4) }
#else
double pairPeak() { return floatPeak(); }
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
