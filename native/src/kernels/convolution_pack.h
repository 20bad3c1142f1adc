// Weights packed for the register kernel: a panel holds a strip of rows, widened or rounded, or paired by channels.
#pragma once
#include "convolution_plan.h"

namespace binade {
namespace BINADE_ISA {

namespace {

struct PackJob {
  const Plan* plan;
  const ConvolutionProblem* problem;
  int64_t panelsPerTask;
};

float roundedTo(DType format, float value) {
  if (format == DType::bfloat16) return bfloat16ToFloat(floatToBfloat16(value));
  return format == DType::float16 ? float16ToFloat(floatToFloat16(value)) : value;
}

/// The weights of one phase, for one strip: (words, taps, slideRows), of which the strip's rows are written.
template <DType storage>
void packPanel(const PackJob& job, int64_t group, int64_t phase, int64_t strip) {
  const Plan& plan = *job.plan;
  const ImageView& w = job.problem->w;
  const char* data = static_cast<const char*>(w.data);
  const int64_t firstTap = plan.tapStart[phase], taps = plan.tapStart[phase + 1] - firstTap;
  const int64_t rowStride = w.strides[plan.gradient ? 1 : 0], channelStride = w.strides[plan.gradient ? 0 : 1];
  const int64_t start = plan.stripStarts[strip], height = plan.stripStarts[strip + 1] - start;
  float* panel = plan.packed + group * plan.packedLength +
                 (firstTap * plan.strips + taps * strip) * plan.words * slideRows;
  const int64_t perWord = plan.pairs ? 2 : 1;
  const int64_t base = group * job.problem->outputs * w.strides[0];
  for (int64_t i = 0; i < height; ++i) {
    float* target = panel + i;
    for (int64_t word = 0; word < plan.words; ++word) {
      const int64_t channel = word * perWord;
      const int64_t at = base + (start + i) * rowStride + channel * channelStride;
      for (int64_t t = firstTap; t < firstTap + taps; ++t, target += slideRows) {
        const int64_t index = at + plan.tapY[t] * w.strides[2] + plan.tapX[t];
        const float low = wideElement<storage>(data, index);
        if (!plan.pairs) {
          *target = w.format == storage ? low : roundedTo(w.format, low);
          continue;
        }
        const float high = channel + 1 < plan.channels ? wideElement<storage>(data, index + channelStride) : 0.0f;
        *target = floatOfBits(floatToBfloat16(low) | static_cast<uint32_t>(floatToBfloat16(high)) << 16);
      }
    }
  }
}

void packTask(void* context, int64_t task, int) {
  const PackJob& job = *static_cast<const PackJob*>(context);
  const int64_t strips = job.plan->strips, panels = job.plan->phases * strips;
  const int64_t end = least((task + 1) * job.panelsPerTask, job.problem->groups * panels);
  for (int64_t index = task * job.panelsPerTask; index < end; ++index) {
    const int64_t group = index / panels, phase = index % panels / strips, strip = index % strips;
    switch (job.problem->w.storage) {
      case DType::float32:
        packPanel<DType::float32>(job, group, phase, strip);
        break;
      case DType::bfloat16:
        packPanel<DType::bfloat16>(job, group, phase, strip);
        break;
      default:
        packPanel<DType::float16>(job, group, phase, strip);
    }
  }
}

/// Packs all weights of a problem into plan.packed.
void packWeights(Pool* pool, const Plan& plan, const ConvolutionProblem& problem) {
  const int64_t panels = problem.groups * plan.phases * plan.strips;
  PackJob job = {&plan, &problem, most(packWork / most(problem.groups * plan.packedLength / panels, 1), 1)};
  parallelFor(pool, partsOf(panels, job.panelsPerTask), packTask, &job);
}

}  // namespace

}  // namespace BINADE_ISA
}  // namespace binade
