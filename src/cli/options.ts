/** Parsers of option values: each states its range once, for the help and for the sentence about a value outside it. */
import { BinadeError } from "../errors.ts";

/** Turns the text behind a flag into a value. */
export interface Parser<T> {
  /** The values, for the help. */
  readonly range: string;
  /** @throws BinadeError `value.range` or `option.invalid`, naming the flag. */
  parse(flag: string, text: string): T;
}

function numeric(range: string, holds: (value: number) => boolean): Parser<number> {
  return {
    range,
    parse(flag, text) {
      const value = Number(text);
      if (text.trim() !== "" && holds(value)) return value;
      throw new BinadeError("value.range", `${flag}: expected ${range}, got ${JSON.stringify(text)}`);
    },
  };
}

/** An integer from `low` to `high`; at most 2^53 − 1 without it. */
export function integer(low: number, high: number = Number.MAX_SAFE_INTEGER): Parser<number> {
  const range = high === Number.MAX_SAFE_INTEGER ? `an integer ≥ ${low}` : `an integer from ${low} to ${high}`;
  return numeric(range, (value) => Number.isSafeInteger(value) && value >= low && value <= high);
}

/** A number above `low`, at most `high`. */
export const numberAbove = (low: number, high: number): Parser<number> =>
  numeric(`a number above ${low}, at most ${high}`, (value) => value > low && value <= high);

/** A number from `low` to `high`. */
export const numberFrom = (low: number, high: number): Parser<number> =>
  numeric(`a number from ${low} to ${high}`, (value) => value >= low && value <= high);

const UNITS: Readonly<Record<string, number>> = {
  "": 1,
  kb: 1e3,
  mb: 1e6,
  gb: 1e9,
  kib: 2 ** 10,
  mib: 2 ** 20,
  gib: 2 ** 30,
};

/** A number of bytes, at least 1, with a decimal or binary unit or none. */
export const byteCount: Parser<number> = {
  range: "bytes, such as 300MB or 1.5GiB",
  parse(flag, text) {
    const [, digits = "", unit = ""] = /^(\d+(?:\.\d+)?)\s*([kmg]i?b)?$/i.exec(text.trim()) ?? [];
    const bytes = Math.floor(Number(digits) * (UNITS[unit.toLowerCase()] ?? Number.NaN));
    if (digits !== "" && Number.isSafeInteger(bytes) && bytes >= 1) return bytes;
    throw new BinadeError("value.range", `${flag}: expected ${this.range}, got ${JSON.stringify(text)}`);
  },
};

/** One of `choices`. */
export function oneOf<T extends string>(choices: readonly T[]): Parser<T> {
  const range = choices.join(", ");
  return {
    range,
    parse(flag, text) {
      const found = choices.find((choice) => choice === text);
      if (found !== undefined) return found;
      throw new BinadeError("option.invalid", `${flag}: expected one of ${range}, got ${JSON.stringify(text)}`);
    },
  };
}
