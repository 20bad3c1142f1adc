// Functions of whole rows. All sums and exponentials are float32; x - max(x) keeps every exponential of a finite row at
// most 1.
#include "row_cores.h"

#include "combine.h"
#include "exponentials.h"
#include "vm_math.h"

namespace binade {
namespace BINADE_ISA {

bool isPerRow(RowCore core, int index) {
  switch (core) {
    case RowCore::logSumExp:
    case RowCore::normalizeBackward:
      return index == (core == RowCore::logSumExp ? 1 : 2);
    case RowCore::normalize:
      return index == 2;
    case RowCore::crossEntropy:
      return index >= 1;
    case RowCore::crossEntropyBackward:
      return index == 0 || index == 2;
    default:
      return false;
  }
}

constexpr int kSumVectors = kAccumulators / lanes;

/// What a term of a sum reads of rows: one lane, or a vector of them.
struct LaneAt {
  int64_t i;
  float operator()(const float* row) const { return row[i]; }
};
struct VectorAt {
  int64_t i;
  Floats operator()(const float* row) const { return loadFloats(row + i); }
};

static inline float foldSums(float* sums, int count) {
  for (int half = count / 2; half > 0; half /= 2) {
    for (int j = 0; j < half; ++j) sums[j] += sums[j + half];
  }
  return sums[0];
}

static inline float foldSums(float (&sums)[kAccumulators]) { return foldSums(sums, kAccumulators); }

/// Sum of the row's terms, each a function of what `at` reads: 64 accumulators in turn, which stay in registers, folded by halves.
template <typename F>
static inline float sumOf(int64_t length, F term) {
  Floats vectors[kSumVectors] = {};
  int64_t i = 0;
  for (; i + kAccumulators <= length; i += kAccumulators) {
#pragma GCC unroll 16
    for (int j = 0; j < kSumVectors; ++j) vectors[j] += term(VectorAt{i + j * lanes});
  }
  if (i < length) {
    alignas(64) float sums[kAccumulators];
    for (int j = 0; j < kSumVectors; ++j) storeFloats(sums + j * lanes, vectors[j]);
    for (int j = 0; j < length - i; ++j) sums[j] += term(LaneAt{i + j});
    return foldSums(sums);
  }
#pragma GCC unroll 4
  for (int half = kSumVectors / 2; half > 0; half /= 2) {
#pragma GCC unroll 8
    for (int j = 0; j < half; ++j) vectors[j] += vectors[j + half];
  }
  alignas(64) float last[lanes];
  storeFloats(last, vectors[0]);
  return foldSums(last, lanes);
}

template <typename F>
static inline void forLanes(int64_t length, F body) {
  BINADE_INDEPENDENT
  for (int64_t i = 0; i < length; ++i) body(i);
}

/// The row's maximum; 0 where it is not finite, so that -infinity - max is -infinity and not NaN.
static float shiftOfRow(const float* x, int64_t length) {
  Accumulators sums;
  fillAccumulators(Combine::max, sums.values, sums.positions, kAccumulators);
  accumulate(Combine::max, &sums, x, length, 0);
  foldAccumulators(Combine::max, &sums);
  return absolute(sums.values[0]) < __builtin_inff() ? sums.values[0] : 0.0f;
}

/// y = exp(x - shift).
static void exponentiate(const float* x, float* y, float shift, int64_t length) {
  forVectors(x, y, length, [shift](auto values) { return expOf(values - shift); });
}

/// y = exp(x - shift); yields the sum.
static float exponentials(const float* x, float* y, float shift, int64_t length) {
  exponentiate(x, y, shift, length);
  return sumOf(length, [=](auto at) { return at(y); });
}

static float sumOfExponentials(const float* x, float shift, int64_t length) {
  constexpr int64_t step = 4 * kAccumulators;
  alignas(64) float sums[kAccumulators] = {}, terms[step];
  for (int64_t i = 0; i < length; i += step) {
    const int64_t count = length - i < step ? length - i : step;
    exponentiate(x + i, terms, shift, count);
    for (int64_t first = 0; first < count; first += kAccumulators) {
      const int64_t some = count - first < kAccumulators ? count - first : kAccumulators;
      for (int64_t j = 0; j < some; ++j) sums[j] += terms[first + j];
    }
  }
  return foldSums(sums);
}

// A row of -infinity alone gives NaN: 0 / 0.
static void softmax(const Row& row) {
  const float* x = row.buffers[0];
  float* p = row.buffers[1];
  const float sum = exponentials(x, p, shiftOfRow(x, row.length), row.length);
  forLanes(row.length, [=](int64_t i) { p[i] /= sum; });
}

static void softmaxBackward(const Row& row) {
  const float* g = row.buffers[0];
  const float* p = row.buffers[1];
  float* dx = row.buffers[2];
  const float dot = sumOf(row.length, [=](auto at) { return at(g) * at(p); });
  forLanes(row.length, [=](int64_t i) { dx[i] = p[i] * (g[i] - dot); });
}

static void logSoftmax(const Row& row) {
  const float* x = row.buffers[0];
  float* y = row.buffers[1];
  const float shift = shiftOfRow(x, row.length);
  const float logSum = logOf(sumOfExponentials(x, shift, row.length));
  forLanes(row.length, [=](int64_t i) { y[i] = (x[i] - shift) - logSum; });
}

static void logSoftmaxBackward(const Row& row) {
  const float* g = row.buffers[0];
  const float* y = row.buffers[1];
  float* dx = row.buffers[2];
  const float sum = sumOf(row.length, [=](auto at) { return at(g); });
  exponentiate(y, dx, 0.0f, row.length);
  forLanes(row.length, [=](int64_t i) { dx[i] = g[i] - dx[i] * sum; });
}

static void logSumExp(const Row& row) {
  const float* x = row.buffers[0];
  const float shift = shiftOfRow(x, row.length);
  row.buffers[1][0] = shift + logOf(sumOfExponentials(x, shift, row.length));
}

static void normalize(const Row& row) {
  const float* x = row.buffers[0];
  float* normalized = row.buffers[1];
  const float eps = floatOfBits(static_cast<uint32_t>(row.parameters[0]));
  const bool center = row.parameters[1] != 0;
  const float length = static_cast<float>(row.length);
  const float mean = center ? sumOf(row.length, [=](auto at) { return at(x); }) / length : 0.0f;
  // Two passes: the mean of squares minus the squared mean cancels when the mean is large against the deviation.
  const float squares = sumOf(row.length, [=](auto at) { return (at(x) - mean) * (at(x) - mean); });
  const float inverseDeviation = 1.0f / __builtin_sqrtf(squares / length + eps);
  forLanes(row.length, [=](int64_t i) { normalized[i] = (x[i] - mean) * inverseDeviation; });
  row.buffers[2][0] = inverseDeviation;
}

static void normalizeBackward(const Row& row) {
  const float* g = row.buffers[0];
  const float* normalized = row.buffers[1];
  const float inverseDeviation = row.buffers[2][0];
  float* dx = row.buffers[3];
  const bool center = row.parameters[0] != 0;
  const float length = static_cast<float>(row.length);
  const float mean = center ? sumOf(row.length, [=](auto at) { return at(g); }) / length : 0.0f;
  const float projection = sumOf(row.length, [=](auto at) { return at(g) * at(normalized); }) / length;
  forLanes(row.length,
           [=](int64_t i) { dx[i] = inverseDeviation * ((g[i] - mean) - normalized[i] * projection); });
}

/// The row's label: `counted` when it is in range; `bad` when it is neither that nor the ignored one.
struct Label {
  int32_t value;
  bool counted;
  BadLabel bad;
};

static Label labelOf(const float* bits, const Row& row) {
  Label label;
  __builtin_memcpy(&label.value, bits, sizeof label.value);
  const bool ignored = label.value == static_cast<int32_t>(row.parameters[0]);
  const bool inRange = label.value >= 0 && label.value < row.length;
  label.counted = inRange && !ignored;
  label.bad = {!inRange && !ignored, label.value};
  return label;
}

static BadLabel crossEntropy(const Row& row) {
  const float* x = row.buffers[0];
  const Label label = labelOf(row.buffers[1], row);
  float loss = 0.0f;
  if (label.counted) {
    const float shift = shiftOfRow(x, row.length);
    loss = logOf(sumOfExponentials(x, shift, row.length)) - (x[label.value] - shift);
  }
  row.buffers[2][0] = loss;
  return label.bad;
}

static BadLabel crossEntropyBackward(const Row& row) {
  const float g = row.buffers[0][0];
  const float* x = row.buffers[1];
  const Label label = labelOf(row.buffers[2], row);
  float* dx = row.buffers[3];
  if (!label.counted) {
    forLanes(row.length, [=](int64_t i) { dx[i] = 0.0f; });
    return label.bad;
  }
  const float sum = exponentials(x, dx, shiftOfRow(x, row.length), row.length);
  const float atLabel = dx[label.value];
  forLanes(row.length, [=](int64_t i) { dx[i] = g * (dx[i] / sum); });
  dx[label.value] = g * (atLabel / sum - 1.0f);
  return label.bad;
}

BadLabel runCore(RowCore core, const Row& row) {
  switch (core) {
    case RowCore::softmax: softmax(row); break;
    case RowCore::softmaxBackward: softmaxBackward(row); break;
    case RowCore::logSoftmax: logSoftmax(row); break;
    case RowCore::logSoftmaxBackward: logSoftmaxBackward(row); break;
    case RowCore::logSumExp: logSumExp(row); break;
    case RowCore::normalize: normalize(row); break;
    case RowCore::normalizeBackward: normalizeBackward(row); break;
    case RowCore::crossEntropy: return crossEntropy(row);
    case RowCore::crossEntropyBackward: return crossEntropyBackward(row);
  }
  return {false, 0};
}

}  // namespace BINADE_ISA
}  // namespace binade
