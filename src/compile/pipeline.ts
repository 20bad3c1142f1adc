/** Graph → program: the passes in order. Read this file first. */
import { BinadeError, invariant } from "../errors.ts";
import { build, describe, type Node } from "../ir/graph.ts";
import { verify } from "../ir/verify.ts";
import { topological } from "../ir/walk.ts";
import { contiguousView, sizeOf, type View } from "../ops/shape.ts";
import { type Group, type Partition, partition } from "./fuse.ts";
import { bytesOf, isBarrier, isInput, memoryOf, sourceOf } from "./inline.ts";
import { overwritableOperands, sameLayout } from "./inplace.ts";
import { planOffsets } from "./memory.ts";
import { type Piece, piecesOf } from "./pieces.ts";
import type { Allocation, Binding, Buffer, Capabilities, Kernel, Operand, Program, Request, Write } from "./program.ts";
import { readsOf, type Schedule, schedule } from "./schedule.ts";
import { COPY, decompose, legalize, simplify } from "./simplify.ts";

/** By how much of the arena pieces that are written into their whole may enlarge it. */
const JOINED_BYTES_SHARE = 1 / 256;

/** Compiles a request for a backend of these capabilities. Leaves keep their identity: they are the program's inputs. */
export function compileProgram(request: Request, capabilities: Capabilities): Program {
  const simple = legalize(simplify(decompose(request, capabilities)));
  const roots = [...simple.outputs, ...simple.assignments.values()];
  verify(roots);
  const nodes = topological(roots);
  requireSupport(nodes, capabilities);
  const parts = partition(nodes, simple, capabilities.fuse);
  const plan = schedule(parts, simple);
  const assemble = (pieces: ReadonlyMap<Node, Piece>): Program =>
    new Assembly(nodes, simple, parts, plan, pieces).program();
  const kept = new Set(roots.map((root) => memoryOf(sourceOf(root).base)));
  const [apart, pieces] = [assemble(new Map()), piecesOf(plan.order, parts, kept)];
  if (pieces.size === 0) return apart;
  // A whole takes up memory from its first piece on: where pieces come at different times, that may be more. A few bytes more in a large
  // arena, as a row of gradients' flags causes, cost less than a kernel for every piece.
  const joined = assemble(pieces);
  return joined.arenaByteLength <= apart.arenaByteLength * (1 + JOINED_BYTES_SHARE) ? joined : apart;
}

function requireSupport(nodes: readonly Node[], { dtypes, maxRank = Number.POSITIVE_INFINITY }: Capabilities): void {
  const deep = nodes.find((n) => n.shape.length > maxRank);
  if (deep !== undefined) {
    throw new BinadeError(
      "shape.invalid",
      `${describe(deep)}: this device takes at most ${maxRank} axes, got ${deep.shape.length}; reshape, or use the reference device`,
    );
  }
  const foreign = nodes.find((n) => !dtypes.has(n.dtype));
  if (foreign === undefined) return;
  throw new BinadeError(
    "dtype.unsupported",
    `${describe(foreign)}: this device has no ${foreign.dtype} arithmetic; cast to float32, or use the reference device`,
  );
}

type StorageSlot = { arena: number } | { binding: number };

/** Gives every stored node a buffer, and every kernel its operands. */
class Assembly {
  readonly #request: Request;
  readonly #parts: Partition;
  readonly #plan: Schedule;
  readonly #pieces: ReadonlyMap<Node, Piece>;
  readonly #bindings: { role: Binding["role"]; node: Node }[] = [];
  readonly #slots = new Map<Node, StorageSlot>();
  readonly #lifetimes: { node: Node; from: number; to: number; byteLength: number }[] = [];
  readonly #copies: { value: Node; slot: StorageSlot; commits: boolean; staged: boolean }[] = [];

