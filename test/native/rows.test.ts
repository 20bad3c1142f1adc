/** The native row cores against float64 formulas, over short, odd and long rows, with faults for labels out of range. */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { ROW_CORES } from "../../src/backends/cpu/abi.ts";
import { addon, at, bitsOf, isas, randomFloats, row, runKernels, sameBytes, skipReason } from "./words.ts";

type Core = (typeof ROW_CORES)[number];
type Buffer = Float32Array | Int32Array;

/** Widths of a core's inputs and outputs: whole rows, or one lane. */
const SHAPES: Readonly<
  Record<Core, readonly [inputs: readonly ("n" | "1" | "label")[], outputs: readonly ("n" | "1")[]]>
> = {
  softmax: [["n"], ["n"]],
  softmaxBackward: [["n", "n"], ["n"]],
  logSoftmax: [["n"], ["n"]],
  logSoftmaxBackward: [["n", "n"], ["n"]],
  logSumExp: [["n"], ["1"]],
  normalize: [["n"], ["n", "1"]],
  normalizeBackward: [["n", "n", "1"], ["n"]],
  crossEntropy: [["n", "label"], ["1"]],
  crossEntropyBackward: [["1", "n", "label"], ["n"]],
};

/** Runs one core over (rows, n); returns its outputs and the fault. */
function runCore(core: Core, rows: number, n: number, inputs: readonly Buffer[], parameters: readonly number[] = []) {
  const [inShapes, outShapes] = SHAPES[core];
  const outputs = outShapes.map((shape) => new Float32Array(shape === "n" ? rows * n : rows));
  const strides = (shape: string): number[] => (shape === "n" ? [n, 1] : [1, 0]);
  const kernel = row({
    extents: [rows, n],
    core,
    parameters,
    inputs: inputs.length,
    outputs: outputs.length,
    prologue: {
      registers: inputs.length,
      loads: inShapes.map((shape, i) => ({
        reg: i,
        view: { binding: i + 1, dtype: shape === "label" ? "int32" : "float32", strides: strides(shape) },
      })),
      code: [],
      stores: inputs.map((_, buffer) => ({ reg: buffer, buffer })),
    },
    epilogue: {
      registers: outputs.length,
      loads: outputs.map((_, i) => ({ reg: i, buffer: inputs.length + i })),
      code: [],
      stores: outShapes.map((shape, i) => ({
        reg: i,
        view: { binding: inputs.length + 1 + i, dtype: "float32", strides: strides(shape) },
      })),
    },
  });
  const fault = runKernels([kernel], [...inputs, ...outputs]);
  return { outputs, fault };
}

/** The largest value, the exponentials relative to it, and their sum. */
function exponentials(x: readonly number[]): { greatest: number; e: number[]; sum: number } {
  const greatest = Math.max(...x);
  const e = x.map((v) => Math.exp(v - greatest));
  return { greatest, e, sum: total(e) };
}

const total = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0);

/** Outputs of one row in float64. */
const MEANING: Readonly<
  Record<Core, (inputs: readonly (readonly number[])[], parameters: readonly number[]) => number[][]>
> = {
  softmax: ([x = []]) => {
    const { e, sum } = exponentials(x);
    return [e.map((v) => v / sum)];
  },
  softmaxBackward: ([g = [], p = []]) => {
    const dot = total(g.map((v, i) => v * at(p, i)));
    return [g.map((v, i) => at(p, i) * (v - dot))];
  },
  logSoftmax: ([x = []]) => {
    const { greatest, sum } = exponentials(x);
    return [x.map((v) => v - greatest - Math.log(sum))];
  },
  logSoftmaxBackward: ([g = [], y = []]) => {
    const sum = total(g);
    return [g.map((v, i) => v - Math.exp(at(y, i)) * sum)];
  },
  logSumExp: ([x = []]) => {
    const { greatest, sum } = exponentials(x);
    return [[greatest + Math.log(sum)]];
  },
  normalize: ([x = []], [eps = 0, center = 0]) => {
    const mean = center === 1 ? total(x) / x.length : 0;
    const inverse = 1 / Math.sqrt(total(x.map((v) => (v - mean) ** 2)) / x.length + eps);
    return [x.map((v) => (v - mean) * inverse), [inverse]];
  },
  normalizeBackward: ([g = [], y = [], [inverse = 0] = []], [center = 0]) => {
    const mean = center === 1 ? total(g) / g.length : 0;
    const projection = total(g.map((v, i) => v * at(y, i))) / g.length;
    return [g.map((v, i) => inverse * (v - mean - at(y, i) * projection))];
  },
  crossEntropy: ([x = [], [label = 0] = []], [ignored]) =>
    label === ignored ? [[0]] : [[(MEANING.logSumExp([x], [])[0]?.[0] ?? 0) - at(x, label)]],
  crossEntropyBackward: ([[g = 0] = [], x = [], [label = 0] = []], [ignored]) =>
    label === ignored
      ? [x.map(() => 0)]
      : [(MEANING.softmax([x], [])[0] ?? []).map((p, i) => g * (p - (i === label ? 1 : 0)))],
};

