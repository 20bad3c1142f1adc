/** Ops of the user's own: a row with a forward, a backward and an autocast class, made of tensors. */
import { BinadeError, showValue } from "../errors.ts";
import { build, type Node } from "../ir/graph.ts";
import { postorder } from "../ir/walk.ts";
import type { Autocast, CompositeRow, OpOf, VjpArguments } from "../ops/define.ts";
import { showShape } from "../ops/shape.ts";
import { castOperands, outsideRegions } from "../precision/autocast.ts";
import { requireKnownKeys } from "../precision/options.ts";
import { AUTOCAST_CLASSES, isOpName, registerOpName } from "../precision/rules.ts";
import { requireTensor, Tensor } from "./tensor.ts";

/** What the gradient of an op is made of. */
export interface BackwardArguments<A extends readonly Tensor[]> {
  /** Gradient of the loss with respect to the output: its shape and dtype. */
  readonly cotangent: Tensor;
  readonly inputs: A;
  readonly output: Tensor;
}

export interface OpDefinition<A extends readonly Tensor[]> {
  /** Unlike any other; rules, `explain` and messages use it. */
  readonly name: string;
  /**
   * What autocast does to floating operands: `narrow` (the compute dtype), `wide` (float32), `widest`, `as-is`, or
   * `{ refuse: "use … instead" }`. Forward and backward run outside of every region, so dtypes inside are those of the operands.
   */
  readonly autocast: Autocast;
  /** Positions of operands that autocast never casts. Default none. */
  readonly uncast?: readonly number[];
  /** Pure: the same operands give the same graph; everything that it computes with is an operand. */
  readonly forward: (...inputs: A) => Tensor;
  /**
   * One gradient per operand, of its shape (null: none flows). Default: forward is differentiated; `none`: the output is
   * a constant to gradients.
   */
  readonly backward?: ((args: BackwardArguments<A>) => readonly (Tensor | null)[]) | "none";
}

const KEYS = ["name", "autocast", "uncast", "forward", "backward"];

/**
 * Makes an op: a function of tensors that graphs, `explain` and autocast know by its name. Its kernels are fused from the
 * ops that forward and backward use.
 *
 * @throws BinadeError `option.invalid` or `option.unknown` for a bad definition, or a name that is taken; and when the op is
 * used, `option.invalid` if forward reads a tensor that is no operand, `shape.mismatch` for a gradient of another shape.
 * @example
 * const clippedSquare = defineOp({
 *   name: "clippedSquare",
 *   autocast: "wide",
 *   forward: (x: Tensor) => x.square(),
 *   backward: ({ cotangent, inputs: [x] }) => [cotangent.mul(x.mul(2).maximum(-1).minimum(1))],
 * });
 * const loss = autocast("bfloat16", () => clippedSquare(model.forward(inputs)).mean());
 */
export function defineOp<A extends readonly Tensor[]>(definition: OpDefinition<A>): (...inputs: A) => Tensor {
  requireDefinition(definition);
  const op = customRow(definition);
  registerOpName(op.name);
  return (...inputs) => {
    inputs.forEach((x, i) => requireTensor(`${op.name}: operand ${i}`, x));
    const nodes = castOperands(
      op,
      inputs.map((x) => x.node),
    );
    return new Tensor(build.node(op, nodes));
  };
}

