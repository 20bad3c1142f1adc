// Checks attention and its backward against float64: sizes, strides, dtypes, masks, special rows, any worker count.
#include "kernels/attention.h"

#include <cmath>
#include <cstdio>
#include <cstring>
#include <vector>

#include "kernels/attention_block.h"

using namespace binade;
using namespace binade::BINADE_ISA;

namespace {

int failures = 0;

struct Case {
  int64_t batch, queries, keys, heads, width;
  bool causal;
  DType dtype, outDtype;
  char layout;  // 'C' contiguous (B, T, H, D), 'Q' a third of a fused (B, T, 3, H, D), 'H' heads first (B, H, T, D)
};

void report(const Case& c, const char* what, size_t at, double got, double wanted) {
  if (++failures > 20) return;
  std::printf("%s: B %ld, Tq %ld, Tk %ld, H %ld, D %ld, causal %d, dtype %d, layout %c", what, (long)c.batch,
              (long)c.queries, (long)c.keys, (long)c.heads, (long)c.width, c.causal, (int)c.dtype, c.layout);
  std::printf(", at %zu: got %.9g, expected %.9g\n", at, got, wanted);
}

uint32_t randomState = 7;

/// Uniform in [-1, 1).
double randomValue() {
  randomState = randomState * 1664525u + 1013904223u;
  return static_cast<double>(randomState >> 8) * 0x1p-23 - 1.0;
}

int64_t elementSize(DType dtype) { return dtype == DType::float32 ? 4 : 2; }

/// A (B, T, H, D) operand in memory, gaps filled with NaN, and its exact values in (B, H, T, D) order.
struct Stored {
  int64_t batch, times, heads, width;
  std::vector<char> bytes;
  std::vector<double> values;
  HeadsView view;

  int64_t memoryIndex(int64_t b, int64_t h, int64_t t, int64_t d) const {
    return b * view.strides[0] + t * view.strides[1] + h * view.strides[2] + d;
  }
  size_t index(int64_t b, int64_t h, int64_t t, int64_t d) const {
    return static_cast<size_t>(((b * heads + h) * times + t) * width + d);
  }
  const double* row(int64_t b, int64_t h, int64_t t) const { return values.data() + index(b, h, t, 0); }
  char* element(int64_t b, int64_t h, int64_t t, int64_t d) {
    return bytes.data() + memoryIndex(b, h, t, d) * elementSize(view.dtype);
  }
};

template <typename Visit>
void forEach(const Stored& stored, Visit visit) {
  for (int64_t b = 0; b < stored.batch; ++b)
    for (int64_t h = 0; h < stored.heads; ++h)
      for (int64_t t = 0; t < stored.times; ++t)
        for (int64_t d = 0; d < stored.width; ++d) visit(b, h, t, d);
}

Stored makeStored(const Case& c, int64_t times, DType dtype, const std::vector<double>* values) {
  Stored s{c.batch, times, c.heads, c.width, {}, {}, {}};
  const int64_t token = c.heads * c.width, fused = c.layout == 'Q' ? 3 : 1;
  s.view = HeadsView{nullptr, dtype, {times * token * fused, token * fused, c.width}};
  if (c.layout == 'H') s.view = HeadsView{nullptr, dtype, {times * token, c.width, times * c.width}};
  const int64_t count = c.batch * times * token * fused + 1;
  s.bytes.resize(static_cast<size_t>(count * elementSize(dtype)));
  const float nan = NAN;
  for (int64_t i = 0; i < count; ++i) narrowArray(dtype, &nan, s.bytes.data() + i * elementSize(dtype), 1);
  s.view.data = s.bytes.data();
  s.values.resize(static_cast<size_t>(c.batch * times * token));
  forEach(s, [&](int64_t b, int64_t h, int64_t t, int64_t d) {
    auto value = static_cast<float>(values == nullptr ? randomValue() : (*values)[s.index(b, h, t, d)]);
    narrowArray(dtype, &value, s.element(b, h, t, d), 1);
    widenArray(dtype, s.element(b, h, t, d), &value, 1);
    s.values[s.index(b, h, t, d)] = static_cast<double>(value);
  });
  return s;
}

/// Reads the memory of an output back into values.
void readBack(Stored& s) {
  forEach(s, [&](int64_t b, int64_t h, int64_t t, int64_t d) {
    float value;
    widenArray(s.view.dtype, s.element(b, h, t, d), &value, 1);
    s.values[s.index(b, h, t, d)] = static_cast<double>(value);
  });
}

double unitOf(DType dtype) { return dtype == DType::float32 ? 0x1p-24 : dtype == DType::float16 ? 0x1p-11 : 0x1p-8; }

int64_t visibleKeys(const Case& c, int64_t query) {
  if (!c.causal) return c.keys;
  const int64_t seen = query + 1 + c.keys - c.queries;
  return seen < 0 ? 0 : seen > c.keys ? c.keys : seen;
}

double dot(const double* a, const double* b, int64_t count) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += a[i] * b[i];
  return sum;
}

