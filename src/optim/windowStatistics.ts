/** Running statistics of accumulated calls: a skipped window leaves them as they were before its first call. */
import { isFloat } from "../formats/index.ts";
import { arange, full } from "../tensor/create.ts";
import { followedSoFar, followSince } from "../tensor/following.ts";
import { where } from "../tensor/functions.ts";
import type { Parameters } from "../tensor/gradients.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { Variable } from "../tensor/variable.ts";

/**
 * Copies of a module's buffers, each taken by the first call of a window that moves it with the outcome of its step. Random
 * counters always advance and have none: statistics are floating, counters are integers.
 */
export class WindowStatistics {
  readonly #copies: ReadonlyMap<Variable, Variable>;
  /** float32, one number per copy: 1 where the present window has taken it. A resumed run knows by it what to bring back. */
  readonly #taken: Variable | null;

  constructor(source: Parameters) {
    const buffers = "buffers" in source && typeof source.buffers === "function" ? source.buffers() : [];
    const floating = (buffers as readonly Variable[]).filter(({ dtype }) => isFloat(dtype));
    this.#copies = new Map(floating.map((buffer) => [buffer, copyOf(buffer)]));
    this.#taken = floating.length === 0 ? null : takenOf(floating);
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
      copy.assign(where(isTaken(this.#taken, place), copy.read(), before));
      const isPlace = arange(this.#copies.size).equal(place);
      this.#taken.assign(where(isPlace, full([], 1), this.#taken.read()));
    }
  }

  /** The step over the window decides whether they stay. */
  take(): void {
    if (this.#taken === null) return;
    for (const [place, [variable, copy]] of [...this.#copies].entries()) {
      const own = followedSoFar().get(variable) ?? variable.read();
      followSince(variable, where(isTaken(this.#taken, place), copy.read(), own));
    }
    this.#taken.assign(full(this.#taken.shape, 0));
  }
}

/** bool scalar. */
const isTaken = (taken: Variable, place: number): Tensor => taken.read().slice(0, place, 1).reshape([]).notEqual(0);

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
