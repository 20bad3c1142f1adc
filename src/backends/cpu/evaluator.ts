/** Evaluates the pointwise part of a kernel into instructions: registers by node, operands loaded on demand, inlined nodes computed in place. */
import { sourceOf } from "../../compile/inline.ts";
import type { Kernel, Operand, Write } from "../../compile/program.ts";
import { BinadeError, invariant } from "../../errors.ts";
import { round } from "../../formats/index.ts";
import { describe, type Node } from "../../ir/graph.ts";
import { numberOf } from "../../ops/define.ts";
import { fold, slotsOf } from "../../ops/expr.ts";
import { broadcastView, extent, permuteView, reshapeView, type Shape, sizeOf, type View } from "../../ops/shape.ts";
import { type Register, VmBuilder } from "./vm.ts";

/** Operand `i`, which the row declares. */
export function inputOf(node: Node, i: number): Node {
  const input = node.inputs[i];
  invariant(input !== undefined, () => `${describe(node)} has no operand ${i}`);
  return input;
}

/** Fits a view into a domain: the same elements in the domain's axes, then reordered; a view of rows repeats along the last axis. */
function fitView(view: View, domain: Shape): View {
  const same = sizeOf(view.shape) === sizeOf(domain) ? reshapeView(view, domain) : null;
  if (same !== null) return same;
  const rows = reshapeView(view, [...domain.slice(0, -1), 1]);
  invariant(rows !== null, () => `a view of [${view.shape.join()}] does not fit the domain [${domain.join()}]`);
  return broadcastView(rows, domain);
}

/** Evaluates nodes of one part of a kernel: registers by node, operands loaded on demand. */
export class Evaluator {
  readonly vm: VmBuilder;
  readonly #kernel: Kernel;
  readonly #natural: Shape;
  readonly #order: readonly number[];
  readonly #registers = new Map<Node, Register>();

  /** @param natural the shape in which operands are walked @param order the domain's axes as axes of `natural` */
  constructor(kernel: Kernel, natural: Shape, order: readonly number[] = natural.map((_, i) => i)) {
    this.#kernel = kernel;
    this.#natural = natural.length === 0 ? [1] : natural;
    this.#order = natural.length === 0 ? [0] : order;
    this.vm = new VmBuilder(this.#order.map((axis) => extent(this.#natural, axis)));
  }

  set(node: Node, register: Register): void {
    this.#registers.set(node, register);
  }

  /** The register of `input`: loaded, computed before, or computed here because it is inlined. */
  value(input: Node): Register {
    const operand = this.#kernel.reads.get(input);
    if (operand !== undefined) return this.vm.load(operand, this.#view(operand.view));
    const { base } = sourceOf(input);
    const known = this.#registers.get(base);
    if (known !== undefined) return known;
    const register = this.#compute(base);
    this.#registers.set(base, register);
    return register;
  }

  evaluate(node: Node): Register {
    const register = this.#compute(node);
    this.#registers.set(node, register);
    return register;
  }

  #compute(node: Node): Register {
    const { op, inputs, dtype } = node;
    if (op.kind === "source") return this.#generate(node);
    invariant(op.kind === "pointwise", () => `${describe(node)} is not an expression`);
    const [first] = inputs;
    if (op.converts === true && first !== undefined) return this.vm.convert(this.value(first), first.dtype, dtype);
    // Lanes are 32 bits of no dtype.
    if (op.reinterprets === true && first !== undefined) return this.value(first);
    const used = slotsOf(op.value);
    const slots = Object.fromEntries(
      op.slots.flatMap((name, i) => (used.has(name) ? [[name, this.value(inputOf(node, i))]] : [])),
    );
    return this.vm.round(fold<Register>(op.value, this.vm.dialect(inputs.map((n) => n.dtype)), slots), dtype);
  }

  #generate(node: Node): Register {
    const { op, inputs, attributes, dtype } = node;
    if (op.kind === "source" && op.source === "constant")
      return this.vm.constant(round(numberOf(attributes, "value"), dtype), dtype);
    if (op.kind === "source" && op.source === "iota") return this.vm.emit("position", []);
    const [key] = inputs;
    const operand = key === undefined ? undefined : this.#kernel.reads.get(key);
    invariant(operand !== undefined, () => `${describe(node)} reads no stored key`);
    return this.vm.random(operand, numberOf(attributes, "stream"));
  }

  #view(view: View): View {
    return permuteView(fitView(view, this.#natural), this.#order);
  }

  store({ node, operand }: Write): void {
    this.vm.store(this.value(node), operand, this.#view(operand.view));
  }
}

export const oldestFirst = (nodes: Iterable<Node>): readonly Node[] => [...nodes].sort((a, b) => a.id - b.id);

export function evaluateAll(
  evaluator: Evaluator,
  nodes: ReadonlySet<Node>,
  writes: readonly Write[],
  also: readonly Node[] = [],
): void {
  for (const node of oldestFirst(nodes)) evaluator.evaluate(node);
  for (const write of writes) if (nodes.has(write.node) || also.includes(write.node)) evaluator.store(write);
}

const MULTIPLIED: readonly Node["dtype"][] = ["float32", "bfloat16", "float16"];

/** Operand of a product or convolution: its memory, and the dtype to which packing rounds it (an inlined cast). */
export function packedOperand(kernel: Kernel, core: Node, i: number): { operand: Operand; format: Node["dtype"] } {
  const input = inputOf(core, i);
  if (!MULTIPLIED.includes(input.dtype)) {
    throw new BinadeError(
      "dtype.unsupported",
      `${core.op.name}: the cpu device multiplies ${MULTIPLIED.join(", ")}, got ${input.dtype}; cast the operands, for instance x.cast("bfloat16")`,
    );
  }
  const direct = kernel.reads.get(input);
  if (direct !== undefined) return { operand: direct, format: input.dtype };
  const below = kernel.reads.get(inputOf(input, 0));
  invariant(
    below !== undefined && sourceOf(input).base === input,
    () => `${describe(input)} is neither stored nor a cast of something stored`,
  );
  return { operand: below, format: input.dtype };
}
