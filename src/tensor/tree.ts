/** Casts of all tensors in a structure, and selection between two of the same structure. */
import { BinadeError } from "../errors.ts";
import { FLOAT_DTYPES, type FloatDType } from "../formats/index.ts";
import { showShape } from "../ops/shape.ts";
import { castByPolicy, isAutocastable } from "../precision/autocast.ts";
import { requireChoice } from "../precision/options.ts";
import { where } from "./functions.ts";
import { hiddenTensors, isPlain, mapTensors } from "./structure.ts";
import { requireTensor, Tensor } from "./tensor.ts";

/**
 * The same structure with floating tensors in `dtype`. Integers, booleans, float64 and whatever is no tensor stay as they are.
 *
 * @param tree a tensor, or arrays and plain objects that hold some
 * @param dtype a floating one, as jmp has it: integers would lose fractions in silence; write `x.cast("int32")` where that is meant
 * @throws BinadeError `option.invalid` for another dtype, or tensors inside something else, such as a map, where no cast would reach them.
 * @example
 * castTree({ x: zeros([2]), labels: zeros([2], "int32"), mask: null }, "bfloat16"); // x is bfloat16
 */
export function castTree<T>(tree: T, dtype: FloatDType): T {
  requireChoice("castTree: dtype", dtype, FLOAT_DTYPES);
  requireVisible("castTree", tree);
  return mapTensors(tree, (tensor) => (isAutocastable(tensor.node) ? tensor.cast(dtype) : tensor));
}

/** As `castTree`; each cast knows that a policy asked for it. */
export function castTreeByPolicy<T>(tree: T, dtype: FloatDType): T {
  requireVisible("withPolicy: what goes in or comes out", tree);
  return mapTensors(tree, (tensor) => new Tensor(castByPolicy(tensor.node, dtype)));
}

function requireVisible(subject: string, tree: unknown): void {
  const holder = hiddenTensors(tree);
  if (holder === null) return;
  throw new BinadeError(
    "option.invalid",
    `${subject}: tensors inside ${holder} are not cast, expected them in arrays and plain objects; pass, for instance, Object.fromEntries or mapGradients of a map`,
  );
}

/**
 * `a` if `condition` is true, else `b`, tensor by tensor: an update that happens as a whole or not at all.
 *
 * @param condition a bool scalar
 * @param a, b of one structure; tensors at the same place have one shape and dtype
 * @throws BinadeError `option.invalid` for a condition that is no tensor; `shape.mismatch` for one that is no scalar, or other structure or shapes; `dtype.mismatch` for a
 * condition that is not bool, or other dtypes.
 * @example
 * const { mean, count } = selectTree(allFinite([loss]), { mean: next, count: count.add(1) }, { mean: last, count });
 */
export function selectTree<T>(condition: Tensor, a: T, b: T): T {
  requireTensor("selectTree: the condition", condition);
  if (condition.dtype !== "bool") {
    throw new BinadeError(
      "dtype.mismatch",
      `selectTree: the condition is ${condition.dtype}, expected bool; compare it, for instance x.notEqual(0)`,
    );
  }
  if (condition.shape.length !== 0) {
    throw new BinadeError(
      "shape.mismatch",
      `selectTree: the condition has shape ${showShape(condition.shape)}, expected a scalar; reduce it, or use where for each tensor`,
    );
  }
  return select(condition, a, b, "") as T;
}

function select(condition: Tensor, a: unknown, b: unknown, path: string): unknown {
  if (a instanceof Tensor && b instanceof Tensor) return selectTensor(condition, a, b, path);
  if (Array.isArray(a) && Array.isArray(b) && a.length === b.length)
    return a.map((part, i) => select(condition, part, b[i], `${path}[${i}]`));
  if (isPlain(a) && isPlain(b) && Object.keys(a).sort().join() === Object.keys(b).sort().join())
    return Object.fromEntries(Object.keys(a).map((key) => [key, select(condition, a[key], b[key], `${path}.${key}`)]));
  if (Object.is(a, b)) return a;
  throw new BinadeError(
    "shape.mismatch",
    `selectTree: the two sides differ at ${path === "" ? "the top" : path}; give both the same structure, and the same values where there are no tensors`,
  );
}

function selectTensor(condition: Tensor, a: Tensor, b: Tensor, path: string): Tensor {
  if (a.dtype !== b.dtype) {
    throw new BinadeError(
      "dtype.mismatch",
      `selectTree: ${a.dtype} and ${b.dtype} at ${path || "the top"}; cast one side`,
    );
  }
  if (a.shape.join() === b.shape.join()) return where(condition, a, b);
  throw new BinadeError(
    "shape.mismatch",
    `selectTree: ${showShape(a.shape)} and ${showShape(b.shape)} at ${path || "the top"}; make the shapes equal`,
  );
}
