/**
 * The goals of speed for two cores of a Zen 5 with AVX-512 beside what `npm run bench` measured: one line each, also for what was not
 * measured, and for what needs dot products of bfloat16 where there are none.
 *
 *   npm run bench -- --peer all --threads 1,2 --kernels --out results.json; node bench/goals.mjs results.json
 */
import { readFileSync } from "node:fs";

const [path] = process.argv.slice(2);
if (path === undefined) {
  console.error("usage: node bench/goals.mjs <what npm run bench -- --out wrote>");
  process.exit(2);
}
const { machine, load, steps, kernels } = JSON.parse(readFileSync(path, "utf8"));

const greatestThreads = Math.max(...[...steps, ...kernels].map(({ threads }) => threads));
const hasDotProducts = [...steps, ...kernels].some(({ isa }) => isa === "avx512bf16");

const stepOf = (work, precision) =>
  steps.find((s) => s.work === work && s.precision === precision && s.threads === greatestThreads);
const kernelOf = (name, precision, threads) =>
  kernels.find((k) => k.name === name && k.precision === precision && k.threads === threads);

/** What a goal asks of a number: at most, or at least. */
const atMost = (limit) => ({ text: `≤ ${limit}`, holds: (value) => value <= limit });
const atLeast = (limit) => ({ text: `≥ ${limit}`, holds: (value) => value >= limit });

/** A goal that only a processor with dot products of bfloat16 can reach says so elsewhere. */
const goal = (what, asked, measured, { needsDotProducts = false } = {}) => ({
  what,
  asked,
  measured,
  needsDotProducts,
});

const shareGoals = ["NN", "NT", "TN"].flatMap((layout) => {
  const name = `matmul 1024 ${layout}`;
  const share = (precision) => () => kernelOf(name, precision, 1)?.share;
  const scaling = (precision) => () => {
    const [one, two] = [1, 2].map((threads) => kernelOf(name, precision, threads)?.medianMs);
    return one === undefined || two === undefined ? undefined : one / two;
  };
  return [
    goal(`${name} bf16, share of the peak, 1 thread`, atLeast(0.85), share("bf16"), { needsDotProducts: true }),
    goal(`${name} fp32, share of the peak, 1 thread`, atLeast(0.8), share("fp32")),
    goal(`${name} bf16, 2 threads over one`, atLeast(1.85), scaling("bf16")),
    goal(`${name} fp32, 2 threads over one`, atLeast(1.85), scaling("fp32")),
  ];
});

const multiple = (work, precision) => () => {
  const step = stepOf(work, precision);
  return step === undefined ? undefined : step.medianMs / step.floorMs;
};
const floorGoals = [
  ["gpt-m", "bf16-mixed", 1.32],
  ["gpt-m", "fp32", 1.3],
  ["gpt-s", "bf16-mixed", 2.2],
  ["resnet20", "bf16-mixed", 1.9],
  ["resnet20", "fp32", 1.7],
].map(([work, precision, limit]) =>
  goal(`${work} ${precision}, times its floor`, atMost(limit), multiple(work, precision), {
    needsDotProducts: precision === "bf16-mixed",
  }),
);

const overFp32 = (precision) => () => stepOf("gpt-m", precision)?.speedup ?? undefined;
const ownGoals = [
  goal("gpt-m bf16-mixed, times as fast as own fp32", atLeast(1.7), overFp32("bf16-mixed"), { needsDotProducts: true }),
  goal("gpt-m fp16-mixed, times as fast as own fp32", atLeast(1), overFp32("fp16-mixed")),
];

/** The least ratio to the peers whose label begins so: above 1, Binade is faster than each. */
const ratioTo = (work, precision, library) => () => {
  const ratios = (stepOf(work, precision)?.peers ?? [])
    .filter(({ peer }) => peer.startsWith(library))
    .map(({ ratio }) => ratio);
  return ratios.length === 0 ? undefined : Math.min(...ratios);
};
const peerGoals = [
  ...["gpt-m", "gpt-s", "resnet20"].flatMap((work) =>
    ["fp32", "bf16-mixed"].map((precision) =>
      goal(`${work} ${precision}, times as fast as PyTorch`, atLeast(1), ratioTo(work, precision, "torch")),
    ),
  ),
  goal("mlp fp32, times as fast as NumPy", atLeast(1), ratioTo("mlp", "fp32", "numpy")),
  goal("mlp bf16-mixed, times as fast as PyTorch", atLeast(1), ratioTo("mlp", "bf16-mixed", "torch")),
  goal("mlp fp32, times as fast as jax-js", atLeast(5), ratioTo("mlp", "fp32", "jax-js")),
];

function verdictOf({ asked, measured, needsDotProducts }) {
  const value = measured();
  if (value === undefined) return { value: "—", verdict: "not measured" };
  const shown = value.toFixed(2);
  if (asked.holds(value)) return { value: shown, verdict: "reached" };
  return { value: shown, verdict: needsDotProducts && !hasDotProducts ? "no bf16 dot products here" : "missed" };
}

console.log(
  `${machine.processor}, ${machine.cores} cores, Node ${machine.node}; load ${load.before.toFixed(1)} before the run`,
);
for (const entry of [...shareGoals, ...floorGoals, ...ownGoals, ...peerGoals]) {
  const { value, verdict } = verdictOf(entry);
  console.log(`${entry.what.padEnd(50)}${entry.asked.text.padEnd(8)}${value.padStart(7)}  ${verdict}`);
}
