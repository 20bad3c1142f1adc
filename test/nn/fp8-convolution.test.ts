/** 8-bit recipes of convolution layers: each of the three products against sums in float64 over every window, and their state. */
import { beforeAll, describe, expect, it } from "vitest";
import {
  amaxOf,
  autocast,
  BinadeError,
  checkpoint,
  compile,
  currentScale,
  type Float8DType,
  GradScaler,
  gradients,
  gradientsOf,
  nn,
  optim,
  quantizeByBlock,
  quantizeByTensor,
  type Tensor,
  tensor,
  useDevice,
  type Variable,
  zeros,
} from "../../src/index.ts";
import { DEVICES } from "../support/devices.ts";
import { uniforms } from "../support/random.ts";
import { bytesOf } from "../support/variables.ts";

type Layer = nn.Conv1d | nn.Conv2d | nn.ConvTranspose1d | nn.ConvTranspose2d;

/**
 * A convolution takes the `large` side to the `small` one, a transposed one the small to the large. The weight is (small channels,
 * large channels of one group, …kernel).
 */
interface Case {
  readonly make: (initialWeight: () => Float32Array) => Layer;
  readonly transposed: boolean;
  readonly batch: number;
  readonly groups: number;
  readonly small: { readonly channels: number; readonly extents: readonly number[] };
  readonly large: { readonly channels: number; readonly extents: readonly number[] };
  readonly kernel: readonly number[];
  readonly stride: number;
  readonly dilation: number;
  /** Zeros before each axis. */
  readonly before: readonly number[];
}

/** More than one block along every axis that a product sums over, and none divisible by 32, in one case or the other. */
const CASES: Readonly<Record<string, Case>> = {
  "Conv1d, two groups, stride 2": {
    make: (initialWeight) => new nn.Conv1d(68, 70, 3, { groups: 2, stride: 2, padding: 1, bias: false, initialWeight }),
    transposed: false,
    batch: 34,
    groups: 2,
    small: { channels: 70, extents: [3] },
    large: { channels: 68, extents: [5] },
    kernel: [3],
    stride: 2,
    dilation: 1,
    before: [1],
  },
  "Conv2d, the same extents, dilated": {
    make: (initialWeight) => new nn.Conv2d(33, 5, [2, 3], { padding: "same", dilation: 2, bias: false, initialWeight }),
    transposed: false,
    batch: 3,
    groups: 1,
    small: { channels: 5, extents: [4, 5] },
    large: { channels: 33, extents: [4, 5] },
    kernel: [2, 3],
    stride: 1,
    dilation: 2,
    before: [1, 2],
  },
  "ConvTranspose1d, two groups, stride 2": {
    make: (initialWeight) =>
      new nn.ConvTranspose1d(66, 70, 3, {
        groups: 2,
        stride: 2,
        padding: 1,
        outputPadding: 1,
        bias: false,
        initialWeight,
      }),
    transposed: true,
    batch: 33,
    groups: 2,
    small: { channels: 66, extents: [4] },
    large: { channels: 70, extents: [8] },
    kernel: [3],
    stride: 2,
    dilation: 1,
    before: [1],
  },
  ConvTranspose2d: {
    make: (initialWeight) => new nn.ConvTranspose2d(5, 34, 2, { stride: 2, bias: false, initialWeight }),
    transposed: true,
    batch: 2,
    groups: 1,
    small: { channels: 5, extents: [2, 3] },
    large: { channels: 34, extents: [4, 6] },
    kernel: [2, 2],
    stride: 2,
    dilation: 1,
    before: [0, 0],
  },
};

const product = (extents: readonly number[]): number => extents.reduce((a, b) => a * b, 1);
/** Index of a position among extents. */
const flat = (position: readonly number[], extents: readonly number[]): number =>
  position.reduce((index, at, i) => index * (extents[i] as number) + at, 0);
const positions = (extents: readonly number[]): readonly (readonly number[])[] =>
  extents.reduce<readonly (readonly number[])[]>(
    (all, n) => all.flatMap((head) => Array.from({ length: n }, (_, i) => [...head, i])),
    [[]],
  );

