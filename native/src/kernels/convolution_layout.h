// Where staged pictures lie: outputs and taps of an axis by the phases of its stride, and the layout in scratch.
//
// Along one axis, position r of phase f holds picture element stride · (r + origin) + residue[f] − before, or 0 outside the
// picture. Outputs count in q; the tap k of output q lies at position q − first + shift[k] of phase phaseOf[k], so that
// neighbouring outputs read neighbouring positions. The convolution itself splits its input by phases and has one phase of
// outputs; its input gradient has one phase of input and splits its outputs: output stride · q + f − before meets
// cotangent q − ⌊k · dilation / stride⌋ for the taps with k · dilation ≡ f.
#pragma once
#include "core.h"

namespace binade {
namespace BINADE_ISA {

constexpr int64_t wantedUnits = 16;    // enough for eight workers that finish at different times
constexpr int64_t packWork = 1 << 12;  // weights under which panels share a task

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t partsOf(int64_t a, int64_t b) { return (a + b - 1) / b; }
static inline int64_t multipleOf(int64_t a, int64_t b) { return partsOf(a, b) * b; }
/// The size of the fewest parts of at most `limit` that `count` has, if all are alike.
static inline int64_t evenly(int64_t count, int64_t limit) { return partsOf(count, partsOf(count, limit)); }
/// ⌈a / b⌉ for a of either sign.
static inline int64_t ceilQuotient(int64_t a, int64_t b) { return a >= 0 ? (a + b - 1) / b : -(-a / b); }
static inline int64_t byteLengthOfElement(DType dtype) { return dtype == DType::float32 ? 4 : 2; }

/// Cuts one scratch allocation into 64-byte aligned arrays; with a null start it only measures.
struct Cut {
  char* start;
  int64_t used;

  char* bytes(int64_t byteLength) {
    char* here = start == nullptr ? nullptr : start + used;
    used += multipleOf(byteLength, 64);
    return here;
  }
  int64_t* words(int64_t count) { return reinterpret_cast<int64_t*>(bytes(count * 8)); }
};

struct StagedAxis {
  ConvolutionAxis axis;
  bool gradient;
  int64_t reach;                 // the largest shift
  int64_t first, end;            // q of all outputs
  int64_t outputPhases;          // 1, or the stride
  int64_t stride, before, source;  // of staging; extent of what is staged
  int64_t result;                // extent of the outputs
  int64_t *shift, *phaseOf;      // [kernel]; phaseOf: of the staged input, or (gradient) of the outputs
  int64_t phases, *residue;      // [phases] of the staged input
};

/// The outputs [first, first + count) in q of one axis.
struct Band {
  int64_t first, count;
};

/// Fills the tables of one axis from `cut`, or only measures them.
static inline StagedAxis stageAxis(const ConvolutionAxis& axis, bool gradient, Cut* cut) {
  StagedAxis staged = {};
  staged.axis = axis;
  staged.gradient = gradient;
  staged.reach = (axis.kernel - 1) * axis.dilation / axis.stride;
  staged.first = gradient ? ceilQuotient(axis.before - axis.stride + 1, axis.stride) : 0;
  staged.end = gradient ? ceilQuotient(axis.input + axis.before, axis.stride) : axis.output;
  staged.outputPhases = gradient ? axis.stride : 1;
  staged.stride = gradient ? 1 : axis.stride;
  staged.before = gradient ? 0 : axis.before;
  staged.source = gradient ? axis.output : axis.input;
  staged.result = gradient ? axis.input : axis.output;
  staged.shift = cut->words(axis.kernel);
  staged.phaseOf = cut->words(axis.kernel);
  staged.residue = cut->words(axis.kernel);
  if (cut->start == nullptr) return staged;
  staged.phases = gradient ? 1 : 0;
  staged.residue[0] = 0;
  for (int64_t k = 0; k < axis.kernel; ++k) {
    const int64_t residue = k * axis.dilation % axis.stride;
    const int64_t quotient = k * axis.dilation / axis.stride;
    staged.shift[k] = gradient ? staged.reach - quotient : quotient;
    staged.phaseOf[k] = residue;
    if (gradient) continue;
    int64_t phase = 0;
    while (phase < staged.phases && staged.residue[phase] != residue) ++phase;
    staged.residue[phase] = residue;
    staged.phases = most(staged.phases, phase + 1);
    staged.phaseOf[k] = phase;
  }
  return staged;
}

/// The q of one phase of outputs.
static inline int64_t firstOutput(const StagedAxis& axis, int64_t phase) {
  return axis.gradient ? ceilQuotient(axis.axis.before - phase, axis.axis.stride) : axis.first;
}
static inline int64_t endOutput(const StagedAxis& axis, int64_t phase) {
  return axis.gradient ? ceilQuotient(axis.axis.input + axis.axis.before - phase, axis.axis.stride) : axis.end;
}
/// The most outputs that one phase has.
static inline int64_t mostOutputs(const StagedAxis& axis) {
  int64_t count = 0;
  for (int64_t phase = 0; phase < axis.outputPhases; ++phase)
    count = most(count, endOutput(axis, phase) - firstOutput(axis, phase));
  return count;
}

/// The place of output q of a phase in the result.
static inline int64_t outputAt(const StagedAxis& axis, int64_t phase, int64_t q) {
  return axis.gradient ? axis.axis.stride * q + phase - axis.axis.before : q;
}

/// Position 0 of outputs from `first` on, as an index of the source's phases.
static inline int64_t originOf(const StagedAxis& axis, int64_t first) {
  return axis.gradient ? first - axis.reach : first;
}

/// Staged pictures (images, words, row phases, rows, column phases, pitch), in elements of one word each.
struct StageLayout {
  int64_t words;           // channels, or pairs of channels
  int64_t rows, pitch;
  int64_t rowLength, wordLength, imageLength;
};

static inline StageLayout layoutOf(const StagedAxis& y, const StagedAxis& x, int64_t bandRows, int64_t bandColumns,
                                   int64_t words) {
  StageLayout layout = {};
  layout.words = words;
  layout.rows = bandRows + y.reach;
  layout.pitch = bandColumns + x.reach;
  layout.rowLength = x.phases * layout.pitch;
  layout.wordLength = y.phases * layout.rows * layout.rowLength;
  layout.imageLength = words * layout.wordLength;
  return layout;
}

/// Where tap (ky, kx) reads, relative to where tap position (0, 0) of phase (0, 0) does.
static inline int64_t tapShift(const StagedAxis& y, const StagedAxis& x, const StageLayout& layout, int64_t ky,
                               int64_t kx) {
  const int64_t yPhase = y.gradient ? 0 : y.phaseOf[ky], xPhase = x.gradient ? 0 : x.phaseOf[kx];
  return (yPhase * layout.rows + y.shift[ky]) * layout.rowLength + xPhase * layout.pitch + x.shift[kx];
}

}  // namespace BINADE_ISA
}  // namespace binade
