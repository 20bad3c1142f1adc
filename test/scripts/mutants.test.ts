/** The mutants: each finds its text once, and those of unchanged files are left out on request. Running them is a command of its own. */
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { expect, it } from "vitest";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));

const run = (...args: readonly string[]): { status: number | null; stdout: string; stderr: string } =>
  spawnSync(process.execPath, [`${ROOT}scripts/mutants.mjs`, ...args], { cwd: ROOT, encoding: "utf8" });

it("the text of every mutant stands once in its file", () => {
  expect(run("--check")).toEqual(expect.objectContaining({ status: 0, stderr: "" }));
});

it.each([
  { what: "a name that no mutant has", args: ["no such fault"], stderr: /no mutant's name has "no such fault"/ },
  { what: "an unknown option", args: ["--fast"], stderr: /--fast/ },
  { what: "a commit that is not there", args: ["--changed-since", "no-such-commit"], stderr: /no-such-commit/ },
])("refuses $what", ({ args, stderr }) => {
  const answer = run(...args);
  expect(answer.status).not.toBe(0);
  expect(answer.stderr).toMatch(stderr);
});
