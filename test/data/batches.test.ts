/** Batches of bytes and of examples: pure in (seed, index), each window once per epoch, no byte out of place. */

import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { ByteBatches, EvaluationBatches, type Source, split, TensorBatches } from "../../src/data/index.ts";

/** Every window of four bytes names its own position, so a window's start can be read back. */
function numbered(length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let at = 0; at < length; at++) bytes[at] = Math.floor(at / 256 ** (at % 4 === 3 ? 1 : 0)) & 255;
  return bytes;
}

/** Starts of the windows of one batch, found by comparing with the corpus. */
function startsOf(bytes: Uint8Array, tokens: Int32Array, context: number): number[] {
  const starts: number[] = [];
  for (let row = 0; row < tokens.length; row += context) {
    starts.push(Buffer.from(bytes).indexOf(Buffer.from(Uint8Array.from(tokens.subarray(row, row + context)))));
  }
  return starts;
}

async function take<B>(source: Source<B>, count: number, from: number): Promise<B[]> {
  const taken: B[] = [];
  for await (const batch of source.batches({ from })) {
    taken.push(batch);
    if (taken.length === count) break;
  }
  return taken;
}

describe("ByteBatches", () => {
  const sizes = fc.record({
    length: fc.integer({ min: 2, max: 900 }),
    context: fc.integer({ min: 1, max: 40 }),
    batch: fc.integer({ min: 1, max: 9 }),
    seed: fc.nat(),
  });

  it("visits every window of an epoch exactly once, from one phase, whatever divides what", () => {
    fc.assert(
      fc.property(sizes, ({ length, context, batch, seed }) => {
        fc.pre(length > context);
        // The corpus cannot say where a window began, so its indices stand in for its bytes.
        const source = new ByteBatches(new Uint8Array(length), { batch, context, seed });
        const low = new ByteBatches(
          Uint8Array.from({ length }, (_, at) => at & 255),
          { batch, context, seed },
        );
        const high = new ByteBatches(
          Uint8Array.from({ length }, (_, at) => at >> 8),
          { batch, context, seed },
        );
        const windows = source.windowsPerEpoch;
        const starts: number[] = [];
        for (let index = 0; starts.length < 3 * windows; index++) {
          const [l, h] = [low.batch(index).tokens, high.batch(index).tokens];
          for (let row = 0; row < batch; row++) starts.push((l[row * context] ?? 0) + 256 * (h[row * context] ?? 0));
        }
        for (let epoch = 0; epoch < 3; epoch++) {
          const visited = starts.slice(epoch * windows, (epoch + 1) * windows).sort((a, b) => a - b);
          const phase = visited[0] ?? -1;
          expect(visited).toEqual(visited.map((_, window) => phase + window * context));
          expect(phase).toBeLessThan(context);
          expect((visited.at(-1) ?? 0) + context).toBeLessThan(length);
        }
        // At most one window of each pass is given up to the phase.
        expect(windows).toBeGreaterThanOrEqual(Math.max(1, Math.floor((length - 1) / context) - 1));
      }),
    );
  });

  it("pairs each token with the byte that follows it", () => {
    const bytes = numbered(1000);
    const { tokens, targets } = new ByteBatches(bytes, { batch: 5, context: 16, seed: 4 }).batch(11);
    expect([tokens.length, targets.length]).toEqual([80, 80]);
    for (const [row, start] of startsOf(bytes, tokens, 16).entries()) {
      expect(start).toBeGreaterThanOrEqual(0);
      expect([...targets.subarray(row * 16, row * 16 + 16)]).toEqual([...bytes.subarray(start + 1, start + 17)]);
    }
  });

  it("is a pure function of seed and index, whatever was asked before", async () => {
    const bytes = numbered(2000);
    const options = { batch: 3, context: 7, seed: 12 };
    const source = new ByteBatches(bytes, options);
    const forward = Array.from({ length: 40 }, (_, index) => source.batch(index));
    const again = new ByteBatches(bytes, options);
    for (let index = 39; index >= 0; index--) expect(again.batch(index)).toEqual(forward[index]);
    expect(await take(again, 15, 25)).toEqual(forward.slice(25));
    expect(new ByteBatches(bytes, { ...options, seed: 13 }).batch(0)).not.toEqual(forward[0]);
  });

  it("changes order and phase from epoch to epoch", () => {
    const bytes = Uint8Array.from({ length: 256 }, (_, at) => at);
    const source = new ByteBatches(bytes, { batch: 14, context: 16, seed: 0 });
    expect(source.windowsPerEpoch).toBe(14);
    expect(source.batchesPerEpoch).toBe(1);
    const starts = Array.from({ length: 32 }, (_, index) =>
      Array.from({ length: 14 }, (_, row) => source.batch(index).tokens[row * 16] ?? 0),
    );
    expect(new Set(starts.map((row) => Math.min(...row))).size).toBeGreaterThan(8);
    expect(new Set(starts.map((row) => row.map((start) => start >> 4).join())).size).toBe(32);
    expect(source.batch(31).epoch).toBe(31);
  });

  it("works on the shortest corpus: one window for every batch", () => {
    const source = new ByteBatches(new Uint8Array([1, 2, 3]), { batch: 2, context: 2 });
    expect(source.batch(5)).toEqual({
      index: 5,
      epoch: 10,
      tokens: new Int32Array([1, 2, 1, 2]),
      targets: new Int32Array([2, 3, 2, 3]),
    });
  });

  it("ends quietly when the signal aborts, before and between batches", async () => {
    const source = new ByteBatches(numbered(100), { batch: 1, context: 4 });
    const controller = new AbortController();
    const indices: number[] = [];
    for await (const { index } of source.batches({ from: 3, signal: controller.signal })) {
      indices.push(index);
      if (index === 5) controller.abort();
    }
    for await (const { index } of source.batches({ signal: controller.signal })) indices.push(index);
    expect(indices).toEqual([3, 4, 5]);
  });

  it.each([
    ["batch 0", { batch: 0, context: 4 }, "value.range", /batch: expected an integer ≥ 1, got 0/],
    [
      "batch 2^31",
      { batch: 2 ** 31, context: 4 },
      "value.range",
      /batch: expected an integer from 1 to 2147483647, got/,
    ],
    ["batch 1.5", { batch: 1.5, context: 4 }, "value.range", /batch: .* got 1.5/],
    ["context NaN", { batch: 1, context: Number.NaN }, "value.range", /context: .* got NaN/],
    ["seed -1", { batch: 1, context: 4, seed: -1 }, "value.range", /seed: expected an integer ≥ 0, got -1/],
    ["a short corpus", { batch: 1, context: 10 }, "data.short", /context 10 needs 11 bytes, got 10/],
  ])("refuses %s", (_, options, code, says) => {
    const make = (): ByteBatches => new ByteBatches(new Uint8Array(10), options);
    expect(make).toThrow(expect.objectContaining({ code }));
    expect(make).toThrow(says);
  });

  it.each([-1, 0.5, Number.NaN, 2 ** 53])("refuses the index %d", (index) => {
    const source = new ByteBatches(new Uint8Array(10), { batch: 2, context: 4 });
    expect(() => source.batch(index)).toThrow(expect.objectContaining({ code: "index.outOfRange" }));
  });
});

