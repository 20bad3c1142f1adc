/** Compiles the native addon: every kernel once per instruction set, two compilers at a time, only what has changed. */
import { spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, statSync, writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { basename, join } from "node:path";

export interface BuildOptions {
  /** The package's folder: holds native/ and receives dist/native/ and build/native/. */
  readonly root: string;
  /** Receives one line per compiled unit. Default: nothing is said. */
  readonly onUnit?: (line: string) => void;
}

/** `current`: nothing had to be done. `noCompiler`: the machine lacks something; `failed`: the compiler refused. */
export type BuildResult =
  | { readonly kind: "built" | "current"; readonly path: string }
  | { readonly kind: "noCompiler" | "failed"; readonly reason: string; readonly remedy: string };

interface Unit {
  readonly source: string;
  readonly object: string;
  readonly flags: readonly string[];
}

const COMMON_FLAGS = [
  "-O3",
  "-std=c++17",
  "-fPIC",
  "-fno-exceptions",
  "-fno-rtti",
  "-ffp-contract=off",
  "-fno-math-errno",
  "-fno-trapping-math",
  "-fvisibility=hidden",
  "-Wall",
  "-Wextra",
  // GCC 12's AVX-512 headers start from undefined vectors on purpose, and its own warnings take that for a mistake.
  "-Wno-uninitialized",
  "-Wno-maybe-uninitialized",
  // Vectors wider than the instruction set's pass between functions of one unit only, so no convention for them is at stake.
  "-Wno-psabi",
  "-DNAPI_VERSION=8",
] as const;

const AVX2_FLAGS = ["-mfma", "-mf16c"] as const;
const AVX512_FLAGS = [
  "-mavx512f",
  "-mavx512bw",
  "-mavx512dq",
  "-mavx512vl",
  ...AVX2_FLAGS,
  "-mprefer-vector-width=512",
] as const;

/** Flags of each instruction set; the portable build of arm64 vectorises to NEON. */
export const X64_ISAS: Readonly<Record<string, readonly string[]>> = {
  portable: [],
  avx2: ["-mavx2", ...AVX2_FLAGS],
  avx512: AVX512_FLAGS,
  avx512bf16: [...AVX512_FLAGS, "-mavx512bf16"],
};

/** Compilers run at once: more would not fit the memory of small machines. */
const MAX_JOBS = 2;

const LINK_FLAGS =
  process.platform === "darwin" ? ["-shared", "-undefined", "dynamic_lookup"] : ["-shared", "-pthread"];

/** The compiler as a command and its first arguments: the environment's CXX, or the first that answers; null if none does. */
export function findCompiler(): readonly string[] | null {
  const chosen = process.env.CXX;
  const candidates = chosen === undefined || chosen === "" ? ["c++", "g++", "clang++"] : [chosen];
  for (const candidate of candidates) {
    const command = candidate.split(/\s+/).filter((word) => word !== "");
    const [program = "", ...rest] = command;
    if (spawnSync(program, [...rest, "--version"], { stdio: "ignore" }).status === 0) return command;
  }
  return null;
}

/** Folder of node_api.h: shipped with the package, or installed beside it while developing. */
function findHeaders(root: string): string | null {
  const folders = [join(root, "dist/native-include"), join(root, "node_modules/node-api-headers/include")];
  return folders.find((folder) => existsSync(join(folder, "node_api.h"))) ?? null;
}

function sourcesIn(folder: string, extension: string): string[] {
  return readdirSync(folder)
    .filter((name) => name.endsWith(extension))
    .sort()
    .map((name) => join(folder, name));
}

function planUnits(root: string, objects: string, headers: string): Unit[] {
  const native = join(root, "native");
  const include = [`-I${join(native, "include")}`, `-I${join(native, "src")}`, `-I${headers}`];
  const units: Unit[] = sourcesIn(join(native, "src"), ".cc").map((source) => ({
    source,
    object: join(objects, `${basename(source, ".cc")}.o`),
    flags: [...COMMON_FLAGS, ...include],
  }));
  const isas = process.arch === "x64" ? X64_ISAS : { portable: [] };
  for (const [isa, flags] of Object.entries(isas)) {
    for (const source of sourcesIn(join(native, "src/kernels"), ".cc")) {
      const object = join(objects, `${basename(source, ".cc")}.${isa}.o`);
      units.push({ source, object, flags: [...COMMON_FLAGS, ...flags, `-DBINADE_ISA=${isa}`, ...include] });
    }
  }
  return units;
}

const modifiedMs = (path: string): number => (existsSync(path) ? statSync(path).mtimeMs : 0);

/** The file, beside its object, in which the compiler names all that it read for it: a Makefile's rule. */
const dependenciesOf = (object: string): string => object.replace(/\.o$/, ".d");

/** Prerequisites of the one rule in `text`; spaces, `#` and `$` in paths are escaped there, long lines continued. */
function parsePrerequisites(text: string): string[] {
  const [, prerequisites = ""] = text.replaceAll("\\\n", " ").split(/:\s(.*)/s);
  const paths = prerequisites.match(/(?:\\.|[^\s\\])+/g) ?? [];
  return paths.map((path) => path.replace(/\\([\s#])/g, "$1").replaceAll("$$", "$"));
}

/** Whether `object` is newer than its source and every header that it was compiled from, all of which still exist. */
function isNewest({ source, object }: Unit): boolean {
  const rule = dependenciesOf(object);
  if (!existsSync(object) || !existsSync(rule)) return false;
  const objectMs = modifiedMs(object);
  const prerequisites = [source, ...parsePrerequisites(readFileSync(rule, "utf8"))];
  return prerequisites.every((path) => existsSync(path) && modifiedMs(path) < objectMs);
}

function runCompiler(command: readonly string[], args: readonly string[]): Promise<{ ok: boolean; output: string }> {
  return new Promise((resolve) => {
    const [program = "", ...rest] = command;
    const child = spawn(program, [...rest, ...args], { stdio: ["ignore", "pipe", "pipe"] });
    let output = "";
    child.stdout.on("data", (chunk) => (output += chunk));
    child.stderr.on("data", (chunk) => (output += chunk));
    child.on("error", (error) => resolve({ ok: false, output: String(error) }));
    child.on("close", (code) => resolve({ ok: code === 0, output }));
  });
}

/** Compiles `units`, MAX_JOBS at a time; resolves to the first failure's output, or null. */
async function compileAll(
  compiler: readonly string[],
  units: readonly Unit[],
  onUnit: (line: string) => void,
): Promise<string | null> {
  let next = 0;
  let failure: string | null = null;
  const work = async (): Promise<void> => {
    for (let unit = units[next++]; unit !== undefined && failure === null; unit = units[next++]) {
      const startedMs = performance.now();
      // Written beside the object and renamed, so that an interrupted build leaves no half object behind. The rule goes
      // first: an object is never newer than a rule that is not its own.
      const partial = `${unit.object}.partial`;
      const rule = dependenciesOf(unit.object);
      const outputs = ["-MMD", "-MF", `${rule}.partial`, "-o", partial];
      const { ok, output } = await runCompiler(compiler, [...unit.flags, "-c", unit.source, ...outputs]);
      if (ok) {
        renameSync(`${rule}.partial`, rule);
        renameSync(partial, unit.object);
      } else failure ??= output;
      onUnit(`${basename(unit.object)} ${((performance.now() - startedMs) / 1000).toFixed(1)} s`);
    }
  };
  const jobs = Math.min(MAX_JOBS, availableParallelism());
  await Promise.all(Array.from({ length: jobs }, work));
  return failure;
}

/**
 * Builds dist/native/<platform>-<arch>/binade.node under `root`. Never throws for a machine that lacks a compiler.
 *
 * @example
 * const result = await buildAddon({ root: "/path/to/binade" });
 * if (result.kind === "noCompiler") console.warn(`${result.reason}; ${result.remedy}`);
 */
export async function buildAddon({ root, onUnit = () => {} }: BuildOptions): Promise<BuildResult> {
  const platform = `${process.platform}-${process.arch}`;
  if (process.platform === "win32") {
    return {
      kind: "noCompiler",
      reason: "native build: expected Linux or macOS, got Windows",
      remedy: "use the Windows Subsystem for Linux, or the reference backend",
    };
  }
  const compiler = findCompiler();
  if (compiler === null) {
    const tried = process.env.CXX || "c++, g++ and clang++";
    return {
      kind: "noCompiler",
      reason: `native build: expected a C++17 compiler, found none (tried ${tried})`,
      remedy: "install g++ or clang++ (Debian: apt-get install g++; macOS: xcode-select --install) or set CXX",
    };
  }
  const headers = findHeaders(root);
  if (headers === null) {
    return {
      kind: "noCompiler",
      reason: "native build: expected the Node-API headers in dist/native-include or node_modules, found none",
      remedy: "run `npm install` first",
    };
  }
  return compileAndLink(root, platform, compiler, headers, onUnit);
}

async function compileAndLink(
  root: string,
  platform: string,
  compiler: readonly string[],
  headers: string,
  onUnit: (line: string) => void,
): Promise<BuildResult> {
  const objects = join(root, "build/native", platform);
  const target = join(root, "dist/native", platform, "binade.node");
  mkdirSync(objects, { recursive: true });
  mkdirSync(join(target, ".."), { recursive: true });
  const units = planUnits(root, objects, headers);
  const stampPath = join(objects, "flags");
  const stamp = createHash("sha256")
    .update(JSON.stringify([compiler, LINK_FLAGS, units]))
    .digest("hex");
  const sameFlags = existsSync(stampPath) && readFileSync(stampPath, "utf8") === stamp;
  const stale = units.filter((unit) => !(sameFlags && isNewest(unit)));
  const newestObjectMs = Math.max(...units.map((unit) => modifiedMs(unit.object)));
  if (stale.length === 0 && modifiedMs(target) > newestObjectMs) return { kind: "current", path: target };
  if (!sameFlags) writeFileSync(stampPath, "");
  const failure = await compileAll(compiler, stale, onUnit);
  if (failure !== null) return refused(failure);
  const partial = `${target}.partial`;
  const linked = await runCompiler(compiler, [...LINK_FLAGS, "-o", partial, ...units.map((unit) => unit.object)]);
  if (!linked.ok) return refused(linked.output);
  renameSync(partial, target);
  writeFileSync(stampPath, stamp);
  return { kind: "built", path: target };
}

function refused(output: string): BuildResult {
  return {
    kind: "failed",
    reason: `native build: the compiler refused the sources:\n${output.trim()}`,
    remedy: "use g++ 10 or clang++ 11 or newer, or set CXX to another compiler",
  };
}
