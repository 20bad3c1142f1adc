/** Precision policies: the dtypes of parameters, of matrix products, and of what a model returns; as a value and as text. */
import { BinadeError, showValue } from "../errors.ts";
import { type DType, type FloatDType, isFloat, parseDType, shortName } from "../formats/index.ts";
import { requireKnownKeys } from "./options.ts";

/** Three dtypes, after jmp (github.com/google-deepmind/jmp). */
export interface Policy {
  /** Of parameters: the master weights. */
  readonly parameter: FloatDType;
  /** Of matrix products, convolutions and attention. */
  readonly compute: FloatDType;
  /** Of what the model returns. */
  readonly output: FloatDType;
}

const mixed = (compute: FloatDType, output: FloatDType): Policy => ({ parameter: "float32", compute, output });
const pure = (dtype: FloatDType): Policy => ({ parameter: dtype, compute: dtype, output: dtype });

/** Names of whole policies: ours, and Keras's (whose layers return the compute dtype). */
const NAMED: Readonly<Record<string, Policy>> = {
  fp32: pure("float32"),
  "bf16-mixed": mixed("bfloat16", "float32"),
  "fp16-mixed": mixed("float16", "float32"),
  float32: pure("float32"),
  mixed_bfloat16: mixed("bfloat16", "bfloat16"),
  mixed_float16: mixed("float16", "float16"),
};

const KEYS: Readonly<Record<string, keyof Policy>> = {
  p: "parameter",
  params: "parameter",
  c: "compute",
  compute: "compute",
  o: "output",
  output: "output",
};

/**
 * Reads a policy: a name (`fp32`, `bf16-mixed`, `fp16-mixed`, `float32`, `mixed_bfloat16`, `mixed_float16`), or the dtypes
 * by key, `"p=f32,c=bf16,o=f32"`. A missing compute dtype is the parameters', a missing output dtype the compute dtype.
 *
 * @throws BinadeError `option.invalid` for another name, an unknown or repeated key, or a dtype that is no float.
 * @example
 * parsePolicy("p=f32,c=bf16"); // { parameter: "float32", compute: "bfloat16", output: "bfloat16" }
 */
export function parsePolicy(text: string): Policy {
  if (typeof text !== "string") throw unreadable(showValue(text), "it is no text");
  const name = text.trim();
  const named = Object.hasOwn(NAMED, name) ? NAMED[name] : undefined;
  if (named !== undefined) return named;
  const given: Partial<Record<keyof Policy, FloatDType>> = {};
  for (const part of text.split(",")) {
    const [key = "", value, ...rest] = part.split("=").map((word) => word.trim());
    const field = Object.hasOwn(KEYS, key) ? KEYS[key] : undefined;
    if (field === undefined || value === undefined || rest.length > 0)
      throw unreadable(text, `"${part.trim()}" is no key=dtype`);
    if (given[field] !== undefined) throw unreadable(text, `${field} is given twice`);
    given[field] = floatOf(text, value);
  }
  const { parameter, compute = parameter, output = compute } = given;
  if (parameter === undefined || compute === undefined || output === undefined)
    throw unreadable(text, "the parameters' dtype is missing");
  return { parameter, compute, output };
}

function floatOf(text: string, name: string): FloatDType {
  const dtype = dtypeNamed(name);
  if (dtype === null || !isFloat(dtype)) throw unreadable(text, `${name} is no floating dtype`);
  return dtype;
}

function dtypeNamed(name: string): DType | null {
  try {
    return parseDType(name);
  } catch {
    return null;
  }
}

const unreadable = (text: string, reason: string): BinadeError =>
  new BinadeError(
    "option.invalid",
    `policy "${text}": ${reason}; expected one of ${Object.keys(NAMED).join(", ")}, or dtypes such as "p=f32,c=bf16,o=f32"`,
  );

/**
 * A policy given as a value or as text, checked.
 *
 * @throws BinadeError as `parsePolicy`; `option.unknown` for another key.
 */
export function readPolicy(given: string | Policy): Policy {
  if (typeof given !== "object" || given === null) return parsePolicy(given);
  requireKnownKeys("policy", given, ["parameter", "compute", "output"]);
  const { parameter, compute, output } = given;
  return parsePolicy(`params=${parameter},compute=${compute},output=${output}`);
}

/**
 * The text form by keys; `parsePolicy` reads it back.
 *
 * @throws BinadeError as `parsePolicy`.
 */
export function formatPolicy(policy: Policy): string {
  const { parameter, compute, output } = readPolicy(policy);
  return `p=${shortName(parameter)},c=${shortName(compute)},o=${shortName(output)}`;
}
