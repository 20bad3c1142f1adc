/** Running statistics of accumulated calls: a skipped window leaves them as they were before its first call. */
import { isFloat } from "../formats/index.ts";
import { arange, full } from "../tensor/create.ts";
import { followedSoFar, followSince } from "../tensor/following.ts";
import { where } from "../tensor/functions.ts";
import type { Parameters } from "../tensor/gradients.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { guarded } from "../tensor/trace.ts";
import { Variable } from "../tensor/variable.ts";

/** Everything that keeps copies of a buffer. */
const keepersOf = new WeakMap<Variable, readonly WindowStatistics[]>();

/**
 * Copies of a module's buffers, each taken by the first call of a window that moves it with the outcome of its step. Random
 * counters always advance and have none: statistics are floating, counters are integers.
 */
export class WindowStatistics {
  readonly #copies: ReadonlyMap<Variable, Variable>;
  /**
   * float32, one number per copy: 0, or where the present window has taken it 1 and how many other windows had then: of those
   * that one step judges, the first one's copy is brought back. A resumed run knows by it what to bring back.
   */
  readonly #taken: Variable | null;

  constructor(source: Parameters) {
    const buffers = "buffers" in source && typeof source.buffers === "function" ? source.buffers() : [];
    const floating = (buffers as readonly Variable[]).filter(({ dtype }) => isFloat(dtype));
    this.#copies = new Map(floating.map((buffer) => [buffer, copyOf(buffer)]));
    this.#taken = floating.length === 0 ? null : takenOf(floating);
    for (const buffer of floating) keepersOf.set(buffer, [...(keepersOf.get(buffer) ?? []), this]);
  }

  get variables(): readonly Variable[] {
    return [...this.#copies.values(), ...(this.#taken === null ? [] : [this.#taken])];
  }

  /** Keeps what a call found, where it is the first of its window to move it. */
  add(): void {
    const followed = followedSoFar();
    for (const [place, [variable, copy]] of [...this.#copies].entries()) {
      const before = followed.get(variable);
      if (before === undefined || this.#taken === null) continue;
      const taken = at(this.#taken, place);
      copy.assign(where(taken.notEqual(0), copy.read(), before));
      const isPlace = arange(this.#copies.size).equal(place);
      const stamp = where(taken.equal(0), this.#othersWith(variable).add(1), taken);
      this.#taken.assign(where(isPlace, stamp, this.#taken.read()));
    }
  }

  /** How many other windows have a copy of the buffer: a float32 scalar. */
  #othersWith(variable: Variable): Tensor {
    const keepers = guarded(() => keepersOf.get(variable)) ?? [];
    return keepers.reduce((count, keeper) => (keeper === this ? count : count.add(keeper.#has(variable))), full([], 0));
  }

  #has(variable: Variable): Tensor {
    const place = [...this.#copies.keys()].indexOf(variable);
    return this.#taken === null ? full([], 0) : at(this.#taken, place).notEqual(0).cast("float32");
  }

  /** The step over the window decides whether they stay. */
  take(): void {
    if (this.#taken === null) return;
    for (const [place, [variable, copy]] of [...this.#copies].entries()) {
      const own = followedSoFar().get(variable) ?? variable.read();
      const taken = at(this.#taken, place);
      const isTaken = taken.notEqual(0);
      followSince(variable, where(isTaken, copy.read(), own), where(isTaken, taken, Number.POSITIVE_INFINITY));
    }
    this.#taken.assign(full(this.#taken.shape, 0));
  }
}

/** A scalar. */
const at = (variable: Variable, place: number): Tensor => variable.read().slice(0, place, 1).reshape([]);

function copyOf({ name, shape, dtype, device }: Variable): Variable {
  const copy = new Variable(`${name}.before`, shape, dtype, undefined, device);
  copy.role = "gradientSum";
  return copy;
}

function takenOf(buffers: readonly Variable[]): Variable {
  const taken = new Variable("sum.buffersTaken", [buffers.length], "float32", undefined, buffers[0]?.device);
  taken.role = "gradientSum";
  return taken;
}