describe("EvaluationBatches", () => {
  it("spaces its windows evenly from the first byte to the last, without overlap", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 12 }), fc.integer({ min: 1, max: 5 }), (context, batch) => {
        const bytes = Uint8Array.from({ length: 250 }, (_, at) => at);
        const source = new EvaluationBatches(bytes, { batch, context, batches: 3 });
        expect(source.count).toBe(3);
        const starts = [0, 1, 2].flatMap((index) =>
          Array.from({ length: batch }, (_, row) => source.batch(index).tokens[row * context] ?? -1),
        );
        const gaps = starts.slice(1).map((start, index) => start - (starts[index] ?? 0));
        expect(starts[0]).toBe(0);
        expect(source.batch(2).targets.at(-1)).toBe(249);
        expect(Math.min(...gaps)).toBeGreaterThanOrEqual(context);
        expect(Math.max(...gaps) - Math.min(...gaps)).toBeLessThanOrEqual(1);
      }),
    );
  });

  it("makes fewer batches where windows would overlap, one of full shape at the least", async () => {
    const fewer = new EvaluationBatches(new Uint8Array(101), { batch: 4, context: 10 });
    expect(fewer.count).toBe(2);
    const batches = [];
    for await (const batch of fewer.batches()) batches.push(batch.index);
    expect(batches).toEqual([0, 1]);
    const short = new EvaluationBatches(new Uint8Array([1, 2, 3, 4]), { batch: 3, context: 2 });
    expect(short.count).toBe(1);
    expect([...short.batch(0).tokens]).toEqual([1, 2, 1, 2, 2, 3]);
    const single = new EvaluationBatches(new Uint8Array([1, 2, 3, 4]), { batch: 1, context: 2, batches: 1 });
    expect([...single.batch(0).targets]).toEqual([2, 3]);
    expect(() => short.batch(1)).toThrow(/expected a batch index from 0 to 0, got 1/);
  });
});