/** Every term of ⟨small, large ∗ weight⟩, by the indices of its three factors. */
function eachTerm(c: Case, term: (small: number, large: number, weight: number) => void): void {
  const [smallSize, largeSize] = [product(c.small.extents), product(c.large.extents)];
  const [smallOf, largeOf] = [c.small.channels / c.groups, c.large.channels / c.groups];
  const meetings = positions(c.small.extents).flatMap((p) =>
    positions(c.kernel).flatMap((k) => {
      const at = p.map((n, i) => n * c.stride + (k[i] as number) * c.dilation - (c.before[i] as number));
      const isInside = at.every((n, i) => n >= 0 && n < (c.large.extents[i] as number));
      return isInside ? [[flat(p, c.small.extents), flat(at, c.large.extents), flat(k, c.kernel)] as const] : [];
    }),
  );
  for (let n = 0; n < c.batch; n++)
    for (let s = 0; s < c.small.channels; s++)
      for (let l = 0; l < largeOf; l++)
        for (const [p, at, k] of meetings) {
          const channel = Math.floor(s / smallOf) * largeOf + l;
          term(
            (n * c.small.channels + s) * smallSize + p,
            (n * c.large.channels + channel) * largeSize + at,
            (s * largeOf + l) * product(c.kernel) + k,
          );
        }
}

type Side = "small" | "large" | "weight";

/** The sum of all terms without one factor, in float64, and the sum of their magnitudes. */
function sumsOf(c: Case, left: Side, size: number, given: { readonly [S in Side]?: Float32Array }) {
  const [sums, sizes] = [new Float64Array(size), new Float64Array(size)];
  const one = (values: Float32Array | undefined, i: number): number =>
    values === undefined ? 1 : (values[i] as number);
  eachTerm(c, (small, large, weight) => {
    const at = { small, large, weight }[left];
    const value = one(given.small, small) * one(given.large, large) * one(given.weight, weight);
    sums[at] = (sums[at] as number) + value;
    sizes[at] = (sizes[at] as number) + Math.abs(value);
  });
  return { sums, sizes };
}

type View = readonly [outer: number, length: number, inner: number];
type Hold = (values: Float32Array, view: View, format: Float8DType) => Float32Array;

const byTensor: Hold = (values, _, format) =>
  quantizeByTensor(values, currentScale(amaxOf(values), format, { powerOfTwo: false, minimumAmax: 0 }), format);

/** Blocks along the middle of (outer, length, inner). */
const byBlock: Hold = (values, [outer, length, inner], format) => {
  const held = new Float32Array(values.length);
  for (let o = 0; o < outer; o++)
    for (let i = 0; i < inner; i++) {
      const at = (j: number): number => (o * length + j) * inner + i;
      const row = Float32Array.from({ length }, (_, j) => values[at(j)] as number);
      for (const [j, value] of quantizeByBlock(row, format, "rceil").values.entries()) held[at(j)] = value;
    }
  return held;
};

/** Uniform numbers, those of odd indices along the first and the second axis as many times larger or smaller. */
const spread = (seed: number, shape: readonly number[], byFirst: number, bySecond: number): Float32Array => {
  const [, second = 1, ...rest] = shape;
  return Float32Array.from(uniforms(seed, product(shape), -3, 3), (v, i) => {
    const channel = Math.floor(i / product(rest));
    return v * (Math.floor(channel / second) % 2 === 0 ? 1 : byFirst) * ((channel % second) % 2 === 0 ? 1 : bySecond);
  });
};

function expectSums(actual: ArrayLike<number>, { sums, sizes }: ReturnType<typeof sumsOf>): void {
  expect(actual).toHaveLength(sums.length);
  const isFar = (i: number): boolean =>
    !(Math.abs((sums[i] as number) - (actual[i] as number)) <= 2 ** -16 * (sizes[i] as number));
  expect(Array.from(sums, (_, i) => i).filter(isFar)).toEqual([]);
}

