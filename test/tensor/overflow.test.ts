/** explainOverflow names the op that broke a step, and a cure that does cure it. */
import { beforeAll, describe, expect, it } from "vitest";
import {
  autocast,
  compile,
  crossEntropy,
  explainOverflow,
  formatOverflow,
  full,
  GradScaler,
  gradients,
  measureValues,
  nn,
  type OverflowReport,
  optim,
  readOutcome,
  type Tensor,
  tensor,
  useDevice,
  Variable,
  where,
  zeros,
} from "../../src/index.ts";
import type { AutocastRule } from "../../src/precision/rules.ts";
import { DEVICES } from "../support/devices.ts";

class Classifier extends nn.Module {
  readonly body = new nn.Linear(3, 4, { seed: 1 });
  readonly head: nn.Linear;

  constructor(headSize: number) {
    super();
    this.head = new nn.Linear(4, 2, { seed: 2, initialWeight: () => new Float32Array(8).fill(headSize) });
  }

  forward(x: Tensor): Tensor {
    return this.head.forward(this.body.forward(x).square().add(1));
  }
}
const input = (size = 1): Tensor =>
  tensor(
    [1, 2, 3, 4, 5, 6].map((v) => v * size),
    { shape: [2, 3] },
  );
const labels = (): Tensor => tensor(Int32Array.of(0, 1));

const found = (report: OverflowReport | null): OverflowReport => {
  if (report === null) throw new Error("nothing was found");
  return report;
};
const rulesOf = ({ cure }: OverflowReport): readonly AutocastRule[] => (cure.kind === "rules" ? cure.rules : []);

describe.each(DEVICES)("on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
  });

  const training = (
    model: nn.Module & { forward(x: Tensor): Tensor },
    rules: readonly AutocastRule[] = [],
    initialScale = 1,
  ) => {
    const scaler = new GradScaler({ initialScale });
    const optimizer = new optim.AdamW(model, { lr: 1e-3 });
    const step = (x: Tensor, y: Tensor) => {
      const loss = autocast("float16", () => crossEntropy(model.forward(x), y), { rules });
      const outcome = scaler.step(optimizer, scaler.unscale(gradients(scaler.scale(loss), model)));
      scaler.update();
      return { loss, outcome };
    };
    const isApplied = async (): Promise<boolean> =>
      (await readOutcome((await compile(step)(input(), labels())).outcome)).applied;
    return { step, isApplied, model };
  };

  it("a product beyond 65504 is found in its module, and its rule cures it", async () => {
    const { step, model } = training(new Classifier(6e4));
    const before = await model.parameters()[0]?.bytes();
    const report = found(await explainOverflow(step, input(), labels()));
    expect(report).toMatchObject({
      kind: "forward",
      dtype: "float16",
      gradientOf: null,
      module: "head",
      shape: [2, 2],
    });
    expect(report.operands.map(({ dtype }) => dtype)).toContain("float32");
    expect(report.largestInFloat32).toBeGreaterThan(65504);
    expect(rulesOf(report)).toEqual([{ op: "linear", module: "head", autocast: "wide" }]);
    expect(await training(new Classifier(6e4)).isApplied()).toBe(false);
    expect(await training(new Classifier(6e4), rulesOf(report)).isApplied()).toBe(true);
    expect(await model.parameters()[0]?.bytes()).toEqual(before);
  });

  it("a cast beyond 65504 is told as what the op that asked for it did", async () => {
    const step = (x: Tensor) => autocast("float16", () => new nn.Linear(3, 2, { seed: 1 }).forward(x));
    const report = found(await explainOverflow(step, input(5e4)));
    expect(report).toMatchObject({ kind: "forward", op: "cast", function: "linear", nonFinite: 5 });
    expect(report.operands).toEqual([{ value: "an argument", dtype: "float32", largest: 3e5 }]);
    expect(rulesOf(report)).toEqual([{ op: "matmul", autocast: "wide" }]);
  });

  it("a loss scale that is too high is told by how much, and no rule is proposed", async () => {
    const scale = 2 ** 20;
    const report = found(await explainOverflow(training(new Classifier(3), [], scale).step, input(), labels()));
    expect(report.kind).toBe("gradient");
    expect(report.gradientOf).not.toBe(null);
    expect(report.cure.kind).toBe("lossScale");
    const divisor = report.cure.kind === "lossScale" ? report.cure.divisor : 0;
    expect(await training(new Classifier(3), [], scale / divisor).isApplied()).toBe(true);
    expect(await training(new Classifier(3), [], (4 * scale) / divisor).isApplied()).toBe(false);
  });

  it("of several ops that overflow each gets a rule, and no other", async () => {
    const [first, second] = [
      new Variable("first", [2, 2], "float32", new Float32Array(4).fill(300)),
      new Variable("second", [2, 2], "float32", new Float32Array(4).fill(200)),
    ];
    const step = (rules: readonly AutocastRule[]) => (x: Tensor) =>
      autocast(
        "float16",
        () => {
          const a = x.matmul(first.read()).relu();
          return { a: a.mul(1e-6), b: second.read().cast("float16").mul(second.read().cast("float16")).mul(2).sum() };
        },
        { rules },
      );
    const x = tensor([[200, 200]]);
    const report = found(await explainOverflow(step([]), x));
    const rules = rulesOf(report);
    expect(rules.map(({ op }) => op).sort()).toEqual(["matmul", "mul"]);
    expect(await explainOverflow(step(rules), x)).toBe(null);
    for (const dropped of rules)
      expect(await explainOverflow(step(rules.filter((rule) => rule !== dropped)), x)).not.toBe(null);
  });
});

