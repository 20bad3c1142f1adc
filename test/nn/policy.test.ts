/** Policies of modules (case 52), their parameters' dtype, and cells of 16 bits (case 47). */
import { beforeAll, describe, expect, it } from "vitest";
import {
  autocast,
  compile,
  crossEntropy,
  explain,
  explainDType,
  GradScaler,
  gradients,
  mapGradients,
  nn,
  optim,
  parsePolicy,
  type Tensor,
  tensor,
  useDevice,
  type Variable,
  zeros,
} from "../../src/index.ts";
import { DEVICES } from "../support/devices.ts";
import { expectRefusal } from "../support/refusal.ts";

const input = (): Tensor =>
  tensor(
    Float32Array.from({ length: 12 }, (_, i) => Math.sin(3 * i + 1)),
    { shape: [4, 3] },
  );

/** Sees what reaches it, and multiplies. */
class Spy extends nn.Module {
  readonly inner = new nn.Linear(3, 3, { seed: 1 });
  seen = "";

  forward(
    x: Tensor,
    extra: { readonly labels: Tensor; readonly mask: null },
  ): { y: Tensor; labels: Tensor; note: string } {
    this.seen = `${x.dtype} ${extra.labels.dtype} ${String(extra.mask)}`;
    return { y: this.inner.forward(x), labels: extra.labels, note: "kept" };
  }
}
const extra = () => ({ labels: zeros([4], "int32"), mask: null });

beforeAll(() => {
  useDevice("reference");
});

describe("case 52: a policy", () => {
  it.each([
    ["p=f32,c=bf16,o=f32", "bfloat16", "float32"],
    ["mixed_bfloat16", "bfloat16", "bfloat16"],
    ["mixed_float16", "float16", "float16"],
    ["fp16-mixed", "float16", "float32"],
    ["fp32", "float32", "float32"],
  ] as const)("%s casts what goes in and what comes out, and nothing that is no float", (policy, compute, output) => {
    const spy = new Spy().withPolicy(policy);
    const { y, labels, note } = spy.forward(input(), extra());
    expect(spy.seen).toBe(`${compute} int32 null`);
    expect([y.dtype, labels.dtype, note]).toEqual([output, "int32", "kept"]);
    expect(spy.inner.weight.dtype).toBe("float32");
  });

  it("is refused where forward is a field, which it would not reach", () => {
    class Arrow extends nn.Module {
      readonly inner = new nn.Linear(3, 3);
      readonly forward = (x: Tensor): Tensor => this.inner.forward(x);
    }
    expectRefusal(() => new Arrow().withPolicy("mixed_bfloat16"), "option.invalid", ["Arrow", "field", "forward(x)"]);
  });

  it("holds whatever region the module is called in, and ends with it", () => {
    const layer = new nn.Linear(3, 3, { seed: 1 }).withPolicy("fp32");
    const [own, after] = autocast("float16", () => [
      layer.forward(input().cast("float16")),
      input().matmul(zeros([3, 2])),
    ]);
    expect([own?.dtype, after?.dtype]).toEqual(["float32", "float16"]);
    expect(new nn.Linear(3, 3).withPolicy("mixed_bfloat16").forward(input()).dtype).toBe("bfloat16");
    expect(input().matmul(zeros([3, 2])).dtype).toBe("float32");
  });

  it("of an inner module stands inside that of an outer one", () => {
    const model = new nn.Sequential(new nn.Linear(3, 4), new nn.Linear(4, 2)).withPolicy("mixed_bfloat16");
    const dtypes = () => explain(model.forward(input())).map(({ from, to }) => `${from} ${to}`);
    expect(dtypes()).not.toContain("bfloat16 float32");
    model.withPolicies({ "layers.1": "fp32" });
    expect(dtypes().filter((cast) => cast === "bfloat16 float32")).toHaveLength(1);
    expect(model.forward(input()).dtype).toBe("bfloat16");
  });

  it("normalises in float32 under a compute dtype of 16 bits", async () => {
    const norm = new nn.LayerNorm(3).withPolicy("p=f32,c=f16,o=f32");
    const large = input().mul(300);
    const plain = new nn.LayerNorm(3).forward(large.cast("float16").cast("float32"));
    // A square of 300² · 3 overflows float16; the result is the float32 norm of the float16 operand.
    expect(await norm.forward(large).bytes()).toEqual(await plain.bytes());
  });

  it("is null by default, is read back, and can be taken away", () => {
    const layer = new nn.Linear(3, 2);
    expect(layer.policy).toBe(null);
    layer.withPolicy("mixed_float16");
    expect(layer.policy).toEqual({ parameter: "float32", compute: "float16", output: "float16" });
    expect(layer.withPolicy(null).forward(input()).dtype).toBe("float32");
  });

  it("has compiled functions recorded anew when it changes", async () => {
    const layer = new nn.Linear(3, 2, { seed: 1 });
    const run = compile((x: Tensor) => layer.forward(x));
    expect((await run(input())).dtype).toBe("float32");
    layer.withPolicy("mixed_bfloat16");
    expect((await run(input())).dtype).toBe("bfloat16");
    await run(input());
    expect(run.traces).toBe(2);
  });

  it("overrides ops inside the module", () => {
    const layer = new nn.Linear(3, 2).withPolicy("mixed_bfloat16", { rules: [{ op: "linear", autocast: "wide" }] });
    const casts = explain(layer.forward(input())).map(({ value, to }) => `${value.split(" ")[0]} ${to}`);
    expect(casts).toEqual(["input bfloat16", "cast float32", "add bfloat16"]);
  });

  it("is a reason that explain gives", () => {
    const layer = new nn.Sequential(new nn.Linear(3, 2).withPolicy("mixed_bfloat16"));
    const { reason } = explain(layer.forward(input()))[0] ?? {};
    expect(reason).toMatchObject({ op: "policy", module: "layers.0", to: "bfloat16" });
    expect(explainDType(layer.forward(input()))).toMatch(
      /linear \(matmul\) in layers\.0 is narrow|stated by the program/,
    );
  });

  it("trains: float32 gradients of float32 parameters", () => {
    const model = new nn.Sequential(new nn.Linear(3, 4), new nn.Linear(4, 2)).withPolicy("p=f32,c=bf16,o=f32");
    const grads = gradients(crossEntropy(model.forward(input()), tensor(Int32Array.of(0, 1, 1, 0))), model);
    expect([...grads.values()].map(({ dtype }) => dtype)).toEqual(["float32", "float32", "float32", "float32"]);
  });
});