const PARAMETERS: Partial<Record<Core, readonly (readonly number[])[]>> = {
  normalize: [
    [1e-5, 1],
    [1e-5, 0],
  ],
  normalizeBackward: [[1], [0]],
  crossEntropy: [[-100]],
  crossEntropyBackward: [[-100]],
};

function inputFor(shape: "n" | "1" | "label", rows: number, n: number, seed: number): Buffer {
  if (shape === "label") return Int32Array.from({ length: rows }, (_, i) => (i % 5 === 3 ? -100 : (i * 7) % n));
  return randomFloats(shape === "n" ? rows * n : rows, seed).map((v) => v * 5);
}

const rowOf = (values: Buffer, shape: string, r: number, n: number): number[] => [
  ...(shape === "n" ? values.slice(r * n, (r + 1) * n) : values.slice(r, r + 1)),
];

/** Largest error of all rows, relative to the row's largest value: sums over a row err in proportion to that. */
function worstError(
  core: Core,
  n: number,
  inputs: readonly Buffer[],
  outputs: readonly Float32Array[],
  parameters: readonly number[],
): number {
  const [inShapes, outShapes] = SHAPES[core];
  const rows = at([(inputs.at(-1)?.length ?? 0) / (inShapes.at(-1) === "n" ? n : 1)], 0);
  let worst = 0;
  for (let r = 0; r < rows; r++) {
    const ofRow = inputs.map((values, i) => rowOf(values, inShapes[i] ?? "n", r, n));
    MEANING[core](ofRow, parameters).forEach((expected, o) => {
      // A probability near 1 leaves only rounding errors in p - 1, of the cotangent's size.
      const size = core === "crossEntropyBackward" ? Math.abs(at(inputs[0] ?? [], r)) : 2 ** -20;
      const scale = Math.max(size, ...expected.map(Math.abs));
      const actual = rowOf(outputs[o] ?? new Float32Array(0), outShapes[o] ?? "n", r, n);
      worst = Math.max(
        worst,
        ...actual.map((v, i) => (Number.isNaN(v) ? Number.NaN : Math.abs(v - at(expected, i)) / scale)),
      );
    });
  }
  return worst;
}

const SIZES = [
  [1, 1],
  [3, 2],
  [7, 63],
  [40, 64],
  [5, 129],
  [300, 10],
  [2, 513],
  [3, 4000],
] as const;

