/** Memory is flat: what a run holds after 200 steps, it holds after 1000. */
import { execFileSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { DEVICES } from "../support/devices.ts";

interface Memory {
  readonly rssBytes: number;
  readonly buffers: number;
  readonly byteLength: number;
}

const FLAGS = ["--expose-gc"];
const SCRIPT = fileURLToPath(new URL("memory-run.mjs", import.meta.url));

describe.runIf(DEVICES.includes("cpu"))("a run of 1000 steps", () => {
  it.each(["bf16-mixed", "fp16-mixed"])("keeps its memory (%s)", (precision) => {
    const output = execFileSync(process.execPath, [...FLAGS, SCRIPT, precision], { encoding: "utf8" });
    const { 200: early, 1000: late }: Record<number, Memory> = JSON.parse(output);
    expect(early?.buffers).toBeGreaterThan(30);
    expect({ buffers: late?.buffers, byteLength: late?.byteLength }).toEqual({
      buffers: early?.buffers,
      byteLength: early?.byteLength,
    });
    expect((late?.rssBytes ?? Number.NaN) - (early?.rssBytes ?? Number.NaN)).toBeLessThanOrEqual(8 * 2 ** 20);
  });
});
