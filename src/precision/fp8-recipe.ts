/** Recipes of 8-bit products: a format per role, and how values are scaled into it. Data, checked at the boundary. */
import { BinadeError, showValue } from "../errors.ts";
import type { DType } from "../formats/index.ts";
import { isNonNegative, requireKnownKeys, requireNumber, withoutUndefined } from "./options.ts";

/** The 8-bit floating-point formats. */
export type Float8DType = Extract<DType, `float8_${string}`>;
/** What a linear layer multiplies: forward its input by its weight, backward the gradient of its output by both. */
export type Fp8Role = "input" | "weight" | "gradient";
export type Fp8Formats = { readonly [R in Fp8Role]: Float8DType };

/** One scale per tensor, from its own greatest magnitude (amax): s = largest / amax. */
export interface CurrentScaling {
  readonly kind: "current";
  /** Lower the scale to a power of two, so that scaling rounds nothing. Default false. */
  readonly powerOfTwo: boolean;
  /** An amax below it counts as this much, ≥ 0. Default 0: an amax of 0 gives the scale 1. torchao takes 1e-12. */
  readonly minimumAmax: number;
}

/** One scale per tensor, from the amaxes of earlier steps: this step's is known only when the cast is over. */
export interface DelayedScaling {
  readonly kind: "delayed";
  /** Binades kept free above amax, an integer from 0 to 64: s = largest · 2^−margin / amax. Default 0. */
  readonly margin: number;
  /** Steps that are remembered, from 1 to 65536. Default 1024. */
  readonly historyLength: number;
  /** Which of them counts: the greatest (default), or the last. */
  readonly amax: "max" | "mostRecent";
}

/** One power of two (an E8M0 exponent) per 32 elements along the axis that a product sums over: OCP MX. */
export interface BlockScaling {
  readonly kind: "block";
  /**
   * How amax becomes the power of two by which a block is divided. Let p be the greatest power of two of the format, 256 or
   * 32768. `floor`, as OCP says: the power of two below amax, over p; an amax of more than 1.75 powers of two saturates. `ceil`: the
   * power of two above amax, over p. `even`: as `floor`, of amax rounded to the format's mantissa; it saturates up to 1.9375
   * (e4m3) or 1.875 (e5m2) powers. `rceil` (default): the smallest power of two ≥ amax / largest, which never saturates.
   */
  readonly exponent: BlockExponent;
}
export type BlockExponent = "floor" | "ceil" | "even" | "rceil";

export type Fp8Scaling = CurrentScaling | DelayedScaling | BlockScaling;

/** A complete recipe, made by `fp8Recipe`. */
export interface Fp8Recipe {
  readonly formats: Fp8Formats;
  readonly scaling: Fp8Scaling;
}

type Optional<S extends Fp8Scaling> = Pick<S, "kind"> & Partial<S>;

export interface Fp8RecipeOptions {
  /** A kind with its defaults, or with options of its own. Default "current". */
  readonly scaling?: Fp8Scaling["kind"] | Optional<CurrentScaling> | Optional<DelayedScaling> | Optional<BlockScaling>;
  /** Default float8_e4m3fn forward, float8_e5m2 for gradients. */
  readonly formats?: Partial<Fp8Formats>;
}

const ROLES: readonly Fp8Role[] = ["input", "weight", "gradient"];
export const FLOAT8_DTYPES: readonly Float8DType[] = ["float8_e4m3fn", "float8_e5m2"];
export const BLOCK_EXPONENTS: readonly BlockExponent[] = ["floor", "ceil", "even", "rceil"];
const HYBRID: Fp8Formats = { input: "float8_e4m3fn", weight: "float8_e4m3fn", gradient: "float8_e5m2" };

const DEFAULTS: { readonly [K in Fp8Scaling["kind"]]: Extract<Fp8Scaling, { kind: K }> } = {
  current: { kind: "current", powerOfTwo: false, minimumAmax: 0 },
  delayed: { kind: "delayed", margin: 0, historyLength: 1024, amax: "max" },
  block: { kind: "block", exponent: "rceil" },
};

/**
 * A recipe with its defaults filled in: e4m3 forward and e5m2 for gradients, scaled by the tensor's present amax.
 *
 * @throws BinadeError `option.invalid`, `option.unknown` or `value.range` for bad options, and for e5m2 in every role, which
 * does not train: two mantissa bits are too few for weights and activations (arXiv:2209.05433).
 * @example
 * fp8Recipe({ scaling: { kind: "delayed", historyLength: 16 } });
 */
export function fp8Recipe(options: Fp8RecipeOptions = {}): Fp8Recipe {
  requireKnownKeys("fp8Recipe", options, ["scaling", "formats"]);
  const { formats = {}, scaling = "current" } = options;
  return Object.freeze({ formats: formatsOf(formats), scaling: scalingOf(scaling) });
}

function formatsOf(given: Partial<Fp8Formats>): Fp8Formats {
  requireKnownKeys("fp8Recipe: formats", given, ROLES);
  const formats = { ...HYBRID, ...withoutUndefined(given) };
  for (const role of ROLES) requireChoice(`formats: ${role}`, formats[role], FLOAT8_DTYPES);
  if (ROLES.every((role) => formats[role] === "float8_e5m2")) {
    throw wrong("formats: float8_e5m2 in every role does not train; leave input and weight at float8_e4m3fn");
  }
  return Object.freeze(formats);
}

function scalingOf(given: Fp8RecipeOptions["scaling"] & {}): Fp8Scaling {
  const options = typeof given === "string" ? { kind: given } : given;
  if (typeof options !== "object" || options === null)
    throw wrong(`scaling: expected a kind or options, got ${showValue(options)}`);
  requireChoice("scaling", options.kind, Object.keys(DEFAULTS) as Fp8Scaling["kind"][]);
  const defaults = DEFAULTS[options.kind];
  requireKnownKeys(`fp8Recipe: ${options.kind} scaling`, options, Object.keys(defaults));
  const scaling = { ...defaults, ...withoutUndefined(options) } as Fp8Scaling;
  requireScaling(scaling);
  return Object.freeze(scaling);
}

/** Throws `option.invalid` or `value.range` unless all options are within their ranges. */
export function requireScaling(scaling: Fp8Scaling): void {
  switch (scaling.kind) {
    case "current":
      requireChoice("powerOfTwo", scaling.powerOfTwo, [true, false]);
      requireNumber("fp8Recipe: minimumAmax", scaling.minimumAmax, isNonNegative, "a finite number ≥ 0");
      return;
    case "delayed":
      requireIntegerWithin("margin", scaling.margin, 0, 64);
      requireIntegerWithin("historyLength", scaling.historyLength, 1, 65536);
      requireChoice("amax", scaling.amax, ["max", "mostRecent"]);
      return;
    case "block":
      requireChoice("exponent", scaling.exponent, BLOCK_EXPONENTS);
  }
}

function requireIntegerWithin(name: string, value: number, low: number, high: number): void {
  const holds = (n: number): boolean => Number.isInteger(n) && n >= low && n <= high;
  requireNumber(`fp8Recipe: ${name}`, value, holds, `an integer from ${low} to ${high}`);
}

function requireChoice<T>(name: string, value: T, choices: readonly T[]): void {
  if (choices.includes(value)) return;
  throw wrong(`${name}: expected ${choices.join(" or ")}, got ${showValue(value)}`);
}

const wrong = (message: string): BinadeError => new BinadeError("option.invalid", `fp8Recipe: ${message}`);
