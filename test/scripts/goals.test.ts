/** bench/goals.mjs: what it makes of a report, of parts that were not measured, and of processors without dot products of bfloat16. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, it } from "vitest";

const SCRIPT = fileURLToPath(new URL("../../bench/goals.mjs", import.meta.url));
const run = (...args: readonly string[]) => spawnSync(process.execPath, [SCRIPT, ...args], { encoding: "utf8" });

const kernel = (name: string, precision: string, threads: number, medianMs: number, isa: string) => ({
  ...{ name, precision, threads, medianMs, isa },
  share: 10 / medianMs / threads,
});
const step = (work: string, precision: string, medianMs: number, isa: string, ratios: readonly number[] = []) => ({
  ...{ work, precision, threads: 2, isa, medianMs, floorMs: 100, speedup: 200 / medianMs },
  peers: ratios.map((ratio, i) => ({ peer: `torch 2.${i} (MKL)`, ratio })),
});

/** Goals by name: what was measured, and the verdict. */
function judge(isa: string): ReadonlyMap<string, string> {
  const path = join(mkdtempSync(join(tmpdir(), "goals-")), "results.json");
  const machine = { processor: "a processor", cores: 2, node: "v20" };
  const kernels = [kernel("matmul 1024 NN", "bf16", 1, 12, isa), kernel("matmul 1024 NN", "bf16", 2, 6, isa)];
  const steps = [step("gpt-m", "fp32", 130, isa, [1.2, 0.9]), step("gpt-m", "bf16-mixed", 125, isa)];
  writeFileSync(path, JSON.stringify({ machine, load: { before: 0, after: 0 }, kernels, steps }));
  const { stdout, status } = run(path);
  expect(status).toBe(0);
  const lines = stdout.trimEnd().split("\n").slice(1);
  return new Map(lines.map((line) => [line.slice(0, 50).trimEnd(), line.slice(58).trim().replace(/ +/g, " ")]));
}

it("compares each goal with what was measured", () => {
  const goals = judge("avx512bf16");
  expect(goals.size).toBe(28);
  expect(goals.get("matmul 1024 NN bf16, share of the peak, 1 thread")).toBe("0.83 missed");
  expect(goals.get("matmul 1024 NN bf16, 2 threads over one")).toBe("2.00 reached");
  expect(goals.get("gpt-m fp32, times its floor")).toBe("1.30 reached");
  expect(goals.get("gpt-m bf16-mixed, times its floor")).toBe("1.25 reached");
  // The slowest ratio counts: faster than every PyTorch that there is.
  expect(goals.get("gpt-m fp32, times as fast as PyTorch")).toBe("0.90 missed");
  expect(goals.get("gpt-m bf16-mixed, times as fast as own fp32")).toBe("1.60 missed");
  expect(goals.get("resnet20 fp32, times its floor")).toBe("— not measured");
});

it("says which goals a processor without dot products cannot reach", () => {
  const goals = judge("avx2");
  expect(goals.get("gpt-m bf16-mixed, times as fast as own fp32")).toBe("1.60 no bf16 dot products here");
  expect(goals.get("gpt-m fp32, times as fast as PyTorch")).toBe("0.90 missed");
});

it("says how to use it", () => {
  expect(run()).toEqual(expect.objectContaining({ status: 2, stderr: expect.stringContaining("usage: ") }));
});
