/** Checks of options at the boundary: unknown names, numbers out of range. */
import { BinadeError, showValue } from "../errors.ts";
import { DTYPES, type DType } from "../formats/index.ts";

/**
 * Throws `option.unknown` unless every key of `options` is one of `known`: a misspelt option would be ignored silently; and
 * `option.invalid` unless it is an object.
 */
export function requireKnownKeys(subject: string, options: object, known: readonly string[]): void {
  requireOptions(subject, options);
  const unknown = Object.keys(options).find((key) => !known.includes(key));
  if (unknown === undefined) return;
  const fix = known.length === 0 ? "it takes no options" : `expected one of ${known.join(", ")}`;
  throw new BinadeError("option.unknown", `${subject}: unknown option ${JSON.stringify(unknown)}; ${fix}`);
}

/** Throws `value.range` with `expected` unless `value` is a number for which `holds`. */
export function requireNumber(
  subject: string,
  value: unknown,
  holds: (value: number) => boolean,
  expected: string,
): void {
  if (typeof value === "number" && holds(value)) return;
  throw new BinadeError("value.range", `${subject}: expected ${expected}, got ${showValue(value)}`);
}

/** The largest extent or count: what an Int32Array holds. */
const MOST = 2 ** 31 - 1;

/** Throws `value.range` unless `value` is an integer from `low` to `high`, 2^31 − 1 unless said otherwise. */
export function requireInteger(subject: string, value: unknown, low: number, high = MOST): void {
  // Bounds that no sensible value meets are named to whoever met one.
  const isAbove = typeof value === "number" && value > high;
  const range = high >= MOST && !isAbove ? `≥ ${low}` : `from ${low} to ${high}`;
  requireNumber(subject, value, (v) => Number.isInteger(v) && v >= low && v <= high, `an integer ${range}`);
}

/** Throws `option.invalid` unless `value` is true, false or left out: "false" and 0 would pass for something else. */
export function requireBoolean(subject: string, value: unknown): void {
  if (value === undefined || typeof value === "boolean") return;
  throw new BinadeError("option.invalid", `${subject}: expected true or false, got ${showValue(value)}; give one`);
}

/** Throws `option.invalid` unless `value` is an object. */
export function requireOptions(subject: string, value: unknown): void {
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return;
  throw new BinadeError("option.invalid", `${subject}: expected an object, got ${showValue(value)}; pass its options`);
}

/** Throws `option.invalid` unless `value` is one of `choices`. */
export function requireChoice<T>(subject: string, value: T, choices: readonly T[]): void {
  if (choices.includes(value)) return;
  const expected = choices.map((choice) => showValue(choice)).join(", ");
  throw new BinadeError("option.invalid", `${subject}: expected one of ${expected}, got ${showValue(value)}`);
}

/** Throws `shape.invalid` unless `value` is a list of extents: integers from `low` to 2^31 − 1. */
export function requireShape(subject: string, value: unknown, low = 0): asserts value is readonly number[] {
  const isExtent = (n: unknown): boolean => Number.isInteger(n) && Number(n) >= low && Number(n) < 2 ** 31;
  if (Array.isArray(value) && value.every(isExtent)) return;
  const sentence = `${subject}: expected a list of integers ≥ ${low}, such as [2, 3], got ${showValue(value)}; give the extents`;
  throw new BinadeError("shape.invalid", sentence);
}

/** Throws `option.invalid` unless `value` is the name of a dtype. */
export function requireDType(subject: string, value: unknown): asserts value is DType {
  if ((DTYPES as readonly unknown[]).includes(value)) return;
  const expected = `expected a dtype, one of ${DTYPES.join(", ")}`;
  throw new BinadeError("option.invalid", `${subject}: ${expected}, got ${showValue(value)}; name one`);
}

/** Throws `option.invalid` unless `value` is a text. */
export function requireText(subject: string, value: unknown): void {
  if (typeof value === "string") return;
  throw new BinadeError("option.invalid", `${subject}: expected a text, got ${showValue(value)}; give one`);
}

/** Throws `option.invalid` unless `value` is a function. */
export function requireFunction(subject: string, value: unknown): void {
  if (typeof value === "function") return;
  throw new BinadeError("option.invalid", `${subject}: expected a function, got ${showValue(value)}; pass one`);
}

/** Throws `option.invalid` unless `value` is an object with all `fields`: one that `source` made, and nobody writes by hand. */
export function requireFields(subject: string, value: unknown, fields: readonly string[], source: string): void {
  const isOne = typeof value === "object" && value !== null && fields.every((field) => field in value);
  if (isOne) return;
  throw new BinadeError(
    "option.invalid",
    `${subject}: expected what ${source} gives, got ${showValue(value)}; pass that`,
  );
}

export const isPositive = (value: number): boolean => value > 0 && Number.isFinite(value);
export const isNonNegative = (value: number): boolean => value >= 0 && Number.isFinite(value);
/** As float32 holds it: 1e39 would be infinite. */
export const isNonNegativeSingle = (value: number): boolean =>
  isNonNegative(value) && Number.isFinite(Math.fround(value));
/** From 0 to 1. */
export const isFraction = (value: number): boolean => value >= 0 && value <= 1;

/** An option that is given as undefined keeps its default. */
export function withoutUndefined<T extends object>(options: T): T {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as T;
}
