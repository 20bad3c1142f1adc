// Checks convert.h against exact decoding: every narrow code, and float32 values around every rounding boundary.
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "kernels/convert.h"

using namespace binade;
using namespace binade::BINADE_ISA;

namespace {

struct Format {
  const char* name;
  DType dtype;
  int exponentBits, mantissaBits, bias;
  bool hasInfinity;
  uint32_t largest;  // code of the largest finite value
};

const Format formats[] = {
    {"float16", DType::float16, 5, 10, 15, true, 0x7bff},
    {"bfloat16", DType::bfloat16, 8, 7, 127, true, 0x7f7f},
    {"float8_e4m3fn", DType::float8_e4m3fn, 4, 3, 7, false, 0x7e},
    {"float8_e5m2", DType::float8_e5m2, 5, 2, 15, true, 0x7b},
};

int failures = 0;

void expect(bool ok, const Format& format, const char* what, uint32_t input, uint32_t got, uint32_t wanted) {
  if (ok || ++failures > 20) return;
  std::printf("%s %s of %08x: got %08x, expected %08x\n", format.name, what, input, got, wanted);
}

uint32_t signBit(const Format& format) { return 1u << (format.exponentBits + format.mantissaBits); }

/// The value of a code without its sign, from the format's definition.
double decode(const Format& format, uint32_t code) {
  const int ones = (1 << format.exponentBits) - 1;
  const int exponent = static_cast<int>(code >> format.mantissaBits) & ones;
  const auto mantissa = static_cast<double>(code & ((1u << format.mantissaBits) - 1u));
  if (exponent == ones && format.hasInfinity) return mantissa == 0 ? INFINITY : NAN;
  if (!format.hasInfinity && code == format.largest + 1) return NAN;
  const double fraction = mantissa / (1 << format.mantissaBits);
  return exponent == 0 ? std::ldexp(fraction, 1 - format.bias) : std::ldexp(1 + fraction, exponent - format.bias);
}

uint32_t narrowOne(const Format& format, float value) {
  uint16_t code[2] = {};
  narrowArray(format.dtype, &value, code, 1);
  return code[0];
}

void checkWidening(const Format& format) {
  for (uint32_t code = 0; code < 2 * signBit(format); ++code) {
    const uint16_t narrow[2] = {static_cast<uint16_t>(code), 0};
    float value;
    widenArray(format.dtype, narrow, &value, 1);
    const double wanted = decode(format, code & (signBit(format) - 1u));
    const bool negative = (code & signBit(format)) != 0;
    const bool same = std::isnan(wanted) ? std::isnan(value) : static_cast<double>(std::fabs(value)) == wanted;
    expect(same && std::signbit(value) == negative, format, "widening", code, bitsOfFloat(value), 0);
    expect(narrowOne(format, value) == code, format, "return", code, narrowOne(format, value), code);
  }
}

/// Nearest-even code of a non-negative value; `code` is the largest code whose value is not above it.
uint32_t nearestCode(const Format& format, double value, uint32_t code) {
  const double low = decode(format, code);
  // Beyond the largest finite value, rounding decides as if the binade went on; what rounds up overflows.
  const double high = code == format.largest ? 2 * low - decode(format, code - 1) : decode(format, code + 1);
  if (value - low != high - value) return value - low < high - value ? code : code + 1;
  return code + (code & 1u);
}

/// The code of a positive NaN: what fits of its payload, or the highest bit of it where that is 0.
uint32_t narrowNaN(const Format& format, uint32_t bits) {
  const uint32_t infinity = format.largest + 1, ones = (1u << format.mantissaBits) - 1u;
  if (!format.hasInfinity) return infinity;
  const uint32_t payload = (bits >> (23 - format.mantissaBits)) & ones;
  return infinity | (payload == 0 ? 1u << (format.mantissaBits - 1) : payload);
}

/// Of the blocks of 4096 bit patterns, every one, or (under a slow emulator) every `share`th is checked.
uint64_t share = 1;

void checkNarrowing(const Format& format) {
  uint32_t code = 0;
  for (uint64_t step = 0; step < 0x7fffffff; ++step) {
    // Of each 4096 bit patterns, those near the start, the middle and the end: all that decides a rounding.
    const uint64_t low = step & 0xfffu;
    if (low == 0 && (step >> 12) % share != 0) {
      step += 0xfff;
      continue;
    }
    if (low == 3) step += 0x7fd - 3;
    if (low == 0x803) step += 0xffd - 0x803;
    const auto bits = static_cast<uint32_t>(step);
    const float value = floatOfBits(bits);
    const uint32_t got = narrowOne(format, value);
    const uint32_t negative = narrowOne(format, -value);
    expect(negative == (got | signBit(format)), format, "negative", bits, negative, got);
    if (std::isnan(value)) {
      expect(got == narrowNaN(format, bits), format, "NaN", bits, got, narrowNaN(format, bits));
      continue;
    }
    while (code < format.largest && decode(format, code + 1) <= static_cast<double>(value)) ++code;
    const uint32_t wanted = std::isinf(value) ? format.largest + 1 : nearestCode(format, value, code);
    expect(got == wanted, format, "narrowing", bits, got, wanted);
  }
}

/// float16 arrays of every length up to 70, with NaNs and (every third) without, give the bits of the integer code:
/// vector bodies, tails and payloads.
void checkFloat16Arrays() {
  const Format& format = formats[0];
  for (int count = 0; count <= 70; ++count) {
    float wide[72], back[72];
    uint16_t narrow[72];
    for (int i = 0; i < 72; ++i) wide[i] = floatOfBits(static_cast<uint32_t>(i * 0x03a7f1c3u + count * 0x1b873593u));
    for (int i = 0; i < 72 && count % 3 == 0; ++i) wide[i] = floatOfBits(bitsOfFloat(wide[i]) & 0xbfffffffu);
    if (count % 3 == 1) wide[count / 2] = floatOfBits(0xff802001u);
    if (count % 3 == 2) wide[count / 2] = floatOfBits(0x7f800001u);
    for (int i = 0; i < 72; ++i) narrow[i] = 0x1234, back[i] = 7.0f;
    narrowFloat16(wide, narrow, count);
    widenFloat16(narrow, back, count);
    for (int i = 0; i < 72; ++i) {
      const uint16_t code = i < count ? floatToFloat16(wide[i]) : 0x1234;
      const float value = i < count ? float16ToFloat(code) : 7.0f;
      expect(narrow[i] == code, format, "array narrowing", bitsOfFloat(wide[i]), narrow[i], code);
      const uint32_t got = bitsOfFloat(back[i]), wanted = bitsOfFloat(value);
      expect(got == wanted, format, "array widening", code, got, wanted);
    }
  }
}

}  // namespace

/// Argument: the share; default 1.
int main(int argc, char** argv) {
  if (argc > 1) share = std::strtoull(argv[1], nullptr, 10);
  for (const Format& format : formats) {
    checkWidening(format);
    checkNarrowing(format);
  }
  checkFloat16Arrays();
  if (failures > 0) std::printf("convert_test: %d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
