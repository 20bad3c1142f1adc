// The instructions of the pointwise engine: one loop over the lanes each, every float32 primitive rounded once.
#include "exponentials.h"
#include "loops.h"
#include "vm.h"
#include "vm_math.h"

namespace binade {
namespace BINADE_ISA {

/// Registers of one instruction. `count` is a multiple of 16; registers may coincide.
struct Lanes {
  float* dst;
  const float* a;
  const float* b;
  const float* c;
  int count;
};

template <typename F>
static inline void unary(const Lanes& lanes, F operation) {
  float* dst = lanes.dst;
  const float* a = lanes.a;
  const int count = lanes.count & ~15;
  BINADE_INDEPENDENT
  for (int i = 0; i < count; ++i) dst[i] = operation(a[i]);
}

/// As unary, for operations on vectors.
template <typename F>
static inline void unaryVectors(const Lanes& lanes, F operation) {
  forVectors(lanes.a, lanes.dst, lanes.count & ~15, operation);
}

template <typename F>
static inline void binary(const Lanes& lanes, F operation) {
  float* dst = lanes.dst;
  const float* a = lanes.a;
  const float* b = lanes.b;
  const int count = lanes.count & ~15;
  BINADE_INDEPENDENT
  for (int i = 0; i < count; ++i) dst[i] = operation(a[i], b[i]);
}

/// A binary operation on the bits of the lanes.
template <typename F>
static inline void integer(const Lanes& lanes, F operation) {
  binary(lanes, [operation](float a, float b) { return floatOfBits(operation(bitsOfFloat(a), bitsOfFloat(b))); });
}

template <typename F>
static inline void compareInteger(const Lanes& lanes, F operation) {
  binary(lanes, [operation](float a, float b) { return operation(bitsOfFloat(a), bitsOfFloat(b)) ? 1.0f : 0.0f; });
}

static inline int32_t asSigned(uint32_t bits) { return static_cast<int32_t>(bits); }

static inline float signOf(float a) { return a > 0.0f ? 1.0f : (a < 0.0f ? -1.0f : a); }

static inline float finiteOf(float a) { return (bitsOfFloat(a) & 0x7f800000u) != 0x7f800000u ? 1.0f : 0.0f; }

static void executeUnary(Opcode opcode, const Lanes& lanes) {
  switch (opcode) {
    case Opcode::neg: return unary(lanes, [](float a) { return -a; });
    case Opcode::abs: return unary(lanes, [](float a) { return absolute(a); });
    case Opcode::sign: return unary(lanes, [](float a) { return signOf(a); });
    case Opcode::floor: return unary(lanes, [](float a) { return floorOf(a); });
    case Opcode::ceil: return unary(lanes, [](float a) { return ceilOf(a); });
    case Opcode::round: return unary(lanes, [](float a) { return roundEven(a); });
    case Opcode::sqrt: return unary(lanes, [](float a) { return __builtin_sqrtf(a); });
    case Opcode::exp: return unaryVectors(lanes, [](auto a) { return expOf(a); });
    case Opcode::expm1: return unary(lanes, [](float a) { return expm1Of(a); });
    case Opcode::log: return unary(lanes, [](float a) { return logOf(a); });
    case Opcode::log1p: return unary(lanes, [](float a) { return log1pOf(a); });
    case Opcode::sin: return unary(lanes, [](float a) { return __builtin_sinf(a); });
    case Opcode::cos: return unary(lanes, [](float a) { return __builtin_cosf(a); });
    case Opcode::tanh: return unary(lanes, [](float a) { return tanhOf(a); });
    case Opcode::erf: return unaryVectors(lanes, [](auto a) { return erfOf(a); });
    default: return unary(lanes, [](float a) { return finiteOf(a); });
  }
}

static void executeBinary(Opcode opcode, const Lanes& lanes) {
  switch (opcode) {
    case Opcode::add: return binary(lanes, [](float a, float b) { return a + b; });
    case Opcode::sub: return binary(lanes, [](float a, float b) { return a - b; });
    case Opcode::mul: return binary(lanes, [](float a, float b) { return a * b; });
    case Opcode::div: return binary(lanes, [](float a, float b) { return a / b; });
    case Opcode::pow: return binary(lanes, [](float a, float b) { return __builtin_powf(a, b); });
    case Opcode::min: return binary(lanes, [](float a, float b) { return minOf(a, b); });
    case Opcode::max: return binary(lanes, [](float a, float b) { return maxOf(a, b); });
    case Opcode::eq: return binary(lanes, [](float a, float b) { return a == b ? 1.0f : 0.0f; });
    case Opcode::ne: return binary(lanes, [](float a, float b) { return a != b ? 1.0f : 0.0f; });
    case Opcode::lt: return binary(lanes, [](float a, float b) { return a < b ? 1.0f : 0.0f; });
    case Opcode::le: return binary(lanes, [](float a, float b) { return a <= b ? 1.0f : 0.0f; });
    case Opcode::gt: return binary(lanes, [](float a, float b) { return a > b ? 1.0f : 0.0f; });
    case Opcode::ge: return binary(lanes, [](float a, float b) { return a >= b ? 1.0f : 0.0f; });
    case Opcode::and_: return binary(lanes, [](float a, float b) { return (a != 0.0f) & (b != 0.0f) ? 1.0f : 0.0f; });
    default: return binary(lanes, [](float a, float b) { return (a != 0.0f) | (b != 0.0f) ? 1.0f : 0.0f; });
  }
}

/// Instructions that hold a literal: what pairs and longer runs of the others compute, operation by operation.
static void executeWithLiteral(Opcode opcode, const Lanes& lanes, float c) {
  switch (opcode) {
    case Opcode::addConstant: return unary(lanes, [c](float a) { return a + c; });
    case Opcode::mulConstant: return unary(lanes, [c](float a) { return a * c; });
    case Opcode::erfPlusOne: return unaryVectors(lanes, [c](auto a) { return erfOf(a * c) + 1.0f; });
    case Opcode::gaussian: return unaryVectors(lanes, [c](auto a) { return expOf((a * a) * c); });
    case Opcode::scaledSum: return binary(lanes, [c](float a, float b) { return a * c + b; });
    default: return binary(lanes, [c](float a, float b) { return (a * c) * b; });
  }
}

static void executeInteger(Opcode opcode, const Lanes& lanes) {
  using U = uint32_t;
  switch (opcode) {
    case Opcode::addInt: return integer(lanes, [](U a, U b) { return a + b; });
    case Opcode::subInt: return integer(lanes, [](U a, U b) { return a - b; });
    case Opcode::mulInt: return integer(lanes, [](U a, U b) { return a * b; });
    case Opcode::negInt: return unary(lanes, [](float a) { return floatOfBits(0u - bitsOfFloat(a)); });
    case Opcode::minInt: return integer(lanes, [](U a, U b) { return asSigned(a) < asSigned(b) ? a : b; });
    case Opcode::maxInt: return integer(lanes, [](U a, U b) { return asSigned(a) > asSigned(b) ? a : b; });
    case Opcode::minUint: return integer(lanes, [](U a, U b) { return a < b ? a : b; });
    case Opcode::maxUint: return integer(lanes, [](U a, U b) { return a > b ? a : b; });
    case Opcode::eqInt: return compareInteger(lanes, [](U a, U b) { return a == b; });
    case Opcode::neInt: return compareInteger(lanes, [](U a, U b) { return a != b; });
    case Opcode::ltInt: return compareInteger(lanes, [](U a, U b) { return asSigned(a) < asSigned(b); });
    case Opcode::leInt: return compareInteger(lanes, [](U a, U b) { return asSigned(a) <= asSigned(b); });
    case Opcode::ltUint: return compareInteger(lanes, [](U a, U b) { return a < b; });
    default: return compareInteger(lanes, [](U a, U b) { return a <= b; });
  }
}

static void roundLanes(DType format, const Lanes& lanes) {
  if (format == DType::bfloat16) return unary(lanes, [](float a) { return roundToBfloat16(a); });
  uint16_t narrow[kBlockLanes];
  narrowArray(format, lanes.a, narrow, lanes.count);
  widenArray(format, narrow, lanes.dst, lanes.count);
}

/// Both operands are read whole: compilers make masked loads of `condition ? b[i] : c[i]`, which wait for what an instruction before
/// has just stored.
static void selectLanes(const Lanes& lanes) {
  float* dst = lanes.dst;
  const float* condition = lanes.a;
  const float* b = lanes.b;
  const float* c = lanes.c;
  const int count = lanes.count & ~15;
  BINADE_INDEPENDENT
  for (int i = 0; i < count; ++i) {
    const uint32_t mask = condition[i] != 0.0f ? ~0u : 0u;
    dst[i] = floatOfBits((bitsOfFloat(b[i]) & mask) | (bitsOfFloat(c[i]) & ~mask));
  }
}

/// a · b + c, where the product rounds before it is added.
static void addProduct(const Lanes& lanes) {
  float* dst = lanes.dst;
  const float* a = lanes.a;
  const float* b = lanes.b;
  const float* c = lanes.c;
  const int count = lanes.count & ~15;
  BINADE_INDEPENDENT
  for (int i = 0; i < count; ++i) dst[i] = a[i] * b[i] + c[i];
}

void execute(const Instruction& instruction, float* registers, const float* const* sources, int count) {
  const Lanes lanes = {registers + instruction.dst * kBlockLanes, sources[instruction.a], sources[instruction.b],
                       sources[instruction.c], count};
  const Opcode opcode = instruction.opcode;
  if (opcode <= Opcode::isFinite) return executeUnary(opcode, lanes);
  if (opcode <= Opcode::or_) return executeBinary(opcode, lanes);
  if (opcode >= Opcode::addInt) return executeInteger(opcode, lanes);
  switch (opcode) {
    case Opcode::select: return selectLanes(lanes);
    case Opcode::productSum: return addProduct(lanes);
    case Opcode::constant: {
      const float value = floatOfBits(instruction.imm);
      return unary(lanes, [value](float) { return value; });
    }
    case Opcode::addConstant:
    case Opcode::mulConstant:
    case Opcode::erfPlusOne:
    case Opcode::gaussian:
    case Opcode::scaledSum:
    case Opcode::scaledProduct: return executeWithLiteral(opcode, lanes, floatOfBits(instruction.imm));
    case Opcode::roundFloat16: return roundLanes(DType::float16, lanes);
    case Opcode::roundBfloat16: return roundLanes(DType::bfloat16, lanes);
    case Opcode::roundFloat8E4m3fn: return roundLanes(DType::float8_e4m3fn, lanes);
    case Opcode::roundFloat8E5m2: return roundLanes(DType::float8_e5m2, lanes);
    case Opcode::toInt32: return unary(lanes, [](float a) { return floatOfBits(static_cast<uint32_t>(toInt32(a))); });
    case Opcode::toUint32: return unary(lanes, [](float a) { return floatOfBits(toUint32(a)); });
    case Opcode::fromInt32: return unary(lanes, [](float a) { return static_cast<float>(asSigned(bitsOfFloat(a))); });
    default: return unary(lanes, [](float a) { return fromUint32(bitsOfFloat(a)); });
  }
}

}  // namespace BINADE_ISA
}  // namespace binade
