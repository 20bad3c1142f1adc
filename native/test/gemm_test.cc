// Checks gemm against a float64 loop: sizes, layouts, dtypes, batches, special values, and bits for any worker count.
//
// bfloat16 subnormals are not among the inputs: vdpbf16ps, which the avx512bf16 kernels use, takes them as zeros.
#include "kernels/gemm.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "kernels/convert.h"
#include "kernels/gemm_micro.h"

using namespace binade;
using namespace binade::BINADE_ISA;

namespace {

int failures = 0;

struct Kind {
  DType storage, format;
};

struct Case {
  int64_t batch, m, n, k;
  char aLayout, bLayout;  // 'N' row-major, 'T' transposed, 'G' gaps in both directions
  Kind a, b;
  bool shareB;  // every product uses the first B
};

const char* nameOf(DType dtype) {
  switch (dtype) {
    case DType::float32: return "float32";
    case DType::float16: return "float16";
    case DType::bfloat16: return "bfloat16";
    default: return "float8";
  }
}

void report(const Case& c, const char* what, int64_t index, double got, double wanted) {
  if (++failures > 20) return;
  std::printf("%s: batch %ld, %ld x %ld x %ld, layout %c%c, a %s as %s, b %s as %s, at %ld: got %.9g, expected %.9g\n",
              what, (long)c.batch, (long)c.m, (long)c.n, (long)c.k, c.aLayout, c.bLayout, nameOf(c.a.storage),
              nameOf(c.a.format), nameOf(c.b.storage), nameOf(c.b.format), (long)index, got, wanted);
}

uint32_t randomState = 1;

/// A value of either sign in [2^-6, 4): no subnormals in any format, no overflow in any sum.
float randomValue() {
  randomState = randomState * 1664525u + 1013904223u;
  const float fraction = 1.0f + static_cast<float>(randomState >> 9) * 0x1p-23f;
  const int exponent = static_cast<int>((randomState >> 5) & 7u) - 6;
  return std::ldexp((randomState & 16u) != 0 ? fraction : -fraction, exponent);
}

int64_t elementSize(DType dtype) { return dtype == DType::float32 ? 4 : dtype >= DType::float8_e4m3fn ? 1 : 2; }

/// A (batch, rows, columns) operand in memory whose gaps and surroundings hold NaN, with its exact values beside it.
struct Stored {
  std::vector<char> bytes;
  std::vector<double> values;
  std::vector<int64_t> offsets;
  MatrixView view;
};

void setElement(Stored& stored, const Kind& kind, int64_t at, int64_t index, float value) {
  narrowArray(kind.storage, &value, stored.bytes.data() + at * elementSize(kind.storage), 1);
  widenArray(kind.storage, stored.bytes.data() + at * elementSize(kind.storage), &value, 1);
  roundArray(kind.format, &value, 1);
  stored.values[static_cast<size_t>(index)] = static_cast<double>(value);
}

Stored makeStored(int64_t batch, int64_t rows, int64_t columns, char layout, const Kind& kind, bool share) {
  Stored stored;
  const int64_t rowStride = layout == 'N' ? columns : layout == 'T' ? 1 : 2 * columns + 3;
  const int64_t columnStride = layout == 'N' ? 1 : layout == 'T' ? rows : 2;
  const int64_t margin = 5;
  const int64_t span = (layout == 'G' ? rows * (2 * columns + 3) : rows * columns) + 3;
  stored.bytes.resize(static_cast<size_t>((2 * margin + batch * span) * elementSize(kind.storage)));
  for (int64_t i = 0; i < 2 * margin + batch * span; ++i) {
    const float nan = NAN;
    narrowArray(kind.storage, &nan, stored.bytes.data() + i * elementSize(kind.storage), 1);
  }
  stored.values.resize(static_cast<size_t>(batch * rows * columns));
  for (int64_t p = 0; p < batch; ++p) {
    const int64_t offset = share ? 0 : p * span;
    stored.offsets.push_back(offset);
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < columns; ++j) {
        const int64_t index = (p * rows + i) * columns + j;
        setElement(stored, kind, margin + offset + i * rowStride + j * columnStride, index,
                   share && p > 0 ? static_cast<float>(stored.values[static_cast<size_t>(i * columns + j)])
                                  : randomValue());
      }
  }
  stored.view = MatrixView{stored.bytes.data() + margin * elementSize(kind.storage), kind.storage, kind.format,
                           rowStride, columnStride};
  return stored;
}

struct Result {
  int64_t m, n;
  std::vector<float> c;
  std::vector<int> writes;
};

