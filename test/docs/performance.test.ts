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
/** A machine's tables of kernels: the first column, whose title may say which bytes, is the kernel. */
const kernelTables = (text: string): readonly string[] =>
  text.split("\n\n").filter((part) => part.startsWith("| kernel |"));
/** Titles without what follows a comma, such as the formats of the bytes. */
const titleRow = (table: string): readonly string[] =>
  (table.split("\n")[0] ?? "")
    .slice(1, -1)
    .split("|")
    .map((title) => title.split(",")[0]?.trim() ?? "");

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

  it("has operations, bytes, floor, measured time, how it was measured and what is left of each kernel, once", () => {
    const titles = ["kernel", "operations", "bytes", "floor", "measured (share)", "how", "what is left"];
    const ways = tableRows(section(PAGE, "How to read the figures")).map(([way = ""]) => way);
    expect(ways.length).toBeGreaterThan(3);
    for (const [machine, tables] of MACHINES.map((text) => [text, kernelTables(text)] as const)) {
      if (!machine.includes("\n### Kernels on ")) continue;
      expect(tables.length).toBeGreaterThan(0);
      for (const table of tables) {
        expect(titleRow(table)).toEqual(titles);
        for (const row of tableRows(table)) {
          expect(row, row[0]).toHaveLength(titles.length);
          expect(row, row[0]).not.toContain("");
          expect(ways, row[0]).toContain(row[5]);
          expect(row[4], row[0]).toMatch(/\d/);
        }
      }
      const kernels = tables.flatMap(tableRows).map(([kernel]) => kernel);
      expect(new Set(kernels).size).toBe(kernels.length);
    }
  });

  it("finds its sections", () => {
    expect(section(PAGE, "How to read the figures")).toContain("**Floor**");
  });
});
