/** Options and the result line that all benchmarks share. */
import { parseArgs } from "node:util";
import { median } from "./measure.mjs";

/** Command-line flags: strings with defaults, and the switches --peer and --json. */
export function flagsOf(defaults) {
  const strings = Object.fromEntries(
    Object.entries({ threads: "2", ...defaults }).map(([name, value]) => [name, { type: "string", default: value }]),
  );
  const { values } = parseArgs({
    options: { ...strings, peer: { type: "boolean", default: false }, json: { type: "boolean", default: false } },
  });
  return values;
}

/** Prints medians, rate, planned memory and, where a peer ran, the ratio of medians: above 1, Binade is faster. */
export function report({ name, flags, device, operations, plannedBytes, oursMs, peerMs, peer }) {
  const result = {
    name,
    precision: flags.precision,
    threads: device.backend.threads,
    isa: device.backend.isa,
    medianMs: median(oursMs),
    minMs: Math.min(...oursMs),
    gflops: operations / median(oursMs) / 1e6,
    plannedBytes,
    ...(peerMs.length === 0
      ? {}
      : {
          peer: `torch ${peer.torch}`,
          peerMedianMs: median(peerMs),
          peerMinMs: Math.min(...peerMs),
          ratio: median(peerMs) / median(oursMs),
        }),
  };
  const lines = Object.entries(result).map(
    ([key, value]) => `${key.padEnd(14)}${typeof value === "number" ? Number(value.toPrecision(4)) : value}`,
  );
  console.log(flags.json ? JSON.stringify(result) : lines.join("\n"));
  process.exit(0);
}