void receive(void* context, int64_t batch, int64_t row, int64_t column, int64_t rows, int64_t columns,
             const float* tile, int64_t stride, int) {
  Result& result = *static_cast<Result*>(context);
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j) {
      const auto at = static_cast<size_t>((batch * result.m + row + i) * result.n + column + j);
      result.c[at] = tile[i * stride + j];
      ++result.writes[at];
    }
}

Result multiply(Pool* pool, const Case& c, const Stored& a, const Stored& b) {
  const auto length = static_cast<size_t>(c.batch * c.m * c.n);
  Result result{c.m, c.n, std::vector<float>(length, -77.0f), std::vector<int>(length, 0)};
  const GemmProblem problem{c.batch, c.m, c.n, c.k, a.view, b.view, a.offsets.data(), b.offsets.data()};
  gemm(pool, problem, TileSink{receive, &result});
  return result;
}

/// Compares with float64 sums; the bound is what k roundings of float32 sums can add up to.
void compare(const Case& c, const Stored& a, const Stored& b, const Result& result) {
  std::vector<double> sums(static_cast<size_t>(c.n)), sizes(static_cast<size_t>(c.n));
  for (int64_t row = 0; row < c.batch * c.m; ++row) {
    for (int64_t j = 0; j < c.n; ++j) sums[static_cast<size_t>(j)] = sizes[static_cast<size_t>(j)] = 0;
    for (int64_t p = 0; p < c.k; ++p) {
      const double left = a.values[static_cast<size_t>(row * c.k + p)];
      const double* right = b.values.data() + (row / c.m * c.k + p) * c.n;
      for (int64_t j = 0; j < c.n; ++j) {
        sums[static_cast<size_t>(j)] += left * right[j];
        sizes[static_cast<size_t>(j)] += std::fabs(left * right[j]);
      }
    }
    for (int64_t j = 0; j < c.n; ++j) {
      const auto at = static_cast<size_t>(row * c.n + j);
      const double got = static_cast<double>(result.c[at]), wanted = sums[static_cast<size_t>(j)];
      const double bound = static_cast<double>(c.k + 1) * 0x1p-24 * sizes[static_cast<size_t>(j)];
      if (result.writes[at] != 1) report(c, "written times", static_cast<int64_t>(at), result.writes[at], 1);
      if (!(std::fabs(got - wanted) <= bound)) report(c, "value", static_cast<int64_t>(at), got, wanted);
    }
  }
}

/// Of the cases, every one, or (under a slow emulator) every `share`th is checked.
int share = 1;

void check(Pool* const (&pools)[4], const Case& c, int poolsCompared) {
  static int cases = 0;
  if (++cases % share != 0) return;
  const Stored a = makeStored(c.batch, c.m, c.k, c.aLayout, c.a, false);
  const Stored b = makeStored(c.batch, c.k, c.n, c.bLayout, c.b, c.shareB);
  const Result first = multiply(pools[0], c, a, b);
  compare(c, a, b, first);
  for (int i = 1; i < poolsCompared; ++i) {
    const Result again = multiply(pools[i], c, a, b);
    for (size_t at = 0; at < first.c.size(); ++at) {
      if (again.writes[at] != 1) report(c, "written times by a larger pool", (long)at, again.writes[at], 1);
      const auto got = static_cast<double>(again.c[at]), wanted = static_cast<double>(first.c[at]);
      if (std::memcmp(&again.c[at], &first.c[at], 4) != 0) report(c, "bits of a larger pool", (long)at, got, wanted);
    }
  }
}

constexpr DType f32 = DType::float32, f16 = DType::float16, bf16 = DType::bfloat16;
constexpr DType e4m3 = DType::float8_e4m3fn, e5m2 = DType::float8_e5m2;

const Kind kinds[][2] = {
    {{f32, f32}, {f32, f32}},    {{bf16, bf16}, {bf16, bf16}}, {{f16, f16}, {f16, f16}},
    {{f32, bf16}, {f32, bf16}},  {{f32, f16}, {f32, f16}},     {{bf16, bf16}, {f32, bf16}},
    {{f32, f32}, {bf16, bf16}},  {{f16, bf16}, {bf16, bf16}},  {{bf16, f16}, {f16, f32}},
    {{e4m3, e4m3}, {e5m2, e5m2}}, {{f32, e4m3}, {bf16, e5m2}},
};
const char* const layouts[] = {"NN", "NT", "TN", "TT", "GN", "TG", "GG"};

