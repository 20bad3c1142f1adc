/** Orders and rewrites of graphs. */
import type { Node } from "./graph.ts";
import { createNode } from "./graph.ts";

/** Every node that `roots` need, inputs before users, in order of creation (which is the order of the program's text). */
export function topological(roots: readonly Node[], stop: (node: Node) => boolean = () => false): readonly Node[] {
  const seen = new Set<Node>();
  const stack = [...roots];
  for (let node = stack.pop(); node !== undefined; node = stack.pop()) {
    if (seen.has(node)) continue;
    seen.add(node);
    if (!stop(node)) stack.push(...node.inputs);
  }
  return [...seen].sort((a, b) => a.id - b.id);
}

/**
 * Every node that `roots` need, inputs before users, in the order in which the roots reach them. Unlike the order of
 * creation it is the same for isomorphic graphs, also where hash-consing found a node that an earlier graph had made.
 */
export function postorder(roots: readonly Node[], stop: (node: Node) => boolean = () => false): readonly Node[] {
  const done = new Set<Node>();
  const stack = [...roots].reverse();
  for (let node = stack.at(-1); node !== undefined; node = stack.at(-1)) {
    const next = done.has(node) || stop(node) ? undefined : node.inputs.find((n) => !done.has(n));
    if (next !== undefined) stack.push(next);
    else {
      done.add(node);
      stack.pop();
    }
  }
  return [...done];
}

/**
 * Rebuilds the graph bottom-up: `rule` gets each node with its inputs already rewritten and returns its replacement
 * (itself: unchanged). A replacement has the same shape and dtype. Replacements are rewritten again until they stand.
 * `known`: replacements that are final; what only they need is not visited.
 */
export function rewrite(
  roots: readonly Node[],
  rule: (node: Node) => Node,
  known: (node: Node) => Node | undefined = () => undefined,
): readonly Node[] {
  const done = new Map<Node, Node>();
  const settle = (node: Node): Node => {
    const next = rule(node);
    return next === node ? node : (pass([next])[0] ?? next);
  };
  const pass = (wanted: readonly Node[]): readonly Node[] => {
    for (const node of topological(wanted, (n) => done.has(n) || known(n) !== undefined)) {
      if (done.has(node)) continue;
      const final = known(node);
      if (final !== undefined) {
        done.set(node, final);
        continue;
      }
      const inputs = node.inputs.map((n) => done.get(n) ?? n);
      const rebuilt = inputs.every((n, i) => n === node.inputs[i])
        ? node
        : createNode(node.op, inputs, node.attributes);
      done.set(node, settle(rebuilt));
    }
    return wanted.map((n) => done.get(n) ?? n);
  };
  return pass(roots);
}
