/** Autocast, cases 36 to 39: which dtype every op computes in, bit for bit as with casts by hand; nesting. */

import { beforeAll, describe, expect, it } from "vitest";
import {
  autocast,
  autocastDType,
  BinadeError,
  concatenate,
  crossEntropy,
  embedding,
  layerNorm,
  linear,
  rmsNorm,
  scaledDotProductAttention,
  type Tensor,
  tensor,
  useDevice,
  where,
} from "../../src/index.ts";
import { OPS } from "../../src/ops/index.ts";
import { castOperands } from "../../src/precision/autocast.ts";
import { DEVICES } from "../support/devices.ts";

const HALVES = ["float16", "bfloat16"] as const;
type Op = (...xs: readonly Tensor[]) => Tensor;
type Shapes = readonly (readonly number[])[];
type Case = readonly [string, Op, Shapes];
const row = (name: string, op: Op, ...shapes: Shapes): Case => [name, op, shapes];

const at = (xs: readonly Tensor[], i: number): Tensor => xs[i] as Tensor;
const labels = (): Tensor => tensor(Int32Array.of(1, 0, 3));

/** Name, function, shapes of its operands. */
const NARROW: readonly Case[] = [
  row("matmul", (x, y) => x.matmul(y), [3, 4], [4, 2]),
  row("matmul of batches", (x, y) => x.matmul(y), [2, 3, 4], [2, 4, 2]),
  row("matmul of vectors", (x, y) => x.matmul(y), [4], [4]),
  row("linear", (x, y) => linear(x, y), [3, 4], [2, 4]),
  row(
    "attention",
    (x, y, z) => scaledDotProductAttention(x, y, z, { causal: true }),
    [1, 3, 2, 4],
    [1, 3, 2, 4],
    [1, 3, 2, 4],
  ),
];
const WIDE: readonly Case[] = [
  row("exp", (x) => x.exp(), [6]),
  row("expm1", (x) => x.expm1(), [6]),
  row("log", (x) => x.log(), [6]),
  row("log1p", (x) => x.log1p(), [6]),
  row("rsqrt", (x) => x.rsqrt(), [6]),
  row("reciprocal", (x) => x.reciprocal(), [6]),
  row("square", (x) => x.square(), [6]),
  row("softplus", (x) => x.softplus(), [6]),
  row("pow", (x, y) => x.pow(y), [6], [6]),
  row("sum", (x) => x.sum({ axes: 1 }), [2, 3]),
  row("mean", (x) => x.mean(), [2, 3]),
  row("softmax", (x) => x.softmax(), [3, 4]),
  row("logSoftmax", (x) => x.logSoftmax(), [3, 4]),
  row("logSumExp", (x) => x.logSumExp(), [3, 4]),
  row("layerNorm", (x) => layerNorm(x), [3, 4]),
  row("rmsNorm", (x) => rmsNorm(x), [3, 4]),
  row("crossEntropy", (x) => crossEntropy(x, labels()), [3, 4]),
];
const WIDEST: readonly Case[] = [
  row("add", (x, y) => x.add(y), [6], [6]),
  row("sub", (x, y) => x.sub(y), [6], [6]),
  row("mul", (x, y) => x.mul(y), [6], [6]),
  row("div", (x, y) => x.div(y), [6], [6]),
  row("minimum", (x, y) => x.minimum(y), [6], [6]),
  row("maximum", (x, y) => x.maximum(y), [6], [6]),
  row("where", (x, y) => where(x.greater(1), x, y), [6], [6]),
  row("concatenate", (x, y) => concatenate([x, y]), [6], [6]),
];
const AS_IS: readonly Case[] = [
  row("relu", (x) => x.relu(), [6]),
  row("gelu", (x) => x.gelu(), [6]),
  row("silu", (x) => x.silu(), [6]),
  row("sigmoid", (x) => x.sigmoid(), [6]),
  row("tanh", (x) => x.tanh(), [6]),
  row("sqrt", (x) => x.sqrt(), [6]),
  row("neg", (x) => x.neg(), [6]),
  row("max", (x) => x.max(), [6]),
  row("reshape", (x) => x.reshape([2, 3]), [6]),
  row("slice", (x) => x.slice(0, 1, 3), [6]),
  row("transpose", (x) => x.transpose(), [2, 3]),
  row("embedding", (x) => embedding(x, labels()), [4, 3]),
];

