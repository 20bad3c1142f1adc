/** Numbers, sizes and durations as short text of one column per character; the same in every language. */
import type { Throughput } from "../train/task.ts";

/** A loss: four decimals, or four digits where it is large. */
export function formatLoss(loss: number): string {
  return Math.abs(loss) < 100 ? loss.toFixed(4) : Number.isFinite(loss) ? loss.toPrecision(4) : String(loss);
}

/** A count with at most four digits and a unit prefix: `950`, `12.3k`, `1.20M`. */
export function formatCount(count: number): string {
  if (!Number.isFinite(count)) return String(count);
  const prefixes = ["", "k", "M", "G", "T"];
  let scaled = count;
  let prefix = 0;
  // 999.5 rounds to four digits before the point, so it already belongs to the next prefix.
  while (Math.abs(scaled) >= 999.5 && prefix < prefixes.length - 1) {
    scaled /= 1000;
    prefix++;
  }
  if (prefix === 0) return String(Math.round(scaled));
  return `${scaled.toFixed(scaled < 9.995 ? 2 : scaled < 99.95 ? 1 : 0)}${prefixes[prefix]}`;
}

/** A throughput with its unit: `12.3k tok/s`, `950 pic/s`; nothing where there is none. */
export function formatRate({ tokensPerSecond, picturesPerSecond }: Throughput): string {
  if (tokensPerSecond !== undefined) return `${formatCount(tokensPerSecond)} tok/s`;
  return picturesPerSecond === undefined ? "" : `${formatCount(picturesPerSecond)} pic/s`;
}

/** Bytes with a decimal unit: `512 B`, `12.3 MB`. */
export function formatBytes(byteLength: number): string {
  const text = formatCount(byteLength);
  return /[a-zA-Z]$/.test(text) ? `${text.slice(0, -1)} ${text.slice(-1)}B` : `${text} B`;
}

/** A duration in its two largest units: `45s`, `2m 05s`, `3h 07m`, `2d 04h`. */
export function formatDuration(elapsedMs: number): string {
  if (!Number.isFinite(elapsedMs)) return "?";
  const seconds = Math.max(0, Math.round(elapsedMs / 1000));
  const pad = (value: number): string => String(Math.floor(value)).padStart(2, "0");
  if (seconds < 60) return `${seconds}s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)}m ${pad(seconds % 60)}s`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)}h ${pad((seconds % 3600) / 60)}m`;
  return `${Math.floor(seconds / 86_400)}d ${pad((seconds % 86_400) / 3600)}h`;
}

/** A loss scale: `2^16` where it is a power of two. */
export function formatScale(scale: number): string {
  const exponent = Math.round(Math.log2(scale));
  return Number.isFinite(exponent) && 2 ** exponent === scale ? `2^${exponent}` : String(Number(scale.toPrecision(4)));
}

/**
 * Text of unknown origin for a terminal: control characters become visible dots, because an escape sequence in a file
 * name or in what a model wrote would move the cursor or rename the window. Line breaks and tabs stay only where
 * `isMultiline`.
 */
export function printable(text: string, isMultiline = false): string {
  const isShown = (character: string): boolean => isMultiline && (character === "\n" || character === "\t");
  return text.replace(/[\p{Cc}\p{Cf}\u2028\u2029]/gu, (character) => (isShown(character) ? character : "·"));
}
