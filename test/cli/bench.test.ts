/** `binade bench`: results as JSON and as a table, mistakes, and interruption with the rows so far. No times are asserted. */
import { describe, expect, it } from "vitest";
import { loadAddon } from "../../src/backends/cpu/loader.ts";
import type { BenchResult } from "../../src/bench/measure.ts";
import { SUITE_NAMES, workloadsOf } from "../../src/bench/suites.ts";
import { runCommandLine } from "../../src/cli/command-line.ts";
import { PRECISIONS } from "../../src/train/presets.ts";
import { ended, inChild, inProcess, printed, start, workspace } from "./harness.ts";

const loaded = loadAddon();
const isMissing = loaded.addon === null;
if (loaded.addon === null) console.log(`skipped: bench — ${loaded.reason}; ${loaded.remedy}`);

const resultsOf = (stdout: string): readonly BenchResult[] => JSON.parse(stdout);

describe.skipIf(isMissing)("results", () => {
  it("are complete, and no share of a peak is beyond what noise explains", async () => {
    const outcome = await inProcess(["bench", "mlp", "attention", "--rounds", "2", "--threads", "2", "--json"]);
    expect(outcome).toMatchObject({ status: 0, stderr: "" });
    const results = resultsOf(outcome.stdout);
    expect(results.map(({ name, precision }) => `${name} ${precision}`)).toEqual([
      "attention 8x256x6x64 fp32",
      "attention 8x256x6x64 grad fp32",
      "attention 8x256x6x64 bf16",
      "attention 8x256x6x64 grad bf16",
      "mlp fp32",
      "mlp bf16-mixed",
    ]);
    for (const result of results) {
      expect(result).toMatchObject({ threads: 2, rounds: 2, isa: loaded.addon?.isa() });
      expect(result.medianMs, result.name).toBeGreaterThan(0);
      expect(result.minMs).toBeLessThanOrEqual(result.medianMs);
      expect(result.spreadMs).toBeGreaterThanOrEqual(0);
      expect(result.share, result.name).toBeGreaterThan(0);
      expect(result.share, result.name).toBeLessThanOrEqual(1.15);
      expect(result.share).toBeCloseTo(result.floorMs / result.medianMs, 10);
      expect(result.gflops / result.peakGflops).toBeCloseTo(result.share, 10);
      expect(result.plannedBytes).toBeGreaterThan(0);
    }
  });

  it("name the precision asked for, by its short name too", async () => {
    const { stdout } = await inProcess("bench mlp --precision fp16 --rounds 1 --json".split(" "));
    expect(resultsOf(stdout)).toMatchObject([{ name: "mlp", precision: "fp16-mixed", bound: "float32" }]);
  });

  it("fit into a table of 80 columns, with progress on standard error only", async () => {
    const { status, stdout, stderr } = await inProcess("bench gpt mlp --rounds 1 --threads 1".split(" "), {
      isTTY: true,
    });
    expect(status).toBe(0);
    expect(Math.max(...stdout.split("\n").map((line) => line.length))).toBeLessThan(80);
    expect(stdout).toMatch(/^gpt s +bf16-mixed( +[\d.]+){4} +[\d.]+ MB$/m);
    expect(stdout).toMatch(/^peak: \d+ GFLOP\/s in fp32, \d+ GFLOP\/s in bf16, memory [\d.]+ GB\/s, one thread$/m);
    expect(stdout).not.toContain("\x1b");
    expect(stderr).toContain("\r2/4  gpt s bf16-mixed\x1b[K");
    expect(stderr.endsWith("\r\x1b[K")).toBe(true);
  });
});

describe.skipIf(isMissing)("a narrow terminal", () => {
  it("has the figures that fit below the name, and progress that can be replaced", async () => {
    const args = "bench attention --rounds 1 --threads 1 --precision fp32".split(" ");
    const { stdout, stderr } = await inProcess(args, { isTTY: true, columns: 40 });
    expect(stdout).toMatch(/^cpu: \w+, 1 thread\n\nmedian ms +spread +share GFLOP\/s\n/);
    expect(stdout).toMatch(/^attention 8x256x6x64 grad fp32\n( *[\d.]+){4}\n/m);
    const table = stdout.split("\n\npeak:")[0] ?? "";
    expect(Math.max(...table.split("\n").map((line) => line.length))).toBeLessThan(40);
    const lines = stderr.split("\r").map((text) => text.replace("\x1b[K", "").length);
    expect(Math.max(...lines)).toBeLessThan(40);
  });
});

