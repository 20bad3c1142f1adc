/** Kernels by themselves, with the operations and bytes that they cannot do without: node bench/kernels.mjs [--threads 2] [--rounds 15] [--json] */
import { parseArgs } from "node:util";
import { median, timeOnce } from "./measure.mjs";

const { values: flags } = parseArgs({
  options: {
    threads: { type: "string", default: "2" },
    rounds: { type: "string", default: "15" },
    json: { type: "boolean", default: false },
  },
});
const { compile, gradientsOf, layerNorm, scaledDotProductAttention, tensor, useDevice, Variable } = await import(
  "../dist/index.js"
);
const { AdamW } = await import("../dist/optim/index.js");
const { gradients } = await import("../dist/index.js");

const device = useDevice("cpu", { threads: Number(flags.threads) });
const numbers = (shape, dtype = "float32") => {
  const size = shape.reduce((a, b) => a * b, 1);
  return tensor(
    Float32Array.from({ length: size }, (_, i) => Math.sin(i * 12.9898)),
    { shape, dtype },
  );
};
/** A kernel reads its operands from memory: computed tensors are arguments, and what it yields is summed to one number only where it must be. */
const WIDTH = { float32: 4, bfloat16: 2, float16: 2 };

function matmulRows() {
  const n = 1024;
  const layouts = {
    NN: (a, b) => a.matmul(b),
    NT: (a, b) => a.matmul(b.transpose()),
    TN: (a, b) => a.transpose().matmul(b),
  };
  return ["float32", "bfloat16", "float16"].flatMap((dtype) =>
    Object.entries(layouts).map(([layout, product]) => {
      const step = compile((a, b) => product(a, b));
      const [a, b] = [numbers([n, n], dtype), numbers([n, n], dtype)];
      return {
        name: `matmul 1024³ ${layout}`,
        dtype,
        operations: 2 * n ** 3,
        bytes: 3 * n * n * WIDTH[dtype],
        run: () => step(a, b),
      };
    }),
  );
}

function attentionRows() {
  const [batch, time, heads, width] = [8, 256, 6, 64];
  const size = batch * time * heads * width;
  // Causality hides half of the products; backward has five where forward has two.
  const forward = 2 * 2 * batch * heads * time * time * width * 0.5;
  return ["float32", "bfloat16"].flatMap((dtype) => {
    const qkv = [1, 2, 3].map(() => numbers([batch, time, heads, width], dtype));
    const attend = compile((q, k, v) => scaledDotProductAttention(q, k, v, { causal: true }));
    const both = compile((q, k, v) =>
      gradientsOf(scaledDotProductAttention(q, k, v, { causal: true }).cast("float32").sum(), [q, k, v]),
    );
    return [
      {
        name: "attention 8×256×6×64",
        dtype,
        operations: forward,
        bytes: 4 * size * WIDTH[dtype],
        run: () => attend(...qkv),
      },
      {
        name: "attention and gradients",
        dtype,
        operations: 3.5 * forward,
        bytes: 11 * size * WIDTH[dtype],
        run: () => both(...qkv),
      },
    ];
  });
}

function rowRows() {
  const [rows, width] = [2048, 384];
  const [weight, bias] = [numbers([width]), numbers([width])];
  const x = numbers([rows, width]);
  const norm = compile((x) => layerNorm(x, weight, bias));
  const softmax = compile((x) => x.softmax());
  const columns = compile((x) => x.sum({ axes: 0 }));
  return [
    {
      name: "layer norm 2048×384",
      dtype: "float32",
      operations: 8 * rows * width,
      bytes: 2 * rows * width * 4,
      run: () => norm(x),
    },
    {
      name: "softmax 2048×384",
      dtype: "float32",
      operations: 30 * rows * width,
      bytes: 2 * rows * width * 4,
      run: () => softmax(x),
    },
    {
      name: "sum of columns 2048×384",
      dtype: "float32",
      operations: rows * width,
      bytes: rows * width * 4,
      run: () => columns(x),
    },
  ];
}

function adamRow() {
  const size = 10_000_000;
  const weight = new Variable("weight", [size], "float32");
  const optimizer = new AdamW([weight], { lr: 1e-3 });
  const step = compile((scale) => {
    optimizer.apply(gradients(weight.read().mul(scale).sum(), [weight]));
    return { scale };
  });
  const scale = numbers([1]).reshape([]);
  // Reads weight and two moments, writes all three; the gradient is a constant here.
  return {
    name: "AdamW, 10⁷ parameters",
    dtype: "float32",
    operations: 17 * size,
    bytes: 6 * 4 * size,
    run: () => step(scale),
  };
}

const rows = [...matmulRows(), ...attentionRows(), ...rowRows(), adamRow()];
const times = new Map(rows.map((row) => [row, []]));
for (const row of rows) await row.run();
for (let i = 0; i < Number(flags.rounds); i++) for (const row of rows) times.get(row).push(await timeOnce(row.run));
const results = rows.map((row) => {
  const medianMs = median(times.get(row));
  return {
    name: row.name,
    dtype: row.dtype,
    threads: device.backend.threads,
    isa: device.backend.isa,
    medianMs,
    minMs: Math.min(...times.get(row)),
    gflops: row.operations / medianMs / 1e6,
    gigabytesPerSecond: row.bytes / medianMs / 1e6,
  };
});
if (flags.json) console.log(JSON.stringify(results, null, 2));
else
  for (const r of results)
    console.log(
      `${r.name.padEnd(26)}${r.dtype.padEnd(10)}${r.medianMs.toFixed(2).padStart(9)} ms (best ${r.minMs.toFixed(2)})  ${r.gflops.toFixed(0).padStart(5)} GFLOP/s  ${r.gigabytesPerSecond.toFixed(1).padStart(6)} GB/s`,
    );
process.exit(0);
