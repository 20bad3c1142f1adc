/** Damaged programs: refused, or run within their buffers; never a crash. */
import { expect, it } from "vitest";
import { CpuBackend } from "../../src/backends/cpu/backend.ts";
import { type Addon, loadAddon } from "../../src/backends/cpu/loader.ts";
import {
  batchNorm,
  conv2d,
  crossEntropy,
  Device,
  gradientsOf,
  layerNorm,
  maxPool2d,
  scaledDotProductAttention,
  type Tensor,
  tensor,
  upsample,
} from "../../src/index.ts";

const { addon } = loadAddon();
const ROUNDS = 15_000;
const MAX_ARENA_BYTES = 1n << 20n;
const MAX_BINDINGS = 16;
/** Words at the ends of ranges. */
const EDGES = [
  0n,
  1n,
  -1n,
  2n,
  7n,
  255n,
  1n << 31n,
  (1n << 31n) - 1n,
  1n << 40n,
  1n << 44n,
  -(1n << 62n),
  (1n << 63n) - 1n,
];

/** The words of programs with every kind of kernel. */
async function programsOf(addon: Addon): Promise<readonly BigInt64Array[]> {
  const programs: BigInt64Array[] = [];
  const recorder: Addon = {
    ...addon,
    createProgram: (words) => {
      programs.push(words.slice());
      return addon.createProgram(words);
    },
  };
  const device = new Device(new CpuBackend(recorder));
  const x = (...shape: number[]): Tensor =>
    tensor(
      Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => i % 5),
      { shape, device },
    );
  const rows = tensor(Int32Array.of(1, 2, 0, 3), { device });
  const [q, table, picture] = [x(1, 3, 2, 4), x(5, 4), x(1, 2, 4, 4)];
  const attended = scaledDotProductAttention(q, q, q);
  const [pixels, filter] = [x(2, 2, 4, 5), x(4, 1, 3, 2)];
  const out = conv2d(pixels, filter, undefined, { stride: [2, 1], padding: 1, groups: 2 });
  const convolved = [out, ...gradientsOf(out.exp().sum(), [pixels, filter])];
  const planes = x(2, 3, 2, 4);
  const normalized = batchNorm(planes, x(3), x(3));
  const results = [
    x(4, 6).exp().sum({ axes: 0 }),
    x(4, 6).argMax({ axes: 1 }),
    x(4, 6).softmax(),
    layerNorm(x(4, 6)),
    crossEntropy(x(4, 6), rows),
    x(4, 6).cast("bfloat16").matmul(x(6, 5).cast("bfloat16")),
    x(1, 3, 2, 4).transpose().exp(),
    table.gather(rows),
    ...gradientsOf(table.gather(rows).sum(), [table]),
    attended,
    ...convolved,
    normalized,
    ...gradientsOf(normalized.exp().sum(), [planes]),
    x(3, 4).cast("int16").transpose(),
    ...gradientsOf(attended.sum(), [q]),
    maxPool2d(x(2, 2, 4, 4), { kernelSize: 3, stride: 2, padding: 1 }),
    ...gradientsOf(maxPool2d(picture, { kernelSize: 2 }).sum(), [picture]),
    ...gradientsOf(upsample(picture, { scaleFactor: 1.5, mode: "bilinear" }).sum(), [picture]),
  ];
  for (const result of results) await result.data();
  return programs;
}

function random(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

function damaged(words: BigInt64Array, below: (n: number) => number): BigInt64Array {
  const copy = words.slice();
  for (let left = 1 + below(3); left > 0; left--) {
    const at = 1 + below(copy.length - 1);
    copy[at] = below(2) === 0 ? (EDGES[below(EDGES.length)] ?? 0n) : (copy[at] ?? 0n) + BigInt(below(9) - 4);
  }
  return below(20) === 0 ? copy.slice(0, below(copy.length)) : copy;
}

it.skipIf(addon === null)("damaged programs are refused, or run within their buffers", async () => {
  if (addon === null) return;
  const programs = await programsOf(addon);
  const below = random(12345);
  let [ran, refused] = [0, 0];
  for (let round = 0; round < ROUNDS; round++) {
    const words = damaged(programs[below(programs.length)] ?? new BigInt64Array(), below);
    const [, arena = 0n, bindings = 0n] = words;
    if (arena > MAX_ARENA_BYTES || bindings > MAX_BINDINGS) continue;
    try {
      const program = addon.createProgram(words);
      addon.runSync(
        program,
        Array.from({ length: Number(bindings) }, () => new Uint8Array(1024)),
      );
      ran++;
    } catch (error) {
      if (!(error instanceof Error) || !/^(program|run): /.test(error.message)) throw error;
      refused++;
    }
  }
  expect(ran).toBeGreaterThan(500);
  expect(refused).toBeGreaterThan(5000);
});
