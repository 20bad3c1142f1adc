/** Random numbers inside a step: a stream with a stored position, so that a resumed run draws what the first one would have. */
import { philoxKey } from "../formats/index.ts";
import { build } from "../ir/graph.ts";
import type { Shape } from "../ops/shape.ts";
import { arange } from "./create.ts";
import { launch } from "./realize.ts";
import { Tensor } from "./tensor.ts";
import { currentTrace, type Trace } from "./trace.ts";
import { Variable } from "./variable.ts";

/** The word of the key that counts attempted steps. */
const COUNTER_WORD = 2;

/**
 * A source of uniform numbers. Its state is a uint32 variable of four words, the key of Philox: seed low, seed high,
 * counter, 0. The counter is an attempted clock: it advances once per run of a compiled step that draws, whether or not
 * the step is applied, and once per draw outside of compiled functions. Draws within one step differ by a stream number
 * (the fourth word of the block; 0x44415441 is reserved for the order of data).
 *
 * @example
 * const random = new RandomStream(1);
 * const keep = random.draw([8, 16]).greaterEqual(0.1); // bool [8, 16]
 */
export class RandomStream {
  readonly seed: number;
  /** The key; belongs in a checkpoint. */
  readonly state: Variable;
  readonly #drawsIn = new WeakMap<Trace, number>();

  /** @param seed integer from 0 to 2^53 − 1; otherwise BinadeError `value.range`. */
  constructor(seed = 0, name = "random") {
    this.seed = seed;
    this.state = new Variable(name, [4], "uint32", new Uint32Array([...philoxKey(seed), 0, 0]));
  }

  /** Uniform float32 numbers in [0, 1), multiples of 2⁻²⁴: others at every call and in every step. */
  draw(shape: Shape): Tensor {
    const key = this.state.read().node;
    const trace = currentTrace();
    if (trace === null) {
      this.#advance();
      // The key is copied out while the counter moves on: draws may be read one after another, and never.
      launch([key]);
      return new Tensor(build.random(key, shape, 0));
    }
    const stream = this.#drawsIn.get(trace) ?? 0;
    this.#drawsIn.set(trace, stream + 1);
    trace.atEnd.set(this, () => this.#advance());
    return new Tensor(build.random(key, shape, stream));
  }

  #advance(): void {
    this.state.assign(this.state.read().add(arange(4).equal(COUNTER_WORD).cast("uint32")));
  }
}
