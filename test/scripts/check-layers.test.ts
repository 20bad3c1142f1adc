/** The layer check: silent on this repository, and not on each kind of violation. */
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, it } from "vitest";

const SCRIPT = fileURLToPath(new URL("../../scripts/check-layers.mjs", import.meta.url));
const folder = mkdtempSync(join(tmpdir(), "layers-"));
afterAll(() => rmSync(folder, { recursive: true }));

let trees = 0;
/** Runs the check over a tree of these files; every target exists. */
function check(files: Readonly<Record<string, string>>): { status: number; errors: string } {
  const root = join(folder, String(trees++));
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), text);
  }
  return runOn([root]);
}

function runOn(args: readonly string[]): { status: number; errors: string } {
  try {
    execFileSync(process.execPath, [SCRIPT, ...args], { stdio: "pipe" });
    return { status: 0, errors: "" };
  } catch (error) {
    const { status, stderr } = error as { status: number; stderr: Buffer };
    return { status, errors: stderr.toString() };
  }
}

const VIOLATIONS: readonly (readonly [string, Readonly<Record<string, string>>, string])[] = [
  [
    "an import upward",
    { "ops/a.ts": 'import type { B } from "../ir/b.ts";', "ir/b.ts": "" },
    "ops/a.ts → ir/b.ts: layer ops imports layer ir, which is above it",
  ],
  [
    "a re-export upward",
    {
      "formats/a.ts": 'export * from "../errors.ts";\nexport { b } from "../cli/b.ts";',
      "errors.ts": "",
      "cli/b.ts": "",
    },
    "formats/a.ts → cli/b.ts: layer formats imports layer cli, which is above it",
  ],
  [
    "an import() upward",
    { "ir/a.ts": 'const b = await import("../tensor/b.ts");', "tensor/b.ts": "" },
    "ir/a.ts → tensor/b.ts: layer ir imports layer tensor, which is above it",
  ],
  [
    "an import for its effects upward",
    { "data/a.ts": 'import "../train/b.ts";', "train/b.ts": "" },
    "data/a.ts → train/b.ts: layer data imports layer train, which is above it",
  ],
  [
    "an import sideways",
    { "optim/a.ts": 'import { b } from "../nn/b.ts";', "nn/b.ts": "" },
    "optim/a.ts → nn/b.ts: layer optim imports layer nn, which is beside it",
  ],
  [
    "the entry point from inside",
    { "tensor/a.ts": 'import { b } from "../index.ts";', "index.ts": "" },
    "tensor/a.ts → index.ts: layer tensor imports layer index.ts, which is above it",
  ],
  [
    "one backend from another",
    { "backends/cpu/a.ts": 'import { b } from "../reference/b.ts";', "backends/reference/b.ts": "" },
    "backends/cpu/a.ts → backends/reference/b.ts: backends/cpu imports backends/reference",
  ],
  [
    "a backend from the contract",
    { "backends/backend.ts": 'import { b } from "./cpu/b.ts";', "backends/cpu/b.ts": "" },
    "share through backends/backend.ts",
  ],
  ["an unknown folder", { "misc/a.ts": 'import { b } from "../ops/b.ts";', "ops/b.ts": "" }, "misc is in no layer"],
  ["a missing file", { "ops/a.ts": 'import { b } from "./gone.ts";' }, "ops/a.ts → ops/gone.ts: there is no such file"],
  ["a file outside", { "ops/a.ts": 'import { b } from "../../b.ts";', "../b.ts": "" }, "leaves src/"],
];

describe("check-layers", () => {
  it("passes this repository", () => expect(runOn([])).toEqual({ status: 0, errors: "" }));

  it("passes imports downward, within a folder, and from a backend to the contract", () => {
    const files = {
      "errors.ts": "",
      "ops/a.ts": 'import { e } from "../errors.ts";\nimport { b } from "./b.ts";',
      "ops/b.ts": 'import { readFileSync } from "node:fs";',
      "backends/cpu/a.ts": 'import type { B } from "../backend.ts";\nimport { c } from "./c.ts";',
      "backends/cpu/c.ts": "",
      "backends/backend.ts": 'import { a } from "../ops/a.ts";',
      "index.ts": 'export { a } from "./ops/a.ts";',
    };
    expect(check(files)).toEqual({ status: 0, errors: "" });
  });

  it.each(VIOLATIONS)("finds %s", (_, files, sentence) => {
    const { status, errors } = check(files);
    expect(status).toBe(1);
    expect(errors).toContain(sentence);
  });
});
