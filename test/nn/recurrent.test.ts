/** LSTM and GRU cells, and the cross-entropy of probabilities, beside PyTorch (test/fixtures/recurrent.json). */
import { readFileSync } from "node:fs";
import { beforeAll, describe, expect, it } from "vitest";
import {
  autocast,
  binaryCrossEntropy,
  type CellParameters,
  compile,
  gradients,
  gradientsOf,
  gruCell,
  type LstmState,
  lstmCell,
  nn,
  optim,
  type Tensor,
  tensor,
  useDevice,
  zeros,
} from "../../src/index.ts";
import { DEVICES } from "../support/devices.ts";
import { expectRefusal } from "../support/refusal.ts";

type Recorded = Readonly<Record<string, { readonly shape: readonly number[]; readonly data: readonly number[] }>>;
interface Case {
  readonly inputs: Recorded;
  readonly outputs: Recorded;
  readonly cotangents: Recorded;
  readonly gradients: Recorded;
}
const FIXTURES = JSON.parse(readFileSync(new URL("../fixtures/recurrent.json", import.meta.url), "utf8")) as Record<
  string,
  Case
>;
type Named = Readonly<Record<string, Tensor>>;
const at = (named: Named, name: string): Tensor => named[name] as Tensor;

const parametersOf = (named: Named): CellParameters => ({
  inputWeight: at(named, "inputWeight"),
  hiddenWeight: at(named, "hiddenWeight"),
  inputBias: named.inputBias,
  hiddenBias: named.hiddenBias,
});
const RECIPES: Readonly<Record<string, (named: Named) => Named>> = {
  lstmCell: (named) => ({
    ...lstmCell(at(named, "x"), { hidden: at(named, "hidden"), cell: at(named, "cell") }, parametersOf(named)),
  }),
  gruCell: (named) => ({ hidden: gruCell(at(named, "x"), at(named, "hidden"), parametersOf(named)) }),
  binaryCrossEntropy: (named) => ({ loss: binaryCrossEntropy(at(named, "probabilities"), at(named, "targets")) }),
};

const tensorsOf = (recorded: Recorded, dtype: "float64" | "float32"): Named =>
  Object.fromEntries(
    Object.entries(recorded).map(([name, { shape, data }]) => [
      name,
      tensor(dtype === "float64" ? Float64Array.from(data) : Float32Array.from(data), { shape, dtype }),
    ]),
  );

/** Relative to the largest element. float32: some tens of rounded operations in a row. */
const TOLERANCE = { float64: 1e-13, float32: 2e-6 } as const;

async function expectNear(got: Tensor, want: Recorded[string] | undefined, tolerance: number, what: string) {
  const data = want?.data ?? [];
  const scale = Math.max(...data.map(Math.abs), 1e-30);
  const values = await got.data();
  expect(values.length, what).toBe(data.length);
  for (const [i, value] of data.entries())
    expect(Math.abs(Number(values[i]) - value) / scale, `${what}[${i}]`).toBeLessThanOrEqual(tolerance);
}

/** The native device computes in at most 32 bits. */
const FORMS = DEVICES.flatMap((device) =>
  (["float64", "float32"] as const)
    .filter((dtype) => device === "reference" || dtype === "float32")
    .map((dtype) => [device, dtype] as const),
);

describe.each(FORMS)("on %s in %s", (device, dtype) => {
  beforeAll(() => {
    useDevice(device);
  });

  it.each(Object.keys(FIXTURES))("%s", async (name) => {
    const fixture = FIXTURES[name] as Case;
    const inputs = tensorsOf(fixture.inputs, dtype);
    const outputs = RECIPES[name.split(":")[0] ?? ""]?.(inputs) ?? {};
    const cotangents = tensorsOf(fixture.cotangents, dtype);
    for (const [key, output] of Object.entries(outputs))
      await expectNear(output, fixture.outputs[key], TOLERANCE[dtype], key);
    const total = Object.entries(outputs)
      .map(([key, output]) => output.mul(at(cotangents, key)).sum())
      .reduce((a, b) => a.add(b));
    const names = Object.keys(fixture.gradients);
    const found = gradientsOf(
      total,
      names.map((key) => at(inputs, key)),
    );
    for (const [i, key] of names.entries())
      await expectNear(found[i] as Tensor, fixture.gradients[key], TOLERANCE[dtype], `gradient of ${key}`);
  });
});