/// Every size from 1 to 130 in each dimension, in every layout, in float32, bfloat16 and float16 and one other pair of
/// formats; the other two dimensions and the batch change from case to case.
void checkSizes(Pool* const (&pools)[4]) {
  const int64_t others[] = {1, panelRows, panelColumns + 1, 3, 2 * panelRows + 1, panelColumns - 1, 8, 17};
  size_t turn = 0;
  const auto next = [&] { return others[turn++ * 5 % 8]; };
  for (int64_t size = 1; size <= 130; ++size)
    for (int dimension = 0; dimension < 3; ++dimension)
      for (size_t layout = 0; layout < 4; ++layout) {
        const auto& other = kinds[3 + turn % (sizeof kinds / sizeof kinds[0] - 3)];
        for (const auto& kind : {kinds[0], kinds[1], kinds[2], other}) {
          int64_t extents[3] = {next(), next(), next()};
          extents[dimension] = size;
          const char* used = layouts[&kind[0] == &other[0] && turn % 2 == 0 ? 4 + turn / 2 % 3 : layout];
          check(pools, Case{turn % 5 == 0 ? 2 : 1, extents[0], extents[1], extents[2], used[0], used[1], kind[0],
                            kind[1], turn % 2 == 0},
                turn % 61 == 0 ? 4 : 1);
        }
      }
}

/// Every combination of sizes beside the ends of panels, of vectors and of pairs.
void checkEdges(Pool* const (&pools)[4]) {
  size_t turn = 0;
  for (const int64_t m : {int64_t{1}, panelRows - 1, panelRows, panelRows + 1, 2 * panelRows + 1})
    for (const int64_t n : {int64_t{1}, panelColumns / 2 + 1, panelColumns - 1, panelColumns, panelColumns + 1})
      for (const int64_t k : {1, 2, 3, 7, 8, 9, 15, 16, 17, 33})
        for (const auto& kind : {kinds[0], kinds[1], kinds[2]}) {
          const char* layout = layouts[turn++ % 7];
          check(pools, Case{1, m, n, k, layout[0], layout[1], kind[0], kind[1], false}, 1);
        }
}

/// Shapes that take each route: rows packed by each task or shared, several depth blocks, split k, whole products per
/// task, groups of tiny products, few rows.
void checkRoutes(Pool* const (&pools)[4]) {
  const int64_t shapes[][4] = {{1, 64, 64, 4096}, {1, 40, 70, 3001}, {1, 300, 530, 797}, {1, 500, 33, 129},
                               {3, 70, 90, 110},  {20, 65, 40, 67},  {300, 4, 5, 6},     {5, 2, 3, 0},
                               {1, 113, 257, 64}, {2, 13, 31, 1600}, {1, 1, 700, 900},   {1, 900, 1, 700},
                               {1, 128, 10, 512}, {1, 784, 130, 65}, {1, 5, 400, 300}, {1, 560, 300, 270}};
  int turn = 0;
  for (const auto& s : shapes)
    for (const auto& kind : {kinds[0], kinds[1], kinds[2 + turn % 3]}) {
      const char* layout = layouts[turn++ % 4];
      check(pools, Case{s[0], s[1], s[2], s[3], layout[0], layout[1], kind[0], kind[1], turn % 2 == 0}, 4);
    }
  for (const auto& s : {Case{1, 0, 5, 5, 'N', 'N', {f32, f32}, {f32, f32}, false},
                        Case{1, 5, 0, 5, 'N', 'N', {f32, f32}, {f32, f32}, false},
                        Case{0, 5, 5, 5, 'N', 'N', {f32, f32}, {f32, f32}, false}})
    check(pools, s, 4);
}

/// The values of `stored` in another layout.
Stored inLayout(const Stored& stored, int64_t batch, int64_t rows, int64_t columns, char layout, const Kind& kind) {
  Stored copy = makeStored(batch, rows, columns, layout, kind, false);
  for (int64_t i = 0; i < batch * rows * columns; ++i) {
    const int64_t start = copy.offsets[static_cast<size_t>(i / (rows * columns))];
    const int64_t at = start + i / columns % rows * copy.view.rowStride + i % columns * copy.view.columnStride;
    setElement(copy, kind, 5 + at, i, static_cast<float>(stored.values[static_cast<size_t>(i)]));
  }
  return copy;
}

void compareBits(const Case& c, const Result& one, const Result& other, const char* what) {
  for (size_t at = 0; at < one.c.size(); ++at)
    if (std::memcmp(&one.c[at], &other.c[at], sizeof(float)) != 0)
      report(c, what, (long)at, static_cast<double>(one.c[at]), static_cast<double>(other.c[at]));
}

