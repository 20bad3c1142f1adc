/** The reference and null backends as backends: buffers, programs, records. */
import { describe, expect, it } from "vitest";
import { HostBuffer, hostBytes } from "../../src/backends/backend.ts";
import { NullBackend } from "../../src/backends/null/backend.ts";
import { ReferenceBackend } from "../../src/backends/reference/backend.ts";
import { evaluate } from "../../src/backends/reference/evaluate.ts";
import { DIALECTS } from "../../src/backends/reference/scalar.ts";
import { compileProgram } from "../../src/compile/pipeline.ts";
import { type DType, philox, uniform } from "../../src/formats/index.ts";
import { build as b, createInput, type Node } from "../../src/ir/graph.ts";
import { FN } from "../../src/ops/expr.ts";
import { REDUCE } from "../../src/ops/reduce.ts";

const leaf = (shape: readonly number[], dtype: DType = "float32"): Node => createInput(shape, dtype);
const of = (node: Node, ...operands: ArrayLike<number>[]): number[] => [
  ...evaluate(
    node,
    operands.map((v) => Float64Array.from(v)),
    () => undefined,
  ),
];

describe("host buffers", () => {
  it("hold bytes until they are released", () => {
    const buffer = new HostBuffer(4);
    hostBytes(buffer)[1] = 7;
    expect([buffer.byteLength, ...buffer.bytes]).toEqual([4, 0, 7, 0, 0]);
    buffer.release();
    expect(() => buffer.bytes).toThrow("used after it was released");
    expect(() => hostBytes({ byteLength: 1, release: () => undefined })).toThrow("another backend");
  });
});

describe("the null backend", () => {
  it("records programs and runs, and leaves zeros", async () => {
    const backend = new NullBackend();
    const x = leaf([2]);
    const program = compileProgram({ outputs: [b.exp(x)], assignments: new Map() }, backend.capabilities);
    const executable = backend.prepare(program);
    const buffers = program.bindings.map(() => backend.allocate(8));
    expect(await executable.run(buffers)).toBeNull();
    expect([backend.programs, backend.runs]).toEqual([[program], 1]);
    expect([...(await backend.read(buffers[1] ?? buffers[0] ?? backend.allocate(0)))]).toEqual([
      0, 0, 0, 0, 0, 0, 0, 0,
    ]);
    executable.release();
  });
});

