/** Checks of options at the boundary: unknown names, numbers out of range. */
import { BinadeError } from "../errors.ts";

/** Throws `option.unknown` unless every key of `options` is one of `known`: a misspelt option would be ignored silently. */
export function requireKnownKeys(subject: string, options: object, known: readonly string[]): void {
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
  throw new BinadeError("value.range", `${subject}: expected ${expected}, got ${String(value)}`);
}

/** Throws `value.range` unless `value` is an integer from `low` to 2^31 − 1. */
export function requireInteger(subject: string, value: unknown, low: number): void {
  requireNumber(subject, value, (v) => Number.isInteger(v) && v >= low && v < 2 ** 31, `an integer ≥ ${low}`);
}

/** Throws `option.invalid` unless `value` is true, false or left out: "false" and 0 would pass for something else. */
export function requireBoolean(subject: string, value: unknown): void {
  if (value === undefined || typeof value === "boolean") return;
  throw new BinadeError("option.invalid", `${subject}: expected true or false, got ${JSON.stringify(value)}; give one`);
}

/** Throws `option.invalid` unless `value` is an object, whose keys are then options. */
export function requireOptions(subject: string, value: unknown): void {
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return;
  throw new BinadeError(
    "option.invalid",
    `${subject}: expected an object, got ${JSON.stringify(value)}; pass its options`,
  );
}

export const isPositive = (value: number): boolean => value > 0 && Number.isFinite(value);
export const isNonNegative = (value: number): boolean => value >= 0 && Number.isFinite(value);
/** From 0 to 1. */
export const isFraction = (value: number): boolean => value >= 0 && value <= 1;
