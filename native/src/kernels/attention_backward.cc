// Attention backward: blocks of keys meet blocks of queries; probabilities are rebuilt from the log-sum-exp.
//
// Key blocks collect dk and dv over the queries, queries collect dq over the key blocks, both in ascending order. Where
// there are enough (batch, head) pairs to share out and the queries' sums fit in L2, one task does both for one pair.
// Otherwise some tasks take a block of keys each, others a strip of queries each: they compute the scores twice, but one
// pair keeps several workers busy, no sums are shared, and scratch does not grow with the sequence.
#include "attention.h"
#include "attention_block.h"

namespace binade {
namespace BINADE_ISA {

namespace {

constexpr int64_t leastHeads = 4;             // pairs from which on one task takes a whole pair
constexpr int64_t mostSums = 128 * 1024;      // floats of dq that such a task may hold
constexpr int64_t stripRows = 2 * blockRows;  // queries of a task that takes queries alone

struct Buffers {
  float *q, *g;                  // (blockRows, widthPadded)
  float *k, *v;                  // (blockKeys, widthPadded)
  float *qAlong, *gAlong;        // pairs: (blockRows, widthPadded / 2)
  float *qAcross, *gAcross;      // pairs: (blockRows / 2, widthPadded)
  float *kAcross, *keyAlong;     // pairs: (blockKeys / 2, widthPadded), (blockKeys, widthPadded / 2)
  float *kColumns, *vColumns;    // (widthWords, blockKeys)
  float *p, *ds;                 // (blockRows, blockKeys)
  float *pAcross, *dsAcross;     // pairs: (blockRows / 2, blockKeys)
  float* dsAlong;                // pairs: (blockRows, blockKeys / 2)
  float *dk, *dv;                // (blockKeys, widthPadded)
  float* dq;                     // (rows, widthPadded)
  float *delta, *shifts;         // (rows)
};

Buffers takeBuffers(ScratchCutter& cutter, const Head& head, int64_t rows, int64_t sumRows) {
  const int64_t byRows = blockRows * head.widthPadded, byKeys = blockKeys * head.widthPadded;
  const int64_t scores = blockRows * blockKeys, pairs = head.pairs ? 1 : 0;
  Buffers b;
  b.q = cutter.floats(byRows);
  b.g = cutter.floats(byRows);
  b.k = cutter.floats(byKeys);
  b.v = cutter.floats(byKeys);
  b.dk = cutter.floats(byKeys);
  b.dv = cutter.floats(byKeys);
  b.qAlong = cutter.floats(pairs * byRows / 2);
  b.gAlong = cutter.floats(pairs * byRows / 2);
  b.qAcross = cutter.floats(pairs * byRows / 2);
  b.gAcross = cutter.floats(pairs * byRows / 2);
  b.kAcross = cutter.floats(pairs * byKeys / 2);
  b.keyAlong = cutter.floats(pairs * byKeys / 2);
  b.kColumns = cutter.floats(roundUp(head.widthWords, 4) * blockKeys);
  b.vColumns = cutter.floats(roundUp(head.widthWords, 4) * blockKeys);
  b.p = cutter.floats(scores);
  b.ds = cutter.floats(scores);
  b.pAcross = cutter.floats(pairs * scores / 2);
  b.dsAcross = cutter.floats(pairs * scores / 2);
  b.dsAlong = cutter.floats(pairs * scores / 2);
  b.dq = cutter.floats(roundUp(sumRows, blockRows) * head.widthPadded);
  b.delta = cutter.floats(rows);
  b.shifts = cutter.floats(rows);
  return b;
}

/// What one task computes: of the queries [row, row + rows) and keys [key, key + keys), dq or dk and dv or all.
struct Part {
  int64_t row, rows;
  int64_t key, keys;
  bool forQueries, forKeys;
};

/// rowsum(g · out) of the part's queries, and the shift of their exponentials in units of log 2.
void prepareQueries(const Head& head, const Buffers& buffers, const Part& part) {
  const AttentionProblem& problem = *head.problem;
  float *g = buffers.g, *out = buffers.q;
  for (int64_t d = problem.width; d < head.widthPadded; ++d) g[d] = out[d] = 0.0f;
  for (int64_t i = 0; i < part.rows; ++i) {
    widenArray(problem.g.dtype, rowOf(head, problem.g, part.row + i), g, problem.width);
    widenArray(problem.out.dtype, rowOf(head, problem.out, part.row + i), out, problem.width);
    buffers.delta[i] = dotRow(g, out, head.widthPadded);
    const float logSumExp = logSumExpOf(head)[part.row + i];
    buffers.shifts[i] = isFiniteFloat(logSumExp) ? logSumExp * log2OfE : 0.0f;
  }
}

/// Turns the scores and g vᵀ of a pairing, in buffers.p and buffers.ds, into p and ds.
template <DType format>
void differentiate(const Head& head, const Buffers& buffers, const Pairing& pairing, int64_t at) {
  const AttentionProblem& problem = *head.problem;
  for (int64_t i = 0; i < pairing.rows; ++i) {
    float *p = buffers.p + i * blockKeys, *ds = buffers.ds + i * blockKeys;
    const int64_t visible = visibleKeys(problem, pairing, i);
    const int64_t padded = roundUp(visibleToTile(problem, pairing, i / tileRows * tileRows), lanes);
    for (int64_t j = visible; j < padded; ++j) p[j] = -infinity();
    gradientRow<format>(p, ds, padded, buffers.shifts[at + i], buffers.delta[at + i], problem.scale);
    // A tile of keys takes all queries that see its first key: to them, the others of its keys are zeros.
    const int64_t end = smaller(larger(padded, visible + tileRows), blockKeys);
    for (int64_t j = visible; j < end; ++j) p[j] = ds[j] = 0.0f;
  }
}

/// sums (blockKeys, widthPadded) += Aᵀ · B, tile by tile, over the queries that see a tile's first key; A (rows,
/// blockKeys), B (rows, widthPadded), both with their depth across the rows.
void multiplyByQueries(const Head& head, const Pairing& pairing, const Words& a, const Words& b, float* sums) {
  const AttentionProblem& problem = *head.problem;
  const int64_t perWord = head.pairs ? 2 : 1;
  for (int64_t j = 0; j < head.widthPadded; j += tileColumns)
    for (int64_t k = 0; k < pairing.keys; k += tileRows) {
      const int64_t blind = pairing.key + k - (problem.keys - problem.queries) - pairing.row;
      const int64_t word = problem.causal ? larger(blind, 0) / perWord : 0;
      const int64_t depth = ceilDivide(pairing.rows, perWord) - word;
      if (depth <= 0) continue;
      multiplyColumns<true>(head.pairs, Factors{depth, a.data + word * a.stride + k, a.stride,
                                                b.data + word * b.stride + j, b.stride},
                            smaller(head.widthPadded - j, tileColumns), sums + k * head.widthPadded + j,
                            head.widthPadded, Finish{Finish::added, 1.0f, nullptr});
    }
}

/// Takes one pairing, which starts at query `at` of the part, into the sums that the part asks for.
void meet(const Head& head, const Buffers& b, const Part& part, const Pairing& pairing, const Words& k, int64_t at) {
  const AttentionProblem& problem = *head.problem;
  const int64_t rows = pairing.rows, padded = roundUp(rows, tileRows), width = head.widthPadded;
  widenRows(head, problem.q, pairing.row, rows, padded, b.q);
  widenRows(head, problem.g, pairing.row, rows, padded, b.g);
  multiplyByKeys(head, pairing, alongRows(head, b.q, width, padded, width, b.qAlong), b.kColumns,
                 problem.scale * log2OfE, b.p);
  multiplyByKeys(head, pairing, alongRows(head, b.g, width, padded, width, b.gAlong), b.vColumns, 1.0f, b.ds);
  if (head.dtype == DType::bfloat16) differentiate<DType::bfloat16>(head, b, pairing, at);
  else if (head.dtype == DType::float16) differentiate<DType::float16>(head, b, pairing, at);
  else differentiate<DType::float32>(head, b, pairing, at);
  if (part.forKeys && problem.dv.data != nullptr)
    multiplyByQueries(head, pairing, acrossRows(head, b.p, blockKeys, rows, blockKeys, b.pAcross),
                      acrossRows(head, b.g, width, rows, width, b.gAcross), b.dv);
  if (part.forKeys && problem.dk.data != nullptr)
    multiplyByQueries(head, pairing, acrossRows(head, b.ds, blockKeys, rows, blockKeys, b.dsAcross),
                      acrossRows(head, b.q, width, rows, width, b.qAcross), b.dk);
  if (part.forQueries && problem.dq.data != nullptr)
    multiplyByWidth(head, pairing, alongRows(head, b.ds, blockKeys, rows, blockKeys, b.dsAlong), k,
                    Finish{Finish::added, 1.0f, nullptr}, b.dq + at * width);
}

void clear(float* sums, int64_t count) {
  for (int64_t i = 0; i < count; ++i) sums[i] = 0.0f;
}

void storeTimes(const Head& head, const HeadsView& view, int64_t first, int64_t count, const float* sums) {
  if (view.data == nullptr) return;
  for (int64_t i = 0; i < count; ++i) storeRow(head, view, first + i, sums + i * head.widthPadded);
}

/// One block of keys, which starts at `key`, against all queries of the part.
void takeKeys(const Head& head, const Buffers& b, const Part& part, int64_t key) {
  const AttentionProblem& problem = *head.problem;
  const int64_t keys = smaller(problem.keys - key, blockKeys), padded = roundUp(keys, lanes), width = head.widthPadded;
  widenRows(head, problem.k, key, keys, padded, b.k);
  widenRows(head, problem.v, key, keys, padded, b.v);
  transposeKeys(alongRows(head, b.k, width, padded, width, b.keyAlong), padded, head.widthWords, b.kColumns);
  transposeKeys(alongRows(head, b.v, width, padded, width, b.keyAlong), padded, head.widthWords, b.vColumns);
  const Words k = acrossRows(head, b.k, width, keys, width, b.kAcross);
  if (part.forKeys) {
    clear(b.dk, blockKeys * width);
    clear(b.dv, blockKeys * width);
  }
  for (int64_t at = 0; at < part.rows; at += blockRows) {
    const Pairing pairing{part.row + at, smaller(blockRows, part.rows - at), key, keys};
    if (visibleKeys(problem, pairing, pairing.rows - 1) > 0) meet(head, b, part, pairing, k, at);
  }
  if (!part.forKeys) return;
  storeTimes(head, problem.dk, key, keys, b.dk);
  storeTimes(head, problem.dv, key, keys, b.dv);
}

struct Call {
  Pool* pool;
  const AttentionProblem* problem;
  bool together;          // one task per (batch, head) pair
  int64_t blocks, strips; // otherwise: tasks that take keys, tasks that take queries, per pair
  int64_t tasks() const { return together ? 1 : blocks + strips; }
};

Part partOf(const Call& call, int64_t index) {
  const AttentionProblem& problem = *call.problem;
  if (call.together) return Part{0, problem.queries, 0, problem.keys, true, true};
  if (index < call.blocks) {
    const int64_t key = index * blockKeys;
    return Part{0, problem.queries, key, smaller(problem.keys - key, blockKeys), false, true};
  }
  const int64_t row = (index - call.blocks) * stripRows;
  return Part{row, smaller(problem.queries - row, stripRows), 0, problem.keys, true, false};
}

void partTask(void* context, int64_t task, int worker) {
  const Call& call = *static_cast<const Call*>(context);
  const AttentionProblem& problem = *call.problem;
  const Head head = headAt(problem, task / call.tasks());
  const Part part = partOf(call, task % call.tasks());
  const int64_t sumRows = part.forQueries ? part.rows : 0;
  ScratchCutter measure{nullptr, 0};
  takeBuffers(measure, head, part.rows, sumRows);
  ScratchCutter cutter{static_cast<char*>(scratch(call.pool, worker, 0, static_cast<size_t>(measure.used))), 0};
  const Buffers buffers = takeBuffers(cutter, head, part.rows, sumRows);
  prepareQueries(head, buffers, part);
  if (part.forQueries) clear(buffers.dq, part.rows * head.widthPadded);
  for (int64_t key = part.key; key < part.key + part.keys; key += blockKeys) takeKeys(head, buffers, part, key);
  if (part.forQueries) storeTimes(head, problem.dq, part.row, part.rows, buffers.dq);
}

}  // namespace

void attentionBackward(Pool* pool, const AttentionProblem& problem) {
  const int64_t heads = problem.batch * problem.heads;
  if (heads <= 0) return;
  const bool fits = problem.queries * roundUp(problem.width, lanes) <= mostSums;
  Call call{pool, &problem, fits && heads >= leastHeads, ceilDivide(problem.keys, blockKeys),
            ceilDivide(problem.queries, stripRows)};
  parallelFor(pool, heads * call.tasks(), partTask, &call);
}

}  // namespace BINADE_ISA
}  // namespace binade
