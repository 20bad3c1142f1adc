/** One run per folder: a file that says which process writes there. */
import { readFile, rm, writeFile } from "node:fs/promises";
import { hostname } from "node:os";
import { join, resolve } from "node:path";
import { BinadeError } from "../errors.ts";
import { fileWriteError, systemCode } from "./atomic.ts";

/** Name of the file, which is there while a run writes to its folder. */
export const LOCK_FILE = ".binade-run.lock";

/** Files of this process: its own number in a file that is none of these is that of a process before it. */
const held = new Set<string>();

/**
 * Takes `folder` for a run of this process. What a killed run left behind is taken over, and so is the file of another machine:
 * whether it still runs cannot be known, and containers change their names.
 *
 * @returns gives the folder free again.
 * @throws BinadeError `file.busy` where another run writes there; `file.write`.
 */
export async function lockFolder(folder: string): Promise<() => Promise<void>> {
  const path = resolve(join(folder, LOCK_FILE));
  const owner = await ownerOf(path);
  if (owner !== null) {
    throw new BinadeError(
      "file.busy",
      `${folder}: expected a folder that no run writes to, process ${owner} does; wait for it, or give another folder (if it is no run of Binade, remove ${path})`,
    );
  }
  await rm(path, { force: true }).catch(() => undefined);
  try {
    await writeFile(path, JSON.stringify({ pid: process.pid, host: hostname() }), { flag: "wx" });
  } catch (error) {
    throw fileWriteError(path, error);
  }
  held.add(path);
  return async () => {
    held.delete(path);
    await rm(path, { force: true }).catch(() => undefined);
  };
}

/** The process of this machine that wrote the file and is still there; null for none. */
async function ownerOf(path: string): Promise<number | null> {
  const text = await readFile(path, "utf8").catch(() => "{}");
  let found: unknown;
  try {
    found = JSON.parse(text);
  } catch {
    return null;
  }
  const { pid, host } = { pid: 0, host: "", ...(found as object) };
  if (!Number.isInteger(pid) || pid < 1 || host !== hostname()) return null;
  if (pid === process.pid) return held.has(path) ? pid : null;
  try {
    process.kill(pid, 0);
    return pid;
  } catch (error) {
    // There, but another user's.
    return systemCode(error) === "EPERM" ? pid : null;
  }
}
