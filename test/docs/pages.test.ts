/** All pages: links lead somewhere; docs/numerics.md has the autocast class of every row and the casts that happen. */
import { existsSync, readdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { tensor, useDevice } from "../../src/index.ts";
import { OPS } from "../../src/ops/index.ts";
import { DEVICES } from "../support/devices.ts";
import { codes, page, ROOT, section, tableRows } from "./markdown.ts";

const folder = (path: string): readonly string[] =>
  readdirSync(ROOT + path)
    .filter((name) => name.endsWith(".md"))
    .map((name) => join(path, name));
const PAGES = [...folder(""), ...folder("docs"), ...folder("docs/adr"), ...folder("native")];

/** Anchor of a heading, as GitHub makes it. */
const anchorOf = (heading: string): string =>
  heading
    .replace(/^#+ /, "")
    .toLowerCase()
    .replace(/[^\p{L}\p{N} _-]/gu, "")
    .replaceAll(" ", "-");

describe("pages", () => {
  it.each(PAGES)("links of %s lead somewhere", (path) => {
    const links = [...page(path).matchAll(/\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)/g)];
    for (const [link, target = "", anchor] of links) {
      const file = target === "" ? path : join(dirname(path), target);
      expect(existsSync(ROOT + file), `${path}: ${link}`).toBe(true);
      if (anchor === undefined) continue;
      const headings = page(file)
        .split("\n")
        .filter((line) => /^#+ /.test(line));
      expect(headings.map(anchorOf), `${path}: ${link}`).toContain(anchor);
    }
  });

  it("give every decision its number and its consequences", () => {
    const pages = folder("docs/adr");
    expect(pages.length).toBeGreaterThan(3);
    pages.forEach((path, i) => {
      expect(page(path), path).toMatch(new RegExp(`^# ${i + 1}\\. `));
      expect(page(path), path).toMatch(/\*\*Decision\.\*\*[\s\S]*\*\*Consequences\.\*\*/);
    });
  });
});

describe("docs/numerics.md", () => {
  const NUMERICS = page("docs/numerics.md");

  it("has the autocast class of every row", () => {
    const [table = ""] = section(NUMERICS, "Autocast").split("### ");
    const listed = tableRows(table).flatMap(([name, , ops = ""]) => codes(ops).map((op) => `${op} ${name}`));
    const rows = Object.values(OPS).map(
      (op) => `${op.name} ${typeof op.autocast === "object" ? "refuse" : op.autocast}`,
    );
    expect([...listed].sort()).toEqual(rows.sort());
  });

  it.each(
    tableRows(section(NUMERICS, "Differences to PyTorch")),
  )("compares %s with PyTorch under its class", (names = "", text = "") => {
    for (const name of codes(names)) {
      const op = Object.values(OPS).find((candidate) => candidate.name === name);
      if (op !== undefined) expect(text, name).toBe(typeof op.autocast === "object" ? "refuse" : op.autocast);
    }
  });
});

describe.each(DEVICES)("casts as docs/numerics.md states them, on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
  });

  it.each([
    [-3.7, "int32", -3],
    [-3.7, "uint8", 0],
    [2 ** 40, "int32", 2147483647],
    [Number.NaN, "int32", 0],
    [Number.NaN, "bool", 1],
    [500, "float8_e4m3fn", Number.NaN],
    [70000, "float16", Number.POSITIVE_INFINITY],
    [2 ** -130, "bfloat16", 2 ** -130],
    [2 ** -25, "float16", 0],
  ] as const)("%s to %s is %s", async (value, dtype, expected) => {
    expect(await tensor(value).cast(dtype).item()).toBe(expected);
  });

  it("saturates between integers", async () => {
    expect(await tensor(Int32Array.of(-5)).cast("uint32").item()).toBe(0);
  });

  it("keeps subnormals in sums", async () => {
    const x = tensor(2 ** -130, { dtype: "bfloat16" });
    expect(await x.add(x).item()).toBe(2 ** -129);
  });
});
