/** measurePeak of the addon: rates on every instruction set, the pool's size, and wrong arguments. */
import { afterAll, describe, expect, it } from "vitest";
import { loadAddon } from "../../src/backends/cpu/loader.ts";

const { addon } = loadAddon();
if (addon === null) console.log("skipped: peaks — no native addon; npm run build:native");

describe.skipIf(addon === null)("measurePeak", () => {
  const isa = addon?.isa() ?? "";
  afterAll(() => addon?.setIsa(isa));

  it.each(addon?.supportedIsas() ?? [])("yields rates on %s", (name) => {
    addon?.setIsa(name);
    addon?.setThreads(2);
    for (const kind of ["float32", "bfloat16"] as const) {
      const rate = addon?.measurePeak(kind, 1) ?? 0;
      // The slowest machine that runs this does over 10⁸ operations a second, and no core does 10¹³.
      expect(rate, kind).toBeGreaterThan(1e8);
      expect(rate, kind).toBeLessThan(2e13);
    }
  });

  it("ends with more threads than cores", () => {
    addon?.setThreads(9);
    expect(addon?.measurePeak("memory", 0)).toBeGreaterThan(1e7);
  });

  it.each([
    ["float64", 1],
    ["float32", -1],
    ["float32", Number.NaN],
    ["float32", 10_001],
  ])("refuses %s for %s ms", (kind, milliseconds) => {
    expect(() => addon?.measurePeak(kind as "float32", milliseconds)).toThrow(
      /^measurePeak: expected .*, got other values/,
    );
  });
});
