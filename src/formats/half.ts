/** Integer code that converts whole arrays between float32 bits and 16-bit float bits, round to nearest even. */

const ABSOLUTE = 0x7fffffff;
/** Bits of float32 infinity; greater magnitudes are NaN. */
const INFINITY32 = 0x7f800000;

function bitsOf(values: Float32Array): Int32Array {
  return new Int32Array(values.buffer, values.byteOffset, values.length);
}

/** Payload of a NaN, made quiet where nothing of it is left: that would read as infinity. */
const payloadOr = (payload: number, quiet: number): number => (payload === 0 ? quiet : payload);

/**
 * bfloat16 bits of float32 bits. The sum carries into the exponent, which is right for every binade and turns the
 * largest numbers into infinity. A NaN keeps its sign and upper payload: rounded as a number, 0x7fffffff would wrap
 * around to -0.
 */
function bfloat16Bits(bits: number): number {
  if ((bits & ABSOLUTE) > INFINITY32) return ((bits >>> 16) & 0xff80) | payloadOr((bits >>> 16) & 0x7f, 0x40);
  return (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16;
}

/** float16 bits of float32 bits. Magnitudes from 65520 on become infinity, up to 2^-25 zero. NaN as in `bfloat16Bits`. */
function float16Bits(bits: number): number {
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & ABSOLUTE;
  if (magnitude > INFINITY32) return sign | 0x7c00 | payloadOr((magnitude >>> 13) & 0x3ff, 0x200);
  if (magnitude >= 0x47800000) return sign | 0x7c00; // 2^16
  if (magnitude >= 0x38800000) return sign | ((magnitude - 0x38000000 + 0xfff + ((magnitude >>> 13) & 1)) >>> 13); // 2^-14
  if (magnitude <= 0x33000000) return sign; // 2^-25: a tie, and 0 is even
  const shift = 126 - (magnitude >>> 23); // 14 to 24: the mantissa in units of the smallest subnormal, 2^-24
  const mantissa = (magnitude & 0x7fffff) | 0x800000;
  return sign | ((mantissa + (1 << (shift - 1)) - 1 + ((mantissa >>> shift) & 1)) >>> shift);
}

/** float32 bits of float16 bits; exact. */
function float32BitsOfFloat16(bits: number): number {
  const sign = (bits & 0x8000) << 16;
  const exponent = (bits >>> 10) & 0x1f;
  const mantissa = bits & 0x3ff;
  if (exponent === 0x1f) return sign | INFINITY32 | (mantissa << 13);
  if (exponent > 0) return sign | (((exponent + 112) << 23) | (mantissa << 13));
  if (mantissa === 0) return sign;
  const shift = Math.clz32(mantissa) - 21; // 1 to 10: moves the leading one to bit 10
  return sign | (((113 - shift) << 23) | (((mantissa << shift) & 0x3ff) << 13));
}

/** bfloat16 bits of float32 values. */
export function bfloat16FromFloat32(values: Float32Array): Uint16Array {
  const bits = bitsOf(values);
  const out = new Uint16Array(bits.length);
  for (let i = 0; i < bits.length; i++) out[i] = bfloat16Bits(bits[i] as number);
  return out;
}

/** float16 bits of float32 values. */
export function float16FromFloat32(values: Float32Array): Uint16Array {
  const bits = bitsOf(values);
  const out = new Uint16Array(bits.length);
  for (let i = 0; i < bits.length; i++) out[i] = float16Bits(bits[i] as number);
  return out;
}

/** float32 values of bfloat16 bits; exact, NaN payloads kept. */
export function float32FromBfloat16(storage: Uint16Array): Float32Array {
  const out = new Float32Array(storage.length);
  const bits = bitsOf(out);
  for (let i = 0; i < storage.length; i++) bits[i] = (storage[i] as number) << 16;
  return out;
}

/** float32 values of float16 bits; exact, NaN payloads kept. */
export function float32FromFloat16(storage: Uint16Array): Float32Array {
  const out = new Float32Array(storage.length);
  const bits = bitsOf(out);
  for (let i = 0; i < storage.length; i++) bits[i] = float32BitsOfFloat16(storage[i] as number);
  return out;
}