/// Rows of A that are read where they lie give the bits of the same rows packed, which gaps between elements demand: sizes
/// beside those that choose, several depth blocks, odd depths, rows whole pages apart.
void checkRowsAsTheyLie(Pool* const (&pools)[4]) {
  const int64_t shapes[][4] = {{1, 70, 512, 90}, {1, 70, 513, 90},  {2, 33, 40, 1024}, {1, 30, 50, 2048},
                               {1, 64, 64, 801}, {30, 5, 9, 14},    {1, 29, 530, 66},  {3, 61, 130, 258}};
  for (const auto& s : shapes)
    for (const auto& kind : {kinds[0], kinds[1]}) {
      const Case c{s[0], s[1], s[2], s[3], 'N', 'N', kind[0], kind[1], false};
      const Stored rows = makeStored(c.batch, c.m, c.k, 'N', c.a, false);
      const Stored b = makeStored(c.batch, c.k, c.n, 'N', c.b, false);
      const Stored gaps = inLayout(rows, c.batch, c.m, c.k, 'G', c.a);
      compareBits(c, multiply(pools[1], c, rows, b), multiply(pools[1], c, gaps, b), "bits of rows as they lie");
    }
}

/// Products that are computed as the transpose of their transpose give the bits of the same operands in another layout.
void checkTurned(Pool* const (&pools)[4]) {
  const int64_t shapes[][4] = {{1, 33, 200, 130}, {1, 128, 512, 133}, {2, 16, 65, 128}, {1, 6, 90, 200}, {1, 5, 90, 200},
                               {1, 50, 100, 127}, {1, 50, 101, 300},  {1, 50, 99, 300}, {3, 61, 130, 258}, {1, 17, 64, 2048}};
  for (const auto& s : shapes)
    for (const auto& kind : {kinds[0], kinds[1]}) {
      const Case c{s[0], s[1], s[2], s[3], 'N', 'T', kind[0], kind[1], false};
      const Stored a = makeStored(c.batch, c.m, c.k, 'N', c.a, false);
      const Stored b = makeStored(c.batch, c.k, c.n, 'T', c.b, false);
      const Stored straight = inLayout(b, c.batch, c.k, c.n, 'N', c.b);
      const Result one = multiply(pools[0], c, a, b), other = multiply(pools[2], c, a, straight);
      compare(c, a, b, one);
      compareBits(c, one, other, "bits of the product turned");
    }
}

/// An infinity or NaN in one row of A reaches that row and, through panel padding, nothing else.
void checkSpecials(Pool* const (&pools)[4]) {
  for (const auto& kind : {kinds[0], kinds[1], kinds[2]})
    for (const float special : {INFINITY, -INFINITY, NAN})
      for (const char* layout : {"NN", "TT"}) {
        const Case c{1, 17, 35, 33, layout[0], layout[1], kind[0], kind[1], false};
        Stored a = makeStored(1, c.m, c.k, c.aLayout, c.a, false);
        const Stored b = makeStored(1, c.k, c.n, c.bLayout, c.b, false);
        const int64_t row = 15, depth = 32;
        setElement(a, c.a, 5 + row * a.view.rowStride + depth * a.view.columnStride, row * c.k + depth, special);
        const Result result = multiply(pools[1], c, a, b);
        for (int64_t at = 0; at < c.m * c.n; ++at) {
          const double got = static_cast<double>(result.c[static_cast<size_t>(at)]);
          const double factor = b.values[static_cast<size_t>(depth * c.n + at % c.n)];
          const double wanted = static_cast<double>(special) * factor;
          const bool same = std::isnan(wanted) ? std::isnan(got) : got == wanted;
          if (at / c.n == row ? !same : !std::isfinite(got)) report(c, "special value", at, got, wanted);
        }
      }
}

}  // namespace

/// Arguments: a share, so that only every share-th case is checked; default 1, and a prime walks through all kinds.
int main(int argc, char** argv) {
  if (argc > 1) share = std::atoi(argv[1]);
  Pool* const pools[4] = {createPool(1), createPool(2), createPool(3), createPool(8)};
  checkSizes(pools);
  checkEdges(pools);
  checkRoutes(pools);
  checkRowsAsTheyLie(pools);
  checkTurned(pools);
  checkSpecials(pools);
  for (Pool* pool : pools) destroyPool(pool);
  if (failures > 0) std::printf("gemm_test: %d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
