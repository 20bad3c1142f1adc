/** Sampling: a pure function of weights, prompt and options. */
import { beforeAll, describe, expect, it } from "vitest";
import { type Tensor, tensor, useDevice } from "../../src/index.ts";
import { generate } from "../../src/train/generate.ts";
import { DEVICES } from "../support/devices.ts";
import { CONTEXT, refusal, tinyModel } from "./tiny.ts";

beforeAll(() => {
  useDevice(DEVICES.includes("cpu") ? "cpu" : "reference");
});

const PROMPT = new TextEncoder().encode("the ");

/** A model whose logits say that the byte after x is x + 1, with certainty. */
const successor = {
  context: CONTEXT,
  forward(tokens: Tensor): Tensor {
    const columns = Int32Array.from({ length: 256 }, (_, i) => i);
    const next = tokens.add(1).reshape([1, CONTEXT, 1]);
    return next
      .equal(tensor(columns, { shape: [1, 1, 256] }))
      .cast("float32")
      .mul(1000);
  },
};

describe("generate", () => {
  it("continues the prompt, past the end of the context", async () => {
    const text = await generate(successor, PROMPT, { length: 3 * CONTEXT });
    expect([...text.subarray(0, PROMPT.length)]).toEqual([...PROMPT]);
    expect([...text.subarray(PROMPT.length)]).toEqual(Array.from({ length: 3 * CONTEXT }, (_, i) => 33 + i));
  });

  it("reads the end of a prompt that is longer than the context", async () => {
    const prompt = Uint8Array.from({ length: 2 * CONTEXT }, (_, i) => 100 + i);
    expect((await generate(successor, prompt, { length: 1 })).at(-1)).toBe(100 + 2 * CONTEXT);
  });

  it("depends on the seed, and not on dropout", async () => {
    const plain = tinyModel({ seed: 3 });
    const text = await generate(plain, PROMPT, { length: 20, seed: 1 });
    expect(await generate(plain, PROMPT, { length: 20, seed: 1 })).toEqual(text);
    expect(await generate(plain, PROMPT, { length: 20, seed: 2 })).not.toEqual(text);
    const dropping = tinyModel({ seed: 3, dropout: 0.5 });
    expect(await generate(dropping, PROMPT, { length: 20, seed: 1 })).toEqual(text);
    expect(dropping.training).toBe(true);
    dropping.evaluate();
    await generate(dropping, PROMPT, { length: 1 });
    expect(dropping.training).toBe(false);
  });

  it("takes the most likely byte at temperature 0", async () => {
    const model = tinyModel();
    const greedy = await generate(model, PROMPT, { length: 5, temperature: 0, seed: 1 });
    expect(await generate(model, PROMPT, { length: 5, temperature: 0, seed: 2 })).toEqual(greedy);
    expect(await generate(model, PROMPT, { length: 5, temperature: 1e-4, seed: 3 })).toEqual(greedy);
  });

  it("ends at the signal", async () => {
    expect(await generate(successor, PROMPT, { signal: AbortSignal.abort() })).toEqual(PROMPT);
  });

  it.each([
    [PROMPT, { length: -1 }, "value.range"],
    [PROMPT, { length: 0.5 }, "value.range"],
    [PROMPT, { temperature: -1 }, "value.range"],
    [PROMPT, { temperature: Number.NaN }, "value.range"],
    [new Uint8Array(), {}, "data.short"],
  ] as const)("refuses %j with %j: %s", async (prompt, options, code) => {
    expect(await refusal(generate(successor, prompt, options))).toMatchObject({ code });
  });
});
