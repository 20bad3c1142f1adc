/** The command line in this process and in one of its own, on small text in folders that vanish. */
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach } from "vitest";
import { runCommandLine } from "../../src/cli/command-line.ts";
import type { TrainEvent } from "../../src/train/events.ts";
import { decodeEvent } from "../../src/train/jsonl.ts";

const folders: string[] = [];
afterEach(() => {
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true, force: true });
});

/** 2000 bytes of text. */
export const FOX = "the quick brown fox jumps over the lazy dog, and\n".repeat(41).slice(0, 2000);

/** A fresh folder with `fox.txt`, 2000 bytes of text. */
export function workspace(): string {
  const folder = mkdtempSync(join(tmpdir(), "binade-cli-"));
  folders.push(folder);
  writeFileSync(join(folder, "fox.txt"), FOX);
  return folder;
}

/** A model as small as can be. */
export const TINY = "--layers 1 --heads 2 --width 16 --context 8 --batch 2".split(" ");

export interface Outcome {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** A stream that keeps what is written to it. */
class Sink {
  readonly isTTY: boolean;
  readonly columns: number | undefined;
  text = "";

  constructor(isTTY: boolean, columns: number | undefined) {
    this.isTTY = isTTY;
    this.columns = columns;
  }

  write(text: string): void {
    this.text += text;
  }
}

export interface InProcessOptions {
  readonly isTTY?: boolean;
  /** Width of that terminal. */
  readonly columns?: number;
  readonly environment?: Readonly<Record<string, string>>;
  readonly signal?: AbortSignal;
}

/** Runs the command line in this process; relative paths begin where the tests run. */
export async function inProcess(args: readonly string[], options: InProcessOptions = {}): Promise<Outcome> {
  const { isTTY = false, columns, environment = {}, signal = new AbortController().signal } = options;
  const [stdout, stderr] = [new Sink(isTTY, columns), new Sink(isTTY, columns)];
  const status = await runCommandLine(args, { stdout, stderr, environment, interruption: () => signal });
  return { status, stdout: stdout.text, stderr: stderr.text };
}

const MAIN = fileURLToPath(new URL("../../dist/cli/main.js", import.meta.url));

/** Starts the built command in `folder`. */
export function start(args: readonly string[], folder: string, environment: NodeJS.ProcessEnv = {}): ChildProcess {
  if (!existsSync(MAIN)) throw new Error("dist/cli/main.js is missing; run npm run build");
  return spawn(process.execPath, [MAIN, ...args], { cwd: folder, env: { ...process.env, ...environment } });
}

/** What became of a started command. */
export function ended(child: ChildProcess): Promise<Outcome & { readonly signal: NodeJS.Signals | null }> {
  let [stdout, stderr] = ["", ""];
  child.stdout?.on("data", (chunk: Buffer) => {
    stdout += chunk.toString();
  });
  child.stderr?.on("data", (chunk: Buffer) => {
    stderr += chunk.toString();
  });
  return new Promise((resolve) => {
    child.on("close", (status, signal) => resolve({ status, signal, stdout, stderr }));
  });
}

/** Runs the built command in `folder` to its end. */
export const inChild = (
  args: readonly string[],
  folder: string,
  environment: NodeJS.ProcessEnv = {},
): Promise<Outcome> => ended(start(args, folder, environment));

/** Resolves when `text` stands in what the child writes to standard output. */
export function printed(child: ChildProcess, text: string): Promise<void> {
  let seen = "";
  return new Promise((resolve) => {
    child.stdout?.on("data", (chunk: Buffer) => {
      seen += chunk.toString();
      if (seen.includes(text)) resolve();
    });
  });
}

/** The events of JSON lines; every line must be one. */
export function eventsIn(lines: string): TrainEvent[] {
  return lines
    .split("\n")
    .slice(0, -1)
    .map((line) => {
      const event = decodeEvent(line);
      if (event === undefined) throw new Error(`not an event: ${line}`);
      return event;
    });
}
