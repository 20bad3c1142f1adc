/** Dry runs: casts, bytes and errors of a step that changes nothing; the estimate beside what a step really computes. */
import { beforeAll, describe, expect, it } from "vitest";
import {
  autocast,
  compile,
  crossEntropy,
  dryRun,
  formatDryRun,
  GradScaler,
  gradients,
  nn,
  optim,
  searchRules,
  type Tensor,
  tensor,
  useDevice,
  zeros,
} from "../../src/index.ts";
import { relativeError } from "../../src/tensor/dry-run.ts";
import { DEVICES } from "../support/devices.ts";

const tokens = () =>
  tensor(
    Int32Array.from({ length: 8 }, (_, i) => (5 * i + 1) % 11),
    { shape: [1, 8] },
  );
const targets = () =>
  tensor(
    Int32Array.from({ length: 8 }, (_, i) => (5 * i + 6) % 11),
    { shape: [1, 8] },
  );

/** A training step with everything that has a state: dropout, running scale, moments. */
function training(half: "float16" | "bfloat16" | false) {
  const model = new nn.GPT({ vocabulary: 11, context: 8, layers: 1, heads: 2, width: 8, dropout: 0.1, seed: 4 });
  const optimizer = new optim.AdamW(model, { lr: 1e-3 });
  const scaler = new GradScaler({ enabled: half === "float16" });
  const step = (x: Tensor, y: Tensor) => {
    const logits = autocast(half, () => model.forward(x));
    const loss = autocast(half, () => crossEntropy(logits, y));
    scaler.step(optimizer, scaler.unscale(gradients(scaler.scale(loss), model)));
    scaler.update();
    return { loss };
  };
  const variables = () => [
    ...model.parameters(),
    ...model.buffers(),
    ...optimizer.namedState().values(),
    ...scaler.namedState().values(),
  ];
  return { model, step, variables };
}

const bytesOf = async (variables: readonly { bytes(): Promise<Uint8Array> }[]) =>
  Promise.all(variables.map((variable) => variable.bytes()));

describe.each(DEVICES)("a dry run on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
  });

  it.each([
    "float16",
    "bfloat16",
  ] as const)("of %s changes nothing, and the step after it is the first", async (half) => {
    const { step, variables } = training(half);
    const twin = training(half);
    const before = await bytesOf(variables());
    await dryRun(step, tokens(), targets());
    expect(await bytesOf(variables())).toEqual(before);
    const [run, other] = [compile(step), compile(twin.step)];
    for (let i = 0; i < 3; i++)
      expect(await (await run(tokens(), targets())).loss.item()).toBe(
        await (await other(tokens(), targets())).loss.item(),
      );
    expect(await bytesOf(variables())).toEqual(await bytesOf(twin.variables()));
  });

  it("keeps assignments that were made before it: weights that were converted, and their masters", async () => {
    const layer = new nn.Linear(2, 2, { seed: 1 });
    const values = [...(await layer.weight.read().cast("bfloat16").data())];
    layer.to("bfloat16");
    const optimizer = new optim.SGD(layer, { lr: 0.1 });
    await dryRun((x: Tensor) => layer.forward(x).sum(), zeros([1, 2], "bfloat16"));
    expect([...(await layer.weight.read().data())]).toEqual(values);
    const master = optimizer.namedState().get("weight.master");
    expect([...((await master?.read().data()) ?? [])]).toEqual(values);
  });

  it("finds the error that the step makes: of the format's size, none in float32", async () => {
    const errors: Record<string, number> = {};
    for (const half of ["float16", "bfloat16", false] as const) {
      const { outputs, gradients: grads } = await dryRun(training(half).step, tokens(), targets());
      expect(outputs.map(({ name }) => name)).toEqual(["loss"]);
      expect(grads.length).toBe(training(half).model.parameters().length);
      errors[`${half}`] = grads[0]?.relativeError ?? Number.NaN;
      expect(outputs[0]?.relativeError).toBeLessThan(half === "bfloat16" ? 2 ** -7 : 2 ** -10);
    }
    const { float16 = 0, bfloat16 = 0 } = errors;
    expect(errors.false).toBe(0);
    // One rounding is 2⁻¹² or 2⁻⁹ on average; a gradient goes through some ten of them.
    expect(float16).toBeGreaterThan(2 ** -13);
    expect(float16).toBeLessThan(2 ** -6);
    expect(bfloat16 / float16).toBeGreaterThan(3);
    expect(bfloat16 / float16).toBeLessThan(20);
  });

  it("reports an overflow as an error without bound", async () => {
    const x = tensor([[60000, 60000]]);
    const { outputs } = await dryRun((a: Tensor) => autocast("float16", () => a.matmul(a.transpose())), x);
    expect(outputs).toEqual([{ name: "result", relativeError: Number.POSITIVE_INFINITY }]);
  });
});