/** Positive numbers between 0.5 and 2, distinct, with more digits than 16 bits hold. */
function operands(shapes: readonly (readonly number[])[]): readonly Tensor[] {
  return shapes.map((shape, k) => {
    const length = shape.reduce((a, b) => a * b, 1);
    return tensor(
      Float32Array.from({ length }, (_, i) => 0.5 + ((7919 * (i + 1) + 104729 * k) % 1009) / 700),
      { shape },
    );
  });
}
const castAll = (xs: readonly Tensor[], dtype: Tensor["dtype"]): readonly Tensor[] => xs.map((x) => x.cast(dtype));

/** The same dtype, and the same bytes. */
async function expectSame(got: Tensor, want: Tensor): Promise<void> {
  expect(got.dtype).toBe(want.dtype);
  expect(await got.bytes()).toEqual(await want.bytes());
}

describe.each(DEVICES)("case 36: every class on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
  });

  describe.each(HALVES)("%s", (half) => {
    it.each(NARROW)("%s computes narrow", async (_, op, shapes) => {
      const xs = operands(shapes);
      const got = autocast(half, () => op(...xs));
      expect(got.dtype).toBe(half);
      await expectSame(got, op(...castAll(xs, half)));
    });

    it.each(WIDE)("%s computes in float32", async (_, op, shapes) => {
      const xs = castAll(operands(shapes), half);
      const got = autocast(half, () => op(...xs));
      expect(got.dtype).toBe("float32");
      await expectSame(got, op(...castAll(xs, "float32")));
    });

    it.each(WIDEST)("%s computes in the widest of its operands", async (_, op, shapes) => {
      const wide = operands(shapes);
      const narrow = castAll(wide, half);
      const mixed = [at(wide, 0), at(narrow, 1)];
      await expectSame(
        autocast(half, () => op(...narrow)),
        op(...narrow),
      );
      expect(autocast(half, () => op(...narrow)).dtype).toBe(half);
      await expectSame(
        autocast(half, () => op(...mixed)),
        op(...castAll(mixed, "float32")),
      );
    });

    it.each(AS_IS)("%s leaves dtypes alone", (_, op, shapes) => {
      const xs = operands(shapes);
      expect(autocast(half, () => op(...xs)).dtype).toBe("float32");
      expect(autocast(half, () => op(...castAll(xs, half))).dtype).toBe(half);
    });
  });
});

describe("the rows", () => {
  beforeAll(() => {
    useDevice("reference");
  });
  const named = (rule: string): readonly string[] =>
    Object.values(OPS)
      .flatMap((op) => (op.autocast === rule ? [op.name] : []))
      .sort();

  it("of every class are these", () => {
    expect(named("narrow")).toEqual(
      ["attention", "convolution", "matmul"]
        .concat(named("narrow").filter((name) => /^(attention|convolution)./.test(name)))
        .sort(),
    );
    expect(named("widest")).toEqual([
      "add",
      "concatenate",
      "div",
      "equal",
      "greater",
      "greaterEqual",
      "less",
      "lessEqual",
      "maximum",
      "minimum",
      "mul",
      "mulSaved",
      "notEqual",
      "sub",
      "where",
    ]);
    expect(named("wide")).toEqual([
      "crossEntropyRows",
      "exp",
      "expm1",
      "groupNorm",
      "inverseDeviation",
      "log",
      "log1p",
      "logSoftmax",
      "logSumExp",
      "normalize",
      "pow",
      "reciprocal",
      "rsqrt",
      "softmax",
      "softplus",
      "square",
      "sum",
      "upsample",
    ]);
  });

  it("that refuse name the safe form, inside a region only", () => {
    const row = { name: "binaryCrossEntropy", autocast: { refuse: "use binaryCrossEntropyWithLogits" } } as const;
    const { node } = tensor([0.5]);
    expect(castOperands(row, [node])).toEqual([node]);
    const refused = () => autocast("float16", () => castOperands(row, [node]));
    expect(refused).toThrow(expect.objectContaining({ code: "autocast.refused" }));
    expect(refused).toThrow(/binaryCrossEntropyWithLogits/);
  });
});

