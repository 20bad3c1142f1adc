/** Peers as co-processes that run steps on request, so that two sides can be measured in turns. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { delimiter } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as pause } from "node:timers/promises";
import { fileURLToPath } from "node:url";

const FOR_JAVASCRIPT = "npm ci --prefix bench/peers";
const FOR_PYTHON = "in the interpreters that BENCH_PYTHON lists (default: /usr/bin/python3)";

/**
 * What each peer can do, in which precisions, and how to get it. PyTorch has no float16 autocast that trains on the processor;
 * those in JavaScript have one thread.
 */
export const PEERS = {
  torch: {
    script: "torch_peer.py",
    works: ["gpt-m", "gpt-s", "resnet20", "mlp", "matmul"],
    precisions: ["fp32", "bf16-mixed"],
    remedy: `install torch ${FOR_PYTHON}: apt-get install python3-torch libopenblas0, or pip install torch`,
  },
  numpy: {
    script: "numpy_peer.py",
    works: ["mlp", "matmul"],
    precisions: ["fp32"],
    remedy: `install numpy ${FOR_PYTHON}: apt-get install python3-numpy libopenblas0, or pip install numpy`,
  },
  "jax-js": { script: "jax-js.mjs", works: ["mlp", "matmul"], precisions: ["fp32"], remedy: FOR_JAVASCRIPT },
  tfjs: { script: "tfjs.mjs", works: ["mlp", "matmul"], precisions: ["fp32"], remedy: FOR_JAVASCRIPT },
};

/** Commands that start a peer's script: one per Python interpreter, or Node. */
function commandsOf(script) {
  const path = fileURLToPath(new URL(`peers/${script}`, import.meta.url));
  if (script.endsWith(".mjs")) return [[process.execPath, path]];
  const interpreters = (process.env.BENCH_PYTHON || "/usr/bin/python3").split(delimiter);
  return interpreters.map((interpreter) => [interpreter, "-s", path]);
}

/** A step that takes longer has no place in turns: bfloat16 without an instruction for it takes some libraries minutes. */
const [WARM_UP_PATIENCE_MS, PATIENCE_MS] = [60_000, 600_000];
export class TooSlow extends Error {}

class Peer {
  #process;
  #lines;
  #errors = "";
  /** Name and version, as the peer says them. */
  label = "";

  constructor([program, ...args], threads) {
    const environment = { OPENBLAS_NUM_THREADS: `${threads}`, OMP_NUM_THREADS: `${threads}` };
    this.#process = spawn(program, args, { env: { ...process.env, ...environment } });
    this.#process.stderr.on("data", (chunk) => (this.#errors += chunk));
    this.#process.on("error", (error) => (this.#errors += error.message));
    this.#process.stdin.on("error", () => undefined);
    this.#lines = createInterface({ input: this.#process.stdout })[Symbol.asyncIterator]();
  }

  async #answer(patienceMs) {
    const timeout = new AbortController();
    const { value, done } = await Promise.race([
      this.#lines.next(),
      pause(patienceMs, { done: "late" }, { signal: timeout.signal }),
    ]).finally(() => timeout.abort());
    if (done === "late") throw new TooSlow(`not warm within ${patienceMs / 1000} s`);
    if (!done) return JSON.parse(value);
    if (this.#process.exitCode === null && this.#process.pid !== undefined) await once(this.#process, "close");
    throw new Error(this.#errors.trim().split("\n").at(-1) || "it ended");
  }

  async open() {
    this.label = (await this.#answer(WARM_UP_PATIENCE_MS)).peer;
  }

  /** Milliseconds of each of `count` steps. */
  async run(count) {
    this.#process.stdin.write(`go ${count}\n`);
    return (await this.#answer(PATIENCE_MS)).timesMs;
  }

  close() {
    this.#process.kill("SIGKILL");
  }
}

/** The peers among `names` that can do `work` in `precision`, warm; for those that do not start, `onMissing(name, command, error)`. */
export async function openPeers(names, { work, precision, threads, clock }, onMissing) {
  const opened = [];
  for (const name of names) {
    const { script, works, precisions } = PEERS[name];
    if (!works.includes(work) || !precisions.includes(precision)) continue;
    for (const command of commandsOf(script)) {
      const shortName = precision.replace("-mixed", "");
      const options = ["--work", work, "--precision", shortName, "--threads", `${threads}`, "--clock", clock];
      const peer = new Peer([...command, "--interactive", ...options], threads);
      try {
        await peer.open();
        opened.push(peer);
      } catch (error) {
        peer.close();
        onMissing(name, command[0], error);
      }
    }
  }
  return opened;
}
