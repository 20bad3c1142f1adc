// Loads and stores of the pointwise engine: every dtype of at most 32 bits, contiguous, broadcast or strided.
#include "convert.h"
#include "vm.h"
#include "vm_math.h"

namespace binade {
namespace BINADE_ISA {

static void fill(float* lanes, float value, int64_t count) {
  for (int64_t i = 0; i < count; ++i) lanes[i] = value;
}

static void widenBytes(const uint8_t* __restrict source, float* __restrict lanes, int64_t count) {
  for (int64_t i = 0; i < count; ++i) lanes[i] = static_cast<float>(source[i]);
}

static void widenInt16(const int16_t* __restrict source, float* __restrict lanes, int64_t count) {
  for (int64_t i = 0; i < count; ++i) lanes[i] = static_cast<float>(source[i]);
}

static void narrowInt16(const float* __restrict lanes, int16_t* __restrict target, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const int32_t value = toInt32(lanes[i]);
    target[i] = static_cast<int16_t>(value < -32768 ? -32768 : (value > 32767 ? 32767 : value));
  }
}

static void narrowUint8(const float* __restrict lanes, uint8_t* __restrict target, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const int32_t value = toInt32(lanes[i]);
    target[i] = static_cast<uint8_t>(value < 0 ? 0 : (value > 255 ? 255 : value));
  }
}

static void narrowBoolean(const float* __restrict lanes, uint8_t* __restrict target, int64_t count) {
  for (int64_t i = 0; i < count; ++i) target[i] = lanes[i] != 0.0f ? 1 : 0;
}

static void loadContiguous(DType dtype, const void* source, float* lanes, int64_t count) {
  if (dtype == DType::uint8 || dtype == DType::boolean) {
    widenBytes(static_cast<const uint8_t*>(source), lanes, count);
  } else if (dtype == DType::int16) {
    widenInt16(static_cast<const int16_t*>(source), lanes, count);
  } else {
    widenArray(dtype, source, lanes, count);  // 32-bit integers are copied as they are
  }
}

static void storeContiguous(DType dtype, const float* lanes, void* target, int64_t count) {
  if (dtype == DType::uint8) {
    narrowUint8(lanes, static_cast<uint8_t*>(target), count);
  } else if (dtype == DType::boolean) {
    narrowBoolean(lanes, static_cast<uint8_t*>(target), count);
  } else if (dtype == DType::int16) {
    narrowInt16(lanes, static_cast<int16_t*>(target), count);
  } else {
    narrowArray(dtype, lanes, target, count);
  }
}

template <typename T>
static void pick(const void* source, int64_t stride, void* target, int64_t count) {
  const T* from = static_cast<const T*>(source);
  T* to = static_cast<T*>(target);
  for (int64_t i = 0; i < count; ++i) to[i] = from[i * stride];
}

template <typename T>
static void spread(const void* source, void* target, int64_t stride, int64_t count) {
  const T* from = static_cast<const T*>(source);
  T* to = static_cast<T*>(target);
  for (int64_t i = 0; i < count; ++i) to[i * stride] = from[i];
}

static int log2ByteLength(DType dtype) {
  if (dtype == DType::float16 || dtype == DType::bfloat16 || dtype == DType::int16) return 1;
  return dtype == DType::float32 || dtype == DType::int32 || dtype == DType::uint32 ? 2 : 0;
}

void loadLanes(DType dtype, const void* source, int64_t stride, float* lanes, int64_t count) {
  alignas(64) uint32_t packed[kBlockLanes];
  if (stride == 1) return loadContiguous(dtype, source, lanes, count);
  if (stride == 0) {
    float value;
    loadContiguous(dtype, source, &value, 1);
    return fill(lanes, value, count);
  }
  switch (log2ByteLength(dtype)) {
    case 0:
      pick<uint8_t>(source, stride, packed, count);
      break;
    case 1:
      pick<uint16_t>(source, stride, packed, count);
      break;
    default:
      pick<uint32_t>(source, stride, packed, count);
  }
  loadContiguous(dtype, packed, lanes, count);
}

void storeLanes(DType dtype, const float* lanes, void* target, int64_t stride, int64_t count) {
  alignas(64) uint32_t packed[kBlockLanes];
  if (stride == 1 || count == 1) return storeContiguous(dtype, lanes, target, count);
  storeContiguous(dtype, lanes, packed, count);
  switch (log2ByteLength(dtype)) {
    case 0:
      return spread<uint8_t>(packed, target, stride, count);
    case 1:
      return spread<uint16_t>(packed, target, stride, count);
    default:
      return spread<uint32_t>(packed, target, stride, count);
  }
}

}  // namespace BINADE_ISA
}  // namespace binade
