/** Which layers have an 8-bit recipe: by path, in training and in a float32 twin; what is refused. */
import { beforeAll, describe, expect, it } from "vitest";
import { compile, dryRun, nn, type Tensor, tensor, useDevice } from "../../src/index.ts";
import { expectRefusal } from "../support/refusal.ts";

describe("layers by path", () => {
  beforeAll(() => {
    useDevice("reference");
  });
  const model = (): nn.GPT => new nn.GPT({ vocabulary: 8, context: 4, layers: 2, heads: 1, width: 4 });
  const marked = (m: nn.Module): readonly string[] =>
    [...m.namedModules()].flatMap(([path, module]) => ("fp8" in module && module.fp8 instanceof nn.Fp8 ? [path] : []));
  const inBlock = (i: number): readonly string[] =>
    ["attention.qkv", "attention.projection", "feedForward.expand", "feedForward.contract"].map(
      (p) => `blocks.${i}.${p}`,
    );

  it("are all, or those that are chosen and not excepted", () => {
    expect(marked(nn.fp8(model(), {}))).toEqual([...inBlock(0), ...inBlock(1), "head"]);
    expect(marked(nn.fp8(model(), {}, { modules: "blocks.**" }))).toEqual([...inBlock(0), ...inBlock(1)]);
    expect(marked(nn.fp8(model(), {}, { except: ["blocks.0", "head"] }))).toEqual(inBlock(1));
    expect(marked(nn.fp8(nn.fp8(model(), {}), null, { modules: "head" }))).toEqual([...inBlock(0), ...inBlock(1)]);
  });

  it("are convolutions, too", () => {
    const convolutions = new nn.Sequential(
      new nn.Conv1d(2, 4, 3),
      new nn.ConvTranspose1d(4, 2, 3),
      new nn.BatchNorm1d(2),
      new nn.Flatten(),
      new nn.Linear(8, 2),
    );
    expect(marked(nn.fp8(convolutions, {}))).toEqual(["layers.0", "layers.1", "layers.4"]);
    expect(marked(nn.fp8(convolutions, null, { modules: "layers.1" }))).toEqual(["layers.0", "layers.4"]);
    const resnet = nn.fp8(new nn.ResNet({ depth: 8, width: 4 }), {}, { except: ["stem", "head"] });
    expect(marked(resnet)).toHaveLength(marked(nn.fp8(new nn.ResNet({ depth: 8, width: 4 }), {})).length - 2);
  });

  it("have their state in named buffers, and nothing new to train", () => {
    const gpt = nn.fp8(model(), { scaling: "delayed" }, { modules: "head" });
    expect([...gpt.namedBuffers()].map(([path, { shape, dtype }]) => `${path} [${shape}] ${dtype}`)).toEqual([
      "random [4] uint32",
      ...["input", "weight", "gradient"].flatMap((role) => [
        `head.fp8.${role}.scale [] float32`,
        `head.fp8.${role}.amaxHistory [1024] float32`,
      ]),
    ]);
    expect([...gpt.namedParameters().keys()]).toEqual([...model().namedParameters().keys()]);
  });

  it("are recorded anew when the recipe changes", async () => {
    const layer = new nn.Linear(1, 1, { bias: false, initialWeight: () => Float32Array.of(1.05) });
    const step = compile((x: Tensor) => layer.forward(x));
    const at = async (): Promise<number> => (await step(tensor([[1]]))).item();
    expect(await at()).toBe(Math.fround(1.05));
    nn.fp8(layer, { scaling: { kind: "current", powerOfTwo: true } });
    expect(await at()).toBe(1);
    nn.fp8(layer, null);
    expect(await at()).toBe(Math.fround(1.05));
  });

  it.each([
    ["linear", () => new nn.Linear(8, 8, { seed: 1 }), [1, 8]],
    ["convolution", () => new nn.Conv1d(8, 8, 1, { seed: 1 }), [1, 8, 1]],
  ] as const)("are without 8 bits in the float32 twin of a dry run: %s", async (_, make, shape) => {
    const layer = nn.fp8<nn.Linear | nn.Conv1d>(make(), { scaling: "current" });
    const x = tensor(
      Float32Array.from({ length: 8 }, (_, i) => Math.sin(i)),
      { shape },
    );
    const { outputs } = await dryRun((x: Tensor) => layer.forward(x), x);
    expect(outputs[0]?.relativeError).toBeGreaterThan(2 ** -8);
    expect(outputs[0]?.relativeError).toBeLessThan(2 ** -3);
  });

  it.each([
    [{ modules: "block.**" }, ["fp8: modules", '"block.**"', "blocks.0.attention.qkv"]],
    [{ except: ["head", "tokenEmbedding"] }, ["fp8: except", '"tokenEmbedding"']],
    [{ modules: "blocks.*.norm1" }, ["fp8: modules", '"head"']],
    [{ modules: 3 as unknown as string }, ["fp8: modules", "3"]],
  ])("refuse %j", (options, parts) => {
    const gpt = model();
    expectRefusal(() => nn.fp8(gpt, {}, options), "option.invalid", parts);
    expect(marked(gpt)).toEqual([]);
  });

  it("refuse a model without them", () => {
    expectRefusal(() => nn.fp8(new nn.GELU(), {}), "option.invalid", ["fp8: modules", "the model has none"]);
  });

  it.each([
    ["float64", "float64", "dtype.unsupported"],
    ["bfloat16", "float32", "dtype.mismatch"],
  ] as const)("refuse x of %s with a weight of %s", (dtype, to, code) => {
    const layer = nn.fp8(new nn.Linear(2, 2).to(to), {});
    expectRefusal(() => layer.forward(tensor([[1, 2]], { dtype })), code, ["linear", dtype]);
    const convolution = nn.fp8(new nn.Conv1d(1, 2, 2).to(to), {});
    expectRefusal(() => convolution.forward(tensor([[[1, 2]]], { dtype })), code, ["conv1d", dtype]);
  });
});