describe("a dry run", () => {
  beforeAll(() => {
    useDevice("reference");
  });

  it("lists ops, casts and bytes, with and without", async () => {
    const { step } = training("bfloat16");
    const { ops, casts, plan, float32Plan } = await dryRun(step, tokens(), targets());
    const of = (name: string) => ops.filter(({ op }) => op === name);
    expect(of("matmul")).toEqual([
      {
        op: "matmul",
        function: "linear",
        autocast: "narrow",
        rule: null,
        dtype: "bfloat16",
        count: 5,
        modules: expect.anything(),
      },
    ]);
    expect(of("matmul")[0]?.modules).toContain("blocks.0.feedForward.contract");
    expect(of("saved")).toMatchObject([{ function: "layerNorm", autocast: "narrow", dtype: "bfloat16", count: 3 }]);
    expect(of("crossEntropyRows")[0]).toMatchObject({ dtype: "float32", modules: [] });
    expect(casts.every(({ reason }) => reason !== null)).toBe(true);
    expect(casts.filter(({ value }) => value === "head.weight")).toHaveLength(1);
    expect(plan.arena.most.activations).toBeLessThan(float32Plan.arena.most.activations);
  });

  it("sees policies and rules, and switches them off for the twin", async () => {
    const layer = new nn.Linear(2, 2, { seed: 1 }).withPolicy("mixed_bfloat16", {
      rules: [{ op: "linear", autocast: "wide" }],
    });
    const { ops, outputs, casts } = await dryRun((x: Tensor) => layer.forward(x), tensor([[1.0001, 2]]));
    expect(ops[0]).toMatchObject({ op: "matmul", rule: "linear → wide", dtype: "float32" });
    expect(casts.some(({ reason }) => reason?.autocast === "policy")).toBe(true);
    expect(outputs[0]?.relativeError).toBeGreaterThan(0);
  });

  it("is a text", async () => {
    const text = formatDryRun(await dryRun(training("bfloat16").step, tokens(), targets()));
    expect(text).toMatch(/ 5 × linear \(matmul\) +bfloat16 +narrow/);
    expect(text).toMatch(/casts: \d+, .* if all were stored; stored at most/);
    expect(text).toMatch(/output {3}loss .* %/);
    expect(text).toMatch(/gradient \w+/);
    for (const line of text.split("\n")) expect(line.trimEnd()).toBe(line);
  });

  it("keeps gradients apart that have one name", async () => {
    const [wide, narrow] = [nn.Linear, nn.Linear].map((Layer, seed) => new Layer(3, 3, { seed }));
    if (wide === undefined || narrow === undefined) throw new TypeError("no layers");
    const x = tensor([[1.1, 2.2, 3.3]]);
    const step = (input: Tensor) => {
      gradients(
        autocast("bfloat16", () => narrow.forward(input))
          .cast("float32")
          .square()
          .sum(),
        [narrow.weight],
      );
      gradients(wide.forward(input).square().sum(), [wide.weight]);
    };
    const { gradients: errors } = await dryRun(step, x);
    expect(errors.map(({ name }) => name)).toEqual(["weight", "weight (2)"]);
    expect(errors[0]?.relativeError).toBeGreaterThan(0);
    expect((await searchRules(step, [x], { tolerance: 1e-6 })).rules).toEqual([{ op: "linear", autocast: "wide" }]);
  });

  it("asks for something to look at", async () => {
    await expect(dryRun((x: Tensor) => x.cast("int32"), zeros([1]))).rejects.toThrow(
      expect.objectContaining({ code: "option.invalid" }),
    );
  });

  it.each([
    [[1, 2], [1, 2], 0],
    [[0], [0], 0],
    [[1], [0], Number.POSITIVE_INFINITY],
    [[3, 4], [0, 5], Math.sqrt(10) / 5],
    [[Number.NaN], [1], Number.POSITIVE_INFINITY],
    [[Number.POSITIVE_INFINITY], [1], Number.POSITIVE_INFINITY],
    [[1, Number.NaN], [1, Number.NaN], 0],
    [[Number.NaN], [Number.NaN], Number.POSITIVE_INFINITY],
    [[-Infinity, 1], [-Infinity, 1], 0],
    [[], [], 0],
  ])("the relative error of %j to %j is %d", (x, y, error) => {
    expect(relativeError(x, y)).toBeCloseTo(error, 12);
  });
});
