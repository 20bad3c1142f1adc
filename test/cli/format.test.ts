/** Numbers, durations and texts as the command prints them. */
import { describe, expect, it } from "vitest";
import { formatBytes, formatCount, formatDuration, formatLoss, formatScale, printable } from "../../src/cli/format.ts";

describe("formats", () => {
  it.each([
    [formatLoss(2.345678), "2.3457"],
    [formatLoss(123.456), "123.5"],
    [formatLoss(Number.NEGATIVE_INFINITY), "-Infinity"],
    [formatCount(0), "0"],
    [formatCount(999), "999"],
    [formatCount(999.6), "1.00k"],
    [formatCount(1000), "1.00k"],
    [formatCount(9996), "10.0k"],
    [formatCount(12_345), "12.3k"],
    [formatCount(99_960), "100k"],
    [formatCount(999_600), "1.00M"],
    [formatCount(10_770_000), "10.8M"],
    [formatCount(Number.NaN), "NaN"],
    [formatBytes(512), "512 B"],
    [formatBytes(43_200_000), "43.2 MB"],
    [formatBytes(1000), "1.00 kB"],
    [formatDuration(0), "0s"],
    [formatDuration(59_499), "59s"],
    [formatDuration(59_500), "1m 00s"],
    [formatDuration(3_599_499), "59m 59s"],
    [formatDuration(3_599_500), "1h 00m"],
    [formatDuration(86_399_000), "23h 59m"],
    [formatDuration(190_000_000), "2d 04h"],
    [formatDuration(Number.NaN), "?"],
    [formatDuration(-5), "0s"],
    [formatScale(65536), "2^16"],
    [formatScale(1), "2^0"],
    [formatScale(0.5), "2^-1"],
    [formatScale(1000), "1000"],
    [formatScale(0), "0"],
    [formatScale(Number.POSITIVE_INFINITY), "Infinity"],
    [formatScale(Number.NaN), "NaN"],
    [printable("a\x1b[31m\nb\u202e"), "a·[31m·b·"],
    [printable("a\tb\r\nc", true), "a\tb·\nc"],
  ])("%j", (text, expected) => {
    expect(text).toBe(expected);
  });
});
