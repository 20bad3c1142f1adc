/** Every floating value of a step with its place: how many elements are not finite, the largest, and on request its magnitudes. */
import { differentiatedNode } from "../autodiff/backward.ts";
import { isFloat } from "../formats/index.ts";
import { type Node, observingNodes } from "../ir/graph.ts";
import { topological } from "../ir/walk.ts";
import { type CastReason, placeNow, reasonOf } from "../precision/autocast.ts";
import { full, zeros } from "./create.ts";
import { nonFiniteCount } from "./finite.ts";
import { concatenate, where } from "./functions.ts";
import { type Magnitudes, magnitudesIn, magnitudesOf, readCounts } from "./magnitudes.ts";
import { gradientsSoFar, type ReplayOptions, replay } from "./replay.ts";
import { tensorsByPlace } from "./structure.ts";
import { Tensor } from "./tensor.ts";

/** Where a value is computed. */
export interface Place {
  readonly function: string | null;
  readonly module: string | null;
  /** The op whose gradient it belongs to; null in forward. */
  readonly gradientOf: string | null;
}

/** One value of a step. */
export interface StepValue {
  readonly node: Node;
  readonly place: Place;
  /** It is made of a gradient. */
  readonly isGradient: boolean;
  /** Why it was cast, if autocast did. */
  readonly reason: CastReason | undefined;
  /** Elements that are infinite or NaN. */
  readonly nonFinite: number;
  /** Largest magnitude among the finite ones. */
  readonly largest: number;
  /** How its elements are distributed; null unless asked for. */
  readonly magnitudes: Magnitudes | null;
}

export interface StepValues {
  /** In the order of the program; inputs before what is made of them. */
  readonly values: readonly StepValue[];
  /** Whether everything that the step returns and every gradient is finite. */
  readonly isFinite: boolean;
}

/** How a step is watched. */
export interface StepValuesOptions extends ReplayOptions {
  /** Whether the magnitudes of every value are counted. Default false. */
  readonly countsMagnitudes?: boolean;
}

/** Runs a step on these arguments and looks at every value; nothing is assigned. */
export async function valuesOfStep<A extends readonly Tensor[]>(
  step: (...args: A) => unknown,
  args: A,
  { countsMagnitudes = false, ...options }: StepValuesOptions = {},
): Promise<StepValues> {
  const places = new Map<Node, Place>();
  let seen: readonly Node[] = [];
  let results: readonly Node[] = [];
  const body = (...given: A) => {
    const returned = observingNodes(
      (node) => note(places, node),
      () => step(...given),
    );
    results = [...tensorsByPlace(returned), ...gradientsSoFar()].map(([, { node }]) => node);
    seen = topological(results).filter(isWatched);
    const tensors = seen.map((node) => new Tensor(node));
    return {
      extremes: joined(tensors.flatMap((x) => [nonFiniteCount(x), largestOf(x)])),
      counts: joined(countsMagnitudes ? tensors.map(magnitudesOf) : []),
    };
  };
  const { result } = await replay(body, args, options);
  const [extremes, counts] = [await result.extremes.data(), await readCounts(result.counts)];
  const ofGradients = madeOfGradients(seen, places);
  const values = seen.map((node, i) => ({
    node,
    place: places.get(node) ?? NOWHERE,
    isGradient: ofGradients.has(node),
    reason: reasonOf(node),
    nonFinite: Number(extremes[2 * i]),
    largest: Number(extremes[2 * i + 1]),
    magnitudes: countsMagnitudes ? magnitudesIn(counts, i) : null,
  }));
  const broken = new Set(values.filter(({ nonFinite }) => nonFinite > 0).map(({ node }) => node));
  return { values, isFinite: !results.some((node) => broken.has(memoryBehind(node))) };
}

/** Gradients, and everything that is computed from them; `nodes` inputs first. */
function madeOfGradients(nodes: readonly Node[], places: ReadonlyMap<Node, Place>): ReadonlySet<Node> {
  const found = new Set<Node>();
  for (const node of nodes) {
    const own = (places.get(node) ?? NOWHERE).gradientOf !== null;
    if (own || node.inputs.some((input) => found.has(memoryBehind(input)))) found.add(node);
  }
  return found;
}

const NOWHERE: Place = { function: null, module: null, gradientOf: null };

function note(places: Map<Node, Place>, node: Node): void {
  if (places.has(node)) return;
  const source = differentiatedNode();
  if (source === null) places.set(node, { ...placeNow(), gradientOf: null });
  else places.set(node, { ...(places.get(source) ?? NOWHERE), gradientOf: source.op.name });
}

/** Views have the elements of what they look at; integers are always finite. */
const isWatched = (node: Node): boolean => isFloat(node.dtype) && node.op.kind !== "movement" && !isConstant(node);
const isConstant = ({ op }: Node): boolean => op.kind === "source" && op.source !== "input";

/** What a view looks at. */
export function memoryBehind(node: Node): Node {
  const [x] = node.inputs;
  return node.op.kind === "movement" && x !== undefined ? memoryBehind(x) : node;
}

/** Largest finite magnitude, float32; 0 of no elements. */
const largestOf = (x: Tensor): Tensor =>
  x.size === 0 ? full([], 0) : where(x.isFinite(), x.abs(), 0).cast("float32").max();

/** Scalars and lists of one dtype, one after another. */
const joined = (parts: readonly Tensor[]): Tensor =>
  parts.length === 0 ? zeros([0]) : concatenate(parts.map((part) => part.reshape([part.size])));
