/** Conformance e.3, skipped steps: cases 25 to 28 against PyTorch's runs, and that a skip changes nothing, byte by byte. */

import { beforeAll, describe, expect, it } from "vitest";
import {
  clipByGlobalNorm,
  compile,
  GradScaler,
  type Grads,
  gradients,
  gradientsOf,
  linear,
  mapGradients,
  meanSquaredError,
  nn,
  optim,
  readOutcome,
  type ScaledLoss,
  type StepOutcome,
  type Tensor,
  tensor,
  useDevice,
  Variable,
} from "../../src/index.ts";
import { DEVICES } from "../support/devices.ts";
import { readJson } from "../support/fixtures.ts";

interface Saved {
  readonly shape: readonly number[];
  readonly data: readonly number[];
}
interface Result {
  readonly weight: readonly number[];
  readonly bias: readonly number[];
  readonly scale: number;
}
type Pair = { readonly scaled: Result; readonly control: Result };
type Variant =
  | "plain"
  | "clipUnscaled"
  | "clipScaled"
  | "penalty"
  | "accumulate"
  | "twoOptimizers"
  | "twoOptimizersOneBad";
interface Skips extends Record<Variant, Pair> {
  readonly setup: {
    readonly tensors: Readonly<Record<"x" | "y" | "weight" | "bias", Saved>>;
    readonly scaler: { initialScale: number; growthFactor: number; backoffFactor: number; growthInterval: number };
    readonly maxNorm: number;
    readonly learningRate: number;
    readonly badBatch: number;
  };
}
const { cases } = readJson<{ cases: { skips: Skips } }>("scaler.json");
const { setup } = cases.skips;

/** Batches `first` to `first` + `count` − 1 of x or y. */
function batches(kind: "x" | "y", first: number, count = 1): Tensor {
  const { shape, data } = setup.tensors[kind];
  const [, rows = 0, columns = 0] = shape;
  const size = rows * columns;
  return tensor(Float32Array.from(data.slice(first * size, (first + count) * size)), {
    shape: [count * rows, columns],
  });
}

function parameter(name: "weight" | "bias"): Variable {
  const { shape, data } = setup.tensors[name];
  return new Variable(name, shape, "float32", Float32Array.from(data));
}

/** The four batches, with an infinity in batch 2: added to the scaled gradients of the parameters in `bad`. */
class Run {
  readonly weight = parameter("weight");
  readonly bias = parameter("bias");
  readonly scaler = new GradScaler(setup.scaler);
  readonly variant: Variant;
  readonly optimizers: readonly optim.SGD[];
  readonly outcomes: boolean[] = [];

  constructor(variant: Variant) {
    this.variant = variant;
    const lr = setup.learningRate;
    const groups = variant.startsWith("two") ? [[this.weight], [this.bias]] : [[this.weight, this.bias]];
    this.optimizers = groups.map((group) => new optim.SGD(group, { lr }));
  }

