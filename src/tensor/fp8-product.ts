/** The linear map of an 8-bit recipe: an op whose forward and backward products see what 8 bits hold of their operands. */
import { BinadeError } from "../errors.ts";
import { build, type Node } from "../ir/graph.ts";
import type { CompositeRow, OpOf } from "../ops/define.ts";
import { inFunction } from "../precision/autocast.ts";
import type { Fp8Recipe, Fp8Role } from "../precision/fp8-recipe.ts";
import { customRow } from "./custom.ts";
import { amax, currentScaleOf, quantizeBlocks, quantizeTensor } from "./fp8.ts";
import { linearOperands, withBias } from "./functions.ts";
import { Tensor } from "./tensor.ts";

/** Not known to rules: they reach the map as `linear`, whose operands it has cast. */
const NAME = "fp8Linear";

/** Scales of the coming casts: float32 scalars, which delayed scaling knows before it sees the tensors. */
export type Fp8Scales = { readonly [R in Fp8Role]: Tensor };

/** Called while a graph is built, with the amax of each operand of a product: scalars. */
export type AmaxObserver = (role: Fp8Role, amax: Tensor) => void;

/** What 8 bits hold of a matrix: float32 `values` that the format has, and what a product of them is multiplied by. */
interface Held {
  readonly values: Tensor;
  /** A scalar, or null: block scales, powers of two, are in the values. */
  readonly descale: Tensor | null;
}

/**
 * x wᵀ + bias with both operands in 8 bits, and both products of backward of the gradient in 8 bits with them. Products run in
 * float32 on values that 8 bits hold exactly, and are divided by the scales: a study of accuracy, of no speed. The weight's
 * gradient is the float32 sum, unrounded; the bias sees neither cast. The gradient passes through the casts as it is, also
 * where they saturate.
 *
 * Block scaling quantises each operand along the axis that its product sums over: the weight along `in` for forward, along
 * `out` for the input's gradient.
 */
export class Fp8Linear {
  readonly #recipe: Fp8Recipe;
  readonly #observe: AmaxObserver | null;
  readonly #row: OpOf<CompositeRow>;

  /** @param observe called for input and weight in `apply`, and for the gradient when a loss is differentiated. */
  constructor(recipe: Fp8Recipe, observe: AmaxObserver | null) {
    this.#recipe = recipe;
    this.#observe = observe;
    this.#row = customRow<readonly Tensor[]>({
      name: NAME,
      autocast: "as-is",
      forward: (...operands) => this.#forward(operands),
      backward: ({ cotangent, inputs }) => this.#backward(cotangent, inputs),
    });
  }

  /**
   * @param x (…, in) @param weight (out, in) @param bias (out) @param scales for delayed scaling, else null
   * @returns (…, out) in x's dtype, or in the compute dtype under autocast, to which x is cast first; the weight is quantised
   * from its own dtype.
   * @throws BinadeError `shape.mismatch`; `dtype.mismatch` or `dtype.unsupported` for other dtypes than a linear map takes, and
   * for float64.
   */
  apply(x: Tensor, weight: Tensor, bias: Tensor | undefined, scales: Fp8Scales | null): Tensor {
    return inFunction("linear", () => {
      const [input, matrix] = linearOperands(x, weight);
      requireDTypes(input, matrix);
      const operands = [input, weight.node, ...(scales === null ? [] : ROLES.map((role) => scales[role].node))];
      const sums = build.node(this.#row, operands);
      this.#observe?.("input", amax(new Tensor(input).detach()));
      this.#observe?.("weight", amax(weight.detach()));
      return bias === undefined ? new Tensor(build.cast(sums, input.dtype)) : withBias(sums, bias, input.dtype);
    });
  }

  #forward([x, weight, ...scales]: readonly Tensor[]): Tensor {
    const [rows, matrix] = [asRows(x), asRows(weight)];
    const sums = product(this.#hold("input", rows, 1, scales), transposed(this.#hold("weight", matrix, 1, scales)));
    return sums.reshape([...(x?.shape.slice(0, -1) ?? []), matrix.shape[0] ?? 0]);
  }

  #backward(cotangent: Tensor, [x, weight, ...scales]: readonly Tensor[]): readonly (Tensor | null)[] {
    const [g, rows, matrix] = [asRows(cotangent), asRows(x), asRows(weight)];
    this.#observe?.("gradient", amax(cotangent.detach()));
    const forInput = product(this.#hold("gradient", g, 1, scales), this.#hold("weight", matrix, 0, scales));
    const forWeight = product(transposed(this.#hold("gradient", g, 0, scales)), this.#hold("input", rows, 0, scales));
    return [forInput.reshape(x?.shape ?? []), forWeight, ...scales.map(() => null)];
  }

  /** A matrix in the format of its role; `axis` is the one that its product sums over. */
  #hold(role: Fp8Role, x: Tensor, axis: 0 | 1, scales: readonly Tensor[]): Held {
    const { formats, scaling } = this.#recipe;
    const format = formats[role];
    if (scaling.kind === "block") return { values: quantizeBlocks(x, axis, format, scaling.exponent), descale: null };
    const scale = scaling.kind === "current" ? currentScaleOf(amax(x), format, scaling) : scales[ROLES.indexOf(role)];
    if (scale === undefined) throw new BinadeError("internal", `internal: ${NAME} lost the scale of its ${role}`);
    return { values: quantizeTensor(x, scale, format), descale: scale.reciprocal() };
  }
}

const ROLES = ["input", "weight", "gradient"] as const satisfies readonly Fp8Role[];

/** All axes but the last as one, in float32. */
function asRows(x: Tensor | undefined): Tensor {
  if (x === undefined) throw new BinadeError("internal", `internal: ${NAME} lost an operand`);
  const width = x.shape.at(-1) ?? 1;
  return x.cast("float32").reshape([x.shape.slice(0, -1).reduce((a, b) => a * b, 1), width]);
}

const transposed = ({ values, descale }: Held): Held => ({ values: values.transpose(), descale });

/** The float32 product of what 8 bits hold, at its true size. */
function product(a: Held, b: Held): Tensor {
  const sums = a.values.matmul(b.values);
  return [a.descale, b.descale].reduce<Tensor>((x, descale) => (descale === null ? x : x.mul(descale)), sums);
}

function requireDTypes(input: Node, matrix: Node): void {
  if (input.dtype !== matrix.dtype) {
    throw new BinadeError(
      "dtype.mismatch",
      `linear: x is ${input.dtype} and weight ${matrix.dtype}; cast one of them, or use autocast`,
    );
  }
  if (input.dtype === "float32" || input.dtype === "float16" || input.dtype === "bfloat16") return;
  throw new BinadeError(
    "dtype.unsupported",
    `linear: 8-bit recipes take float32, float16 or bfloat16, got ${input.dtype}; cast x and weight`,
  );
}
