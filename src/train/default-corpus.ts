/** Text that is already on the machine, for a first run without a download: the default of `binade train`. */

import { readdir, readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { basename, dirname, join, sep } from "node:path";
import { fileURLToPath } from "node:url";
import { BinadeError } from "../errors.ts";
import { requireKnownKeys } from "../precision/options.ts";
import { type Corpus, readBytes } from "./corpus.ts";

/** Where to look. */
export type DefaultCorpusOptions = {
  /** Bytes per window: places with less text than one window are passed over. Default 1. */
  readonly context?: number;
  /** The folder from which packages are resolved first. Default: the working directory. */
  readonly from?: string;
  /** The running Node. Default `process.execPath`. */
  readonly execPath?: string;
  /** The root folder of this package. Default: where this file is installed. */
  readonly packageRoot?: string;
};

type Place = { readonly name: string; readonly paths: readonly string[] };

/** This file is `src/train/default-corpus.ts` or `dist/train/default-corpus.js`. */
const PACKAGE_ROOT = fileURLToPath(new URL("../..", import.meta.url));

/**
 * Finds text to train on, in this order: the `lib.*.d.ts` declarations of a resolvable `typescript` package (about 3
 * MB); the Markdown of the npm that came with the running Node (about 1 MB); this package's own documentation and
 * declarations. The same installation gives the same bytes in the same order.
 *
 * @throws BinadeError `file.missing` where no place has context + 1 bytes; `file.unreadable`.
 * @example
 * const corpus = await findDefaultCorpus({ context: 256 });   // corpus.name: "TypeScript 7.0.2 declarations"
 */
export async function findDefaultCorpus(options: DefaultCorpusOptions = {}): Promise<Corpus> {
  requireKnownKeys("findDefaultCorpus", options, ["context", "from", "execPath", "packageRoot"]);
  const { context = 1, from = process.cwd(), execPath = process.execPath, packageRoot = PACKAGE_ROOT } = options;
  const finders = [
    () => findTypescript([from, packageRoot]),
    () => findNpm(dirname(execPath)),
    () => findOwnText(packageRoot),
  ];
  for (const find of finders) {
    const place = await find();
    const corpus = place === undefined ? undefined : await readIfLongEnough(place, context);
    if (corpus !== undefined) return corpus;
  }
  const message = `default corpus: expected the typescript package, npm's documentation or Binade's own, found none with ${context + 1} bytes; name files or folders to train on`;
  throw new BinadeError("file.missing", message);
}

async function readIfLongEnough({ name, paths }: Place, context: number): Promise<Corpus | undefined> {
  try {
    return await readBytes(paths, { name, context });
  } catch (error) {
    if (error instanceof BinadeError && error.code === "data.short") return undefined;
    throw error;
  }
}

/** Since version 7 the declarations are not in `typescript` itself but in its package for the platform. */
async function findTypescript(folders: readonly string[]): Promise<Place | undefined> {
  for (const folder of folders) {
    const manifest = resolveFrom(join(folder, "package.json"), "typescript/package.json");
    if (manifest === undefined) continue;
    const platform = `@typescript/typescript-${process.platform}-${process.arch}/package.json`;
    for (const candidate of [manifest, resolveFrom(manifest, platform)]) {
      if (candidate === undefined) continue;
      const lib = join(dirname(candidate), "lib");
      const names = (await listFiles(lib, false)).filter((file) => isDeclaration(basename(file)));
      if (names.length > 0) return { name: `TypeScript ${await versionOf(candidate)} declarations`, paths: names };
    }
  }
  return undefined;
}

/**
 * The declarations of web workers repeat those of the page almost word for word. They would be the end of the corpus,
 * which is held out, and the held-out loss would measure memory.
 */
function isDeclaration(name: string): boolean {
  return /^lib\..+\.d\.ts$/.test(name) && !name.startsWith("lib.webworker.");
}

/** npm lies beside the executable on Windows, in ../lib elsewhere. */
async function findNpm(executableFolder: string): Promise<Place | undefined> {
  for (const modules of [join(executableFolder, "..", "lib", "node_modules"), join(executableFolder, "node_modules")]) {
    const root = join(modules, "npm");
    const paths = (await listFiles(root, true)).filter((file) => file.endsWith(".md"));
    if (paths.length > 0) return { name: `npm ${await versionOf(join(root, "package.json"))} documentation`, paths };
  }
  return undefined;
}

async function findOwnText(root: string): Promise<Place> {
  const top = (await listFiles(root, false)).filter((file) => ["README.md", "CHANGELOG.md"].includes(basename(file)));
  const docs = (await listFiles(join(root, "docs"), true)).filter((file) => file.endsWith(".md"));
  const declarations = (await listFiles(join(root, "dist"), true)).filter((file) => file.endsWith(".d.ts"));
  return { name: "Binade's documentation", paths: [...top, ...docs, ...declarations] };
}

function resolveFrom(file: string, request: string): string | undefined {
  try {
    return createRequire(file).resolve(request);
  } catch {
    return undefined;
  }
}

/** The files in `folder`, ordered by path with "/" between folders; none where the folder is missing or closed. */
async function listFiles(folder: string, recursive: boolean): Promise<string[]> {
  const names = await readdir(folder, { recursive }).catch(() => []);
  const slashed = names.map((name) => name.replaceAll(sep, "/")).sort();
  return slashed.map((name) => join(folder, name));
}

async function versionOf(manifestPath: string): Promise<string> {
  const text = await readFile(manifestPath, "utf8").catch(() => "");
  return /"version"\s*:\s*"([^"]+)"/.exec(text)?.[1] ?? "of unknown version";
}