/// Values and, beside each, a bound on the error that float32 sums and the stated roundings may cause.
struct Bounded {
  std::vector<double> values, bounds;
  explicit Bounded(size_t length) : values(length, 0.0), bounds(length, 0.0) {}
  void add(size_t at, double term, double bound) {
    values[at] += term;
    bounds[at] += bound;
  }
};

void compare(const Case& c, const char* what, const Bounded& wanted, const std::vector<double>& got, DType dtype) {
  for (size_t i = 0; i < wanted.values.size(); ++i) {
    const double bound = wanted.bounds[i] * (1 + unitOf(dtype)) + unitOf(dtype) * std::fabs(wanted.values[i]) + 1e-7;
    if (!(std::fabs(got[i] - wanted.values[i]) <= bound)) report(c, what, i, got[i], wanted.values[i]);
  }
}

struct Inputs {
  Stored q, k, v, g;
  float scale;
};

struct Reference {
  Bounded out, dq, dk, dv;
  std::vector<double> logSumExp;
};

Reference makeReference(const Case& c, const Inputs& in) {
  Reference r{Bounded(in.q.values.size()), Bounded(in.q.values.size()), Bounded(in.k.values.size()),
              Bounded(in.v.values.size()), {}};
  const double unit = c.dtype == DType::float32 ? 0 : unitOf(c.dtype);
  const double relative = unit + 2e-5, least = c.dtype == DType::float16 ? 0x1p-24 : 0;
  std::vector<double> p(static_cast<size_t>(c.keys) + 1);
  for (int64_t b = 0; b < c.batch; ++b)
    for (int64_t h = 0; h < c.heads; ++h)
      for (int64_t i = 0; i < c.queries; ++i) {
        const int64_t visible = visibleKeys(c, i);
        double most = -INFINITY, sum = 0;
        for (int64_t j = 0; j < visible; ++j) {
          p[(size_t)j] = static_cast<double>(in.scale) * dot(in.q.row(b, h, i), in.k.row(b, h, j), c.width);
          most = std::fmax(most, p[(size_t)j]);
        }
        for (int64_t j = 0; j < visible; ++j) sum += std::exp(p[(size_t)j] - most);
        r.logSumExp.push_back(most + std::log(sum));
        for (int64_t j = 0; j < visible; ++j) p[(size_t)j] = std::exp(p[(size_t)j] - most) / sum;
        for (int64_t j = 0; j < visible; ++j)
          for (int64_t d = 0; d < c.width; ++d) {
            const double value = in.v.row(b, h, j)[d], size = std::fabs(value);
            r.out.add(in.q.index(b, h, i, d), p[(size_t)j] * value, (p[(size_t)j] * relative + least) * size);
          }
        const double* g = in.g.row(b, h, i);
        const double delta = dot(g, r.out.values.data() + in.q.index(b, h, i, 0), c.width);
        // The kernel's delta comes from the stored out, which is rounded to outDtype.
        const double deltaBound = (unitOf(c.outDtype) + relative) * static_cast<double>(c.width);
        for (int64_t j = 0; j < visible; ++j) {
          const double dp = dot(g, in.v.row(b, h, j), c.width), scale = static_cast<double>(in.scale);
          const double ds = scale * p[(size_t)j] * (dp - delta);
          const double dsBound = scale * p[(size_t)j] * (deltaBound + 1e-4) + std::fabs(ds) * relative + least;
          for (int64_t d = 0; d < c.width; ++d) {
            const double kValue = in.k.row(b, h, j)[d], qValue = in.q.row(b, h, i)[d];
            r.dv.add(in.k.index(b, h, j, d), p[(size_t)j] * g[d], (p[(size_t)j] * relative + least) * std::fabs(g[d]));
            r.dq.add(in.q.index(b, h, i, d), ds * kValue, dsBound * std::fabs(kValue));
            r.dk.add(in.k.index(b, h, j, d), ds * qValue, dsBound * std::fabs(qValue));
          }
        }
      }
  return r;
}

