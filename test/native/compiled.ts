/** Compiles the C++ tests of native/test. What is built is removed when the tests of a file are done. */
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll } from "vitest";

export const root = fileURLToPath(new URL("../../", import.meta.url));

const folder = mkdtempSync(join(tmpdir(), "binade-kernels-"));
afterAll(() => rmSync(folder, { recursive: true }));

const FLAGS = [
  "-std=c++17",
  "-ffp-contract=off",
  "-fno-math-errno",
  "-fno-trapping-math",
  "-w",
  "-Wno-psabi",
  "-pthread",
];
const INCLUDES = ["native/src", "native/include", "native/src/kernels"].map((path) => `-I${join(root, path)}`);
export const testOf = (name: string): string => join(root, `native/test/${name}_test.cc`);
export const sourcesOf = (kernels: readonly string[]): string[] => [
  ...kernels.map((kernel) => join(root, `native/src/kernels/${kernel}.cc`)),
  join(root, "native/src/pool.cc"),
];

/** Compiles and links a test; returns the program's path. */
export function compile(command: readonly string[], name: string, args: readonly string[]): string {
  const program = join(folder, name);
  const [executable = "c++", ...first] = command;
  execFileSync(executable, [...first, ...FLAGS, ...INCLUDES, ...args, "-o", program]);
  return program;
}
