/** Autocast: which operands an op sees in which dtype, decided when a node is built, from the row's class alone. */
import { BinadeError } from "../errors.ts";
import { type DType, type HalfDType, isFloat, promote, shortName } from "../formats/index.ts";
import { build, type Node } from "../ir/graph.ts";
import type { Autocast, Op } from "../ops/define.ts";

/** The setting of a region. */
export interface AutocastRegion {
  /** The compute dtype of narrow ops; null: a full-precision island. */
  readonly dtype: HalfDType | null;
}

let current: AutocastRegion = { dtype: null };

/** The compute dtype in force, or null outside every region. */
export const autocastDType = (): HalfDType | null => current.dtype;

/**
 * Runs `body` with matrix products, convolutions and attention in `dtype`, and exponentials, norms, losses and sums in
 * float32. Synchronous: two tasks never see each other's setting. `false` makes a full-precision island inside a region.
 *
 * @param dtype "float16", "bfloat16", or false to switch autocast off inside.
 * @returns what `body` returns.
 * @throws BinadeError `autocast.async` if `body` returns a promise; `option.invalid` for another dtype.
 * @example
 * const loss = autocast("bfloat16", () => crossEntropy(model.forward(x), y));
 */
export function autocast<T>(dtype: HalfDType | false, body: () => T): T {
  if (dtype !== false && dtype !== "float16" && dtype !== "bfloat16") {
    throw new BinadeError(
      "option.invalid",
      `autocast: dtype is ${JSON.stringify(dtype)}, expected "float16", "bfloat16" or false`,
    );
  }
  const result = inRegion({ dtype: dtype === false ? null : dtype }, body);
  if (result instanceof Promise) {
    throw new BinadeError(
      "autocast.async",
      "autocast: the callback returned a promise; build the graph synchronously inside it, and await outside",
    );
  }
  return result;
}

/** Runs `body` under a recorded region: gradients run in the region `{ dtype: null }`. */
export function inRegion<T>(region: AutocastRegion, body: () => T): T {
  const before = current;
  current = region;
  try {
    return body();
  } finally {
    current = before;
  }
}

/** Why a cast was inserted: the op that asked, its class, and the rule's sentence. */
export interface CastReason {
  readonly op: string;
  readonly autocast: Exclude<Autocast, object>;
  readonly from: DType;
  readonly to: DType;
}

const reasons = new WeakMap<Node, CastReason>();

/** The first reason for which autocast made this cast; undefined for casts that were written by hand. */
export const reasonOf = (cast: Node): CastReason | undefined => reasons.get(cast);

const isWeak = (node: Node): boolean => node.op.kind === "source" && node.op.weak === true;
/** Autocast touches floats of at most 32 bits: never float64, integers or booleans. */
const eligible = (node: Node): boolean => isFloat(node.dtype) && node.dtype !== "float64" && !isWeak(node);

/** The operands as `op` shall see them. Outside a region only the widest-operand rule acts. */
export function castOperands(op: Pick<Op, "name" | "autocast" | "uncast">, inputs: readonly Node[]): readonly Node[] {
  const { autocast: rule } = op;
  const target = typeof rule === "object" ? refuse(op.name, rule.refuse) : targetOf(rule, inputs, op.name);
  if (target === null || typeof rule === "object") return inputs;
  return inputs.map((node, i) => {
    const touched =
      rule === "widest" ? isFloat(node.dtype) && !isWeak(node) : eligible(node) && op.uncast?.includes(i) !== true;
    if (!touched || node.dtype === target) return node;
    const cast = build.cast(node, target);
    if (!reasons.has(cast)) reasons.set(cast, { op: op.name, autocast: rule, from: node.dtype, to: target });
    return cast;
  });
}

function targetOf(rule: Exclude<Autocast, object>, inputs: readonly Node[], name: string): DType | null {
  switch (rule) {
    case "narrow":
      return current.dtype;
    case "wide":
      return current.dtype === null ? null : "float32";
    case "widest":
      return widest(inputs, name);
    case "as-is":
      return null;
  }
}

function widest(inputs: readonly Node[], name: string): DType | null {
  const dtypes = inputs.filter((n) => isFloat(n.dtype) && !isWeak(n)).map((n) => n.dtype);
  if (new Set(dtypes).size < 2) return null;
  try {
    return dtypes.reduce(promote);
  } catch (error) {
    throw new BinadeError("dtype.mismatch", `${name}: ${error instanceof Error ? error.message : String(error)}`, {
      cause: error,
    });
  }
}

function refuse(name: string, advice: string): null {
  if (current.dtype !== null)
    throw new BinadeError("autocast.refused", `${name}: refused under autocast ${shortName(current.dtype)}; ${advice}`);
  return null;
}