describe.each(HALVES)("other dtypes: %s", (half) => {
  beforeAll(() => {
    useDevice("reference");
  });
  const matrix = (dtype: Tensor["dtype"]): Tensor =>
    tensor(
      [
        [1, 2],
        [3, 4],
      ],
      { dtype },
    );

  it("case 37: float64 and integers are not touched", () => {
    autocast(half, () => {
      expect(matrix("float64").matmul(matrix("float64")).dtype).toBe("float64");
      expect(matrix("float64").exp().dtype).toBe("float64");
      expect(matrix("int32").add(matrix("int32")).dtype).toBe("int32");
      expect(matrix("int32").sum().dtype).toBe("int32");
    });
  });

  it("case 37: float64 and 16 bits do not multiply, in a region or outside", () => {
    const multiply = () => matrix("float64").matmul(matrix(half));
    expect(multiply).toThrow(BinadeError);
    expect(() => autocast(half, multiply)).toThrow(BinadeError);
  });

  it("case 38: builtin promotion: half with float gives float, comparison gives bool", () => {
    for (const region of [half, false] as const) {
      autocast(region, () => {
        const [wide, narrow] = [matrix("float32"), matrix(half)];
        expect(narrow.add(wide).dtype).toBe("float32");
        expect(wide.add(narrow).dtype).toBe("float32");
        expect(narrow.add(narrow).dtype).toBe(half);
        expect(narrow.add(1).dtype).toBe(half);
        expect(narrow.greater(wide).dtype).toBe("bool");
      });
    }
  });

  it("float16 and bfloat16 never meet silently", () => {
    const add = () => matrix("float16").add(matrix("bfloat16"));
    for (const act of [add, () => autocast(half, add)])
      expect(act).toThrow(expect.objectContaining({ code: "dtype.mismatch" }));
  });
});

describe("case 39: nesting", () => {
  it("restores the setting inside, after, and after a throw", () => {
    expect(autocastDType()).toBe(null);
    autocast("float16", () => {
      expect(autocastDType()).toBe("float16");
      autocast(false, () => expect(autocastDType()).toBe(null));
      expect(() =>
        autocast("bfloat16", () => {
          throw new Error(String(autocastDType()));
        }),
      ).toThrow("bfloat16");
      expect(autocastDType()).toBe("float16");
    });
    expect(autocastDType()).toBe(null);
  });

  it("refuses promises, so that concurrent tasks never see each other's setting", async () => {
    // @ts-expect-error: a promise outlives the region
    expect(() => autocast("float16", async () => autocastDType())).toThrow(
      expect.objectContaining({ code: "autocast.async" }),
    );
    const task = async (dtype: "float16" | "bfloat16"): Promise<readonly unknown[]> => {
      const seen: unknown[] = [];
      for (let i = 0; i < 3; i++) {
        seen.push(
          autocast(dtype, () => autocastDType()),
          autocastDType(),
        );
        await Promise.resolve();
      }
      return seen;
    };
    const [a, b] = await Promise.all([task("float16"), task("bfloat16")]);
    expect(a).toEqual(["float16", null, "float16", null, "float16", null]);
    expect(b).toEqual(["bfloat16", null, "bfloat16", null, "bfloat16", null]);
  });

  it("refuses other dtypes", () => {
    const dtype: unknown = "float64";
    expect(() => autocast(dtype as "float16", () => 1)).toThrow(expect.objectContaining({ code: "option.invalid" }));
  });
});
