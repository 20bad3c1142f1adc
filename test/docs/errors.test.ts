/** docs/errors.md and src/errors.ts against the sources: the same codes, each of which is thrown somewhere. */
import { readdirSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { codes, page, ROOT, tableRows } from "./markdown.ts";

const DECLARED = [
  ...(page("src/errors.ts").split("export type ErrorCode =")[1]?.split(";")[0] ?? "").matchAll(/"([^"]+)"/g),
].map((match) => match[1] ?? "");

/** Every source that makes errors, in one text; not the list of codes, nor the codes that decide the exit status. */
const SOURCES = readdirSync(`${ROOT}src`, { recursive: true, encoding: "utf8" })
  .filter((path) => path.endsWith(".ts") && path !== "errors.ts")
  .map((path) => page(`src/${path}`).replace(/USAGE_CODES.*?;/s, ""))
  .filter((text) => text.includes("new BinadeError("))
  .join("\n");

describe("docs/errors.md", () => {
  it("lists exactly the codes of the type", () => {
    expect(DECLARED.length).toBeGreaterThan(20);
    const listed = tableRows(page("docs/errors.md")).flatMap(([cell = ""]) => codes(cell));
    expect([...listed].sort()).toEqual([...DECLARED].sort());
  });

  it.each(DECLARED)("%s is thrown", (code) => {
    expect(SOURCES).toContain(`"${code}"`);
  });

  it("says what happened and what to do for each", () => {
    for (const row of tableRows(page("docs/errors.md"))) expect(row.filter((cell) => cell.length > 3)).toHaveLength(3);
  });
});