  get #parameters(): readonly Variable[] {
    return [this.weight, this.bias];
  }

  #loss(x: Tensor, y: Tensor): ScaledLoss {
    const loss = meanSquaredError(linear(x, this.weight.read(), this.bias.read()), y);
    if (this.variant !== "penalty") return this.scaler.scale(loss);
    const scaled = gradientsOf(
      this.scaler.scale(loss).tensor,
      this.#parameters.map((p) => p.read()),
    );
    const squares = scaled.map((gradient) => gradient.div(this.scaler.lossScale).square().sum());
    return this.scaler.scale(loss.add(squares.reduce((a, b) => a.add(b)).sqrt()));
  }

  readonly step = compile((x: Tensor, y: Tensor, poison: Tensor): readonly StepOutcome[] => {
    const bad = (p: Variable): boolean => this.variant !== "twoOptimizersOneBad" || p === this.weight;
    const scaled = mapGradients(gradients(this.#loss(x, y), this.#parameters), (g, p) => (bad(p) ? g.add(poison) : g));
    const outcomes = this.optimizers.map((optimizer) => this.scaler.step(optimizer, this.#prepared(scaled)));
    this.scaler.update();
    return outcomes;
  });

  /** Two optimizers unscale by themselves; the clipped run does it before clipping. */
  #prepared(scaled: Grads<"scaled">): Grads<"scaled"> | Grads<"true"> {
    if (this.variant !== "clipUnscaled") return scaled;
    return clipByGlobalNorm(this.scaler.unscale(scaled), setup.maxNorm);
  }

  async finish(): Promise<Result> {
    const window = this.variant === "accumulate" ? 2 : 1;
    for (let first = 0; first < 4; first += window) {
      const hit = setup.badBatch >= first && setup.badBatch < first + window;
      const poison = tensor(hit ? Number.POSITIVE_INFINITY : 0);
      const outcomes = await this.step(batches("x", first, window), batches("y", first, window), poison);
      for (const outcome of outcomes) this.outcomes.push((await readOutcome(outcome)).applied);
    }
    const [weight, bias] = [await this.weight.read().data(), await this.bias.read().data()];
    return { weight: [...weight], bias: [...bias], scale: await this.scaler.lossScale.item() };
  }
}

function expectClose(got: readonly number[], want: readonly number[], tolerance: number): void {
  got.forEach((value, i) => {
    expect(Math.abs(value - (want[i] ?? Number.NaN))).toBeLessThan(tolerance);
  });
}

describe.each(DEVICES)("skipped steps on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
  });

  // Two correct float32 implementations differ by the order of their sums.
  const rows: readonly (readonly [string, Variant, Variant, readonly boolean[]])[] = [
    ["25: plain", "plain", "plain", [true, true, false, true]],
    ["25: clipped", "clipUnscaled", "clipUnscaled", [true, true, false, true]],
    [
      "27: clipped after unscaling, as by max_norm times the scale before",
      "clipUnscaled",
      "clipScaled",
      [true, true, false, true],
    ],
    ["25: with a gradient penalty", "penalty", "penalty", [true, true, false, true]],
    ["25: accumulated over two batches", "accumulate", "accumulate", [true, false]],
    ["25: with two optimizers", "twoOptimizers", "twoOptimizers", [true, true, true, true, false, false, true, true]],
    [
      "26: two optimizers, only one of which skips",
      "twoOptimizersOneBad",
      "twoOptimizersOneBad",
      [true, true, true, true, false, true, true, true],
    ],
  ];
  it.each(rows)("%s", async (_, variant, fixture, applied) => {
    const run = new Run(variant);
    const result = await run.finish();
    const { scaled, control } = cases.skips[fixture];
    for (const want of [scaled, control]) {
      expectClose(result.weight, want.weight, 2e-6);
      expectClose(result.bias, want.bias, 2e-6);
    }
    expect(result.scale).toBe(scaled.scale);
    expect(run.outcomes).toEqual(applied);
  });

  it("28: a skip is atomic: every parameter, moment and counter keeps its bits, and a clean step follows as if it had not been", async () => {
    const seed = 3;
    const make = () => {
      const model = new nn.Sequential(new nn.Linear(4, 6, { seed }), new nn.GELU(), new nn.Linear(6, 2, { seed }));
      const optimizer = new optim.AdamW(model, { lr: optim.warmupCosine({ warmup: 2, total: 10, peak: 0.1 }) });
      const scaler = new GradScaler({ initialScale: 1024, growthInterval: 100, backoffFactor: 0.5 });
      const step = compile((x: Tensor, poison: Tensor) => {
        const loss = model.forward(x).square().mean();
        const scaled = mapGradients(gradients(scaler.scale(loss), model), (g, p) =>
          p.name === "layers.2.bias" ? g.add(poison) : g,
        );
        const outcome = scaler.step(optimizer, clipByGlobalNorm(scaler.unscale(scaled), 1));
        scaler.update();
        return outcome;
      });
      const variables = [...model.parameters(), ...optimizer.namedState().values()];
      return { step, bytes: () => Promise.all(variables.map((variable) => variable.bytes())) };
    };
    const [skipping, control] = [make(), make()];
    const x = tensor(
      Float32Array.from({ length: 12 }, (_, i) => Math.sin(i)),
      { shape: [3, 4] },
    );
    for (const poison of [0, Number.NaN, 0, Number.POSITIVE_INFINITY, 0]) {
      const before = await skipping.bytes();
      const outcome = await readOutcome(await skipping.step(x, tensor(poison)));
      if (poison === 0) {
        await control.step(x, tensor(0));
        expect(await skipping.bytes()).not.toEqual(before);
      } else {
        expect(outcome).toMatchObject({ applied: false, parameters: ["layers.2.bias"], reason: "gradientOverflow" });
        expect(await skipping.bytes()).toEqual(before);
      }
    }
    expect(await skipping.bytes()).toEqual(await control.bytes());
  });
});
