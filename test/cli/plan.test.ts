/** `binade train --plan` and the limits of memory: nothing is written, nothing allocated. */
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import type { MemoryPlan } from "../../src/index.ts";
import { inProcess, TINY, workspace } from "./harness.ts";

/** Enough text for a window of 512. */
const TEXT = "package-lock.json";

describe("train --plan", () => {
  it("prints the plan as a table, and trains nothing", async () => {
    const folder = workspace();
    const args = ["train", "--plan", "--data", join(folder, "fox.txt"), "--out", join(folder, "run"), ...TINY];
    const { status, stdout } = await inProcess(args);
    expect([status, readdirSync(folder)]).toEqual([0, ["fox.txt"]]);
    expect(stdout).toMatch(/^memory plan +most +at peak\nparameters/);
    expect(stdout).toMatch(/\nwhole +\d/);
  });

  it("prints it as one object with --json, within the budget", async () => {
    const plan = async (...more: readonly string[]): Promise<MemoryPlan> => {
      const args = ["train", "--plan", "--json", "--data", join(workspace(), "fox.txt"), ...TINY, "--layers", "3"];
      const { stdout } = await inProcess([...args, "--batch", "64", ...more]);
      return JSON.parse(stdout);
    };
    const free = await plan();
    expect(free.resident.optimizerState).toBe(2 * free.resident.parameters + 4);
    const budget = free.byteLength - 1000;
    expect((await plan("--memory-budget", `${budget}`)).byteLength).toBeLessThanOrEqual(budget);
  });

  it("is printed of a model beyond this machine, too", async () => {
    const args = ["train", "--plan", "--json", "--data", join(workspace(), "fox.txt"), ...TINY, "--width", "65536"];
    const { status, stdout } = await inProcess(args);
    expect(status).toBe(0);
    expect(JSON.parse(stdout).resident.parameters).toBeGreaterThan(4 * 12 * 65536 ** 2);
  });

  it.each([
    [["--memory-budget", "much"], 2, /--memory-budget: expected bytes, such as 300MB or 1\.5GiB, got "much"/],
    [
      ["--memory-budget", "1kB"],
      1,
      /memoryBudget is 1000 bytes, and the least possible is \d+.*; raise --memory-budget, or choose a smaller --\w+, .*\[memory\.budget\]/,
    ],
    [
      ["--batch", "65536", "--context", "512", "--width", "512"],
      1,
      /needs \d+\.\d\d GB more, and the machine has .* activations .*nothing was allocated; choose a smaller --batch, --context, --width or --layers, or --memory-budget \d+MB to recompute blocks \[memory\.insufficient\]/,
    ],
    [
      ["--batch", "65536", "--context", "512", "--width", "512", "--precision", "fp32", "--memory-budget", "9000GB"],
      1,
      /nothing was allocated; choose a smaller --batch, --context, --width or --layers, or --precision bf16-mixed \[memory/,
    ],
    [
      ["--width", "65536", "--layers", "1000"],
      1,
      /the weights of this run, .* take 618\.\d\d TB more, and .* left for it; nothing was allocated; choose a smaller --width, --layers, --batch or --context \[memory\.insufficient\]/,
    ],
  ])("refuses %j before anything is written", async (flags, expected, sentence) => {
    const out = join(workspace(), "run");
    const { status, stderr } = await inProcess(["train", "--data", TEXT, "--out", out, ...TINY, ...flags]);
    expect([status, existsSync(out)]).toEqual([expected, false]);
    expect(stderr).toMatch(sentence);
  });
});