describe("a step", () => {
  beforeAll(() => {
    useDevice("reference");
  });

  it("may hold values of no elements", async () => {
    expect(await explainOverflow((x: Tensor) => x.mul(2), zeros([0, 3]))).toBe(null);
    expect(await explainOverflow((x: Tensor) => x.add(1), zeros([2], "int32"))).toBe(null);
    const [empty] = await measureValues((x: Tensor) => x.mul(2), zeros([0, 3]));
    expect(empty).toMatchObject({ nonFinite: 0, largest: 0, zeroShare: 0, aboveLargestShare: 0 });
  });

  it("that is finite needs no explanation", async () => {
    expect(await explainOverflow((x: Tensor) => autocast("float16", () => x.matmul(x.transpose())), input())).toBe(
      null,
    );
  });

  it("with an argument or a parameter that is not finite is told so", async () => {
    const weight = new Variable("head.weight", [3], "float32", new Float32Array([1, Number.NaN, 2]));
    const step = (x: Tensor) => x.mul(weight.read()).sum();
    expect(await explainOverflow(step, input())).toMatchObject({ kind: "input", op: "head.weight", nonFinite: 1 });
    const bad = tensor([Number.POSITIVE_INFINITY, 1, 2]);
    const report = found(await explainOverflow((x: Tensor) => x.mul(2), bad));
    expect(report).toMatchObject({ kind: "input", op: "an argument", cure: { kind: "none" } });
  });

  it("whose float32 twin breaks too has no cure by precision", async () => {
    const report = found(await explainOverflow((x: Tensor) => autocast("float16", () => x.mul(100).exp()), input()));
    expect(report).toMatchObject({ kind: "forward", op: "exp", largestInFloat32: null, cure: { kind: "none" } });
  });

  it("with a mask of −∞ is not told that the mask is to blame", async () => {
    const step = (x: Tensor) =>
      autocast("float16", () => {
        const masked = where(x.greater(5), full([], Number.NEGATIVE_INFINITY), x).softmax();
        return masked.matmul(tensor([[6e4], [6e4], [6e4]])).mul(2);
      });
    const report = found(await explainOverflow(step, input()));
    expect(report).toMatchObject({ op: "mul", kind: "forward" });
  });

  it("is explained in a few lines", async () => {
    const step = (x: Tensor) => autocast("float16", () => new nn.Linear(3, 2, { seed: 1 }).forward(x));
    const text = formatOverflow(found(await explainOverflow(step, input(5e4))));
    expect(text.split("\n")).toEqual([
      expect.stringMatching(
        /^forward overflow: cast of linear in the outermost module gives 5 of 6 elements of float16 \[2, 3\]/,
      ),
      "operands: an argument float32, up to 3.000e+5",
      "in float32: up to 3.000e+5",
      expect.stringMatching(/^dtype: .* linear \(matmul\) in the outermost module is narrow/),
      'cure: rules: [{"op":"matmul","autocast":"wide"}]',
    ]);
  });

  it.each([
    "current",
    "block",
  ] as const)("in 8 bits (%s), whose products the twin has not, has its cure", async (scaling) => {
    const stepOf = (weight: number, scale: number) => {
      const bias = false;
      const head = new nn.Linear(4, 2, { bias, initialWeight: () => new Float32Array(8).fill(weight) });
      const model = nn.fp8(new nn.Sequential(new nn.Linear(3, 4, { seed: 1 }), head), { scaling });
      return (x: Tensor) => {
        const loss = autocast("float16", () => model.forward(x))
          .cast("float32")
          .mul(scale)
          .sum();
        return [...gradients(loss, model).values()];
      };
    };
    const gradient = found(await explainOverflow(stepOf(300, 1000), input(1e-4)));
    // Two outputs times 300 · 1000: as far above 65504 as a scale 16 times smaller cures.
    expect(gradient).toMatchObject({ kind: "gradient", function: "linear", cure: { kind: "lossScale", divisor: 16 } });
    expect(await explainOverflow(stepOf(300, 1000 / 16), input(1e-4))).toBeNull();
    const beyondFloat32 = found(await explainOverflow(stepOf(3e37, 1000), input(1e-4)));
    expect(beyondFloat32.cure.kind).not.toBe("rules");
  });
});