struct Outputs {
  Stored out, dq, dk, dv;
  std::vector<float> logSumExp;
};

Outputs run(Pool* pool, const Case& c, const Inputs& in) {
  const std::vector<double> queryFill(in.q.values.size(), 99.0), keyFill(in.k.values.size(), 99.0);
  Outputs o{makeStored(c, c.queries, c.outDtype, &queryFill), makeStored(c, c.queries, c.dtype, &queryFill),
            makeStored(c, c.keys, c.dtype, &keyFill), makeStored(c, c.keys, c.dtype, &keyFill),
            std::vector<float>(static_cast<size_t>(c.batch * c.heads * c.queries), 99.0f)};
  AttentionProblem problem{};
  problem.batch = c.batch;
  problem.queries = c.queries;
  problem.keys = c.keys;
  problem.heads = c.heads;
  problem.width = c.width;
  problem.scale = in.scale;
  problem.causal = c.causal;
  problem.q = in.q.view;
  problem.k = in.k.view;
  problem.v = in.v.view;
  problem.out = o.out.view;
  problem.logSumExp = o.logSumExp.data();
  attention(pool, problem);
  problem.g = in.g.view;
  problem.dq = o.dq.view;
  problem.dk = o.dk.view;
  problem.dv = o.dv.view;
  attentionBackward(pool, problem);
  for (Stored* s : {&o.out, &o.dq, &o.dk, &o.dv}) readBack(*s);
  return o;
}

/// g has out's dtype, but values that q's dtype holds, because the kernel rounds it to q's dtype for its products.
Inputs makeInputs(const Case& c) {
  const Stored g = makeStored(c, c.queries, c.dtype, nullptr);
  return Inputs{makeStored(c, c.queries, c.dtype, nullptr), makeStored(c, c.keys, c.dtype, nullptr),
                makeStored(c, c.keys, c.dtype, nullptr), makeStored(c, c.queries, c.outDtype, &g.values),
                1.0f / std::sqrt(static_cast<float>(c.width)) * 2.0f};
}

void check(Pool* const (&pools)[4], const Case& c, int poolsCompared) {
  const Inputs in = makeInputs(c);
  const Reference wanted = makeReference(c, in);
  const Outputs first = run(pools[0], c, in);
  compare(c, "out", wanted.out, first.out.values, c.outDtype);
  compare(c, "dq", wanted.dq, first.dq.values, c.dtype);
  compare(c, "dk", wanted.dk, first.dk.values, c.dtype);
  compare(c, "dv", wanted.dv, first.dv.values, c.dtype);
  for (size_t i = 0; i < first.logSumExp.size(); ++i) {
    const double got = static_cast<double>(first.logSumExp[i]), lse = wanted.logSumExp[i];
    if (!(got == lse || std::fabs(got - lse) <= 1e-5)) report(c, "logSumExp", i, got, lse);
  }
  for (int i = 1; i < poolsCompared; ++i) {
    const Outputs again = run(pools[i], c, in);
    const bool same = again.out.bytes == first.out.bytes && again.dq.bytes == first.dq.bytes &&
                      again.dk.bytes == first.dk.bytes && again.dv.bytes == first.dv.bytes &&
                      std::memcmp(again.logSumExp.data(), first.logSumExp.data(), first.logSumExp.size() * 4) == 0;
    if (!same) report(c, "bits of a larger pool", static_cast<size_t>(i), 1, 0);
  }
}