function requireDefinition(definition: OpDefinition<never>): void {
  requireKnownKeys("defineOp", definition, KEYS);
  const { name, autocast, uncast = [], forward, backward = "none" } = definition;
  const wrong = (message: string): BinadeError => new BinadeError("option.invalid", `defineOp: ${message}`);
  if (typeof name !== "string" || !/^[A-Za-z]\w*$/.test(name))
    throw wrong(`name: expected a word, got ${showValue(name)}`);
  if (isOpName(name)) throw wrong(`name: an op is called ${name} already; choose another name`);
  const isRefusal = typeof autocast === "object" && autocast !== null && typeof autocast.refuse === "string";
  if (!isRefusal && !AUTOCAST_CLASSES.some((known) => known === autocast)) {
    const expected = `${AUTOCAST_CLASSES.join(", ")} or { refuse: "…" }`;
    throw wrong(`${name}: autocast: expected ${expected}, got ${showValue(autocast)}`);
  }
  if (!Array.isArray(uncast) || !uncast.every((i) => Number.isInteger(i) && i >= 0))
    throw wrong(`${name}: uncast: expected a list of operands' positions from 0, got ${showValue(uncast)}`);
  if (typeof forward !== "function") throw wrong(`${name}: forward: expected a function, got ${showValue(forward)}`);
  if (backward !== "none" && typeof backward !== "function")
    throw wrong(`${name}: backward: expected a function or "none", got ${showValue(backward)}`);
}

/** The row of a definition, which is taken to be right; rules do not know its name yet. */
export function customRow<A extends readonly Tensor[]>(definition: OpDefinition<A>): OpOf<CompositeRow> {
  const { name, autocast, uncast = [], backward } = definition;
  const decompose = (inputs: readonly Node[]): Node => {
    const result: unknown = outsideRegions(() => definition.forward(...(tensorsOf(inputs) as unknown as A)));
    requireTensor(`${name}: forward`, result);
    requireOwnOperands(name, result.node, inputs);
    return result.node;
  };
  return {
    name,
    kind: "composite",
    autocast,
    uncast,
    // Equal structure is the same object, so that asking forward again costs no memory.
    infer: (inputs) => {
      const { shape, dtype } = decompose(inputs);
      return { shape, dtype };
    },
    decompose: (_, inputs) => decompose(inputs),
    ulps: 0,
    vjp: backward === undefined ? "decompose" : backward === "none" ? "none" : (args) => pullBack(name, backward, args),
  };
}

const tensorsOf = (nodes: readonly Node[]): readonly Tensor[] => nodes.map((node) => new Tensor(node));

/** A value that forward took from elsewhere would be unknown where the op is decomposed. */
function requireOwnOperands(name: string, result: Node, inputs: readonly Node[]): void {
  const own = new Set(inputs);
  const foreign = postorder([result], (node) => own.has(node)).find(
    (node) => node.op.kind === "source" && node.op.source === "input" && !own.has(node),
  );
  if (foreign === undefined) return;
  const { name: called } = foreign.attributes;
  throw new BinadeError(
    "option.invalid",
    `${name}: forward reads ${called === "" ? "a tensor" : String(called)} [${foreign.shape.join(", ")}], which is no operand; pass it as one`,
  );
}

function pullBack<A extends readonly Tensor[]>(
  name: string,
  backward: (args: BackwardArguments<A>) => readonly (Tensor | null)[],
  { g, out, ins, wanted }: VjpArguments,
): readonly ((() => Node) | null)[] {
  const given = backward({
    cotangent: new Tensor(g),
    inputs: tensorsOf(ins) as unknown as A,
    output: new Tensor(out),
  });
  if (!Array.isArray(given) || given.length !== ins.length) {
    throw new BinadeError(
      "option.invalid",
      `${name}: backward: expected ${ins.length} gradients, one per operand (null: none), got ${Array.isArray(given) ? given.length : showValue(given)}`,
    );
  }
  return ins.map((input, i) => {
    const gradient: unknown = given[i];
    if (gradient === null) return null;
    requireTensor(`${name}: backward: gradient ${i}`, gradient);
    if (gradient.shape.join() !== input.shape.join()) {
      throw new BinadeError(
        "shape.mismatch",
        `${name}: backward: gradient ${i} has shape ${showShape(gradient.shape)}, expected the operand's ${showShape(input.shape)}; sum over the axes that were broadcast`,
      );
    }
    return () => build.cast(gradient.node, wanted[i] ?? input.dtype);
  });
}
