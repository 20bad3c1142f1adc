// The convolutions of ResNet-20 (batch 64, 32 × 32 pictures) against the register-only peak of one core, measured in
// turns. CPU time of the thread, best of many. Prints; asserts nothing. Arguments: float32, bfloat16 or float16; a part of
// the names of the layers and forms to run (or ""); the batch (a smaller one is less disturbed by other programs); "direct": no tiles
// of Winograd's filtering, whose multiplications are counted as the direct ones.
#include <time.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "kernels/convolution.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

using namespace binade;

namespace {

double cpuSeconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

#define BINADE_PEAK(Vector, zero, instruction, lanes, flopsPerLane)                                                  \
  Vector sums[12];                                                                                                   \
  _Pragma("GCC unroll 12") for (int i = 0; i < 12; ++i) sums[i] = zero();                                            \
  const Vector factor = zero();                                                                                      \
  const double start = cpuSeconds();                                                                                 \
  for (int64_t n = 0; n < 20000; ++n) {                                                                              \
    _Pragma("GCC unroll 12") for (int i = 0; i < 12; ++i) asm volatile(instruction " %1, %1, %0"                     \
                                                                       : "+v"(sums[i])                               \
                                                                       : "v"(factor));                               \
  }                                                                                                                  \
  return lanes * flopsPerLane * 12.0 * 20000.0 / (cpuSeconds() - start) / 1e9;

#if defined(__AVX512F__)
double floatPeak() { BINADE_PEAK(__m512, _mm512_setzero_ps, "vfmadd231ps", 16.0, 2) }
#elif defined(__AVX2__)
double floatPeak() { BINADE_PEAK(__m256, _mm256_setzero_ps, "vfmadd231ps", 8.0, 2) }
#else
double floatPeak() { return 0; }
#endif
#if defined(__AVX512BF16__)
double pairPeak() { BINADE_PEAK(__m512, _mm512_setzero_ps, "vdpbf16ps", 16.0, 4) }
#else
double pairPeak() { return floatPeak(); }
#endif

struct Layer {
  const char* name;
  int64_t in, out, size, kernel, stride;
  int count;          // in ResNet-20
  bool inputGradient;  // the first layer has none
};

const Layer layers[] = {{"3→16, 32², 3×3", 3, 16, 32, 3, 1, 1, false},   {"16→16, 32², 3×3", 16, 16, 32, 3, 1, 6, true},
                        {"16→32, 32², 3×3/2", 16, 32, 32, 3, 2, 1, true}, {"32→32, 16², 3×3", 32, 32, 16, 3, 1, 5, true},
                        {"32→64, 16², 3×3/2", 32, 64, 16, 3, 2, 1, true}, {"64→64, 8², 3×3", 64, 64, 8, 3, 1, 5, true},
                        {"16→32, 32², 1×1/2", 16, 32, 32, 1, 2, 1, true}, {"32→64, 16², 1×1/2", 32, 64, 16, 1, 2, 1, true}};

using Run = void (*)(Pool*, const ConvolutionProblem&, const ImageSink&);
const char* const forms[] = {"forward", "input gradient", "weight gradient"};
const Run runs[] = {BINADE_ISA::convolutionForward, BINADE_ISA::convolutionInputGradient,
                    BINADE_ISA::convolutionWeightGradient};
bool direct = false;

void run(int form, Pool* pool, const ConvolutionProblem& problem, const ImageSink& sink) {
  if (!direct) return runs[form](pool, problem, sink);
  if (form == 2) return BINADE_ISA::weightGradientDirectly(pool, problem, sink);
  BINADE_ISA::convolveDirectly(pool, problem, sink, form == 1);
}

/// The first element on a cache line; buffers have 16 floats to spare.
float* aligned(std::vector<float>& data) {
  return reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(data.data()) + 63) & ~uintptr_t{63});
}

ImageView viewOf(std::vector<float>& data, int64_t channels, int64_t size, DType dtype) {
  return {aligned(data), dtype, dtype, {channels * size * size, size * size, size}};
}

}  // namespace

int main(int argc, char** argv) {
  const char* name = argc > 1 ? argv[1] : "float32";
  const DType dtype = std::strcmp(name, "bfloat16") == 0  ? DType::bfloat16
                      : std::strcmp(name, "float16") == 0 ? DType::float16
                                                          : DType::float32;
  direct = argc > 4 && std::strcmp(argv[4], "direct") == 0;
  const int64_t batch = argc > 3 ? std::atoi(argv[3]) : 64;
  Pool* pool = createPool(1);
  double total = 0, floor = 0;
  for (const Layer& l : layers) {
    const int64_t padding = l.kernel / 2, out = (l.size + 2 * padding - l.kernel) / l.stride + 1;
    std::vector<float> x(16 + batch * l.in * l.size * l.size), w(16 + l.out * l.in * l.kernel * l.kernel),
        g(16 + batch * l.out * out * out), result(std::max({x.size(), w.size(), g.size()}));
    ConvolutionProblem problem = {};
    problem.batch = batch;
    problem.groups = 1;
    problem.channels = l.in;
    problem.outputs = l.out;
    for (ConvolutionAxis& axis : problem.axes) axis = {l.size, out, l.kernel, l.stride, 1, padding};
    problem.x = viewOf(x, l.in, l.size, dtype);
    problem.w = viewOf(w, l.in, l.kernel, dtype);
    problem.g = viewOf(g, l.out, out, dtype);
    const double flops = 2.0 * static_cast<double>(batch * l.out * out * out * l.in * l.kernel * l.kernel);
    for (int form = 0; form < 3; ++form) {
      if (form == 1 && !l.inputGradient) continue;
      if (argc > 2 && std::strstr((std::string(l.name) + ", " + forms[form]).c_str(), argv[2]) == nullptr) continue;
      const int64_t channels[] = {l.out, l.in, l.out};
      const int64_t pixels[] = {out * out, l.size * l.size, l.in * l.kernel * l.kernel};
      const ImageSink sink = {nullptr, nullptr, aligned(result), channels[form] * pixels[form], pixels[form]};
      double best = 1e9, peak = 0;
      for (const double begin = cpuSeconds(); cpuSeconds() - begin < 0.25;) {
        const double start = cpuSeconds();
        run(form, pool, problem, sink);
        best = std::min(best, cpuSeconds() - start);
        peak = std::max(peak, dtype == DType::bfloat16 ? pairPeak() : floatPeak());
      }
      std::printf("%-20s %-16s %8.3f ms  %6.1f GFLOP/s, peak %6.1f, share %.3f\n", l.name, forms[form], best * 1e3,
                  flops / best / 1e9, peak, flops / best / 1e9 / peak);
      total += l.count * best;
      floor += l.count * flops / peak / 1e9;
    }
  }
  std::printf("all convolutions of a step, %s: %.1f ms, floor %.1f ms, ratio %.2f\n", name, total * 1e3, floor * 1e3,
              total / floor);
  destroyPool(pool);
}
