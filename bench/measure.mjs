/** Timing that survives a noisy machine: medians, both sides interleaved in one run, ratios. */
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

export const median = (values) => [...values].sort((a, b) => a - b)[values.length >> 1];

/** Milliseconds that `work` takes. */
export async function timeOnce(work) {
  const start = performance.now();
  await work();
  return performance.now() - start;
}

/** A peer that runs one step per line on its standard input and answers with `elapsedMs`. */
export class Peer {
  #process;
  #lines;

  constructor(script, args) {
    const path = fileURLToPath(new URL(`peers/${script}`, import.meta.url));
    const python = process.env.BENCH_PYTHON ?? "/usr/bin/python3";
    this.#process = spawn(python, ["-s", path, "--interactive", ...args], { stdio: ["pipe", "pipe", "inherit"] });
    this.#lines = createInterface({ input: this.#process.stdout })[Symbol.asyncIterator]();
  }

  async step() {
    this.#process.stdin.write("go\n");
    const { value, done } = await this.#lines.next();
    if (done) throw new Error("the peer ended; run its script by hand to see why");
    return JSON.parse(value);
  }

  close() {
    this.#process.stdin.end();
    this.#process.kill();
  }
}

/** Runs both sides in turns: `rounds` of one step each. */
export async function interleave(rounds, ours, peer) {
  const result = { oursMs: [], peerMs: [], peer: null };
  for (let i = 0; i < rounds; i++) {
    result.oursMs.push(await timeOnce(ours));
    if (peer === null) continue;
    const answer = await peer.step();
    result.peerMs.push(answer.elapsedMs);
    result.peer = answer;
  }
  return result;
}
