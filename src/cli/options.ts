/** Parsers of option values: a value out of range is one sentence, not a stack trace. */
import { InvalidArgumentError } from "commander";

/** An integer in [low, high]. */
export const integer =
  (low: number, high: number = Number.MAX_SAFE_INTEGER) =>
  (text: string): number => {
    const value = Number(text);
    if (text.trim() === "" || !Number.isSafeInteger(value) || value < low || value > high) {
      throw new InvalidArgumentError(`expected an integer ${range(low, high)}, got "${text}".`);
    }
    return value;
  };

/** A finite number in (low, high]; `low` itself is allowed when `inclusive`. */
export const real =
  (low: number, high: number, { inclusive = false }: { readonly inclusive?: boolean } = {}) =>
  (text: string): number => {
    const value = Number(text);
    const inside = Number.isFinite(value) && (inclusive ? value >= low : value > low) && value <= high;
    if (text.trim() === "" || !inside) throw new InvalidArgumentError(`expected a number ${inclusive ? "from" : "above"} ${low}, at most ${high}, got "${text}".`);
    return value;
  };

/** One of `choices`. */
export const oneOf =
  <T extends string>(choices: readonly T[]) =>
  (text: string): T => {
    const found = choices.find((choice) => choice === text);
    if (found === undefined) throw new InvalidArgumentError(`expected one of ${choices.join(", ")}, got "${text}".`);
    return found;
  };

const range = (low: number, high: number): string => (high === Number.MAX_SAFE_INTEGER ? `of at least ${low}` : `from ${low} to ${high}`);
