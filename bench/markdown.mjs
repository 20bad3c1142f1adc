/** Results of run.mjs as the tables of docs/performance.md. */

export const formatMs = (ms) => ms.toFixed(ms < 1 ? 3 : ms < 100 ? 2 : 1);

const row = (cells) => `| ${cells.join(" | ")} |\n`;
const table = (titles, rows) => row(titles) + row(titles.map(() => "---")) + rows.map(row).join("");

/** Such as 2.15 G or 12 MB. */
function withPrefix(value, unit) {
  const [scale, prefix] = value >= 1e9 ? [1e9, "G"] : value >= 1e6 ? [1e6, "M"] : [1e3, "k"];
  return `${Number((value / scale).toPrecision(3))} ${prefix}${unit}`;
}

/** Whole steps: a column per peer, with the ratio of medians behind its time. */
function stepTable(steps) {
  const labels = [...new Set(steps.flatMap(({ peers }) => peers.map(({ peer }) => peer)))];
  const rows = steps.map(({ name, precision, threads, medianMs, spreadMs, floorMs, plannedBytes, speedup, peers }) => {
    const beside = labels.map((label) => {
      const peer = peers.find((candidate) => candidate.peer === label);
      return peer === undefined ? "—" : `${formatMs(peer.medianMs)} ms, **${peer.ratio.toFixed(2)}**`;
    });
    const ours = `${formatMs(medianMs)} ± ${formatMs(spreadMs)} ms`;
    const memory = withPrefix(plannedBytes, "B");
    return [
      name,
      precision,
      threads,
      ours,
      `${(medianMs / floorMs).toFixed(2)} ×`,
      speedup?.toFixed(2) ?? "—",
      memory,
      ...beside,
    ];
  });
  return table(
    ["step", "precision", "threads", "Binade", "of the floor", "own fp32", "intermediates", ...labels],
    rows,
  );
}

/** Rows for the tables of kernels; what is left between floor and median is for a person to say. */
function kernelTable(kernels) {
  const rows = kernels.map(({ name, precision, threads, operations, bytes, floorMs, medianMs, minMs }) => [
    `\`${name}\` ${precision}${threads === 1 ? "" : `, ${threads} threads`}`,
    withPrefix(operations, ""),
    withPrefix(bytes, "B"),
    `${formatMs(floorMs)} ms`,
    `${formatMs(medianMs)} (${formatMs(minMs)}) ms: ${shareOf(floorMs, medianMs)} (${shareOf(floorMs, minMs)})`,
    "bench",
    "",
  ]);
  return table(["kernel", "operations", "bytes", "floor", "measured (share)", "how", "what is left"], rows);
}

/** Two digits, rounded down. */
const shareOf = (floorMs, ms) => (Math.floor((100 * floorMs) / ms) / 100).toFixed(2);

/** Peaks by thread count: the best that any result was compared with. */
function peakLines(results) {
  const counts = [...new Set(results.map(({ threads }) => threads))];
  return counts.map((threads) => {
    const own = results.filter((result) => result.threads === threads);
    const best = (of) => Math.max(...own.filter(of).map(({ peakGflops }) => peakGflops)).toFixed(0);
    const isBf16 = ({ bound }) => bound === "bfloat16";
    const memory = Math.max(...own.map(({ peakGigabytesPerSecond }) => peakGigabytesPerSecond)).toFixed(1);
    const dot = own.some(isBf16) ? `, bf16 ${best(isBf16)} GFLOP/s` : "";
    const fp32 = own.some((r) => !isBf16(r)) ? `float32 ${best((r) => !isBf16(r))} GFLOP/s` : "";
    return `* ${threads} thread${threads === 1 ? "" : "s"} (${own[0].isa}): ${fp32}${dot}, memory ${memory} GB/s\n`;
  });
}

/** Everything as Markdown. */
export function markdown({ machine, load, clock, steps, kernels, missing }) {
  const { processor, cores, node } = machine;
  return [
    `${processor}, ${cores} cores, Node ${node}; load average ${load.before.toFixed(1)} before and ${load.after.toFixed(1)} after${clock === "cpu" ? "; processor time of all threads, not the wall clock" : ""}.\n\n`,
    "Peaks, measured in the same run:\n\n",
    ...peakLines([...steps, ...kernels]),
    ...(steps.length > 0 ? ["\n", stepTable(steps)] : []),
    ...(kernels.length > 0 ? ["\n", kernelTable(kernels)] : []),
    ...missing.map(
      ({ peer, why, remedy }) => `\n${peer} is left out: ${why}${remedy === null ? "" : `; ${remedy}`}.\n`,
    ),
  ].join("");
}
