/** bench/run.mjs, the comparison with peers: its files, missing peers named with the remedy, mistakes. No times are asserted. */
import { spawnSync } from "node:child_process";
import { chmodSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { loadAddon } from "../../src/backends/cpu/loader.ts";
import { ROOT } from "../docs/markdown.ts";
import { workspace } from "./harness.ts";

const isMissing = loadAddon().addon === null;

function compare(args: readonly string[], environment: NodeJS.ProcessEnv = {}) {
  const env = { ...process.env, ...environment };
  return spawnSync(process.execPath, [join(ROOT, "bench/run.mjs"), ...args], { encoding: "utf8", env });
}

/** A peer that any interpreter can be: answers as timing.py does, four milliseconds for each step. */
const FAKE = `#!${process.execPath}
console.log(JSON.stringify({ peer: "fake 1.0" }));
require("readline").createInterface({ input: process.stdin }).on("line", (line) => {
  console.log(JSON.stringify({ timesMs: Array(Number(line.split(" ")[1])).fill(4) }));
});
`;

describe.skipIf(isMissing || process.platform === "win32")("npm run bench", () => {
  it("writes ratios as JSON and Markdown, and names a peer that is missing", () => {
    const folder = workspace();
    const at = (name: string): string => join(folder, name);
    writeFileSync(at("fake"), FAKE);
    chmodSync(at("fake"), 0o755);
    const args = `--work mlp --precision fp32,fp16-mixed --threads 1 --seconds 0.1 --peer torch`.split(" ");
    const files = ["--out", at("out.json"), "--markdown", at("out.md")];
    const { status, stdout, stderr } = compare([...args, ...files], { BENCH_PYTHON: `${at("fake")}:${at("gone")}` });
    expect(stderr).toMatch(/^torch is left out: \S+gone: .*ENOENT; to have it, install torch .*python3-torch/);
    expect({ status, lines: stdout.split("\n").length }).toEqual({ status: 0, lines: 4 });
    const report = JSON.parse(readFileSync(at("out.json"), "utf8"));
    expect(report.steps).toMatchObject([
      { work: "mlp", precision: "fp32", threads: 1, peers: [{ peer: "fake 1.0", medianMs: 4, spreadMs: 0 }] },
      { work: "mlp", precision: "fp16-mixed", peers: [] },
    ]);
    const [{ medianMs, peers }] = report.steps;
    expect(peers[0].ratio).toBeCloseTo(4 / medianMs, 10);
    expect(report.missing).toMatchObject([{ peer: "torch" }]);
    expect(readFileSync(at("out.md"), "utf8")).toMatch(/^\| mlp \| fp32 \| 1 \| .* \| 4\.00 ms, \*\*[\d.]+\*\* \|$/m);
  });

  it.each([
    [["--work", "gpt"], /^--work: expected any of gpt-m, .*, got "gpt"\n$/],
    [["--peer", "tensorflow"], /^--peer: expected any of torch, numpy, jax-js, tfjs, got "tensorflow"\n$/],
    [["--threads", "0"], /^--threads: expected numbers above 0, got "0"\n$/],
  ])("refuses %s", (args, sentence) => {
    const { status, stdout, stderr } = compare(args);
    expect(stderr).toMatch(sentence);
    expect({ status, stdout }).toEqual({ status: 2, stdout: "" });
  });
});
