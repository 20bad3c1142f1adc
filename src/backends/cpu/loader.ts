/** Finds and loads the native addon, or says why there is none and what to do about it. */
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";
import { ABI_VERSION } from "./abi.ts";

/** A compiled program inside the addon; freed when it is no longer referenced. */
export interface ProgramHandle {
  readonly __binadeProgram: never;
}

/** An index or label out of range: the kernel, the position of the index in its array (or the row), the value found. */
export interface Fault {
  readonly kernel: number;
  readonly position: number;
  readonly value: number;
}

/**
 * The native executor. One per process: the arena (memory of intermediate values, shared by all programs, as large as
 * the largest one that ran) and the workers are shared by everything that loads it.
 */
export interface Addon {
  readonly abiVersion: number;
  /** The instruction set that programs run on: the best supported one, or the environment's BINADE_ISA. */
  isa(): string;
  /** Instruction sets that this machine runs, best first; "portable" is always last. */
  supportedIsas(): string[];
  /** Chooses the instruction set of later runs. Throws when `name` is not among `supportedIsas()`. */
  setIsa(name: string): void;
  /** Workers of later runs, 1 to 1024. Results do not depend on it. Default: what the machine offers. */
  setThreads(threads: number): void;
  threads(): number;
  /** Bytes of the arena now. */
  arenaByteLength(): number;
  /**
   * The best rate of all threads together, from bursts that fill `milliseconds` (0 to 10000): float operations per second
   * in registers, as products of that format run on the instruction set in use, or bytes per second read from memory.
   * Blocks the calling thread; waits for runs called earlier. 0 if there is no memory to read.
   */
  measurePeak(kind: "float32" | "bfloat16" | "memory", milliseconds: number): number;
  /** Decodes and checks a program (layout: abi.ts). Throws when the words are malformed. */
  createProgram(words: BigInt64Array): ProgramHandle;
  /**
   * Runs a program on another thread, so that the event loop stays free; or at once on this one, and then without a promise, where
   * nothing called earlier is under way and the program took no longer than 5 ms when it last ran: handing it over and hearing of
   * its end takes 0.2 ms. After 16 ms of such runs the next one gives the event loop its turn. `bindings[i]` is binding
   * i + 1 of the program; bindings must not be moved or resized until the promise settles. Throws when a binding is too short
   * or misaligned. Runs are executed in the order of the calls.
   */
  run(
    program: ProgramHandle,
    bindings: readonly (ArrayBuffer | ArrayBufferView)[],
  ): Promise<Fault | null> | Fault | null;
  /** As `run`, on this thread; waits for runs called earlier. */
  runSync(program: ProgramHandle, bindings: readonly (ArrayBuffer | ArrayBufferView)[]): Fault | null;
}

/** The addon, or two sentences: what is missing and how to get it. */
export type LoadedAddon =
  | { readonly addon: Addon; readonly path: string }
  | { readonly addon: null; readonly reason: string; readonly remedy: string };

const REBUILD = "run `npx binade doctor --build` to compile it (needs a C++17 compiler)";

/** Where a build puts the addon of this platform. */
export function addonPath(): string {
  const folder = `${process.platform}-${process.arch}`;
  return fileURLToPath(new URL(`../../../dist/native/${folder}/binade.node`, import.meta.url));
}

/**
 * Loads the addon. Never throws. The environment variable BINADE_ADDON names another file, or "none" to do without.
 *
 * @example
 * const loaded = loadAddon();
 * if (loaded.addon === null) console.warn(`${loaded.reason}; ${loaded.remedy}`);
 */
export function loadAddon(): LoadedAddon {
  const chosen = process.env.BINADE_ADDON;
  if (chosen === "none") {
    return missing("the native addon is disabled by BINADE_ADDON=none", "unset BINADE_ADDON to use it");
  }
  const path = chosen === undefined || chosen === "" ? addonPath() : chosen;
  if (!existsSync(path)) return missing(`the native addon is missing at ${path}`, REBUILD);
  try {
    const addon: Addon = createRequire(import.meta.url)(path);
    if (addon.abiVersion !== ABI_VERSION) {
      return missing(`the native addon at ${path} has ABI version ${addon.abiVersion}, not ${ABI_VERSION}`, REBUILD);
    }
    return { addon, path };
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    // A wrong BINADE_ISA is refused by the addon itself, in a sentence whose last part says what to do.
    if (message.startsWith("BINADE_ISA")) {
      const end = message.lastIndexOf("; ");
      return missing(message.slice(0, end), message.slice(end + 2));
    }
    return missing(`the native addon at ${path} cannot be loaded: ${message}`, REBUILD);
  }
}

function missing(reason: string, remedy: string): LoadedAddon {
  return { addon: null, reason, remedy };
}