describe.skipIf(skipReason !== undefined).each(isas)("row cores on %s", (isa) => {
  beforeAll(() => addon().setIsa(isa));
  afterAll(() => addon().setThreads(2));

  it.each(Object.keys(SHAPES) as Core[])("%s", (core) => {
    for (const [rows, n] of SIZES) {
      for (const parameters of PARAMETERS[core] ?? [[]]) {
        const inputs = SHAPES[core][0].map((shape, i) => inputFor(shape, rows, n, i + 1));
        const words = core === "normalize" ? [bitsOf(at(parameters, 0)), at(parameters, 1)] : parameters;
        addon().setThreads(3);
        const { outputs, fault } = runCore(core, rows, n, inputs, words);
        addon().setThreads(1);
        const alone = runCore(core, rows, n, inputs, words).outputs;
        expect(outputs.map((values, i) => sameBytes(values, alone[i] ?? new Float32Array(0)))).not.toContain(false);
        expect(fault).toBeNull();
        expect(worstError(core, n, inputs, outputs, parameters)).toBeLessThan(3e-5);
      }
    }
  });

  it("softmax survives large logits, passes over -infinity, and gives NaN for a row of nothing else", () => {
    const inf = Number.POSITIVE_INFINITY;
    const { outputs } = runCore("softmax", 3, 3, [Float32Array.of(1000, 1000, -1000, 0, -inf, 0, -inf, -inf, -inf)]);
    expect(outputs[0]).toEqual(Float32Array.of(0.5, 0.5, 0, 0.5, 0, 0.5, Number.NaN, Number.NaN, Number.NaN));
    const {
      outputs: [sums],
    } = runCore("logSumExp", 3, 2, [Float32Array.of(-inf, -inf, inf, 0, 0, Number.NaN)]);
    expect(sums).toEqual(Float32Array.of(-inf, inf, Number.NaN));
  });

  it("keeps the variance of values with a large mean", () => {
    const x = Float32Array.from({ length: 256 }, (_, i) => 4096 + (i % 2));
    const {
      outputs: [normalized],
    } = runCore("normalize", 1, 256, [x], [bitsOf(0), 1]);
    expect(normalized).toEqual(x.map((v) => (v - 4096.5) * 2));
  });

  it.each(["crossEntropy", "crossEntropyBackward"] as const)("%s faults at the first label out of range", (core) => {
    const rows = 3000;
    const n = 12;
    const labels = Int32Array.from({ length: rows }, (_, i) =>
      i === 2500 ? -1 : i === 1700 ? 12 : i === 4 ? -100 : i % n,
    );
    const logits = randomFloats(rows * n);
    const inputs = core === "crossEntropy" ? [logits, labels] : [new Float32Array(rows).fill(1), logits, labels];
    for (const threads of [1, 3]) {
      addon().setThreads(threads);
      expect(runCore(core, rows, n, inputs, [-100]).fault).toEqual({ kernel: 0, position: 1700, value: 12 });
    }
  });

  it("fuses arithmetic before and after the core, and broadcasts a lane per row over the row", () => {
    const x = randomFloats(4 * 30);
    const out = new Float32Array(4 * 30);
    const kernel = row({
      extents: [2, 2, 30],
      core: "normalize",
      parameters: [bitsOf(1e-5), 1],
      inputs: 1,
      outputs: 2,
      prologue: {
        registers: 1,
        loads: [{ reg: 0, view: { binding: 1, dtype: "float32", strides: [60, 30, 1] } }],
        code: [["add", 0, 0, 0]],
        stores: [{ reg: 0, buffer: 0 }],
      },
      epilogue: {
        registers: 3,
        loads: [
          { reg: 0, buffer: 1 },
          { reg: 1, buffer: 2 },
          { reg: 2, buffer: 0 },
        ],
        // xhat / inverseDeviation - input = -mean
        code: [
          ["div", 0, 0, 1],
          ["sub", 0, 0, 2],
        ],
        stores: [{ reg: 0, view: { binding: 2, dtype: "float32", strides: [30, 60, 1] } }],
      },
    });
    expect(runKernels([kernel], [x, out])).toBeNull();
    for (let r = 0; r < 4; r++) {
      const mean = total([...x.slice(r * 30, r * 30 + 30)]) / 15;
      const target = (r % 2) * 60 + Math.floor(r / 2) * 30;
      for (let i = 0; i < 30; i++) expect(at(out, target + i)).toBeCloseTo(-mean, 4);
    }
  });

  it.each([30, 64, 600])("stores what it loaded before another store overwrites it, in rows of %d", (n) => {
    const [x, old] = [randomFloats(5 * n, 1), randomFloats(5 * n, 2)];
    const [target, moved, copy] = [old.slice(), new Float32Array(5 * n), new Float32Array(5 * n)];
    const rowsOf = (binding: number) => ({ binding, dtype: "float32", strides: [n, 1] }) as const;
    const kernel = row({
      extents: [5, n],
      core: "softmax",
      parameters: [],
      inputs: 1,
      outputs: 1,
      prologue: { registers: 1, loads: [{ reg: 0, view: rowsOf(1) }], code: [], stores: [{ reg: 0, buffer: 0 }] },
      epilogue: {
        registers: 3,
        loads: [
          { reg: 0, buffer: 1 },
          { reg: 1, view: rowsOf(2) },
          { reg: 2, buffer: 0 },
        ],
        code: [],
        stores: [
          { reg: 0, view: rowsOf(2) },
          { reg: 1, view: rowsOf(3) },
          { reg: 2, view: rowsOf(4) },
        ],
      },
    });
    expect(runKernels([kernel], [x, target, moved, copy])).toBeNull();
    expect([moved, copy]).toEqual([old, x]);
    expect(target).toEqual(runCore("softmax", 5, n, [x]).outputs[0]);
  });
});
