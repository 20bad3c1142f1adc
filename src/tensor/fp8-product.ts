/** The products of an 8-bit recipe: an op whose forward and backward see what 8 bits hold of their operands. */
import { BinadeError } from "../errors.ts";
import { build, type Node } from "../ir/graph.ts";
import type { CompositeRow, OpOf } from "../ops/define.ts";
import type { Shape } from "../ops/shape.ts";
import type { Fp8Recipe, Fp8Role } from "../precision/fp8-recipe.ts";
import { customRow } from "./custom.ts";
import { amax, currentScaleOf, quantizeBlocks, quantizeTensor } from "./fp8.ts";
import { Tensor } from "./tensor.ts";

/** Not known to rules: they reach the product under the name of its function, whose operands it has cast. */
const NAME = "fp8Product";

/** Scales of the coming casts: float32 scalars, which delayed scaling knows before it sees the tensors. */
export type Fp8Scales = { readonly [R in Fp8Role]: Tensor };

/** Called while a graph is built, with the amax of each operand of a product: scalars. */
export type AmaxObserver = (role: Fp8Role, amax: Tensor) => void;

/** An operand of a product: its role, and its shape as (outer, summed, inner), of which blocks lie along the middle. */
export type Fp8Operand = readonly [role: Fp8Role, blocks: (shape: Shape) => Shape];

/** One of the three products of a bilinear map. */
export interface Fp8Contraction {
  readonly operands: readonly [Fp8Operand, Fp8Operand];
  /** Of float32 values; `shape` is that of the result. */
  readonly multiply: (a: Tensor, b: Tensor, shape: Shape) => Tensor;
}

/** What a layer computes from input and weight, without its bias, and the gradients of both: products of two each. */
export interface BilinearMap {
  /** The layer's function: runs `body` under its name. */
  readonly within: <T>(body: () => T) => T;
  /** Input and weight, cast by autocast and checked. */
  readonly operands: (x: Tensor, weight: Tensor) => readonly [Node, Node];
  readonly outputShape: (x: Shape, weight: Shape) => Shape;
  /** input × weight. */
  readonly forward: Fp8Contraction;
  /** gradient × weight. */
  readonly inputGradient: Fp8Contraction;
  /** gradient × input. */
  readonly weightGradient: Fp8Contraction;
  /** Float32 sums and a bias, rounded once. */
  readonly withBias: (sums: Node, bias: Tensor, like: Node) => Tensor;
}

/**
 * A bilinear map with both operands in 8 bits, and both products of backward of the gradient in 8 bits with them. Products run in
 * float32 on values that 8 bits hold exactly, and are divided by the scales: a study of accuracy, of no speed. The weight's
 * gradient is the float32 sum, unrounded; the bias sees neither cast. The gradient passes through the casts as it is, also
 * where they saturate.
 *
 * Block scaling quantises each operand along the axis that its product sums over, so that an operand has other blocks in each of its two.
 */
export class Fp8Product {
  readonly #recipe: Fp8Recipe;
  readonly #map: BilinearMap;
  readonly #observe: AmaxObserver | null;
  readonly #row: OpOf<CompositeRow>;

  /** @param observe called for input and weight in `apply`, and for the gradient when a loss is differentiated. */
  constructor(recipe: Fp8Recipe, map: BilinearMap, observe: AmaxObserver | null) {
    this.#recipe = recipe;
    this.#map = map;
    this.#observe = observe;
    this.#row = customRow<readonly Tensor[]>({
      name: NAME,
      autocast: "as-is",
      forward: (...operands) => this.#forward(operands),
      backward: ({ cotangent, inputs }) => this.#backward(cotangent, inputs),
    });
  }

  /**
   * @param scales for delayed scaling, else null
   * @returns the map's result in x's dtype, or in the compute dtype under autocast, to which x is cast first; the weight is quantised
   * from its own dtype.
   * @throws BinadeError as the map's function, and `dtype.unsupported` for float64.
   */
  apply(x: Tensor, weight: Tensor, bias: Tensor | undefined, scales: Fp8Scales | null): Tensor {
    return this.#map.within(() => {
      const [input] = this.#map.operands(x, weight);
      // Shapes that do not fit are told as the function tells them, before the op would.
      this.#map.outputShape(input.shape, weight.shape);
      const operands = [input, weight.node, ...(scales === null ? [] : ROLES.map((role) => scales[role].node))];
      const sums = build.node(this.#row, operands);
      this.#observe?.("input", amax(new Tensor(input).detach()));
      this.#observe?.("weight", amax(weight.detach()));
      return bias === undefined ? new Tensor(build.cast(sums, input.dtype)) : this.#map.withBias(sums, bias, input);
    });
  }

  #forward([x, weight, ...scales]: readonly Tensor[]): Tensor {
    const given = { input: wide(x), weight: wide(weight) };
    const shape = this.#map.outputShape(given.input.shape, given.weight.shape);
    return this.#multiply(this.#map.forward, given, scales, shape);
  }

  #backward(cotangent: Tensor, [x, weight, ...scales]: readonly Tensor[]): readonly (Tensor | null)[] {
    const given = { input: wide(x), weight: wide(weight), gradient: wide(cotangent) };
    this.#observe?.("gradient", amax(cotangent.detach()));
    const forInput = this.#multiply(this.#map.inputGradient, given, scales, given.input.shape);
    const forWeight = this.#multiply(this.#map.weightGradient, given, scales, given.weight.shape);
    return [forInput, forWeight, ...scales.map(() => null)];
  }

  /** The float32 product of what 8 bits hold, at its true size. */
  #multiply(
    { operands: [a, b], multiply }: Fp8Contraction,
    given: { readonly [R in Fp8Role]?: Tensor },
    scales: readonly Tensor[],
    shape: Shape,
  ): Tensor {
    const [left, right] = [this.#hold(a, given, scales), this.#hold(b, given, scales)];
    const sums = multiply(left.values, right.values, shape);
    return [left.descale, right.descale].reduce<Tensor>((x, descale) => (descale === null ? x : x.mul(descale)), sums);
  }

  /** An operand in the format of its role. `descale`: a scalar, or null: block scales, powers of two, are in the values. */
  #hold(
    [role, blocks]: Fp8Operand,
    given: { readonly [R in Fp8Role]?: Tensor },
    scales: readonly Tensor[],
  ): { readonly values: Tensor; readonly descale: Tensor | null } {
    const { formats, scaling } = this.#recipe;
    const format = formats[role];
    const x = wide(given[role]);
    if (scaling.kind === "block")
      return { values: quantizeBlocks(x, blocks(x.shape), format, scaling.exponent), descale: null };
    const scale = scaling.kind === "current" ? currentScaleOf(amax(x), format, scaling) : scales[ROLES.indexOf(role)];
    if (scale === undefined) throw new BinadeError("internal", `internal: ${NAME} lost the scale of its ${role}`);
    return { values: quantizeTensor(x, scale, format), descale: scale.reciprocal() };
  }
}

const ROLES = ["input", "weight", "gradient"] as const satisfies readonly Fp8Role[];

function wide(x: Tensor | undefined): Tensor {
  if (x === undefined) throw new BinadeError("internal", `internal: ${NAME} lost an operand`);
  return x.cast("float32");
}
