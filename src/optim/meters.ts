/** Meters: where gradients lie in the range of 16 bits, and how many updates a 16-bit weight would lose. Values of the step, read late. */
import { BinadeError, showValue } from "../errors.ts";
import { type HalfDType, isFloat } from "../formats/index.ts";
import { requireFields } from "../precision/options.ts";
import { concatenate } from "../tensor/functions.ts";
import type { Grads } from "../tensor/gradients.ts";
import { type Magnitudes, magnitudesIn, magnitudesOf, readCounts } from "../tensor/magnitudes.ts";
import { realize } from "../tensor/realize.ts";
import { isIterable, requireGrads } from "../tensor/require.ts";
import { Tensor } from "../tensor/tensor.ts";
import { Variable } from "../tensor/variable.ts";
import { requireSteppable } from "./arguments.ts";
import type { Steppable } from "./optimizer.ts";

/** Meters of some tensors in a plain object, which a compiled function may return; `readMeters` reads it. */
export interface Meters {
  readonly names: readonly string[];
  readonly sizes: readonly number[];
  /** int32 (258 · names), for `readMeters`. */
  readonly counts: Tensor;
}

/** How the elements of one tensor lie in float16's range, and in which binades. */
export interface MeterReading extends Magnitudes {
  readonly name: string;
  readonly size: number;
}

/**
 * Where gradients, or any tensors by name, lie in float16's range, with a histogram of their exponents: part of the step's graph.
 *
 * @param values what `gradients` or `unscale` gave, or pairs of a name and a floating tensor
 * @throws BinadeError `option.invalid` for none; `dtype.unsupported` for integers; `shape.invalid` for more than 2³¹ − 1 elements.
 * @example
 * const step = compile((x: Tensor, y: Tensor) => {
 *   const scaled = gradients(scaler.scale(lossOf(x, y)), model);
 *   …
 *   return { meters: optim.meterValues(scaled) };
 * });
 * const readings = await optim.readMeters((await step(x, y)).meters);
 */
export function meterValues(
  values: Grads<"scaled"> | Grads<"true"> | Iterable<readonly [string | Variable, Tensor]>,
): Meters {
  const entries = namedTensors(values);
  if (entries.length === 0)
    throw new BinadeError("option.invalid", "meterValues: expected at least one tensor, got none; pass gradients");
  const whole = entries.find(([, { dtype }]) => !isFloat(dtype));
  if (whole !== undefined) {
    throw new BinadeError(
      "dtype.unsupported",
      `meterValues: ${whole[0]} is ${whole[1].dtype}, expected a floating dtype; integers have no exponents`,
    );
  }
  const tensors = entries.map(([, tensor]) => tensor);
  return {
    names: entries.map(([name]) => name),
    sizes: tensors.map(({ size }) => size),
    counts: concatenate(tensors.map(magnitudesOf)),
  };
}

function namedTensors(values: unknown): readonly (readonly [string, Tensor])[] {
  const given: readonly unknown[] = isIterable(values) ? [...values] : [values];
  return given.map((entry) => {
    const [key, tensor] = Array.isArray(entry) ? entry : [entry, undefined];
    const name = key instanceof Variable ? key.name : key;
    if (typeof name === "string" && tensor instanceof Tensor) return [name, tensor] as const;
    throw new BinadeError(
      "option.invalid",
      `meterValues: expected gradients, or pairs of a name and a tensor, got ${showValue(entry)}; pass gradients(loss, model)`,
    );
  });
}

/** Lost updates by parameter, in a plain object that a compiled function may return. */
export interface UpdateMeters {
  readonly names: readonly string[];
  /** float32 (names): elements that an update changes in float32. */
  readonly changed: Tensor;
  /** float32 (names): of these, elements that the update would leave as they are in `dtype`. */
  readonly lost: Tensor;
}

export interface UpdateReading {
  readonly name: string;
  /** Elements that the update changes. */
  readonly changed: number;
  /** Share of these that a weight of 16 bits would lose; 0 if nothing changes. */
  readonly lostShare: number;
}

/**
 * How many of an optimizer's updates a weight of 16 bits would lose, because w + Δ rounds to w. Of float32 parameters: before the step.
 *
 * @param dtype the 16 bits that the weights would have
 * @throws BinadeError `option.invalid` for another dtype, or if no float32 parameter is updated; otherwise as the optimizer's
 * `apply`.
 * @example
 * const lost = optim.meterUpdates(optimizer, grads, "bfloat16"); // and then scaler.step(optimizer, grads)
 */
export function meterUpdates(optimizer: Steppable, grads: Grads<"true">, dtype: HalfDType): UpdateMeters {
  if (dtype !== "float16" && dtype !== "bfloat16") {
    const got = JSON.stringify(dtype);
    throw new BinadeError(
      "option.invalid",
      `meterUpdates: dtype is ${got}, expected "float16" or "bfloat16"; give one`,
    );
  }
  requireSteppable("meterUpdates: optimizer", optimizer);
  requireGrads("meterUpdates", grads);
  const parameters = new Set(optimizer.parameters());
  const updates = [...optimizer.updates(grads)].filter(
    ([variable]) => parameters.has(variable) && variable.dtype === "float32",
  );
  if (updates.length === 0) {
    throw new BinadeError(
      "option.invalid",
      "meterUpdates: no float32 parameter is updated; parameters of 16 bits round by themselves",
    );
  }
  const counted = updates.map(([variable, next]) => {
    const now = variable.read();
    const count = (condition: Tensor): Tensor => condition.cast("float32").sum().reshape([1]);
    // What changes after rounding has changed before it.
    return { changed: count(next.notEqual(now)), kept: count(next.cast(dtype).notEqual(now.cast(dtype))) };
  });
  const changed = concatenate(counted.map((counts) => counts.changed));
  const lost = changed.sub(concatenate(counted.map(({ kept }) => kept)));
  return { names: updates.map(([{ name }]) => name), changed, lost };
}

/** Reads meters: one reading per tensor; of one without elements every share is 0. */
export async function readMeters(meters: Meters): Promise<readonly MeterReading[]> {
  requireFields("readMeters", meters, ["names", "sizes", "counts"], "meterValues");
  const { names, sizes, counts } = meters;
  const all = await readCounts(counts);
  return names.map((name, i) => ({ name, size: sizes[i] ?? 0, ...magnitudesIn(all, i) }));
}

/** Reads the meters of updates: one reading per parameter. */
export async function readUpdateMeters(meters: UpdateMeters): Promise<readonly UpdateReading[]> {
  requireFields("readUpdateMeters", meters, ["names", "changed", "lost"], "meterUpdates");
  const { names, changed, lost } = meters;
  await realize([changed.node, lost.node]);
  const [all, gone] = [await changed.data(), await lost.data()];
  return names.map((name, i) => {
    const count = Number(all[i]);
    return { name, changed: count, lostShare: count === 0 ? 0 : Number(gone[i]) / count };
  });
}