describe("a policy is refused", () => {
  it.each<[string, string, string, readonly string[]]>([
    ["for an unknown name", "mixed_float8", "option.invalid", ["mixed_float8"]],
    ["for compute in float64", "p=f32,c=f64,o=f32", "option.invalid", ["compute is float64"]],
    ["for parameters of another dtype", "p=bf16", "dtype.mismatch", ["weight (f32), bias (f32)", 'to("bfloat16")']],
    ["that is no text", 3 as unknown as string, "option.invalid", ['policy "3"']],
    ["that lacks a dtype", { parameter: "float32" } as unknown as string, "option.invalid", ["undefined"]],
  ])("%s", (_, policy, code, parts) => {
    expectRefusal(() => new nn.Linear(3, 2).withPolicy(policy), code, parts);
  });

  it("at a path without a module, before any is set", () => {
    const model = new nn.Sequential(new nn.Linear(3, 2));
    expectRefusal(() => model.withPolicies({ "layers.*": "mixed_float16", head: "fp32" }), "option.invalid", [
      'no module is at "head"; expected one of layers.0',
    ]);
    expectRefusal(() => model.withPolicies({ "layers.0": "fp32", "*": null, "layers.*": "bad" }), "option.invalid", [
      '"bad"',
    ]);
    expect(model.namedModules().get("layers.0")?.policy).toBe(null);
  });

  it("whose forward returns a promise", () => {
    class Late extends nn.Module {
      async forward(x: Tensor): Promise<Tensor> {
        return x;
      }
    }
    expectRefusal(() => new Late().withPolicy("fp32").forward(zeros([1])), "autocast.async", ["promise"]);
  });
});

it("modules are found by path", () => {
  const model = new nn.GPT({ vocabulary: 8, context: 4, layers: 2, heads: 1, width: 4 });
  const names = [...model.namedModules().keys()];
  expect(names).toContain("");
  expect(names).toContain("blocks.1.feedForward.expand");
  expect(names.filter((name) => /^blocks\.\d+$/.test(name))).toEqual(["blocks.0", "blocks.1"]);
});

it("a dtype that a policy does not name is refused, also inside", () => {
  const model = new nn.Sequential(new nn.Linear(3, 2).withPolicy("fp32"));
  expectRefusal(() => model.to("bfloat16"), "dtype.mismatch", ["the policy of layers.0", "float32", "bfloat16"]);
  expect(model.parameters()[0]?.dtype).toBe("float32");
  model.withPolicies({ "layers.0": null });
  expect(model.to("bfloat16").parameters()[0]?.dtype).toBe("bfloat16");
});

