/** Running statistics of accumulated calls: a skipped window leaves them as they were before its first call. */

import { followedSoFar, followSince } from "../tensor/following.ts";
import { where } from "../tensor/functions.ts";
import type { Parameters } from "../tensor/gradients.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { guarded } from "../tensor/trace.ts";
import { Variable } from "../tensor/variable.ts";

/** Copies of a module's buffers, taken by the first call of a window. */
export class WindowStatistics {
  readonly #copies: ReadonlyMap<Variable, Variable>;
  /** Buffers that some recording moved with the outcome of its step; random counters, which always advance, are not among them. */
  readonly #followed = new Set<Variable>();

  constructor(source: Parameters) {
    const buffers = "buffers" in source && typeof source.buffers === "function" ? source.buffers() : [];
    this.#copies = new Map((buffers as readonly Variable[]).map((buffer) => [buffer, copyOf(buffer)]));
  }

  get variables(): readonly Variable[] {
    return [...this.#copies.values()];
  }

  /** Keeps what a recorded call found, if it is the first of its window. */
  add(isFirst: Tensor): void {
    for (const [variable, before] of followedSoFar()) {
      const copy = this.#copies.get(variable);
      if (copy === undefined) continue;
      copy.assign(where(isFirst, before, copy.read()));
      this.#followed.add(variable);
    }
  }

  /** The step over the window decides whether they stay. A recording that knows fewer of them is made anew. */
  take(): void {
    guarded(() => this.#followed.size);
    for (const variable of this.#followed) {
      const copy = this.#copies.get(variable);
      if (copy !== undefined) followSince(variable, copy.read());
    }
  }
}

function copyOf({ name, shape, dtype, device }: Variable): Variable {
  const copy = new Variable(`${name}.before`, shape, dtype, undefined, device);
  copy.role = "gradientSum";
  return copy;
}
