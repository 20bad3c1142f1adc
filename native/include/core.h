// Shared vocabulary of the native kernels: worker pool, matrix views, tile sinks. Knows nothing of Node.
#pragma once
#include <cstddef>
#include <cstdint>

#include "abi.h"

namespace binade {

/// A fixed set of worker threads. Work is split into tasks by shape alone, so results never depend on the thread count.
struct Pool;

/// One task of a parallel loop. `worker` is in [0, workerCount(pool)) and is unique among tasks running at that moment.
using Task = void (*)(void* context, int64_t task, int worker);

/// Creates a pool that runs tasks on `threads` workers, the calling thread included. `threads` >= 1.
Pool* createPool(int threads);
void destroyPool(Pool* pool);
int workerCount(const Pool* pool);

/// Runs task(context, i, worker) for every i in [0, tasks); returns when all are done. With one task or one worker it runs inline and
/// wakes nobody. Each of W workers begins with the tasks [w tasks / W, (w + 1) tasks / W), in order, and takes others' once those are
/// gone. Number tasks by the outermost axis first: then a worker finds in its caches what it wrote in the loop before.
void parallelFor(Pool* pool, int64_t tasks, Task task, void* context);

/// Called by a task: returns when task(context, unit, worker) has run once, by whichever worker came first. Each of `units` units has a
/// byte of `states`, zero at first. While another worker is at this unit, later ones that nobody has begun are run, so that
/// workers in need of the same units share them. A unit must not wait for anything.
void ensureDone(uint8_t* states, int64_t units, int64_t unit, Task task, void* context, int worker);

/// Scratch memory of one worker, 64-byte aligned, at least `byteLength` long, kept (and grown, never shrunk) between
/// calls. `slot` in [0, 8) lets nested routines hold several at once; its content is undefined after any later call
/// for the same worker and slot.
void* scratch(Pool* pool, int worker, int slot, size_t byteLength);

/// Element (i, j) lies at data[i * rowStride + j * columnStride], strides in elements.
/// `storage` is the dtype in memory; `format` is the dtype whose values enter the product: when it is narrower, each
/// element is rounded to nearest even while packing (a fused cast).
struct MatrixView {
  const void* data;
  DType storage;
  DType format;
  int64_t rowStride;
  int64_t columnStride;
};

/// Receives finished float32 accumulators: `tile` is (rows, columns) with row stride `stride`, at (row, column) of the
/// product number `batch`. Called exactly once per element of the product, from any worker, concurrently.
struct TileSink {
  void (*write)(void* context, int64_t batch, int64_t row, int64_t column, int64_t rows, int64_t columns,
                const float* tile, int64_t stride, int worker);
  void* context;
};

/// C[b] = A[b] · B[b] for b in [0, batch): (m, k) × (k, n), accumulated in float32.
/// aOffsets/bOffsets hold each product's element offset from a.data/b.data (they may repeat: broadcasting).
struct GemmProblem {
  int64_t batch, m, n, k;
  MatrixView a, b;
  const int64_t* aOffsets;
  const int64_t* bOffsets;
};

/// (batch, channels, rows, columns) operand of a convolution, or a weight (outputs, channels, rows, columns): element
/// (n, c, y, x) at data[n * strides[0] + c * strides[1] + y * strides[2] + x]. Storage and format as in MatrixView.
struct ImageView {
  const void* data;
  DType storage, format;
  int64_t strides[3];
};

/// Along one axis, output o and tap k meet at input o * stride + k * dilation - before.
struct ConvolutionAxis {
  int64_t input, output, kernel, stride, dilation, before;
};

/// x (batch, groups · channels, input…) * w (groups · outputs, channels, kernel…) = (batch, groups · outputs, output…);
/// g is the cotangent of the result. Two of the three are read; axes are rows, then columns.
struct ConvolutionProblem {
  int64_t batch, groups, channels, outputs;
  ConvolutionAxis axes[2];
  ImageView x, w, g;
};

/// Receives finished float32 sums: `tile` holds pixels [pixel, pixel + pixels) of channels [channel, channel + channels)
/// of one picture, channels `stride` floats apart. Called exactly once per pixel, from any worker, concurrently.
/// With `direct` the sums are written there instead: pixel p of channel c of picture n at direct[n * directImage +
/// c * directChannel + p].
struct ImageSink {
  void (*write)(void* context, int64_t image, int64_t channel, int64_t channels, int64_t pixel, int64_t pixels,
                const float* tile, int64_t stride, int worker);
  void* context;
  float* direct;
  int64_t directImage, directChannel;
};

/// (B, T, H, D) operand of attention: element (b, t, h, d) at data[b * strides[0] + t * strides[1] + h * strides[2] + d].
struct HeadsView {
  void* data;
  DType dtype;
  int64_t strides[3];
};

/// softmax(scale · q kᵀ + mask) v per batch and head. Key j is visible to query i if !causal or j <= i + (keys - queries).
struct AttentionProblem {
  int64_t batch, queries, keys, heads, width;  // B, Tq, Tk, H, D
  float scale;
  bool causal;
  HeadsView q, k, v;  // (B, Tq, H, D), (B, Tk, H, D), (B, Tk, H, D): one dtype
  HeadsView out;      // (B, Tq, H, D); written by forward (null: not wanted), read by backward
  float* logSumExp;   // (B, H, Tq) contiguous; written by forward (null: not wanted), read by backward
  HeadsView g;        // (B, Tq, H, D), backward only: cotangent of out
  HeadsView dq, dk, dv;  // backward only, written; null data: not wanted
};

}  // namespace binade
