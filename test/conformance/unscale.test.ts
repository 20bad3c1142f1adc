/** Conformance e.2, unscaling and the finite check: cases 13 to 20. */

import { beforeAll, describe, expect, it } from "vitest";
import {
  allFinite,
  embedding,
  GradScaler,
  type GradScalerOptions,
  gradients,
  gradientsFrom,
  optim,
  readOutcome,
  type Tensor,
  tensor,
  useDevice,
  Variable,
} from "../../src/index.ts";
import { DEVICES } from "../support/devices.ts";

const variable = (name: string, shape: readonly number[], dtype: "float32" | "bfloat16" = "float32"): Variable =>
  new Variable(name, shape, dtype);

/** Steps plain SGD once with these scaled gradients. */
async function stepOnce(options: GradScalerOptions, entries: readonly (readonly [Variable, Tensor])[]) {
  const scaler = new GradScaler(options);
  const optimizer = new optim.SGD(
    entries.map(([v]) => v),
    { lr: 1 },
  );
  const grads = scaler.unscale(scaler.scaledGradients(entries));
  const outcome = scaler.step(optimizer, grads);
  scaler.update();
  return { grads, outcome: await readOutcome(outcome) };
}

describe.each(DEVICES)("unscale on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
  });

  const views: readonly (readonly [string, (square: Tensor) => Tensor, readonly number[]])[] = [
    ["contiguous", (square) => square, [1, 2, 3, 4]],
    ["transposed", (square) => square.transpose(), [1, 3, 2, 4]],
    ["sliced", (square) => square.slice(1, 1, 1), [2, 4]],
  ];
  it.each(views)("13: divides a %s gradient by the scale", async (_, view, want) => {
    const gradient = view(tensor([4, 8, 12, 16], { shape: [2, 2] }));
    const w = variable("w", gradient.shape);
    const { outcome } = await stepOnce({ initialScale: 4 }, [[w, gradient]]);
    expect(outcome.applied).toBe(true);
    expect([...(await w.read().data())]).toEqual(want.map((g) => -g));
  });

  const positions = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, Number.NaN].flatMap((bad) =>
    [0, 1, 2].flatMap((which) => [0, 3, 6].map((at) => [bad, at, which] as const)),
  );
  it.each(positions)("14: finds %d at position %i of tensor %i", async (bad, at, which) => {
    const entries = [0, 1, 2].map((i) => {
      const values = Float32Array.from({ length: 7 }, (_, k) => (i === which && k === at ? bad : k + 1));
      return [variable(`p${i}`, [7]), tensor(values)] as const;
    });
    const { outcome } = await stepOnce({}, entries);
    expect(outcome).toEqual({
      applied: false,
      reason: "gradientOverflow",
      parameters: [`p${which}`],
      lossScaleBefore: 65536,
      lossScaleAfter: 32768,
      atFloor: false,
      exhausted: false,
    });
    for (const [p] of entries) expect([...(await p.read().data())]).toEqual(new Array(7).fill(0));
  });

  it("15: float32 and bfloat16 gradients in one call", async () => {
    const [a, b] = [variable("a", [2]), variable("b", [2], "bfloat16")];
    const entries = [
      [a, tensor([4, 8])],
      [b, tensor([4, 8], { dtype: "bfloat16" })],
    ] as const;
    const { outcome } = await stepOnce({ initialScale: 4 }, entries);
    expect(outcome.applied).toBe(true);
    for (const p of [a, b]) expect([...(await p.read().data())]).toEqual([-1, -2]);
  });

  it.each([
    ["scale 1", { initialScale: 1 }],
    ["a disabled scaler", { enabled: false }],
    ["static scale 1", { staticScale: 1 }],
  ])("16: %s leaves the bits of gradients alone", async (_, options) => {
    const values = Float32Array.of(-0, 1e-45, 1.1754943e-38, 3.4028235e38, -1 / 3);
    const scaler = new GradScaler(options);
    const w = variable("w", [5]);
    const grads = scaler.unscale(scaler.scaledGradients([[w, tensor(values)]]));
    const bits = new Uint8Array(values.buffer);
    expect(await grads.get(w)?.bytes()).toEqual(bits);
  });

  it("17: duplicate rows are added in float32, where their sum is finite, and divided once", async () => {
    const table = variable("table", [2, 1]);
    const scaler = new GradScaler({ staticScale: 4 });
    const cotangents = tensor([64000, 64000, 16], { shape: [3, 1], dtype: "float16" });
    const rows = embedding(table.read().cast("float16"), tensor(Int32Array.of(1, 1, 0)));
    const loss = rows.cast("float32").mul(cotangents.cast("float32")).sum();
    const grads = scaler.unscale(gradients(scaler.scale(loss.div(4)), [table]));
    expect([...((await grads.get(table)?.data()) ?? [])]).toEqual([4, 32000]);
  });

  it.each([
    ["nothing at all", [], /expected gradients of w, got none/],
    ["gradients of another parameter", ["other"], /expected gradients of w, got none/],
  ] as const)("19: %s is refused by the parameters' names", (_, names, message) => {
    const scaler = new GradScaler();
    const optimizer = new optim.SGD([variable("w", [1])], { lr: 1 });
    const entries = names.map((name) => [variable(name, [1]), tensor([1])] as const);
    expect(() => scaler.step(optimizer, scaler.scaledGradients(entries))).toThrow(message);
  });

  it("18: a finite gradient that overflows when unscaled is found", async () => {
    const { outcome } = await stepOnce({ initialScale: 2 ** -14 }, [[variable("w", [2]), tensor([1, 1e38])]]);
    expect(outcome).toMatchObject({ applied: false, parameters: ["w"], atFloor: true });
  });

  it("18: the zeros of a collapsed scale are found, which PyTorch steps with", async () => {
    const scaler = new GradScaler({ preset: "pytorch", initialScale: 2 ** -149 });
    const w = variable("w", [1]);
    const optimizer = new optim.SGD([w], { lr: 1 });
    for (const [gradient, applied] of [
      [Number.POSITIVE_INFINITY, false],
      [0, false],
    ] as const) {
      const outcome = scaler.step(optimizer, scaler.scaledGradients([[w, tensor([gradient])]]));
      scaler.update();
      expect((await readOutcome(outcome)).applied).toBe(applied);
    }
    expect(await scaler.lossScale.item()).toBe(0);
    expect(await w.read().item()).toBe(0);
  });

  it("18: gradients that are all zero are no reason to skip", async () => {
    const { outcome } = await stepOnce({}, [[variable("w", [3]), tensor([0, 0, 0])]]);
    expect(outcome).toEqual({ applied: true, lossScaleBefore: 65536, lossScaleAfter: 65536 });
  });

  it("19: frozen parameters are left alone", async () => {
    const [w, frozen] = [variable("w", [1]), variable("frozen", [1])];
    const scaler = new GradScaler({ initialScale: 2 });
    const optimizer = new optim.SGD([w, frozen], { lr: 1 });
    const outcome = scaler.step(optimizer, scaler.scaledGradients([[w, tensor([4])]]));
    scaler.update();
    expect(outcome.parameters).toEqual(["w"]);
    expect((await readOutcome(outcome)).applied).toBe(true);
    expect([await w.read().item(), await frozen.read().item()]).toEqual([-2, 0]);
  });

  it("20: nothing at all is finite, and so are integers", async () => {
    expect(await allFinite([]).item()).toBe(1);
    expect(await allFinite([tensor(new Int32Array([1])), tensor([1, 2])]).item()).toBe(1);
    expect(await allFinite([tensor([1, 2]), tensor([Number.NaN])]).item()).toBe(0);
    expect(gradientsFrom([]).size).toBe(0);
  });
});
