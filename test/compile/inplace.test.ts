/** Results written over operands that die: where a kernel reads an element only to write it, and nowhere else. */
import { describe, expect, it } from "vitest";
import { NullBackend } from "../../src/backends/null/backend.ts";
import { compileProgram } from "../../src/compile/pipeline.ts";
import type { Program } from "../../src/compile/program.ts";
import { build as b, createInput, type Node } from "../../src/ir/graph.ts";

const BYTES = 4 * 64 * 64;
const programOf = (output: Node): Program =>
  compileProgram({ outputs: [output], assignments: new Map() }, new NullBackend().capabilities);
const [x, w] = [createInput([64, 64], "float32"), createInput([64, 64], "float32")];
const product = (a: Node): Node => b.matmul(a, w);

/** Pairs of results and operands that share bytes while the kernel that writes the result runs. */
function sharing({ kernels }: Program): number {
  let count = 0;
  for (const { reads, writes } of kernels) {
    for (const { operand: to } of writes) {
      for (const { buffer: from } of reads.values()) {
        const [p, q] = [to.buffer.storage, from.storage];
        if (p.kind === "arena" && q.kind === "arena" && p.byteOffset === q.byteOffset) count++;
      }
    }
  }
  return count;
}

describe("a result is written", () => {
  it("over an operand that its epilogue reads element for element, and that nobody reads later", () => {
    // The sum needs the first product, the second one's operand, and a place of its own: the operand's.
    const [first, second] = [product(x), product(b.transpose(x))];
    const program = programOf(b.sum(product(b.add(product(b.cos(second)), first)), [0, 1]));
    expect(sharing(program)).toBeGreaterThanOrEqual(1);
    expect(program.arenaByteLength).toBeLessThan(3 * BYTES);
  });

  it("not over an operand that a product reads", () => {
    const made = product(x);
    const program = programOf(b.sum(product(b.add(b.matmul(made, b.transpose(made)), made)), [0, 1]));
    expect(sharing(program)).toBe(0);
  });

  it("not over an operand that is read through a view, or read again", () => {
    const made = product(x);
    expect(sharing(programOf(b.sum(product(b.add(product(w), b.transpose(made))), [0, 1])))).toBe(0);
    const again = b.add(product(w), made);
    expect(sharing(programOf(b.sum(b.matmul(again, b.transpose(made)), [0, 1])))).toBe(0);
  });
});
