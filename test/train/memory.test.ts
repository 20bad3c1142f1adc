/** Memory is flat: what a run holds after 200 steps, it holds after 1000. */
import { execFileSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import type { MemoryPlan } from "../../src/index.ts";
import { DEVICES } from "../support/devices.ts";

interface Memory {
  readonly rssBytes: number;
  readonly buffers: number;
  readonly byteLength: number;
}

const FLAGS = ["--expose-gc"];
/** The engine doubles the space of young objects once, by 16 MB, when many survive: sooner or later, and whatever a run holds. */
const EVEN_FLAGS = [...FLAGS, "--max-semi-space-size=1"];
const SCRIPT = fileURLToPath(new URL("memory-run.mjs", import.meta.url));

/** Scratch of the worker threads, and JavaScript's own growth while a step is compiled. */
const SLACK_BYTES = 48 * 2 ** 20;
const RESIDENT = fileURLToPath(new URL("resident-run.mjs", import.meta.url));

describe.runIf(DEVICES.includes("cpu"))("resident memory", () => {
  it("follows the plan", () => {
    const output = execFileSync(process.execPath, [...FLAGS, RESIDENT], { encoding: "utf8" });
    const { grownBytes, plan }: { grownBytes: number; plan: MemoryPlan } = JSON.parse(output);
    // Arguments were there before.
    const expected = plan.byteLength - plan.resident.inputs;
    expect(expected).toBeGreaterThan(60e6);
    expect(grownBytes).toBeLessThan(expected + SLACK_BYTES);
    expect(grownBytes).toBeGreaterThan(expected / 2);
  });
});

describe.runIf(DEVICES.includes("cpu"))("a run of 1000 steps", () => {
  it.each(["bf16-mixed", "fp16-mixed"])("keeps its memory (%s)", (precision) => {
    const output = execFileSync(process.execPath, [...EVEN_FLAGS, SCRIPT, precision], { encoding: "utf8" });
    const { 200: early, 1000: late }: Record<number, Memory> = JSON.parse(output);
    expect(early?.buffers).toBeGreaterThan(30);
    expect({ buffers: late?.buffers, byteLength: late?.byteLength }).toEqual({
      buffers: early?.buffers,
      byteLength: early?.byteLength,
    });
    expect((late?.rssBytes ?? Number.NaN) - (early?.rssBytes ?? Number.NaN)).toBeLessThanOrEqual(6 * 2 ** 20);
  });
});