  constructor(
    nodes: readonly Node[],
    request: Request,
    parts: Partition,
    plan: Schedule,
    pieces: ReadonlyMap<Node, Piece>,
  ) {
    this.#request = request;
    this.#parts = parts;
    this.#plan = plan;
    this.#pieces = pieces;
    for (const node of nodes) if (isInput(node)) this.#slots.set(node, { binding: this.#bind("input", node) });
    for (const variable of request.assignments.keys()) {
      if (!this.#slots.has(variable)) this.#slots.set(variable, { binding: this.#bind("input", variable) });
    }
  }

  #bind(role: Binding["role"], node: Node): number {
    this.#bindings.push({ role, node });
    return this.#bindings.length - 1;
  }

  program(): Program {
    for (const [variable, value] of this.#plan.inPlace) this.#slots.set(value, this.#slotOf(variable));
    const outputs = this.#request.outputs.map((node) => this.#placeOutput(node));
    for (const [variable, value] of this.#plan.copies)
      this.#copies.push({
        value,
        slot: this.#slotOf(variable),
        commits: true,
        staged: isInput(memoryOf(sourceOf(value).base)),
      });
    const stored = this.#storedNodes();
    this.#measure(stored);
    const { offsets, byteLength } = this.#planArena();
    const buffers = this.#buffers(offsets);
    const kernels = this.#plan.order.map((group) => this.#kernel(group, stored, buffers));
    const { before, after } = this.#copyKernels(buffers);
    const commitFrom = this.#plan.commitFrom;
    return {
      kernels: [...kernels.slice(0, commitFrom), ...before, ...kernels.slice(commitFrom), ...after],
      commitFrom: commitFrom + before.length,
      arenaByteLength: byteLength,
      allocations: this.#allocations(offsets, before.length, kernels.length + before.length + after.length),
      bindings: this.#bindings.map(({ role, node }, index) => ({
        role,
        node,
        buffer: bufferOf(node, { kind: "binding", index }),
      })),
      outputs,
      losses: this.#request.losses ?? [],
      gradients: this.#request.gradients ?? [],
    };
  }

  /** Lifetimes count the kernels of the schedule; copies of staged leaves come in between, the others after the last. */
  #allocations(offsets: readonly number[], inserted: number, kernelCount: number): readonly Allocation[] {
    const { commitFrom, order } = this.#plan;
    const at = (position: number): number =>
      position >= order.length ? kernelCount - 1 : position < commitFrom ? position : position + inserted;
    return this.#lifetimes.map(({ node, from, to, byteLength }, i) => ({
      node,
      byteOffset: offsets[i] ?? 0,
      byteLength,
      from: at(from),
      to: at(to),
    }));
  }

  #slotOf(node: Node): StorageSlot {
    const slot = this.#slots.get(memoryOf(node));
    invariant(slot !== undefined, () => `${describe(node)} has no storage`);
    return slot;
  }

  /** An output is written straight into its binding where its kernel can; a leaf, a view or a variable's new value is copied. */
  #placeOutput(node: Node): number {
    const binding = this.#bind("output", node);
    const source = sourceOf(node);
    if (source.base === node && !this.#slots.has(node) && !isInput(node) && !isBarrier(node))
      this.#slots.set(node, { binding });
    else this.#copies.push({ value: node, slot: { binding }, commits: false, staged: false });
    return binding;
  }

  /** Nodes that some other kernel reads, or that are asked for. */
  #storedNodes(): ReadonlySet<Node> {
    const stored = new Set<Node>();
    for (const group of this.#plan.order) {
      for (const node of readsOf(group, this.#parts.inline)) if (!isInput(node)) stored.add(node);
      // A lookup that a barrier awaits and nobody reads still has to find its indices in range.
      if (group.kind === "index") for (const node of group.cores) stored.add(node);
    }
    const add = (node: Node): void => {
      const memory = memoryOf(sourceOf(node).base);
      if (!isInput(memory)) stored.add(memory);
    };
    for (const { value } of this.#copies) add(value);
    for (const value of this.#plan.inPlace.values()) stored.add(value);
    for (const node of this.#request.outputs) add(node);
    return stored;
  }

  #measure(stored: ReadonlySet<Node>): void {
    const end = this.#plan.order.length;
    this.#plan.order.forEach((group, at) => {
      for (const node of membersOf(group)) {
        if (!stored.has(node) || this.#slots.has(node)) continue;
        const whole = this.#pieces.get(node)?.whole ?? node;
        const slot = this.#slots.get(whole) ?? { arena: this.#lifetimes.length };
        if (!this.#slots.has(whole))
          this.#lifetimes.push({ node: whole, from: at, to: at, byteLength: bytesOf(whole) });
        this.#slots.set(whole, slot);
        this.#slots.set(node, slot);
      }
      for (const node of readsOf(group, this.#parts.inline)) this.#extend(node, at);
    });
    for (const { value } of this.#copies) this.#extend(memoryOf(sourceOf(value).base), end);
    for (const copy of this.#copies) {
      if (!copy.staged) continue;
      // A variable that takes another leaf's old value reads it before anything is overwritten.
      const slot = { arena: this.#lifetimes.length };
      this.#lifetimes.push({ node: copy.value, from: 0, to: end, byteLength: bytesOf(copy.value) });
      this.#staging.set(copy.value, slot);
    }
  }
  readonly #staging = new Map<Node, StorageSlot>();

  /** Offsets of all lifetimes, with results written over operands that die where that makes the arena smaller. */
  #planArena(): ReturnType<typeof planOffsets> {
    const apart = planOffsets(this.#lifetimes);
    const over = this.#overwritten();
    if (over.size === 0) return apart;
    const rootOf = (i: number): number => (over.has(i) ? rootOf(over.get(i) ?? i) : i);
    const merged = this.#lifetimes.map((life) => ({ ...life }));
    this.#lifetimes.forEach(({ to }, i) => {
      const root = merged[rootOf(i)];
      if (root !== undefined) root.to = Math.max(root.to, to);
    });
    const kept = merged.map((life, i) => (over.has(i) ? { ...life, byteLength: 0 } : life));
    const shared = planOffsets(kept);
    if (shared.byteLength >= apart.byteLength) return apart;
    // What is written over ends before the kernel that writes.
    for (const [result, operand] of over) {
      const [life, ended] = [this.#lifetimes[result], this.#lifetimes[operand]];
      if (life !== undefined && ended !== undefined) ended.to = life.from - 1;
    }
    return { ...shared, offsets: shared.offsets.map((_, i) => shared.offsets[rootOf(i)] ?? 0) };
  }

  /** Lifetime of a result → lifetime of the operand that it is written over. */
  #overwritten(): ReadonlyMap<number, number> {
    const found = new Map<number, number>();
    const arenaOf = (node: Node): number | null => {
      const slot = this.#slots.get(node);
      return slot !== undefined && "arena" in slot && !this.#pieces.has(node) ? slot.arena : null;
    };
    this.#plan.order.forEach((group, at) => {
      const dying = [...overwritableOperands(group, this.#parts.inline)].filter((operand) => {
        const life = this.#lifetimes[arenaOf(operand) ?? -1];
        return life !== undefined && life.to === at && life.from < at;
      });
      for (const node of membersOf(group)) {
        const [result, i] = [arenaOf(node), dying.findIndex((operand) => sameLayout(operand, node))];
        const operand = arenaOf(dying[i] ?? node);
        if (result === null || i < 0 || operand === null || this.#lifetimes[result]?.from !== at) continue;
        found.set(result, operand);
        dying.splice(i, 1);
      }
    });
    return found;
  }

  #extend(node: Node, at: number): void {
    const slot = this.#slots.get(node);
    if (slot === undefined || !("arena" in slot)) return;
    const life = this.#lifetimes[slot.arena];
    if (life !== undefined) life.to = Math.max(life.to, at);
  }

  #buffers(offsets: readonly number[]): (node: Node, slot: StorageSlot) => Buffer {
    return (node, slot) =>
      bufferOf(
        node,
        "binding" in slot
          ? { kind: "binding", index: slot.binding }
          : { kind: "arena", byteOffset: offsets[slot.arena] ?? 0 },
      );
  }

  /** A stored node through a view of its memory, which may be that of the whole of which it is a piece. */
  #operand(node: Node, view: View, buffers: (node: Node, slot: StorageSlot) => Buffer): Operand {
    return { buffer: buffers(this.#pieces.get(node)?.whole ?? node, this.#slotOf(node)), view };
  }

  #kernel(group: Group, stored: ReadonlySet<Node>, buffers: (node: Node, slot: StorageSlot) => Buffer): Kernel {
    const own = membersOf(group);
    const inside = new Set(own);
    const reads = new Map<Node, Operand>();
    const nodes = new Set<Node>();
    const visit = (node: Node): void => {
      if (nodes.has(node)) return;
      for (const input of node.inputs) {
        const { base, view } = sourceOf(input);
        if (this.#parts.inline.has(base)) visit(base);
        else if (!inside.has(base))
          reads.set(input, this.#operand(base, this.#pieces.get(base)?.placed ?? view, buffers));
      }
      nodes.add(node);
    };
    for (const node of own) visit(node);
    const writes = own
      .filter((n) => stored.has(n))
      .map((node): Write => {
        const view = this.#pieces.get(node)?.written ?? contiguousView(node.shape);
        return { node, operand: this.#operand(node, view, buffers) };
      });
    const { kind, cores, prologue, epilogue } = group;
    const domain = (cores[0] ?? [...epilogue][0])?.shape ?? [];
    return { kind, nodes: [...nodes].sort((a, b) => a.id - b.id), cores, prologue, epilogue, domain, reads, writes };
  }

  /** Copies of staged leaves (`before` the commit), then copies to outputs and variables. */
  #copyKernels(buffers: (node: Node, slot: StorageSlot) => Buffer): {
    before: readonly Kernel[];
    after: readonly Kernel[];
  } {
    const before: Kernel[] = [];
    const staged: Kernel[] = [];
    const outputs: Kernel[] = [];
    const commits: Kernel[] = [];
    for (const { value, slot, commits: isCommit, staged: isStaged } of this.#copies) {
      const { base, view } = sourceOf(value);
      const from: Operand = { buffer: buffers(base, this.#slotOf(base)), view };
      const to = whole(value, buffers(value, slot));
      const stage = isStaged ? this.#staging.get(value) : undefined;
      if (stage !== undefined) {
        const middle = whole(value, buffers(value, stage));
        before.push(copyKernel(value, from, middle));
        staged.push(copyKernel(value, middle, to));
      } else if (isCommit) commits.push(copyKernel(value, from, to));
      else if (this.#request.assignments.has(memoryOf(base))) before.push(copyKernel(value, from, to));
      else outputs.push(copyKernel(value, from, to));
    }
    return { before, after: [...outputs, ...commits, ...staged] };
  }
}

/** A kernel of one cast to the value's own dtype: it reads through `from`'s view and writes row-major. */
function copyKernel(value: Node, from: Operand, to: Operand): Kernel {
  const leaf = build.node(COPY, [value]);
  const reads = new Map([[value, from]]);
  return {
    kind: "pointwise",
    nodes: [leaf],
    cores: [],
    prologue: new Set(),
    epilogue: new Set([leaf]),
    domain: value.shape,
    reads,
    writes: [{ node: leaf, operand: to }],
  };
}

const membersOf = (group: Group): readonly Node[] =>
  [...group.prologue, ...group.cores, ...group.epilogue].sort((a, b) => a.id - b.id);
const bufferOf = (node: Node, storage: Buffer["storage"]): Buffer => ({
  dtype: node.dtype,
  elements: sizeOf(node.shape),
  storage,
});
const whole = (node: Node, buffer: Buffer): Operand => ({ buffer, view: contiguousView(node.shape) });
