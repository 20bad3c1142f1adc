// Attention forward: a strip of queries meets the keys block by block; the softmax is rescaled as its maximum grows.
//
// The online softmax of Dao, "FlashAttention-2" (2023, arXiv:2307.08691): per query a running maximum and sum, and the
// unnormalised output, which is divided by the sum at the end. Scratch does not grow with the number of keys.
#include "attention.h"

#include "attention_block.h"

namespace binade {
namespace BINADE_ISA {

namespace {

/// Queries of one strip share the packing of every key block; their sums, (288, 64) floats, stay in L2.
constexpr int64_t mostStripRows = 3 * blockRows;
constexpr int64_t wantedTasks = 16;  // fewer (batch, head) pairs than this also split the queries

struct Buffers {
  float* q;               // (stripRows, widthPadded)
  float* qPaired;         // (stripRows, widthPadded / 2)
  float* wide;            // (blockKeys, widthPadded): k, then v
  float* paired;          // as wide
  float* keys;            // (widthWords, blockKeys)
  float* scores;          // (blockRows, blockKeys)
  float* scoresPaired;    // (blockRows, blockKeys / 2)
  float* out;             // (stripRows, widthPadded), unnormalised
  float* maxima;          // (stripRows), in units of log 2
  float* sums;            // (stripRows, lanes)
  float *shifts, *factors;  // (blockRows)
};

Buffers takeBuffers(ScratchCutter& cutter, const Head& head, int64_t stripRows) {
  Buffers buffers;
  buffers.q = cutter.floats(stripRows * head.widthPadded);
  buffers.qPaired = cutter.floats(head.pairs ? stripRows * head.widthPadded / 2 : 0);
  buffers.wide = cutter.floats(blockKeys * head.widthPadded);
  buffers.paired = cutter.floats(head.pairs ? blockKeys * head.widthPadded : 0);
  buffers.keys = cutter.floats(roundUp(head.widthWords, 4) * blockKeys);
  buffers.scores = cutter.floats(blockRows * blockKeys);
  buffers.scoresPaired = cutter.floats(head.pairs ? blockRows * blockKeys / 2 : 0);
  buffers.out = cutter.floats(stripRows * head.widthPadded);
  buffers.maxima = cutter.floats(stripRows);
  buffers.sums = cutter.floats(stripRows * lanes);
  buffers.shifts = cutter.floats(blockRows);
  buffers.factors = cutter.floats(blockRows);
  return buffers;
}

/// New maxima of the pairing's queries, the shifts that their exponentials take, and the factors of their old sums.
void raiseMaxima(const Head& head, const Buffers& buffers, const Pairing& pairing, float* maxima) {
  for (int64_t i = 0; i < pairing.rows; ++i) {
    float* row = buffers.scores + i * blockKeys;
    const int64_t padded = roundUp(visibleToTile(*head.problem, pairing, i / tileRows * tileRows), lanes);
    for (int64_t j = visibleKeys(*head.problem, pairing, i); j < padded; ++j) row[j] = -infinity();
    buffers.shifts[i] = padded > 0 ? greatestOfRow(row, padded) : -infinity();
  }
  const Integers exponent = Integers{} + 0x7f800000;
  for (int64_t i = 0; i < pairing.rows; i += lanes) {
    const Floats before = loadFloats(maxima + i);
    const Floats now = greater(loadFloats(buffers.shifts + i), before);
    // An infinite maximum shifts by nothing: -infinity minus itself would be a NaN.
    const Floats shift = ((Integers)now & exponent) == exponent ? Floats{} : now;
    storeFloats(maxima + i, now);
    storeFloats(buffers.shifts + i, shift);
    storeFloats(buffers.factors + i, powerOfTwo(before - shift));
  }
}

template <DType format>
void exponentiate(const Head& head, const Buffers& buffers, const Pairing& pairing, float* sums) {
  for (int64_t i = 0; i < pairing.rows; ++i, sums += lanes) {
    const int64_t padded = roundUp(visibleToTile(*head.problem, pairing, i / tileRows * tileRows), lanes);
    storeFloats(sums, loadFloats(sums) * buffers.factors[i]);
    exponentiateRow<format>(buffers.scores + i * blockKeys, padded, buffers.shifts[i], sums);
  }
}

/// Takes one block of keys into the sums of one block of queries, which starts at row `at` of the strip.
void meet(const Head& head, const Buffers& buffers, const Pairing& pairing, const Words& q, const Words& v,
          int64_t at) {
  const AttentionProblem& problem = *head.problem;
  multiplyByKeys(head, pairing, Words{q.data + at * q.stride, q.stride}, buffers.keys, problem.scale * log2OfE,
                 buffers.scores);
  raiseMaxima(head, buffers, pairing, buffers.maxima + at);
  float* sums = buffers.sums + at * lanes;
  if (head.dtype == DType::bfloat16) exponentiate<DType::bfloat16>(head, buffers, pairing, sums);
  else if (head.dtype == DType::float16) exponentiate<DType::float16>(head, buffers, pairing, sums);
  else exponentiate<DType::float32>(head, buffers, pairing, sums);
  if (problem.out.data == nullptr) return;
  const Words p = alongRows(head, buffers.scores, blockKeys, pairing.rows, blockKeys, buffers.scoresPaired);
  const Finish finish{pairing.key == 0 ? Finish::scaled : Finish::rescaled, 1.0f, buffers.factors};
  multiplyByWidth(head, pairing, p, v, finish, buffers.out + at * head.widthPadded);
}

/// Divides the strip's outputs by their sums and stores them. A query that saw no key has the sum 0.
void finish(const Head& head, const Buffers& buffers, int64_t first, int64_t rows) {
  const AttentionProblem& problem = *head.problem;
  for (int64_t i = 0; i < rows; ++i) {
    const float sum = sumLanes(loadFloats(buffers.sums + i * lanes));
    if (problem.logSumExp != nullptr)
      logSumExpOf(head)[first + i] =
          sum == 0.0f ? -infinity()
                      : (isFiniteFloat(buffers.maxima[i]) ? buffers.maxima[i] : 0.0f) * logOf2 + __builtin_logf(sum);
    if (problem.out.data == nullptr) continue;
    float* row = buffers.out + i * head.widthPadded;
    const float reciprocal = 1.0f / sum;
    for (int64_t d = 0; d < head.widthPadded; ++d) row[d] = sum == 0.0f ? 0.0f : row[d] * reciprocal;
    storeRow(head, problem.out, first + i, row);
  }
}

/// How the queries of one (batch, head) pair are cut; a function of shape.
struct Strips {
  int64_t count, rows;
};

Strips stripsOf(const AttentionProblem& problem) {
  const int64_t wanted = larger(ceilDivide(problem.queries, mostStripRows),
                                smaller(ceilDivide(wantedTasks, problem.batch * problem.heads),
                                        ceilDivide(problem.queries, blockRows)));
  const int64_t rows = roundUp(ceilDivide(problem.queries, wanted), blockRows);
  return Strips{ceilDivide(problem.queries, rows), rows};
}

struct Call {
  Pool* pool;
  const AttentionProblem* problem;
};

void strip(const Head& head, const Buffers& buffers, int64_t first, int64_t rows) {
  const AttentionProblem& problem = *head.problem;
  const int64_t padded = roundUp(rows, tileRows);
  widenRows(head, problem.q, first, rows, padded, buffers.q);
  const Words q = alongRows(head, buffers.q, head.widthPadded, padded, head.widthPadded, buffers.qPaired);
  for (int64_t i = 0; i < rows; ++i) buffers.maxima[i] = -infinity();
  for (int64_t i = 0; i < rows * lanes; ++i) buffers.sums[i] = 0.0f;
  const int64_t visible = visibleKeys(problem, Pairing{first, rows, 0, problem.keys}, rows - 1);
  for (int64_t key = 0; key < visible; key += blockKeys) {
    const int64_t keys = smaller(problem.keys - key, blockKeys), keysPadded = roundUp(keys, lanes);
    widenRows(head, problem.k, key, keys, keysPadded, buffers.wide);
    transposeKeys(alongRows(head, buffers.wide, head.widthPadded, keysPadded, head.widthPadded, buffers.paired),
                  keysPadded, head.widthWords, buffers.keys);
    widenRows(head, problem.v, key, keys, keys, buffers.wide);
    const Words v = acrossRows(head, buffers.wide, head.widthPadded, keys, head.widthPadded, buffers.paired);
    for (int64_t at = 0; at < rows; at += blockRows) {
      const Pairing pairing{first + at, smaller(blockRows, rows - at), key, keys};
      if (visibleKeys(problem, pairing, pairing.rows - 1) > 0) meet(head, buffers, pairing, q, v, at);
    }
  }
  finish(head, buffers, first, rows);
}

void stripTask(void* context, int64_t task, int worker) {
  const Call& call = *static_cast<const Call*>(context);
  const AttentionProblem& problem = *call.problem;
  const Strips strips = stripsOf(problem);
  const int64_t heads = problem.batch * problem.heads;
  const Head head = headAt(problem, task % heads);
  ScratchCutter measure{nullptr, 0};
  takeBuffers(measure, head, strips.rows);
  ScratchCutter cutter{static_cast<char*>(scratch(call.pool, worker, 0, static_cast<size_t>(measure.used))), 0};
  const Buffers buffers = takeBuffers(cutter, head, strips.rows);
  // Later queries see more keys under causality: the longest tasks come first.
  const int64_t first = (strips.count - 1 - task / heads) * strips.rows;
  strip(head, buffers, first, smaller(strips.rows, problem.queries - first));
}

}  // namespace

void attention(Pool* pool, const AttentionProblem& problem) {
  const int64_t heads = problem.batch * problem.heads;
  if (heads <= 0 || problem.queries <= 0) return;
  Call call{pool, &problem};
  parallelFor(pool, heads * stripsOf(problem).count, stripTask, &call);
}

}  // namespace BINADE_ISA
}  // namespace binade
