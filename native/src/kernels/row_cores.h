// Functions of whole rows: softmax and its relatives, normalisation, cross-entropy, and their cotangents.
#pragma once
#include "vm.h"

namespace binade {
namespace BINADE_ISA {

/// One row: `buffers` holds the core's inputs, then its outputs; `length` lanes each, or one lane.
struct Row {
  float* const* buffers;
  int64_t length;
  const int64_t* parameters;
};

/// A label that is neither in range nor the ignored one.
struct BadLabel {
  bool found;
  int32_t label;
};

constexpr int kMaxCoreBuffers = 4;

/// Whether buffer `index` (inputs, then outputs) of a core holds one lane per row.
bool isPerRow(RowCore core, int index);

/// Computes one row's outputs. Rows are summed in an order that follows from their length.
BadLabel runCore(RowCore core, const Row& row);

}  // namespace BINADE_ISA
}  // namespace binade
