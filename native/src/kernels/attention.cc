// Attention, forward and backward: one (batch, head) pair at a time, blocks of query rows against all visible keys.
//
// Scores of a block are a whole row deep, (blockRows, keys) floats, so the softmax is the plain one with the row's
// maximum; keys that causality hides from every query of the block are never computed. Below, R is the block's number
// of query rows, V the number of keys its last query sees, D the head's width.
#include "attention.h"

#include "attention_rows.h"

namespace binade {
namespace BINADE_ISA {

namespace {

constexpr int64_t blockRows = 56 / panelRows * panelRows;
constexpr int64_t wantedTasks = 16;  // fewer (batch, head) pairs than this also split the queries

/// Cuts one scratch allocation into 64-byte aligned arrays; with a null start it only measures.
struct Arena {
  char* start;
  int64_t used;

  char* bytes(int64_t byteLength) {
    char* here = start == nullptr ? nullptr : start + used;
    used += roundUp(byteLength, 64);
    return here;
  }
  float* floats(int64_t count) { return reinterpret_cast<float*>(bytes(count * 4)); }
};

/// One (batch, head) pair of a problem.
struct Head {
  const AttentionProblem* problem;
  int64_t batch, head;
  DType dtype;
  bool pairs;
  int64_t keysPadded, widthPadded;  // row strides of scores and of (·, D) tiles
};

Head headAt(const AttentionProblem& problem, int64_t index) {
  return Head{&problem,
              index / problem.heads,
              index % problem.heads,
              problem.q.dtype,
              usesPairs(problem.q.dtype, problem.q.dtype),
              roundUp(problem.keys, panelColumns),
              roundUp(problem.width, panelColumns)};
}

char* rowOf(const Head& head, const HeadsView& view, int64_t time) {
  const int64_t element = head.batch * view.strides[0] + time * view.strides[1] + head.head * view.strides[2];
  return static_cast<char*>(view.data) + element * byteWidth(view.dtype);
}

/// Times [first, first + count) of a view as `count` packed rows of depth D.
Operand timeRows(const Head& head, const HeadsView& view, int64_t first, int64_t count) {
  return Operand{rowOf(head, view, first), view.dtype, head.dtype, view.strides[1], 1, count, head.problem->width};
}

/// Times [first, first + count) of a view as D packed rows of depth `count`.
Operand widthRows(const Head& head, const HeadsView& view, int64_t first, int64_t count) {
  return Operand{rowOf(head, view, first), view.dtype, head.dtype, 1, view.strides[1], head.problem->width, count};
}

/// A (rows, keysPadded) matrix of scores, probabilities or their gradients: float32 in memory as it was computed, and,
/// for 16-bit problems, rounded beside it. Its first `columns` columns take part in products.
struct Scores {
  float* wide;
  char* narrow;  // null for float32
};

Scores takeScores(Arena& arena, const Head& head) {
  const int64_t count = blockRows * head.keysPadded;
  Scores scores{arena.floats(count), nullptr};
  if (head.dtype != DType::float32) scores.narrow = arena.bytes(count * 2);
  return scores;
}

void roundRow(const Head& head, const Scores& scores, int64_t row, int64_t columns) {
  if (head.dtype == DType::float32) return;
  const int64_t at = row * head.keysPadded;
  narrowArray(head.dtype, scores.wide + at, scores.narrow + at * 2, columns);
}

const char* roundedScores(const Head& head, const Scores& scores) {
  return head.dtype == DType::float32 ? reinterpret_cast<const char*>(scores.wide) : scores.narrow;
}

/// The R rows of depth V, or the V rows of depth R of the transpose.
Operand scoreRows(const Head& head, const Scores& scores, int64_t rows, int64_t visible) {
  return Operand{roundedScores(head, scores), head.dtype, head.dtype, head.keysPadded, 1, rows, visible};
}

Operand scoreColumns(const Head& head, const Scores& scores, int64_t rows, int64_t visible) {
  return Operand{roundedScores(head, scores), head.dtype, head.dtype, 1, head.keysPadded, visible, rows};
}

/// c (rows, columns), row stride `stride`, = or += A · B over all of A's depth.
void multiplyWhole(const Head& head, const Packed& a, const Packed& b, int64_t rows, int64_t columns, float* c,
                   int64_t stride, bool accumulate) {
  multiplyTile(head.pairs, a, b, Tile{0, rows, 0, columns, 0, a.depthWords}, c, stride, accumulate);
}

/// How many keys query `row` sees.
int64_t visibleKeys(const AttentionProblem& problem, int64_t row) {
  if (!problem.causal) return problem.keys;
  return smaller(larger(row + 1 + problem.keys - problem.queries, 0), problem.keys);
}

void storeRows(const Head& head, const HeadsView& view, int64_t first, int64_t rows, const float* tile) {
  for (int64_t i = 0; i < rows; ++i)
    narrowArray(view.dtype, tile + i * head.widthPadded, rowOf(head, view, first + i), head.problem->width);
}

float* logSumExpOf(const Head& head) {
  const AttentionProblem& problem = *head.problem;
  return problem.logSumExp + (head.batch * problem.heads + head.head) * problem.queries;
}

// --- Forward ------------------------------------------------------------------------------------------------------

struct ForwardBuffers {
  float* kPacked;  // keys as columns, depth D
  float* vPacked;  // D as columns, depth keys
  float* aPacked;  // q (R, D), then probabilities (R, V)
  Scores scores;   // (R, keysPadded)
  float* tile;     // (R, widthPadded)
};

ForwardBuffers takeForward(Arena& arena, const Head& head) {
  const AttentionProblem& problem = *head.problem;
  const int64_t widthWords = wordsOf(problem.width, head.pairs);
  const int64_t keyWords = wordsOf(problem.keys, head.pairs);
  ForwardBuffers buffers;
  buffers.kPacked = arena.floats(packedLength(problem.keys, panelColumns, widthWords));
  buffers.vPacked = arena.floats(packedLength(problem.width, panelColumns, keyWords));
  buffers.aPacked = arena.floats(packedLength(blockRows, panelRows, larger(widthWords, keyWords)));
  buffers.scores = takeScores(arena, head);
  buffers.tile = arena.floats(blockRows * head.widthPadded);
  return buffers;
}

/// Probabilities of one row in place, and its log-sum-exp.
void softmaxRow(const Head& head, const Scores& scores, int64_t row, int64_t visible, int64_t padded,
                float* logSumExp) {
  float* values = scores.wide + row * head.keysPadded;
  if (visible == 0) {
    for (int64_t j = 0; j < padded; ++j) values[j] = 0.0f;
    *logSumExp = -infinity();
  } else {
    float maximum;
    const float sum = exponentiateRow(values, visible, padded, head.problem->scale, &maximum);
    const float reciprocal = 1.0f / sum;
    for (int64_t j = 0; j < padded; ++j) values[j] *= reciprocal;
    *logSumExp = maximum + __builtin_logf(sum);
  }
  roundRow(head, scores, row, padded);
}

/// Queries [first, first + rows).
void forwardBlock(const Head& head, const ForwardBuffers& buffers, const Packed& k, const Packed& v, int64_t first,
                  int64_t rows) {
  const AttentionProblem& problem = *head.problem;
  const int64_t visible = visibleKeys(problem, first + rows - 1);
  const int64_t padded = roundUp(visible, panelColumns);
  const Packed q = packWhole<panelRows>(timeRows(head, problem.q, first, rows), head.pairs, buffers.aPacked);
  multiplyWhole(head, q, k, rows, visible, buffers.scores.wide, head.keysPadded, false);
  for (int64_t i = 0; i < rows; ++i) {
    float unwanted;
    float* logSumExp = problem.logSumExp == nullptr ? &unwanted : logSumExpOf(head) + first + i;
    softmaxRow(head, buffers.scores, i, visibleKeys(problem, first + i), padded, logSumExp);
  }
  if (problem.out.data == nullptr) return;
  const Operand probabilities = scoreRows(head, buffers.scores, rows, visible);
  const Packed p = packWhole<panelRows>(probabilities, head.pairs, buffers.aPacked);
  multiplyWhole(head, p, v, rows, problem.width, buffers.tile, head.widthPadded, false);
  storeRows(head, problem.out, first, rows, buffers.tile);
}

/// How many tasks share the queries of one (batch, head) pair; a function of shape.
int64_t queryParts(const AttentionProblem& problem) {
  const int64_t parts = ceilDivide(wantedTasks, problem.batch * problem.heads);
  return larger(smaller(parts, ceilDivide(problem.queries, blockRows)), 1);
}

struct Call {
  Pool* pool;
  const AttentionProblem* problem;
};

void forwardTask(void* context, int64_t task, int worker) {
  const Call& call = *static_cast<const Call*>(context);
  const AttentionProblem& problem = *call.problem;
  const int64_t parts = queryParts(problem);
  const Head head = headAt(problem, task / parts);
  Arena measure{nullptr, 0};
  takeForward(measure, head);
  Arena arena{static_cast<char*>(scratch(call.pool, worker, 0, static_cast<size_t>(measure.used))), 0};
  const ForwardBuffers buffers = takeForward(arena, head);

  const int64_t partRows = roundUp(ceilDivide(problem.queries, parts), blockRows);
  const int64_t start = task % parts * partRows;
  const int64_t end = smaller(start + partRows, problem.queries);
  if (start >= end) return;
  const int64_t visible = visibleKeys(problem, end - 1);
  const Packed k = packWhole<panelColumns>(timeRows(head, problem.k, 0, visible), head.pairs, buffers.kPacked);
  const Packed v = packWhole<panelColumns>(widthRows(head, problem.v, 0, visible), head.pairs, buffers.vPacked);
  for (int64_t first = start; first < end; first += blockRows)
    forwardBlock(head, buffers, k, v, first, smaller(blockRows, end - first));
}

// --- Backward -----------------------------------------------------------------------------------------------------

struct BackwardBuffers {
  float* kColumns;      // keys as columns, depth D: for q kᵀ
  float* vColumns;      // keys as columns, depth D: for g vᵀ
  float* kWidth;        // D as columns, depth keys: for ds k
  float* aPacked;       // q, g (R, D); ds (R, V); pᵀ, dsᵀ (V, R)
  float* bPacked;       // g, q with D as columns, depth R
  Scores p, ds;         // (R, keysPadded)
  float *dkSum, *dvSum; // (keys, widthPadded)
  float* tile;          // (R, widthPadded)
  float *gRow, *outRow; // (widthPadded)
};

BackwardBuffers takeBackward(Arena& arena, const Head& head) {
  const AttentionProblem& problem = *head.problem;
  const int64_t widthWords = wordsOf(problem.width, head.pairs);
  const int64_t keyWords = wordsOf(problem.keys, head.pairs);
  const int64_t rowWords = wordsOf(blockRows, head.pairs);
  const int64_t byRows = packedLength(blockRows, panelRows, larger(widthWords, keyWords));
  const int64_t byKeys = packedLength(problem.keys, panelRows, rowWords);
  BackwardBuffers buffers;
  buffers.kColumns = arena.floats(packedLength(problem.keys, panelColumns, widthWords));
  buffers.vColumns = arena.floats(packedLength(problem.keys, panelColumns, widthWords));
  buffers.kWidth = arena.floats(packedLength(problem.width, panelColumns, keyWords));
  buffers.aPacked = arena.floats(larger(byRows, byKeys));
  buffers.bPacked = arena.floats(packedLength(problem.width, panelColumns, rowWords));
  buffers.p = takeScores(arena, head);
  buffers.ds = takeScores(arena, head);
  buffers.dkSum = arena.floats(problem.keys * head.widthPadded);
  buffers.dvSum = arena.floats(problem.keys * head.widthPadded);
  buffers.tile = arena.floats(blockRows * head.widthPadded);
  buffers.gRow = arena.floats(head.widthPadded);
  buffers.outRow = arena.floats(head.widthPadded);
  return buffers;
}

/// rowsum(g · out) of one query; the rows' padding must already be zero.
float rowDelta(const Head& head, const BackwardBuffers& buffers, int64_t row) {
  const AttentionProblem& problem = *head.problem;
  widenArray(problem.g.dtype, rowOf(head, problem.g, row), buffers.gRow, problem.width);
  widenArray(problem.out.dtype, rowOf(head, problem.out, row), buffers.outRow, problem.width);
  return dotRow(buffers.gRow, buffers.outRow, head.widthPadded);
}

/// Turns raw scores and g vᵀ of a block, in buffers.p and buffers.ds, into p and ds.
void gradientRows(const Head& head, const BackwardBuffers& buffers, int64_t first, int64_t rows, int64_t padded) {
  const AttentionProblem& problem = *head.problem;
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t visible = visibleKeys(problem, first + i);
    const float logSumExp = logSumExpOf(head)[first + i];
    float* p = buffers.p.wide + i * head.keysPadded;
    float* ds = buffers.ds.wide + i * head.keysPadded;
    probabilityRow(p, visible, padded, problem.scale, logSumExp);
    scoreGradientRow(p, ds, visible, padded, problem.scale, rowDelta(head, buffers, first + i));
    roundRow(head, buffers.p, i, padded);
    roundRow(head, buffers.ds, i, padded);
  }
}

/// sum (V, widthPadded) += scoresᵀ · rows of `view` [first, first + rows).
void addTransposed(const Head& head, const BackwardBuffers& buffers, const Scores& scores, const HeadsView& view,
                   int64_t first, int64_t rows, int64_t visible, float* sum) {
  const Operand left = scoreColumns(head, scores, rows, visible);
  const Packed a = packWhole<panelRows>(left, head.pairs, buffers.aPacked);
  const Packed b = packWhole<panelColumns>(widthRows(head, view, first, rows), head.pairs, buffers.bPacked);
  multiplyWhole(head, a, b, visible, head.problem->width, sum, head.widthPadded, true);
}

/// Queries [first, first + rows): their dq, and their part of dk and dv.
void backwardBlock(const Head& head, const BackwardBuffers& buffers, int64_t first, int64_t rows) {
  const AttentionProblem& problem = *head.problem;
  const int64_t visible = visibleKeys(problem, first + rows - 1);
  const int64_t widthWords = wordsOf(problem.width, head.pairs);
  const Packed kColumns{buffers.kColumns, widthWords};
  const Packed vColumns{buffers.vColumns, widthWords};
  const Packed q = packWhole<panelRows>(timeRows(head, problem.q, first, rows), head.pairs, buffers.aPacked);
  multiplyWhole(head, q, kColumns, rows, visible, buffers.p.wide, head.keysPadded, false);
  const Packed g = packWhole<panelRows>(timeRows(head, problem.g, first, rows), head.pairs, buffers.aPacked);
  multiplyWhole(head, g, vColumns, rows, visible, buffers.ds.wide, head.keysPadded, false);
  gradientRows(head, buffers, first, rows, roundUp(visible, panelColumns));
  if (problem.dv.data != nullptr)
    addTransposed(head, buffers, buffers.p, problem.g, first, rows, visible, buffers.dvSum);
  if (problem.dk.data != nullptr)
    addTransposed(head, buffers, buffers.ds, problem.q, first, rows, visible, buffers.dkSum);
  if (problem.dq.data == nullptr) return;
  const Packed ds =
      packWhole<panelRows>(scoreRows(head, buffers.ds, rows, visible), head.pairs, buffers.aPacked);
  const Packed k{buffers.kWidth, wordsOf(problem.keys, head.pairs)};
  multiplyWhole(head, ds, k, rows, problem.width, buffers.tile, head.widthPadded, false);
  storeRows(head, problem.dq, first, rows, buffers.tile);
}

void backwardTask(void* context, int64_t task, int worker) {
  const Call& call = *static_cast<const Call*>(context);
  const AttentionProblem& problem = *call.problem;
  const Head head = headAt(problem, task);
  Arena measure{nullptr, 0};
  takeBackward(measure, head);
  Arena arena{static_cast<char*>(scratch(call.pool, worker, 0, static_cast<size_t>(measure.used))), 0};
  const BackwardBuffers buffers = takeBackward(arena, head);

  for (int64_t i = 0; i < problem.keys * head.widthPadded; ++i) buffers.dkSum[i] = buffers.dvSum[i] = 0.0f;
  for (int64_t i = problem.width; i < head.widthPadded; ++i) buffers.gRow[i] = buffers.outRow[i] = 0.0f;
  packWhole<panelColumns>(timeRows(head, problem.k, 0, problem.keys), head.pairs, buffers.kColumns);
  packWhole<panelColumns>(timeRows(head, problem.v, 0, problem.keys), head.pairs, buffers.vColumns);
  packWhole<panelColumns>(widthRows(head, problem.k, 0, problem.keys), head.pairs, buffers.kWidth);
  for (int64_t first = 0; first < problem.queries; first += blockRows)
    backwardBlock(head, buffers, first, smaller(blockRows, problem.queries - first));
  if (problem.dk.data != nullptr) storeRows(head, problem.dk, 0, problem.keys, buffers.dkSum);
  if (problem.dv.data != nullptr) storeRows(head, problem.dv, 0, problem.keys, buffers.dvSum);
}

}  // namespace

void attention(Pool* pool, const AttentionProblem& problem) {
  Call call{pool, &problem};
  if (problem.batch * problem.heads <= 0 || problem.queries <= 0) return;
  parallelFor(pool, problem.batch * problem.heads * queryParts(problem), forwardTask, &call);
}

void attentionBackward(Pool* pool, const AttentionProblem& problem) {
  Call call{pool, &problem};
  if (problem.batch * problem.heads <= 0) return;
  parallelFor(pool, problem.batch * problem.heads, backwardTask, &call);
}

}  // namespace BINADE_ISA
}  // namespace binade
