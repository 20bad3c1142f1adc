// Checks norms of channels against float64 loops: short and long planes, chunks, tails, formats, and bits for any worker count.
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

float randomValue(float low, float high) {
  randomState = randomState * 1664525u + 1013904223u;
  return low + (high - low) * static_cast<float>(randomState >> 8) / static_cast<float>(1 << 24);
}

/// Elements of one dtype, with their exact values beside them.
struct Array {
  std::vector<char> bytes;
  std::vector<double> values;

  Array(int64_t count, DType dtype, float low, float high) {
    const int64_t size = byteLengthOfFloat(dtype);
    bytes.resize(static_cast<size_t>(count * size));
    for (int64_t i = 0; i < count; ++i) {
      float value = randomValue(low, high);
      narrowArray(dtype, &value, bytes.data() + i * size, 1);
      widenArray(dtype, bytes.data() + i * size, &value, 1);
      values.push_back(value);
    }
  }
};

struct Shape {
  int64_t outer, channels, inner;
};
constexpr Shape shapes[] = {{2, 3, 1},   {70, 33, 1},  {5, 3, 7},    {600, 2, 3},  {3, 200, 5},  {3, 2, 33},
                            {2, 5, 32},  {3, 2, 601},  {33, 2, 528}, {2, 1, 16400}, {4, 70, 64}, {1, 2, 37}};
constexpr DType dtypes[] = {DType::float32, DType::bfloat16, DType::float16};
constexpr float eps = 0.125f;

/// A kernel over g, x, weight, bias or the like, mean, variance and two sums, in bindings of their own.
struct Case {
  Shape shape;
  DType dtype;
  Array g, x, weight, bias, mean, variance, total, along;

  Case(Shape s, DType d)
      : shape(s), dtype(d), g(size(), d, -2, 2), x(size(), d, -1, 3), weight(s.channels, DType::float32, -2, 2),
        bias(s.channels, DType::float32, -2, 2), mean(s.channels, DType::float32, -1, 2),
        variance(s.channels, DType::float32, 0.5, 2), total(s.channels, DType::float32, -9, 9),
        along(s.channels, DType::float32, -9, 9) {}
  int64_t size() const { return shape.outer * shape.channels * shape.inner; }

  /// The numbers per channel of a statistic, or the elements of a map, as float32.
  std::vector<float> run(Pool* pool, ChannelCore core) {
    const std::vector<Array*> inputs[] = {
        {&x}, {&g, &x, &mean, &variance}, {&x, &weight, &bias, &mean, &variance},
        {&g, &x, &weight, &mean, &variance, &total, &along}};
    const int which = static_cast<int>(core), elementwise = which % 2 == 0 ? 1 : 2;
    const bool statistic = which < 2;
    std::vector<float> out(static_cast<size_t>(statistic ? 2 * shape.channels : size()));
    ChannelKernel kernel = {};
    kernel.core = core;
    kernel.outer = shape.outer;
    kernel.channels = shape.channels;
    kernel.inner = shape.inner;
    kernel.eps = eps;
    std::vector<void*> bases = {out.data()};
    for (size_t i = 0; i < inputs[which].size(); ++i) {
      kernel.refs[i] = {static_cast<int64_t>(bases.size()), 0};
      kernel.dtypes[i] = static_cast<int>(i) < elementwise ? dtype : DType::float32;
      bases.push_back(inputs[which][i]->bytes.data());
    }
    for (int result = 0; result < 2; ++result) {
      kernel.results[result] = {0, result * shape.channels * 4};
      kernel.resultDtypes[result] = DType::float32;
    }
    Operand load = {}, store = {};
    load.rowBuffer = 0;
    store.rowBuffer = -1;
    store.dtype = DType::float32;
    store.strides[0] = 1;
    Vm& vm = kernel.epilogue;
    vm.grid = {1, {size()}, {1}, 1, size()};
    vm.registerCount = vm.loadCount = vm.storeCount = 1;
    vm.loads = &load;
    vm.stores = &store;
    Fault fault = {-1, 0, 0, 0};
    runChannel({bases.data(), pool, &fault, 0}, kernel);
    return out;
  }

