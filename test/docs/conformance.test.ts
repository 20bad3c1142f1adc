/** docs/conformance.md against the tests: every case has a test whose title starts with its number, every mutant exists. */
import { readdirSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { page, ROOT, tableRows } from "./markdown.ts";

const MUTANTS = readdirSync(`${ROOT}scripts/mutants`).flatMap((file) =>
  [...page(`scripts/mutants/${file}`).matchAll(/^ {4}name: "([^"]+)"/gm)].map((match) => match[1]),
);

/** The sections that state their tests. */
const SECTIONS = page("docs/conformance.md")
  .split(/^## /m)
  .slice(1)
  .map((text) => ({
    name: text.split("\n")[0] ?? "",
    files: [...(text.match(/^Tests: [\s\S]*?\n\n/m)?.[0] ?? "").matchAll(/`(test\/[^`]+)`/g)].map(
      (match) => match[1] ?? "",
    ),
    rows: tableRows(text),
  }));

it("every section names its tests and has cases", () => {
  expect(SECTIONS.length).toBeGreaterThan(2);
  for (const { name, files, rows } of SECTIONS) {
    expect(files.length, name).toBeGreaterThan(0);
    expect(rows.length, name).toBeGreaterThan(2);
  }
});

describe.each(SECTIONS)("$name", ({ files, rows }) => {
  const titles = files.map((file) => page(file)).join("\n");

  it.each(rows)("case %s: %s", (number = "", _what = "", how = "", mutant = "") => {
    expect(how).toMatch(/^(as written|adapted|not applicable)/);
    if (!how.startsWith("not applicable")) expect(titles).toMatch(new RegExp(`["'\`](case )?${number}: `));
    if (mutant !== "") expect(MUTANTS).toContain(mutant);
  });
});
