/**
 * Binade beside its peers: the same training steps in turns, ratios of medians, as a table, JSON and Markdown.
 *
 *   npm run bench -- --peer all --threads 1,2 --kernels --out results.json --markdown results.md
 */
import { writeFileSync } from "node:fs";
import { availableParallelism, cpus, loadavg } from "node:os";
import { parseArgs } from "node:util";
import { measure, summarize, timeOnce, warmUp } from "../dist/bench/measure.js";
import { PeakMeter } from "../dist/bench/peaks.js";
import { median, spread } from "../dist/bench/statistics.js";
import { workloadOf, workloadsOf } from "../dist/bench/suites.js";
import { useDevice } from "../dist/index.js";
import { PRECISIONS } from "../dist/train/presets.js";
import { formatMs, markdown } from "./markdown.mjs";
import { openPeers, PEERS, TooSlow } from "./peers.mjs";
import { takeTurns } from "./turns.mjs";

const WORKS = {
  "gpt-m": (precision) => workloadOf("gpt", precision, "m"),
  "gpt-s": (precision) => workloadOf("gpt", precision, "s"),
  resnet20: (precision) => workloadOf("resnet20", precision),
  mlp: (precision) => workloadOf("mlp", precision),
  matmul: (precision) => workloadOf("matmul", precision, "s", "matmul 1024 NN"),
};
const KERNELS = ["matmul", "conv", "attention", "rows"];

const { values: flags } = parseArgs({
  options: {
    work: { type: "string", default: Object.keys(WORKS).join() },
    precision: { type: "string", default: PRECISIONS.join() },
    threads: { type: "string", default: `${availableParallelism()}` },
    peer: { type: "string", default: "none" },
    seconds: { type: "string", default: "20" },
    clock: { type: "string", default: "wall" },
    kernels: { type: "boolean", default: false },
    out: { type: "string" },
    markdown: { type: "string" },
    help: { type: "boolean", default: false },
  },
});

const HELP = `Whole training steps beside the same steps of peers, in turns; ratio: peer / Binade, above 1 Binade is faster.

  --work <list>       ${Object.keys(WORKS).join(", ")} (default: all)
  --precision <list>  ${PRECISIONS.join(", ")} (default: all)
  --threads <list>    such as 1,2 (default: one per core)
  --peer <list>       ${Object.keys(PEERS).join(", ")}, all or none (default: none)
  --seconds <s>       for all sides of one step together (default: 20)
  --clock <name>      wall, or cpu: processor time of all threads, for one thread on a busy machine (default: wall)
  --kernels           also time kernels by themselves, as binade bench does
  --out <file>        write everything as JSON
  --markdown <file>   write tables for docs/performance.md

BENCH_PYTHON lists Python interpreters, separated as in PATH (default: /usr/bin/python3).
`;

async function cpuTimeOnce(work) {
  const before = process.cpuUsage();
  await work();
  const { user, system } = process.cpuUsage(before);
  return (user + system) / 1000;
}
const clocks = { wall: timeOnce, cpu: cpuTimeOnce };

function listOf(flag, choices) {
  const list = flags[flag] === "all" ? choices : flags[flag] === "none" ? [] : flags[flag].split(",");
  const wrong = list.find((name) => !choices.includes(name));
  if (wrong === undefined) return list;
  console.error(`--${flag}: expected any of ${choices.join(", ")}, got ${JSON.stringify(wrong)}`);
  process.exit(2);
}

function numbersOf(flag, isValid) {
  const list = flags[flag].split(",").map(Number);
  if (list.every(isValid)) return list;
  console.error(`--${flag}: expected numbers above 0, got ${JSON.stringify(flags[flag])}`);
  process.exit(2);
}

if (flags.help) {
  process.stdout.write(HELP);
  process.exit(0);
}
const settings = {
  works: listOf("work", Object.keys(WORKS)),
  precisions: listOf("precision", PRECISIONS),
  threadCounts: numbersOf("threads", (n) => Number.isInteger(n) && n > 0 && n <= 1024),
  peers: listOf("peer", Object.keys(PEERS)),
  seconds: numbersOf("seconds", (n) => n > 0)[0],
  clock: listOf("clock", Object.keys(clocks))[0],
};

const interruption = new AbortController();
const { signal } = interruption;
process.once("SIGINT", () => interruption.abort());

/** Peers that are not there, and those that one work is too much for; each said once. */
const missing = new Map();
function leaveOut(peer, why, remedy) {
  const key = `${peer} ${why}`;
  if (missing.has(key)) return;
  missing.set(key, { peer, why, remedy });
  console.error(`${peer} is left out: ${why}${remedy === null ? "" : `; to have it, ${remedy}`}`);
}

