/** Every benchmark in turn, as a table and as JSON: node bench/run.mjs [--peer] [--out bench-results.json] */
import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const { values: flags } = parseArgs({
  options: { peer: { type: "boolean", default: false }, out: { type: "string" } },
});
const PRECISIONS = ["fp32", "bf16-mixed", "fp16-mixed"];
const RUNS = [
  ...PRECISIONS.map((precision) => ["gpt.mjs", "--preset", "m", "--precision", precision, "--rounds", "10"]),
  ...PRECISIONS.map((precision) => ["gpt.mjs", "--preset", "s", "--precision", precision, "--rounds", "40"]),
  ...["fp32", "bf16-mixed"].map((precision) => ["mlp.mjs", "--precision", precision, "--rounds", "100"]),
];

const results = [];
for (const [script, ...args] of RUNS) {
  // PyTorch has no fp16 autocast on the processor that trains.
  const peer = flags.peer && !args.includes("fp16-mixed") ? ["--peer"] : [];
  const path = fileURLToPath(new URL(script, import.meta.url));
  const line = execFileSync(process.execPath, [path, ...args, ...peer, "--json"], { encoding: "utf8" });
  const result = JSON.parse(line);
  results.push(result);
  const beside =
    result.ratio === undefined
      ? ""
      : `   ${result.peer} ${result.peerMedianMs.toFixed(1)} ms, ratio ${result.ratio.toFixed(2)}`;
  console.log(
    `${result.name.padEnd(16)}${result.precision.padEnd(12)}${result.medianMs.toFixed(2).padStart(9)} ms  ${result.gflops.toFixed(0).padStart(5)} GFLOP/s  ${(result.plannedBytes / 1e6).toFixed(0).padStart(4)} MB${beside}`,
  );
}
if (flags.out !== undefined) writeFileSync(flags.out, `${JSON.stringify(results, null, 2)}\n`);
