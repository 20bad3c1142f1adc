// Checks the checks: each mutant breaks one promise in a copy of the sources, and a named test must fail for it.
// Usage: node scripts/mutants.mjs [part of a mutant's name] [--changed-since <commit>] [--check]
//   --changed-since   only mutants whose source or test file differs from that commit, in the working tree too
//   --check           only whether each mutant's text stands once in its file; runs no test
import { execFileSync, spawnSync } from "node:child_process";
import {
  cpSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const root = fileURLToPath(new URL("../", import.meta.url));

/**
 * The rows of the files in `mutants/`. `find` stands exactly once in `file`; `test` is the file, `expected` a part of the full
 * name of the test that must fail; `native`: skipped where the addon is not built.
 */
async function readTables() {
  const folder = new URL("mutants/", import.meta.url);
  const tables = await Promise.all(readdirSync(folder).map((file) => import(new URL(file, folder))));
  return tables.flatMap((table) => table.mutants);
}

/** A copy of everything that the tests need; dependencies and the native addon are shared. */
function makeCopy() {
  const copy = mkdtempSync(join(tmpdir(), "binade-mutants-"));
  for (const part of [
    "src",
    "test",
    "native",
    "package.json",
    "vitest.config.ts",
    "tsconfig.json",
    "scripts",
    "README.md",
  ])
    cpSync(join(root, part), join(copy, part), { recursive: true });
  for (const part of ["node_modules", "dist"])
    if (existsSync(join(root, part))) symlinkSync(join(root, part), join(copy, part));
  return copy;
}

/** Runs one test file; returns the full names of its tests by state. */
function runTests(copy, file) {
  const report = join(copy, "report.json");
  rmSync(report, { force: true });
  spawnSync(
    process.execPath,
    [join(root, "node_modules/vitest/vitest.mjs"), "run", file, "--reporter=json", `--outputFile=${report}`],
    { cwd: copy, stdio: "ignore" },
  );
  const tests = existsSync(report)
    ? JSON.parse(readFileSync(report, "utf8")).testResults.flatMap((f) => f.assertionResults)
    : [];
  return {
    passed: tests.filter((t) => t.status === "passed").map((t) => t.fullName),
    failed: tests.filter((t) => t.status === "failed").map((t) => t.fullName),
  };
}

/** Why the mutant cannot be made, or null. */
function staleness(folder, { file, find }) {
  const times = readFileSync(join(folder, file), "utf8").split(find).length - 1;
  return times === 1 ? null : `its text stands ${times} times in ${file}, expected once; follow the source`;
}

/** The mutants of a part of a name; with a commit, of files that have changed since then. */
function choose(mutants, part, commit) {
  const named = mutants.filter((m) => m.name.includes(part));
  if (named.length === 0) throw new Error(`no mutant's name has "${part}"`);
  if (commit === undefined) return named;
  const git = (...args) => execFileSync("git", args, { cwd: root, encoding: "utf8" }).split("\n");
  const changed = new Set([
    ...git("diff", "--name-only", "--relative", commit, "--"),
    ...git("ls-files", "--others", "--exclude-standard"),
  ]);
  return named.filter((m) => changed.has(m.file) || changed.has(m.test));
}

/** "killed", "survived", "stale" or "skipped", with the reason. `baseline` keeps what passes without a mutant, by test file. */
function judge(copy, mutant, baseline) {
  const { file, find, replace, test, expected } = mutant;
  const stale = staleness(copy, mutant);
  if (stale !== null) return ["stale", stale];
  if (!baseline.has(test)) baseline.set(test, runTests(copy, test).passed);
  const known = baseline.get(test).filter((t) => t.includes(expected));
  if (known.length === 0 && mutant.native && !existsSync(join(root, "dist/native")))
    return ["skipped", "it needs the native addon (npm run build:native)"];
  if (known.length === 0) return ["stale", `no test named "${expected}" passes in ${test}; follow the test`];
  const path = join(copy, file);
  const text = readFileSync(path, "utf8");
  writeFileSync(
    path,
    text.replace(find, () => replace),
  );
  const { failed } = runTests(copy, test);
  writeFileSync(path, text);
  const killer = failed.find((t) => known.includes(t));
  return killer === undefined ? ["survived", `no test named "${expected}" in ${test} failed`] : ["killed", killer];
}

/** Prints the verdict on each; fails if one survived or is stale. */
function run(mutants) {
  const copy = makeCopy();
  const counts = { killed: 0, survived: 0, stale: 0, skipped: 0 };
  const baseline = new Map();
  try {
    for (const mutant of mutants) {
      const [verdict, reason] = judge(copy, mutant, baseline);
      counts[verdict]++;
      console.log(`${verdict === "killed" ? verdict : verdict.toUpperCase()}: ${mutant.name} — ${reason}`);
    }
  } finally {
    rmSync(copy, { recursive: true, force: true });
  }
  const failed = counts.survived + counts.stale;
  console.log(`${counts.killed} passed, ${failed} failed${counts.skipped > 0 ? `, ${counts.skipped} skipped` : ""}`);
  process.exitCode = failed > 0 ? 1 : 0;
}

/** Prints the mutants that cannot be made. */
function check(mutants) {
  for (const mutant of mutants) {
    const stale = staleness(root, mutant);
    if (stale === null) continue;
    console.error(`STALE: ${mutant.name} — ${stale}`);
    process.exitCode = 1;
  }
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { "changed-since": { type: "string" }, check: { type: "boolean" } },
});
const chosen = choose(await readTables(), positionals[0] ?? "", values["changed-since"]);
(values.check ? check : run)(chosen);