describe.each(DEVICES)("on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
  });

  describe.each([
    ["current", byTensor],
    ["block", byBlock],
  ] as const)("%s scaling", (scaling, held) => {
    it.each(Object.entries(CASES))("%s: each product sees its operands in the format of their role", async (_, c) => {
      const [input, output] = c.transposed ? [c.small, c.large] : [c.large, c.small];
      const shapeOf = ({ channels, extents }: Case["small"]): number[] => [c.batch, channels, ...extents];
      const weightShape = [c.small.channels, c.large.channels / c.groups, ...c.kernel];
      // The factors cancel in products, so that what a block loses of small numbers is seen.
      const X = spread(1, shapeOf(input), 2 ** 9, 2 ** -20);
      const W = c.transposed ? spread(3, weightShape, 2 ** 20, 2 ** -20) : spread(3, weightShape, 2 ** -20, 2 ** 20);
      const G = spread(2, shapeOf(output), 2 ** -9, 2 ** 20);
      const layer = nn.fp8(
        c.make(() => W),
        { scaling },
      );
      const x = tensor(X, { shape: shapeOf(input) });
      const y = layer.forward(x);
      const loss = y.mul(tensor(G, { shape: shapeOf(output) })).sum();
      const forWeight = gradients(loss, layer).get(layer.weight) as Tensor;
      const [forX] = gradientsOf(loss, [x]);

      const [smallSize, largeSize] = [product(c.small.extents), product(c.large.extents)];
      const [smallOf, largeOf] = [c.small.channels / c.groups, c.large.channels / c.groups];
      const taps = product(c.kernel);
      const views = {
        small: [c.batch * c.groups, smallOf, smallSize],
        large: [c.batch * c.groups, largeOf, largeSize],
        smallByBatch: [1, c.batch, c.small.channels * smallSize],
        largeByBatch: [1, c.batch, c.large.channels * largeSize],
        weightBySmall: [c.groups, smallOf, largeOf * taps],
        weightByLarge: [c.small.channels, largeOf, taps],
      } as const;
      const [e4m3, e5m2] = ["float8_e4m3fn", "float8_e5m2"] as const;
      const weightFor = (side: "small" | "large"): Float32Array =>
        held(W, side === "small" ? views.weightByLarge : views.weightBySmall, e4m3);
      const [from, to] = c.transposed ? (["small", "large"] as const) : (["large", "small"] as const);
      expectSums(
        await y.data(),
        sumsOf(c, to, G.length, { [from]: held(X, views[from], e4m3), weight: weightFor(to) }),
      );
      expectSums(
        await (forX as Tensor).data(),
        sumsOf(c, from, X.length, { [to]: held(G, views[to], e5m2), weight: weightFor(from) }),
      );
      expectSums(
        await forWeight.data(),
        sumsOf(c, "weight", W.length, {
          [from]: held(X, views[`${from}ByBatch`], e4m3),
          [to]: held(G, views[`${to}ByBatch`], e5m2),
        }),
      );
    });
  });

  it("the bias sees no cast, and results are in the compute dtype", async () => {
    const layer = nn.fp8(
      new nn.Conv1d(1, 1, 1, { initialWeight: nn.ones, initialBias: () => Float32Array.of(1.0625) }),
      {
        scaling: { kind: "current", powerOfTwo: true },
      },
    );
    const x = tensor([[[1, 2, 3]]]);
    expect([...(await layer.forward(x).data())]).toEqual([2.0625, 3.0625, 4.0625]);
    const y = autocast("bfloat16", () => layer.forward(x));
    expect(y.dtype).toBe("bfloat16");
    const grads = gradients(y.sum(), layer);
    expect([...grads.values()].map(({ dtype }) => dtype)).toEqual(["float32", "float32"]);
    expect(await (grads.get(layer.bias as Variable) as Tensor).item()).toBe(3);
  });

  const model = (): nn.Sequential =>
    nn.fp8(
      new nn.Sequential(
        new nn.Conv2d(2, 3, 3, { padding: 1, seed: 1 }),
        new nn.ReLU(),
        new nn.ConvTranspose2d(3, 1, 2, { stride: 2, seed: 2 }),
      ),
      { scaling: { kind: "delayed", historyLength: 3 } },
    );
  const picture = (seed: number, size = 1): Tensor =>
    tensor(Float32Array.from(uniforms(seed, 2 * 2 * 3 * 3, -size, size)), { shape: [2, 2, 3, 3] });
  const stateOf = (m: nn.Module): readonly Variable[] => [...m.parameters(), ...m.buffers()];

  it("delayed scaling remembers amaxes per layer and role, and is resumed to the bit", async () => {
    const make = () => {
      const own = model();
      const optimizer = new optim.SGD(own, { lr: 0.1 });
      const step = compile((x: Tensor) => {
        const loss = own.forward(x).square().mean();
        optimizer.apply(gradients(loss, own));
        return loss;
      });
      return { own, step };
    };
    const first = make();
    expect([...first.own.namedBuffers().keys()]).toEqual(
      [0, 2].flatMap((i) =>
        ["input", "weight", "gradient"].flatMap((role) =>
          ["scale", "amaxHistory"].map((name) => `layers.${i}.fp8.${role}.${name}`),
        ),
      ),
    );
    for (const [seed, size] of [
      [1, 1],
      [2, 100],
      [3, 1],
    ] as const)
      await first.step(picture(seed, size));
    const history = first.own.namedBuffers().get("layers.0.fp8.input.amaxHistory") as Variable;
    const amaxes = await Promise.all([picture(2, 100), picture(3)].map(async (x) => amaxOf(await x.data())));
    expect([...(await history.read().data())]).toEqual([0, ...amaxes]);
    const scale = first.own.namedBuffers().get("layers.0.fp8.input.scale") as Variable;
    expect(await scale.read().item()).toBe(Math.fround(448 / Math.max(...amaxes)));

    const second = make();
    const saved = await Promise.all(stateOf(first.own).map((variable) => variable.bytes()));
    for (const [i, variable] of stateOf(second.own).entries()) await variable.load(saved[i] as Uint8Array);
    for (const run of [first, second]) for (const seed of [4, 5, 6]) await run.step(picture(seed));
    expect(await bytesOf(stateOf(second.own))).toEqual(await bytesOf(stateOf(first.own)));
  });

  it("a skipped step, evaluation and a recomputed layer leave the state as they must", async () => {
    const [plain, recomputed] = [model(), model()];
    const stepOf = (own: nn.Sequential, run: (forward: () => Tensor) => Tensor) => {
      const [optimizer, scaler] = [new optim.SGD(own, { lr: 0.1 }), new GradScaler({ initialScale: 8 })];
      return compile((x: Tensor) => {
        const loss = run(() => own.forward(x))
          .square()
          .mean();
        scaler.step(optimizer, scaler.unscale(gradients(scaler.scale(loss), own)));
        scaler.update();
      });
    };
    const step = stepOf(plain, (forward) => forward());
    const again = stepOf(recomputed, (forward) => checkpoint(forward));
    for (const seed of [1, 2]) {
      await step(picture(seed));
      await again(picture(seed));
    }
    const before = await bytesOf(stateOf(plain));
    expect(await bytesOf(stateOf(recomputed))).toEqual(before);
    await step(picture(3, Infinity));
    await plain.evaluate().forward(picture(4)).data();
    expect(await bytesOf(stateOf(plain))).toEqual(before);
  });
});

it.each([
  [() => new nn.Conv1d(4, 6, 3), [2, 5, 8]],
  [() => new nn.Conv1d(4, 6, 3), [2, 4, 2]],
  [() => new nn.Conv1d(4, 6, 3), [4, 2]],
  [() => new nn.Conv2d(4, 6, 3, { groups: 2 }), [2, 3, 8, 8]],
  [() => new nn.ConvTranspose1d(4, 6, 3), [2, 5, 8]],
  [() => new nn.ConvTranspose2d(4, 6, 3), [2, 4, 8]],
] as const)("an input that does not fit is refused in the same words as without 8 bits: %s, %j", (make, shape) => {
  useDevice("reference");
  const x = zeros(shape);
  const messageOf = (layer: Layer): string => {
    try {
      layer.forward(x);
    } catch (error) {
      if (error instanceof BinadeError) return error.message;
    }
    throw new Error("nothing was refused");
  };
  expect(messageOf(nn.fp8<Layer>(make(), {}))).toBe(messageOf(make()));
});
