/** Whole training graphs as text, and what must hold of every narrow op in them. */
import { beforeAll, describe, expect, it } from "vitest";
import { FORMATS } from "../../src/formats/index.ts";
import type { Node } from "../../src/ir/graph.ts";
import { print } from "../../src/ir/print.ts";
import { problems } from "../../src/ir/verify.ts";
import { topological } from "../../src/ir/walk.ts";
import { useDevice } from "../../src/tensor/devices.ts";
import { gradients } from "../../src/tensor/gradients.ts";
import { block, type Model, mlp } from "../support/models.ts";

beforeAll(() => {
  useDevice("reference");
});

const MODELS = { mlp, block } as const;
const CASES = (["mlp", "block"] as const).flatMap((name) =>
  (["bfloat16", "float16"] as const).map((dtype) => [name, dtype] as const),
);

function roots({ loss, parameters }: Model): { nodes: readonly Node[]; names: Map<Node, string> } {
  const grads = gradients(loss, parameters);
  const nodes = [loss.node, ...[...grads.values()].map((g) => g.node)];
  return {
    nodes,
    names: new Map([[loss.node, "loss"], ...[...grads].map(([v, g]) => [g.node, `gradient of ${v.name}`] as const)]),
  };
}

const isNarrowOp = ({ op }: Node): boolean => op.kind === "contraction" || op.name.startsWith("attention");
const isProduct = ({ op }: Node): boolean =>
  op.kind === "contraction" || (op.name.startsWith("attention") && op.name !== "attentionLogSumExp");

describe.each(CASES)("%s under autocast %s", (name, dtype) => {
  const { nodes, names } = roots(MODELS[name](dtype));
  const all = topological(nodes);

  it("prints as recorded", async () => {
    await expect(print(nodes, names)).toMatchFileSnapshot(`../golden/${name}-${dtype}.txt`);
  });

  it("is well formed", () => expect(problems(nodes)).toEqual([]));

  it("gives 16-bit operands to every product and attention, forward and backward", () => {
    const narrow = all.filter(isNarrowOp);
    expect(narrow.length).toBeGreaterThanOrEqual(5);
    for (const node of narrow) {
      const data = node.inputs.filter((n) => FORMATS[n.dtype].kind === "float" && n.op.name !== "attentionLogSumExp");
      expect(data.map((n) => [node.op.name, n.dtype])).toEqual(data.map(() => [node.op.name, dtype]));
    }
  });

  it("leaves float32 sums where a product yields a variable's gradient, and rounds everything else once", () => {
    const products = all.filter(isProduct);
    for (const gradient of nodes.slice(1)) {
      expect(gradient.dtype).toBe("float32");
      const [source] = [gradient].map(throughViews);
      if (source !== undefined && products.includes(source)) expect(source.dtype).toBe("float32");
    }
    for (const node of products.filter((n) => n.op.name.startsWith("attention"))) expect(node.dtype).toBe(dtype);
  });

  it("computes losses, norms and sums in float32", () => {
    for (const node of all.filter(({ op }) => /^(crossEntropy|normalize|softmax|logSoftmax|sum)/.test(op.name)))
      expect([node.op.name, node.dtype]).toEqual([node.op.name, "float32"]);
  });
});

const throughViews = (node: Node): Node =>
  node.op.kind === "movement" && node.inputs[0] !== undefined ? throughViews(node.inputs[0]) : node;
