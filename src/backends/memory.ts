/** How much memory the machine still has for this process: what the system offers, and what its control groups allow. */
import { readFileSync } from "node:fs";
import { freemem, totalmem } from "node:os";

/** Reads a file; null where there is none. */
export type ReadText = (path: string) => string | null;

const fromDisk: ReadText = (path) => {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return null;
  }
};

/**
 * Bytes that can still be allocated, never negative. `held` are those that this process has allocated, whether or not it has
 * touched them yet: memory that was promised and not used looks free to the system.
 */
export function availableMemory(held: number, read: ReadText = fromDisk): number {
  const status = read("/proc/self/status");
  const resident = status === null ? process.memoryUsage.rss() : kibibytes(status, "VmRSS");
  const promised = Math.max(0, held - resident);
  return Math.max(0, Math.min(offered(read), ...controlGroupRooms(read)) - promised);
}

function kibibytes(text: string, name: string): number {
  return 1024 * Number(new RegExp(`^${name}:\\s*(\\d+) kB`, "m").exec(text)?.[1] ?? 0);
}

/** What the system would hand out without swapping. Where it does not say (macOS counts caches as used), all but this process. */
function offered(read: ReadText): number {
  const info = read("/proc/meminfo");
  if (info !== null && /^MemAvailable:/m.test(info)) return kibibytes(info, "MemAvailable");
  return Math.max(freemem(), totalmem() - process.memoryUsage.rss());
}

/** What is left under the limit of every control group that the process is in, versions 1 and 2; caches count as free. */
function controlGroupRooms(read: ReadText): readonly number[] {
  const lines = (read("/proc/self/cgroup") ?? "").split("\n").map((line) => line.split(":"));
  return lines.flatMap(([, controllers = "", ...path]) => {
    const group = path.join(":");
    if (controllers === "") return ancestors(group).map((g) => roomInVersion2(`/sys/fs/cgroup${g}`, read));
    if (!controllers.split(",").includes("memory")) return [];
    return ancestors(group).map((g) => roomInVersion1(`/sys/fs/cgroup/memory${g}`, read));
  });
}

/** `/a/b`, `/a` and the root, which inside a container stands for its own group. */
function ancestors(path: string): readonly string[] {
  const parts = path.split("/").filter((part) => part !== "");
  return parts.map((_, i) => `/${parts.slice(0, parts.length - i).join("/")}`).concat("");
}

const number = (text: string | null, fallback: number): number => {
  const value = text === null ? Number.NaN : Number.parseInt(text, 10);
  return Number.isNaN(value) ? fallback : value;
};

const cached = (stat: string | null, name: string): number =>
  number(new RegExp(`^${name} (\\d+)`, "m").exec(stat ?? "")?.[1] ?? null, 0);

function roomInVersion2(folder: string, read: ReadText): number {
  const limit = number(read(`${folder}/memory.max`), Number.POSITIVE_INFINITY);
  const used = number(read(`${folder}/memory.current`), 0);
  return limit - used + cached(read(`${folder}/memory.stat`), "inactive_file");
}

function roomInVersion1(folder: string, read: ReadText): number {
  const limit = number(read(`${folder}/memory.limit_in_bytes`), Number.POSITIVE_INFINITY);
  const used = number(read(`${folder}/memory.usage_in_bytes`), 0);
  return limit - used + cached(read(`${folder}/memory.stat`), "total_inactive_file");
}
