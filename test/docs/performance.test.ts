/** docs/performance.md against `binade bench`: rows named in backticks are what it times, and none of its kinds is left out. */
import { describe, expect, it } from "vitest";
import { SUITE_NAMES, workloadsOf } from "../../src/bench/suites.ts";
import { PRECISIONS } from "../../src/train/presets.ts";
import { codes, page, section, tableRows } from "./markdown.ts";

const PAGE = page("docs/performance.md");
const NAMES = (["s", "m"] as const).flatMap((preset) =>
  workloadsOf(SUITE_NAMES, PRECISIONS, preset).map(({ name }) => name),
);
const firstCells = (text: string): readonly string[] => tableRows(text).flatMap(([cell = ""]) => codes(cell));
/** The sections of machines: they alone have a heading "Whole steps on …". */
const MACHINES = PAGE.split("\n## ")
  .slice(1)
  .filter((text) => text.includes("\n### Whole steps on "));

describe("docs/performance.md", () => {
  it("names in its tables what binade bench times", () => {
    const named = MACHINES.flatMap(firstCells);
    expect(named.length).toBeGreaterThan(10);
    for (const name of named) expect(NAMES).toContain(name);
  });

  it("has, in the section of the first machine, rows of every kind", () => {
    const [first = ""] = MACHINES;
    const named = firstCells(first);
    for (const kind of ["gpt m", "gpt s", "resnet20", "mlp", "matmul", "conv", "attention", "layer norm", "AdamW"]) {
      expect(
        named.some((name) => name.startsWith(kind)),
        kind,
      ).toBe(true);
    }
  });

  it("has operations, bytes, floor, measured time and what is left of each kernel", () => {
    const titles = ["kernel", "operations", "bytes", "floor", "measured (median, best)", "what is left"];
    for (const machine of MACHINES) expect(machine).toContain(`| ${titles.join(" | ")} |`);
  });

  it("finds its sections", () => {
    expect(section(PAGE, "How to read the figures")).toContain("**Floor**");
  });
});