it("tensors that a policy would not reach are refused, going in and coming out", () => {
  class Named extends nn.Module {
    readonly linear = new nn.Linear(3, 2);
    forward(given: Tensor | ReadonlyMap<string, Tensor>): Tensor | ReadonlyMap<string, Tensor> {
      return given instanceof Map ? (given.get("x") as Tensor) : new Map([["y", this.linear.forward(given as Tensor)]]);
    }
  }
  const model = new Named();
  expect(model.forward(input())).toBeInstanceOf(Map);
  model.withPolicy("bf16-mixed");
  for (const given of [input(), new Map([["x", input()]])])
    expectRefusal(() => model.forward(given), "option.invalid", ["withPolicy", "Map"]);
});

it("super.forward applies no policy twice", () => {
  class Twice extends nn.Linear {
    override forward(x: Tensor): Tensor {
      return super.forward(super.forward(x));
    }
  }
  const layer = new Twice(3, 3).withPolicy("mixed_float16");
  const casts = explain(layer.forward(input())).filter(({ reason }) => reason?.autocast === "policy");
  expect(casts.map(({ to }) => to)).toEqual(["float16"]);
});

describe.each(DEVICES)("a run under a policy on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
  });

  const POLICIES = [
    "fp32",
    "bf16-mixed",
    "mixed_bfloat16",
    "mixed_float16",
    "p=bf16,c=bf16,o=f32",
    "p=f16,c=f16,o=f32",
  ];

  it.each(POLICIES)("%s is resumed to the same bits", async (policy) => {
    const make = () => {
      const model = new nn.Sequential(
        new nn.Linear(3, 8, { seed: 1 }),
        new nn.GELU(),
        new nn.Linear(8, 2, { seed: 2 }),
      );
      model.to(parsePolicy(policy).parameter).withPolicy(policy, { rules: [{ op: "gelu", autocast: "wide" }] });
      const optimizer = new optim.AdamW(model, { lr: 0.01 });
      const scaler = new GradScaler({ initialScale: 2 ** 12, growthInterval: 2 });
      const step = compile((x: Tensor) => {
        const loss = model.forward(x).cast("float32").square().mean();
        const scaled = mapGradients(gradients(scaler.scale(loss), model), (gradient) => gradient.cast("float32"));
        scaler.step(optimizer, scaled);
        scaler.update();
        return loss;
      });
      const state = (): ReadonlyMap<string, Variable> =>
        new Map([...model.namedParameters(), ...optimizer.namedState(), ...scaler.namedState()]);
      return { step, state };
    };
    const bytesOf = async (state: ReadonlyMap<string, Variable>) =>
      new Map(await Promise.all([...state].map(async ([name, variable]) => [name, await variable.bytes()] as const)));
    const whole = make();
    for (let i = 0; i < 3; i++) await whole.step(input());
    const saved = await bytesOf(whole.state());
    const resumed = make();
    for (const [name, variable] of resumed.state()) await variable.load(saved.get(name) as Uint8Array);
    for (let i = 0; i < 3; i++)
      expect(await (await resumed.step(input())).item()).toBe(await (await whole.step(input())).item());
    expect(await bytesOf(resumed.state())).toEqual(await bytesOf(whole.state()));
  });
});

describe.each(DEVICES)("parameters of 16 bits on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
  });

  it("have the rounded values, keep names and roles, and are shared where the old ones were", async () => {
    class Tied extends nn.Module {
      readonly first = new nn.Linear(3, 3, { seed: 5 });
      readonly again = [this.first.weight] as const;
      readonly norm = new nn.BatchNorm1d(3);
    }
    const model = new Tied();
    const before = await model.first.weight.read().cast("bfloat16").bytes();
    model.to("bfloat16");
    const { weight } = model.first;
    expect([weight.dtype, weight.name, weight.role]).toEqual(["bfloat16", "first.weight", "parameter"]);
    expect(model.again[0]).toBe(weight);
    expect(await weight.bytes()).toEqual(before);
    expect([...model.namedBuffers().values()].map(({ dtype }) => dtype)).not.toContain("bfloat16");
    expect(model.to("bfloat16").first.weight).toBe(weight);
  });

  it("train over float32 masters", async () => {
    const model = new nn.Linear(3, 2, { seed: 5 }).to("bfloat16").withPolicy("p=bf16,c=bf16,o=f32");
    const optimizer = new optim.SGD(model, { lr: 0.1 });
    const step = compile((x: Tensor) => {
      const loss = model.forward(x).square().mean();
      optimizer.apply(gradients(loss, model));
      return loss;
    });
    const losses: number[] = [];
    for (let i = 0; i < 4; i++) losses.push((await (await step(input())).item()) as number);
    expect(losses).toEqual([...losses].sort((a, b) => b - a));
    expect(new Set(losses).size).toBe(4);
  });
});