describe("names", () => {
  it("leave a space before the next column", () => {
    for (const { name } of workloadsOf(SUITE_NAMES, PRECISIONS)) expect(name).toMatch(/^[ -~]{1,26}$/);
  });
});

describe("mistakes", () => {
  it.each([
    ["mtmul", "option.invalid", /bench: expected any of matmul, .*, got "mtmul"; leave it out to time everything/],
    ["--precision fp64", "option.invalid", /--precision: expected one of fp32, bf16-mixed, fp16-mixed, got "fp64"/],
    ["--threads 0", "value.range", /--threads: expected an integer from 1 to 1024, got "0"/],
    ["--rounds 0", "value.range", /--rounds: expected an integer from 1 to 1000000, got "0"/],
    ["--seconds 0", "value.range", /--seconds: expected a number above 0, at most 3600, got "0"/],
    ["--rounds 3 --seconds 1", "option.invalid", /expected --rounds or --seconds, got both; leave one of them out/],
    ["mlp --preset m", "option.invalid", /--preset: expected it with gpt, got it with mlp; add gpt or leave out/],
    ["gpt --preset l", "option.invalid", /--preset: expected one of s, m, got "l"/],
    ["--presision bf16", "option.unknown", /unknown option '--presision'; did you mean --precision\?/],
  ] as const)("%s", async (args, code, sentence) => {
    const outcome = await inProcess(["bench", ...args.split(" ")]);
    expect(outcome.stderr).toMatch(sentence);
    expect(outcome.stderr).toMatch(/^binade: [^\n]+ \[[a-z.A-Z]+\]\n$/);
    expect(outcome.stderr).toContain(`[${code}]\n`);
    expect(outcome).toMatchObject({ status: 2, stdout: "" });
  });

  it.skipIf(isMissing)("an instruction set that there is none of, with one remedy", async () => {
    const { stderr } = await inChild(["bench", "mlp"], workspace(), { BINADE_ISA: "sse9" });
    expect(stderr).toMatch(
      /BINADE_ISA: expected one of [^;]+, got "sse9"; choose one of them or leave it unset, or use the/,
    );
    expect(stderr.match(/unset/g)).toHaveLength(1);
  });

  it("no native kernels", async () => {
    const outcome = await inChild(["bench", "mlp"], workspace(), { BINADE_ADDON: "none" });
    expect(outcome).toMatchObject({ status: 1, stdout: "" });
    expect(outcome.stderr).toMatch(/^binade: device cpu: .*BINADE_ADDON=none.*\[device\.unavailable\]\n$/);
  });
});

describe.skipIf(isMissing)("interruption", () => {
  it("prints the results so far as JSON", async () => {
    const controller = new AbortController();
    let text = "";
    const stdout = { write: (chunk: string) => (text += chunk) };
    // Progress names the second row before it is measured.
    const stderr = { isTTY: true, write: (chunk: string) => chunk.includes("\r2/") && controller.abort() };
    const interruption = (): AbortSignal => controller.signal;
    const args = "bench mlp --rounds 1 --json".split(" ");
    const status = await runCommandLine(args, { stdout, stderr, environment: {}, interruption });
    expect(status).toBe(130);
    expect(resultsOf(text).map(({ precision }) => precision)).toEqual(["fp32"]);
  });

  it("ends the process with 130 and the rows so far", async () => {
    const child = start(["bench", "matmul", "--rounds", "1000000"], workspace());
    const end = ended(child);
    // Waits for the head: the first row never ends by itself.
    await printed(child, "GFLOP/s");
    child.kill("SIGINT");
    expect(await end).toMatchObject({ status: 130, signal: null, stderr: "" });
  });
});