/** One work on so many threads: every precision of Binade, and of the peers, in turns. */
async function compareSides(work, threads, { peaks, isa }) {
  const options = { peaks, threads, isa };
  const { clock, seconds } = settings;
  const ours = [];
  for (const precision of settings.precisions) {
    const workload = WORKS[work](precision);
    const prepared = workload.prepare();
    await warmUp(prepared);
    const run = async (count) => {
      const times = [];
      for (let i = 0; i < count; i++) times.push(await clocks[clock](prepared.run));
      peaks.rate(workload.bound);
      return times;
    };
    ours.push({ precision, workload, prepared, run });
  }
  const theirs = [];
  try {
    for (const side of ours) {
      const request = { work, precision: side.precision, threads, clock };
      const onMissing = (name, command, error) => {
        const isSlow = error instanceof TooSlow;
        const subject = isSlow ? `${name} (${work} ${side.precision})` : name;
        leaveOut(subject, `${command}: ${error.message}`, isSlow ? null : PEERS[name].remedy);
      };
      for (const peer of await openPeers(settings.peers, request, onMissing)) {
        theirs.push({ precision: side.precision, peer, run: (count) => peer.run(count) });
      }
    }
    const times = await takeTurns([...ours, ...theirs], { seconds, signal });
    if (times.some((list) => list.length === 0)) return [];
    const fp32Ms = median(times[ours.findIndex(({ precision }) => precision === "fp32")] ?? []);
    return ours.map(({ precision, workload, prepared }, i) => {
      const result = summarize(workload, prepared, times[i], options);
      const peers = theirs.flatMap((side, j) =>
        side.precision === precision ? [peerResult(side.peer.label, times[ours.length + j], result)] : [],
      );
      const speedup = Number.isNaN(fp32Ms) ? null : fp32Ms / result.medianMs;
      return { work, ...result, speedup, peers };
    });
  } finally {
    for (const { peer } of theirs) peer.close();
  }
}

function peerResult(peer, timesMs, { medianMs }) {
  const theirMs = median(timesMs);
  return {
    peer,
    rounds: timesMs.length,
    medianMs: theirMs,
    spreadMs: spread(timesMs),
    minMs: Math.min(...timesMs),
    ratio: theirMs / medianMs,
  };
}

function print({ name, precision, threads, medianMs, spreadMs, floorMs, plannedBytes, speedup, peers }) {
  const head = `${name} ${precision}, ${threads} thread${threads === 1 ? "" : "s"}`;
  const multiple = `${(medianMs / floorMs).toFixed(2)} x floor`;
  const line = (label, ms, range, rest) =>
    console.log(`${label.padEnd(44)}${formatMs(ms).padStart(9)} ms ±${formatMs(range).padEnd(8)}${rest}`);
  const beside = speedup === null || precision === "fp32" ? "" : `, ${speedup.toFixed(2)} x own fp32`;
  line(head, medianMs, spreadMs, `${multiple}, ${(plannedBytes / 1e6).toFixed(1)} MB${beside}`);
  for (const peer of peers) line(`  ${peer.peer}`, peer.medianMs, peer.spreadMs, `ratio ${peer.ratio.toFixed(2)}`);
}

async function main() {
  const { works, threadCounts, precisions, clock } = settings;
  const machine = { processor: cpus()[0].model, cores: availableParallelism(), node: process.version };
  const loadBefore = loadavg()[0];
  const [steps, kernels] = [[], []];
  for (const threads of threadCounts) {
    const { backend } = useDevice("cpu", { threads });
    const context = { peaks: new PeakMeter(), isa: backend.isa };
    for (const work of works) {
      if (signal.aborted) break;
      const results = await compareSides(work, threads, context);
      steps.push(...results);
      for (const result of results) print(result);
    }
    for (const workload of flags.kernels ? workloadsOf(KERNELS, precisions) : []) {
      const result = await measure(workload, { ...context, threads, signal, limits: { seconds: 0.5 } });
      if (result === null) break;
      kernels.push(result);
      print({ ...result, speedup: null, peers: [] });
    }
  }
  const load = { before: loadBefore, after: loadavg()[0] };
  const report = { machine, load, clock, steps, kernels, missing: [...missing.values()] };
  if (flags.out !== undefined) writeFileSync(flags.out, `${JSON.stringify(report, null, 2)}\n`);
  if (flags.markdown !== undefined) writeFileSync(flags.markdown, markdown(report));
  process.exitCode = signal.aborted ? 130 : 0;
}

await main();
