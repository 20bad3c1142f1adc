/** Numbers and bits: formats, rounding, promotion, distances in ulps, and the random numbers that rounding uses. */

export {
  convertArray,
  decode,
  decodeArray,
  type EncodeOptions,
  encode,
  encodeArray,
  type Float16View,
  round,
  toFloat16Array,
} from "./codec.ts";
export {
  type PhiloxCounter,
  type PhiloxKey,
  philox,
  philoxKey,
  philoxSource,
  type RandomSource,
  uniform,
} from "./philox.ts";
export { promote } from "./promote.ts";
export { encodeArrayStochastic, encodeStochastic, roundStochastic, type StochasticOptions } from "./stochastic.ts";
export {
  byteSize,
  DTYPES,
  type DType,
  type EncodedDType,
  FLOAT_DTYPES,
  type FloatDType,
  type FloatFormat,
  FORMATS,
  type HalfDType,
  type IntegerDType,
  type IntegerFormat,
  isFloat,
  isInteger,
  parseDType,
  type StorageArray,
  type StorageConstructor,
  type StorageOf,
  shortName,
  storageArray,
} from "./table.ts";
export { defaultTolerance, nextDown, nextUp, ulp, ulpDistance } from "./ulp.ts";
