/** The text form of a graph: what golden tests compare and `explain` shows. */
import { FORMATS } from "../formats/table.ts";
import type { Attributes, Node } from "./graph.ts";
import { attributesKey } from "./graph.ts";
import { postorder } from "./walk.ts";

const HIDDEN = new Set(["key", "shape", "name"]);

function showAttributes(attributes: Attributes): string {
  const shown = Object.fromEntries(Object.entries(attributes).filter(([name]) => !HIDDEN.has(name)));
  const text = attributesKey(shown);
  return text === "" ? "" : ` {${text}}`;
}

/**
 * One line per node: `%3 = matmul(%1, %2) : bf16[32, 64]`, numbered from 0 in the order in which the roots reach them, leaves by name.
 * Equal graphs print alike, whatever was built before them.
 */
export function print(roots: readonly Node[], names: ReadonlyMap<Node, string> = new Map()): string {
  const nodes = postorder(roots);
  const labels = new Map<Node, string>();
  nodes.forEach((node, i) => labels.set(node, `%${i}`));
  const lines = nodes.map((node) => {
    const name = names.get(node) ?? (node.attributes.name === undefined ? "" : String(node.attributes.name));
    const operands = node.inputs.map((n) => labels.get(n)).join(", ");
    const type = `${FORMATS[node.dtype].short}[${node.shape.join(", ")}]`;
    return `${labels.get(node)} = ${node.op.name}(${operands})${showAttributes(node.attributes)} : ${type}${name === "" ? "" : `  // ${name}`}`;
  });
  return `${lines.join("\n")}\nreturn ${roots.map((n) => labels.get(n)).join(", ")}\n`;
}