describe.each(DEVICES)("cells on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
  });
  const x = (): Tensor =>
    tensor(
      Float32Array.from({ length: 6 }, (_, i) => Math.cos(5 * i)),
      { shape: [2, 3] },
    );

  it.each(["float16", "bfloat16"] as const)("case 47: %s gives the low dtype", (half) => {
    const [lstm, gru] = [new nn.LSTMCell(3, 4, { seed: 1 }), new nn.GRUCell(3, 4, { seed: 1 })];
    const { hidden, cell } = autocast(half, () => lstm.forward(x()));
    expect([hidden.dtype, cell.dtype]).toEqual([half, half]);
    expect(autocast(half, () => gru.forward(x())).dtype).toBe(half);
    expect(gru.forward(x()).dtype).toBe("float32");
  });

  it("case 47: a cell of 16 bits refuses float32 outside of a region, and takes it inside", () => {
    const lstm = new nn.LSTMCell(3, 4, { seed: 1 }).to("bfloat16");
    expectRefusal(() => lstm.forward(x()), "dtype.mismatch", ["float32", "bfloat16"]);
    expect(autocast("bfloat16", () => lstm.forward(x())).hidden.dtype).toBe("bfloat16");
  });

  it("learn a sequence in a compiled step, the same in three calls as in three runs", async () => {
    const run = async (): Promise<readonly number[]> => {
      const cell = new nn.LSTMCell(3, 4, { seed: 3 });
      const optimizer = new optim.AdamW(cell, { lr: 0.05 });
      const step = compile((a: Tensor, b: Tensor) => {
        const last = autocast("bfloat16", () =>
          [a, b, a].reduce((state: LstmState | undefined, input) => cell.forward(input, state), undefined),
        );
        const loss = (last as LstmState).hidden.cast("float32").sub(0.5).square().mean();
        optimizer.apply(gradients(loss, cell));
        return loss;
      });
      const losses: number[] = [];
      for (let i = 0; i < 12; i++) losses.push((await (await step(x(), x().mul(-1))).item()) as number);
      return losses;
    };
    const losses = await run();
    expect(losses[11]).toBeLessThan(0.5 * (losses[0] ?? 0));
    expect(await run()).toEqual(losses);
  });
});

describe("a cell is refused", () => {
  beforeAll(() => {
    useDevice("reference");
  });
  it.each<[string, () => unknown, string, readonly string[]]>([
    ["for a width of 0", () => new nn.LSTMCell(0, 4), "value.range", ["input width"]],
    ["for another option", () => new nn.GRUCell(3, 4, { biases: true } as object), "option.unknown", ['"biases"']],
    [
      "for another batch",
      () => new nn.GRUCell(3, 4).forward(zeros([2, 3]), zeros([1, 4])),
      "shape.mismatch",
      ["gruCell", "[2, 3] and [1, 4]"],
    ],
    [
      "for another state",
      () => new nn.GRUCell(3, 4).forward(zeros([2, 3]), zeros([2, 5])),
      "shape.mismatch",
      ["[12, 4]", "[15, 5]"],
    ],
    [
      "for a cell unlike the hidden state",
      () => new nn.LSTMCell(3, 4).forward(zeros([2, 3]), { hidden: zeros([2, 4]), cell: zeros([2, 3]) }),
      "shape.mismatch",
      ["lstmCell", "cell [2, 3]"],
    ],
  ])("%s", (_, act, code, parts) => {
    expectRefusal(act, code, parts);
  });
});
