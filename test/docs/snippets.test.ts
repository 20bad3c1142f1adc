/** The code of the pages type-checks as it stands, and runs: blocks as programs, and the calls of every table. */
import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { Tensor, useDevice } from "../../src/index.ts";
import { page, ROOT } from "./markdown.ts";
import { blocksOf, callsOf, moduleOf } from "./snippets.ts";

const MIXED = "docs/mixed-precision.md";
const BLOCKS = [
  ...blocksOf(MIXED, { "Why did my step skip": "afterScaling", "What broke this step?": "overflowing" }),
  ...blocksOf("docs/memory.md", { Memory: "windows", Recomputing: "windows" }),
];
const CALLS = [...callsOf("docs/migrating.md"), ...callsOf(MIXED, "PyTorch, Keras, jmp")];
const SNIPPETS = [...BLOCKS, ...CALLS].map((snippet, i) => ({ ...snippet, file: `snippet${i}.ts` }));

let folder = "";
let faults: readonly string[] = [];

beforeAll(() => {
  useDevice("reference");
  mkdirSync(`${ROOT}build`, { recursive: true });
  folder = mkdtempSync(`${ROOT}build/snippets-`);
  for (const snippet of SNIPPETS) writeFileSync(join(folder, snippet.file), moduleOf(snippet));
  const wrong = {
    title: "wrong",
    from: "calls",
    code: `import { clipByGlobalNorm } from "binade";
export const clipped = clipByGlobalNorm(scaled, 1);
`,
  } as const;
  writeFileSync(join(folder, "wrong.ts"), moduleOf(wrong));
  const config = { extends: "../../tsconfig.json", include: ["*.ts"], compilerOptions: { noUnusedLocals: false } };
  writeFileSync(join(folder, "tsconfig.json"), JSON.stringify(config));
  const tsc = [`${ROOT}node_modules/typescript/bin/tsc`, "-p", join(folder, "tsconfig.json")];
  faults = spawnSync(process.execPath, tsc, { encoding: "utf8" }).stdout.split("\n");
}, 120_000);
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Computes what a call gave: tensors, gradients, promises and runs to their end. */
async function settle(given: unknown): Promise<void> {
  const value = await given;
  if (value instanceof Tensor) await value.data();
  else if (value instanceof Map) for (const part of value.values()) await settle(part);
  else if (typeof value === "object" && value !== null && Symbol.asyncIterator in value)
    for await (const event of value as AsyncIterable<unknown>) expect(event).toBeDefined();
}

describe("code of the pages", () => {
  it("is all there", () => {
    expect(BLOCKS.length).toBeGreaterThan(12);
    expect(CALLS.length).toBeGreaterThan(60);
  });

  it.each(SNIPPETS)("type-checks: $title", ({ file, title }) => {
    expect(
      faults.filter((line) => line.includes(file)),
      `${title}\n${page(`${folder.slice(ROOT.length)}/${file}`)}`,
    ).toEqual([]);
  });

  it("would not type-check with a mistake", () => {
    expect(faults.filter((line) => line.includes("wrong.ts"))).toHaveLength(1);
  });

  it("prints the report that stands below it", async () => {
    const { file, code } = SNIPPETS.find(({ title }) => title.endsWith("What broke this step?")) ?? {
      file: "",
      code: "",
    };
    const warn = vi.spyOn(console, "warn").mockImplementation(() => undefined);
    try {
      await import(`${join(folder, file)}?printed`);
      const [, ...stated] = code.split("console.warn(formatOverflow(report));");
      expect(warn.mock.calls).toEqual([
        [
          stated
            .join("")
            .trim()
            .replace(/^\/\/ /gm, ""),
        ],
      ]);
    } finally {
      warn.mockRestore();
    }
  });

  it.each(SNIPPETS)("runs: $title", async ({ file }) => {
    const log = vi.spyOn(console, "log").mockImplementation(() => undefined);
    const warn = vi.spyOn(console, "warn").mockImplementation(() => undefined);
    try {
      const made: object = await import(join(folder, file));
      for (const value of Object.values(made)) await settle(value);
    } finally {
      log.mockRestore();
      warn.mockRestore();
    }
  });
});