  int64_t channelOf(int64_t i) const { return i / shape.inner % shape.channels; }
  double inverse(size_t c) const { return 1 / std::sqrt(variance.values[c] + eps); }

  void expectNear(const std::vector<float>& got, const std::vector<double>& want, double scale, ChannelCore core) const {
    for (size_t i = 0; i < want.size(); ++i) {
      if (std::fabs(got[i] - want[i]) <= 3e-6 * scale) continue;
      if (++failures <= 10)
        std::printf("core %d, %lld x %lld x %lld, dtype %d, %zu: %g instead of %g\n", static_cast<int>(core),
                    static_cast<long long>(shape.outer), static_cast<long long>(shape.channels),
                    static_cast<long long>(shape.inner), static_cast<int>(dtype), i, static_cast<double>(got[i]), want[i]);
    }
  }

  void checkStatistics(Pool* pool) {
    const auto channels = static_cast<size_t>(shape.channels);
    const double count = static_cast<double>(shape.outer * shape.inner);
    std::vector<double> moments(2 * channels), sums(2 * channels);
    for (int64_t i = 0; i < size(); ++i) moments[static_cast<size_t>(channelOf(i))] += x.values[static_cast<size_t>(i)] / count;
    for (int64_t i = 0; i < size(); ++i) {
      const auto c = static_cast<size_t>(channelOf(i)), at = static_cast<size_t>(i);
      moments[channels + c] += std::pow(x.values[at] - moments[c], 2) / count;
      sums[c] += g.values[at];
      sums[channels + c] += g.values[at] * (x.values[at] - mean.values[c]) * inverse(c);
    }
    expectNear(run(pool, ChannelCore::channelMoments), moments, 4, ChannelCore::channelMoments);
    expectNear(run(pool, ChannelCore::channelSums), sums, 4 * count, ChannelCore::channelSums);
  }

  void checkMaps(Pool* pool) {
    const double count = static_cast<double>(shape.outer * shape.inner);
    std::vector<double> normalized, gradient;
    for (int64_t i = 0; i < size(); ++i) {
      const auto c = static_cast<size_t>(channelOf(i)), at = static_cast<size_t>(i);
      const double unit = (x.values[at] - mean.values[c]) * inverse(c);
      normalized.push_back(unit * weight.values[c] + bias.values[c]);
      gradient.push_back(weight.values[c] * inverse(c) *
                         (g.values[at] - total.values[c] / count - unit * along.values[c] / count));
    }
    expectNear(run(pool, ChannelCore::channelNormalize), normalized, 8, ChannelCore::channelNormalize);
    expectNear(run(pool, ChannelCore::channelGradient), gradient, 40, ChannelCore::channelGradient);
  }

  void checkWorkers(Pool* one, Pool* several) {
    for (int core = 0; core < kChannelCoreCount; ++core) {
      const std::vector<float> alone = run(one, static_cast<ChannelCore>(core));
      const std::vector<float> together = run(several, static_cast<ChannelCore>(core));
      if (std::memcmp(alone.data(), together.data(), alone.size() * sizeof(float)) != 0 && ++failures <= 10)
        std::printf("core %d: other bits with three workers\n", core);
    }
  }
};

}  // namespace

int main(int argumentCount, char** arguments) {
  const int share = argumentCount > 1 ? std::atoi(arguments[1]) : 1;
  Pool *one = createPool(1), *several = createPool(3);
  int cases = 0;
  for (const Shape& shape : shapes) {
    for (DType dtype : dtypes) {
      if (cases++ % share != 0) continue;
      Case current(shape, dtype);
      current.checkStatistics(one);
      current.checkMaps(one);
      current.checkWorkers(one, several);
    }
  }
  destroyPool(one);
  destroyPool(several);
  std::printf("channel: %d of %d cases checked, %d failures\n", (cases + share - 1) / share, cases, failures);
  return failures == 0 ? 0 : 1;
}