void checkSizes(Pool* const (&pools)[4]) {
  const int64_t times[][2] = {{1, 1}, {1, 70}, {5, 5}, {17, 33}, {33, 17}, {48, 96}, {57, 57}, {100, 130}, {130, 31}, {97, 200}};
  const DType dtypes[][2] = {{DType::float32, DType::float32},
                             {DType::bfloat16, DType::bfloat16},
                             {DType::float16, DType::float16},
                             {DType::bfloat16, DType::float32}};
  int turn = 0;
  for (const auto& t : times)
    for (const int64_t width : {1, 5, 16, 64, 80})
      for (const bool causal : {false, true})
        for (const auto& dtype : dtypes) {
          const char layout = "CQH"[++turn % 3];
          check(pools, Case{1 + turn % 2, t[0], t[1], 1 + turn % 3, width, causal, dtype[0], dtype[1], layout},
                turn % 5 == 0 ? 4 : 1);
        }
  check(pools, Case{2, 300, 300, 3, 64, true, DType::bfloat16, DType::bfloat16, 'C'}, 4);
  check(pools, Case{1, 300, 613, 1, 24, true, DType::float16, DType::float16, 'Q'}, 4);
  check(pools, Case{1, 1000, 1000, 1, 4, false, DType::float32, DType::float32, 'H'}, 4);
  check(pools, Case{20, 9, 9, 1, 8, false, DType::float32, DType::float32, 'C'}, 4);
}

/// Scores of ±10^4 keep their softmax: the row's maximum comes off before the exponential.
void checkLargeScores(Pool* pool) {
  const Case c{1, 3, 2, 1, 1, false, DType::float32, DType::float32, 'C'};
  const std::vector<double> q{100, -100, 0}, k{100, -100}, v{3, 5};
  Inputs in{makeStored(c, 3, c.dtype, &q), makeStored(c, 2, c.dtype, &k), makeStored(c, 2, c.dtype, &v),
            makeStored(c, 3, c.dtype, nullptr), 1.0f};
  const Outputs o = run(pool, c, in);
  const double wanted[] = {3, 5, 4};
  for (size_t i = 0; i < 3; ++i)
    if (o.out.values[i] != wanted[i]) report(c, "large scores", i, o.out.values[i], wanted[i]);
}

/// A NaN in one query makes that query's row NaN and no other.
void checkNaN(Pool* pool) {
  for (const DType dtype : {DType::float32, DType::bfloat16, DType::float16}) {
    const Case c{1, 20, 20, 1, 16, true, dtype, dtype, 'C'};
    Inputs in = makeInputs(c);
    const float nan = NAN;
    narrowArray(dtype, &nan, in.q.element(0, 0, 7, 3), 1);
    const Outputs o = run(pool, c, in);
    for (size_t i = 0; i < o.out.values.size(); ++i)
      if (std::isnan(o.out.values[i]) != (i / 16 == 7)) report(c, "NaN", i, o.out.values[i], i / 16 == 7 ? NAN : 0.0);
  }
}

}  // namespace

/// 2^x against float64: 2 ulps, 0 below the normal results, exact ends.
void checkPowerOfTwo() {
  float x[lanes], y[lanes];
  for (double start = -130; start < 127; start += 0.00137 * lanes) {
    for (int l = 0; l < lanes; ++l) x[l] = static_cast<float>(std::fmin(start + 0.00137 * l, 127.0));
    storeFloats(y, powerOfTwo(loadFloats(x)));
    for (int l = 0; l < lanes; ++l) {
      const double wanted = std::exp2(static_cast<double>(x[l])), got = static_cast<double>(y[l]);
      const bool same = std::fabs(got - wanted) <= std::fmax(2 * wanted * 0x1p-24, 0x1p-149) || (got == 0 && x[l] < -126);
      if (!same) report(Case{}, "power of two", static_cast<size_t>(l), got, wanted);
    }
  }
  for (int l = 0; l < lanes; ++l) x[l] = l % 4 == 0 ? NAN : l % 4 == 1 ? INFINITY : l % 4 == 2 ? -INFINITY : 0.0f;
  storeFloats(y, powerOfTwo(loadFloats(x)));
  if (!std::isnan(y[0]) || y[2] != 0.0f || y[3] != 1.0f)
    report(Case{}, "power of two of NaN, -infinity, 0", 0, static_cast<double>(y[3]), 1);
}

int main() {
  Pool* const pools[4] = {createPool(1), createPool(2), createPool(3), createPool(8)};
  checkPowerOfTwo();
  checkSizes(pools);
  checkLargeScores(pools[1]);
  checkNaN(pools[0]);
  for (Pool* pool : pools) destroyPool(pool);
  if (failures > 0) std::printf("attention_test: %d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