describe("split", () => {
  const bytes = numbered(1000);
  it.each([
    ["a tenth by default", undefined, 10, 100],
    ["a fraction", 0.25, 10, 250],
    ["bytes", 37, 10, 37],
    ["a fraction below one window", 0.001, 10, 11],
    ["the most that leaves one window", 989, 10, 989],
  ])("holds out the end: %s", (_, heldOut, context, expected) => {
    const parts = split(bytes, heldOut === undefined ? { context } : { context, heldOut });
    expect(parts.training).toEqual(bytes.subarray(0, 1000 - expected));
    expect(parts.heldOut).toEqual(bytes.subarray(1000 - expected));
    expect(parts.heldOut.buffer).toBe(bytes.buffer);
  });

  it.each([
    ["too few bytes held out", 10, 10, "data.short"],
    ["too few bytes left", 990, 10, "data.short"],
    ["more than there is", 5000, 10, "data.short"],
    ["a corpus below two windows", 0.1, 500, "data.short"],
    ["nothing", 0, 10, "value.range"],
    ["a negative number", -0.5, 10, "value.range"],
    ["a fraction of a byte", 1.5, 10, "value.range"],
    ["NaN", Number.NaN, 10, "value.range"],
    ["a bad context", 0.1, 0, "value.range"],
  ])("refuses %s", (_, heldOut, context, code) => {
    expect(() => split(bytes, { heldOut, context })).toThrow(expect.objectContaining({ code }));
  });

  it("says all numbers", () => {
    const says = /need 501 bytes each \(context 500\), got 1000 bytes with 501 held out/;
    expect(() => split(bytes, { context: 500 })).toThrow(says);
  });
});

describe("TensorBatches", () => {
  const labels = Int32Array.from({ length: 10 }, (_, example) => example);
  const inputs = Float32Array.from({ length: 30 }, (_, at) => at / 3);

  it("keeps rows and labels together, and visits each example once per epoch", () => {
    const source = new TensorBatches({ inputs, labels, batch: 4, seed: 2 });
    expect([source.examples, source.features]).toEqual([10, 3]);
    const batches = Array.from({ length: 5 }, (_, index) => source.batch(index));
    const drawn = batches.flatMap((batch) => [...batch.labels]);
    for (const epoch of [drawn.slice(0, 10), drawn.slice(10)])
      expect(epoch.toSorted((a, b) => a - b)).toEqual([...labels]);
    expect(drawn.slice(0, 10)).not.toEqual(drawn.slice(10));
    const rows = drawn.flatMap((label) => [...inputs.subarray(label * 3, label * 3 + 3)]);
    expect(batches.flatMap((batch) => [...batch.inputs])).toEqual(rows);
    expect(batches.map((batch) => batch.epoch)).toEqual([0, 0, 0, 1, 1]);
  });

  it("resumes at any batch", async () => {
    const source = new TensorBatches({ inputs, labels, batch: 3 });
    expect(await take(source, 2, 7)).toEqual([source.batch(7), source.batch(8)]);
  });

  it.each([
    ["part of a row", new Float32Array(31), labels, 1, "shape.mismatch"],
    ["no examples", new Float32Array(0), new Int32Array(0), 1, "shape.mismatch"],
    ["no batch", inputs, labels, 0, "value.range"],
  ])("refuses %s", (_, values, names, batch, code) => {
    const make = (): TensorBatches => new TensorBatches({ inputs: values, labels: names, batch });
    expect(make).toThrow(expect.objectContaining({ code }));
  });
});