describe("the reference backend", () => {
  it("spells every primitive in every dialect", () => {
    for (const dialect of Object.values(DIALECTS))
      expect(Object.keys(dialect.fn).sort()).toEqual(Object.keys(FN).sort());
  });

  it("reads copies, so that a result never changes under its reader", async () => {
    const backend = new ReferenceBackend();
    const buffer = backend.allocate(1);
    backend.write(buffer, Uint8Array.of(5));
    const before = await backend.read(buffer);
    backend.write(buffer, Uint8Array.of(6));
    expect([...before, ...(await backend.read(buffer))]).toEqual([5, 6]);
  });

  it("poisons its arena: what was never written is NaN", async () => {
    const backend = new ReferenceBackend();
    const x = leaf([2, 2]);
    const program = compileProgram(
      { outputs: [b.exp(b.matmul(b.exp(x), x))], assignments: new Map() },
      backend.capabilities,
    );
    const broken = { ...program, kernels: program.kernels.slice(1) };
    const buffers = program.bindings.map(() => backend.allocate(16));
    await backend.prepare(broken).run(buffers);
    const bytes = await backend.read(buffers[1] ?? backend.allocate(0));
    expect([...new Float32Array(bytes.buffer)]).toEqual([Number.NaN, Number.NaN, Number.NaN, Number.NaN]);
  });

  it("sums in float32 in row-major order, integers by wrapping around", () => {
    expect(of(b.sum(leaf([3]), [0]), [2 ** 24, 1, 1])).toEqual([2 ** 24]);
    expect(of(b.sum(leaf([3]), [0]), [1, 1, 2 ** 24])).toEqual([2 ** 24 + 2]);
    expect(of(b.sum(leaf([3], "float64"), [0]), [2 ** 24, 1, 1])).toEqual([2 ** 24 + 2]);
    expect(of(b.sum(leaf([300], "bfloat16"), [0]), new Array(300).fill(1))).toEqual([300]);
    expect(of(b.sum(leaf([2], "uint32"), [0]), [2 ** 31, 5])).toEqual([2 ** 31 + 5]);
    expect(of(b.sum(leaf([2], "uint32"), [0]), [2 ** 32 - 1, 5])).toEqual([4]);
    expect(of(b.sum(leaf([2], "int32"), [0]), [2 ** 31 - 1, 1])).toEqual([-(2 ** 31)]);
    expect(of(b.sum(leaf([2, 2, 2]), [0, 2]), [1, 2, 3, 4, 5, 6, 7, 8])).toEqual([14, 22]);
    expect(of(b.sum(leaf([0, 2]), [0]), [])).toEqual([0, 0]);
  });

  it("finds extremes: NaN wins, the first of equals is named", () => {
    const x = leaf([4]);
    const arg = (name: "argMax" | "argMin", values: readonly number[]): number[] =>
      of(b.node(REDUCE[name], [x], { axes: [0] }), values);
    expect([
      of(b.max(x, [0]), [1, Number.NaN, 3, 2]),
      of(b.min(x, [0]), [1, 0, -Infinity, 2]),
      of(b.max(x, [0]), [-Infinity, -Infinity, -Infinity, -Infinity]),
    ]).toEqual([[Number.NaN], [-Infinity], [-Infinity]]);
    expect([
      arg("argMax", [1, 3, 3, 2]),
      arg("argMin", [1, 0, 0, 2]),
      arg("argMax", [1, Number.NaN, 9, Number.NaN]),
      arg("argMin", [4, Number.NaN, 1, 0]),
    ]).toEqual([[1], [1], [1], [1]]);
    expect(of(b.node(REDUCE.argMax, [leaf([2, 3])], { axes: [0, 1] }), [1, 2, 3, 9, 5, 6])).toEqual([3]);
  });

  it("multiplies in float32, product by product", () => {
    const row = [2 ** 12 + 1, 1];
    expect(of(b.matmul(leaf([1, 2]), leaf([2, 1])), row, [2 ** 12 + 1, -1])).toEqual([
      Math.fround(Math.fround((2 ** 12 + 1) ** 2) - 1),
    ]);
    expect(of(b.matmul(leaf([1, 2], "bfloat16"), leaf([2, 1], "bfloat16")), [1, 2 ** -9], [1, 1])).toEqual([1]);
    expect(of(b.matmul(leaf([1, 2], "bfloat16"), leaf([2, 1], "bfloat16"), "float32"), [1, 2 ** -9], [1, 1])).toEqual([
      1 + 2 ** -9,
    ]);
    expect(of(b.matmul(leaf([2, 0]), leaf([0, 1])), [], [])).toEqual([0, 0]);
  });

  it("scatters with sums in float32 in order, rounded once", () => {
    const rows = leaf([3], "int32");
    const into = (dtype: DType): Node => b.scatterAdd(leaf([3], dtype), rows, { axis: 0, rows: 2, dtype });
    expect(of(into("float32"), [2 ** 24, 1, 1], [1, 1, 1])).toEqual([0, 2 ** 24]);
    expect(of(into("bfloat16"), [256, 1, 1], [0, 0, 0])).toEqual([258, 0]);
  });

  it("reports the first index out of range, and its position", () => {
    const faults: unknown[] = [];
    const table = leaf([2, 2]);
    evaluate(
      b.gather(table, leaf([3], "int32"), 1),
      [Float64Array.of(1, 2, 3, 4), Float64Array.of(1, 2, -1)],
      (fault) => faults.push(fault),
    );
    expect(faults).toEqual([{ position: 1, value: 2 }]);
  });

  it("draws random numbers from the key, the stream and the position alone", () => {
    const [k0, k1, k2, k3] = [11, 22, 33, 44] as const;
    const key = leaf([4], "uint32");
    const words = new Uint32Array(4);
    philox([1, 0, k2, (k3 ^ 7) >>> 0], [k0, k1], words);
    const long = of(b.random(key, [9], 7), [k0, k1, k2, k3]);
    expect(long.slice(4, 8)).toEqual([...words].map(uniform));
    expect(of(b.random(key, [3, 2], 7), [k0, k1, k2, k3])).toEqual(long.slice(0, 6));
    expect(of(b.random(key, [9], 8), [k0, k1, k2, k3])).not.toEqual(long);
    expect(long.every((v) => v >= 0 && v < 1)).toBe(true);
  });
});
