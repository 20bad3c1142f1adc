/** Shared by the JavaScript peers: options, and a step as a co-process with the protocol of timing.py. Not run alone. */
import { createInterface } from "node:readline";
import { parseArgs } from "node:util";

const [WARM_UP_STEPS, WARM_UP_MS] = [5, 2000];
export const [BATCH, INPUTS, HIDDEN, CLASSES, SIZE] = [128, 784, 512, 10, 1024];

const { values } = parseArgs({
  options: {
    work: { type: "string", default: "mlp" },
    precision: { type: "string", default: "fp32" },
    threads: { type: "string", default: "1" },
    clock: { type: "string", default: "wall" },
    interactive: { type: "boolean", default: false },
    steps: { type: "string", default: "20" },
  },
});
export const options = values;

/** Numbers between -bound and bound. */
export const numbers = (size, bound = 1) =>
  Float32Array.from({ length: size }, (_, i) => bound * Math.sin(i * 12.9898));

/** Of the wall clock, or of the processor by all threads. */
function nowMs() {
  if (options.clock !== "cpu") return performance.now();
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
}

async function elapsedMs(step) {
  const start = nowMs();
  await step();
  return nowMs() - start;
}

async function timesOf(step, count) {
  const times = [];
  for (let i = 0; i < count; i++) times.push(await elapsedMs(step));
  return times;
}

async function warmUp(step) {
  const start = performance.now();
  for (let i = 0; i < WARM_UP_STEPS && performance.now() - start < WARM_UP_MS; i++) await step();
}

/** Warms up, then prints the times of --steps, or serves "go n" lines until stdin ends. */
export async function serve(peer, step) {
  // Ctrl-C is for the runner, which ends its peers itself.
  if (options.interactive) process.on("SIGINT", () => undefined);
  await warmUp(step);
  if (!options.interactive) {
    const times = (await timesOf(step, Number(options.steps))).sort((a, b) => a - b);
    console.log(JSON.stringify({ peer, work: options.work, medianMs: times[times.length >> 1], minMs: times[0] }));
    return;
  }
  console.log(JSON.stringify({ peer }));
  for await (const line of createInterface({ input: process.stdin })) {
    console.log(JSON.stringify({ timesMs: await timesOf(step, Number(line.split(" ")[1])) }));
  }
}
