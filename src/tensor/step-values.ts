/** Every floating value of a step with its place, and two numbers of each: how many elements are not finite, and the largest. */
import { differentiatedNode } from "../autodiff/backward.ts";
import { FORMATS, isFloat } from "../formats/index.ts";
import { type Node, observingNodes } from "../ir/graph.ts";
import { topological } from "../ir/walk.ts";
import { sizeOf } from "../ops/shape.ts";
import { type CastReason, fullPrecision, placeNow, reasonOf, underRules } from "../precision/autocast.ts";
import type { AutocastRule } from "../precision/rules.ts";
import { full, zeros } from "./create.ts";
import { EXPONENTS, histogramOf } from "./exponents.ts";
import { concatenate, where } from "./functions.ts";
import { launch } from "./realize.ts";
import { Recording } from "./recording.ts";
import { Tensor } from "./tensor.ts";
import { currentTrace } from "./trace.ts";

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
  readonly numbers: ValueNumbers;
  /** Elements by biased exponent, see `histogramOf`; null unless asked for. */
  readonly histogram: Float32Array | null;
}

/** What is counted of a value. Shares are of all its elements; bounds are float16's. */
export interface ValueNumbers {
  /** Elements that are infinite or NaN. */
  readonly nonFinite: number;
  /** Largest magnitude among the finite ones. */
  readonly largest: number;
  readonly zeroShare: number;
  /** Not 0 and below 2⁻²⁴, the least subnormal number: what float16 loses, or rounds up to it. */
  readonly belowSubnormalShare: number;
  /** Not 0 and below 2⁻¹⁴, the least normal number: what float16 keeps with fewer digits. */
  readonly belowNormalShare: number;
  /** Finite and above 65504, the largest number. */
  readonly aboveLargestShare: number;
}

export interface StepValues {
  /** In the order of the program; inputs before what is made of them. */
  readonly values: readonly StepValue[];
  /** Whether everything that the step returns and every gradient is finite. */
  readonly isFinite: boolean;
}

/** How a step is watched. */
export interface StepValuesOptions {
  /** Rules that every region begins with. Default none. */
  readonly rules?: readonly AutocastRule[];
  /** Autocast and policies off. Default false. */
  readonly full?: boolean;
  /** Whether exponents are counted. Default false. */
  readonly histograms?: boolean;
}

/** Runs a step on these arguments and looks at every value; nothing is assigned. */
export async function valuesOfStep<A extends readonly Tensor[]>(
  step: (...args: A) => unknown,
  args: A,
  { rules = [], full = false, histograms = false }: StepValuesOptions = {},
): Promise<StepValues> {
  const places = new Map<Node, Place>();
  let seen: readonly Node[] = [];
  let results: readonly Node[] = [];
  const traced = (...given: readonly Tensor[]): { numbers: Tensor; binades: Tensor } => {
    const run = (): unknown =>
      observingNodes(
        (node) => note(places, node),
        () => step(...(given as unknown as A)),
      );
    const returned = full ? fullPrecision(run) : underRules(rules, run);
    results = [...tensorsIn(returned), ...(currentTrace()?.differentiated ?? []).flatMap(({ gradients }) => gradients)];
    seen = topological(results).filter(isWatched);
    const counted = histograms ? seen : [];
    return {
      numbers: seen.length === 0 ? zeros([0]) : numbersOf(seen),
      binades: counted.length === 0 ? zeros([0]) : concatenate(counted.map((node) => histogramOf(new Tensor(node)))),
    };
  };
  const recording = new Recording(traced, args, { effects: false });
  const { leaves, done } = launch(args.map((a) => a.node));
  const computed = await recording.run(leaves, done);
  const [numbers, binades] = [await computed.numbers.data(), await computed.binades.data()];
  const ofGradients = madeOfGradients(seen, places);
  const values = seen.map((node, i) => ({
    node,
    place: places.get(node) ?? NOWHERE,
    isGradient: ofGradients.has(node),
    reason: reasonOf(node),
    numbers: readNumbers(numbers.slice(i * COUNTED, (i + 1) * COUNTED), sizeOf(node.shape)),
    histogram: histograms ? Float32Array.from(binades.slice(i * EXPONENTS, (i + 1) * EXPONENTS), Number) : null,
  }));
  const broken = new Set(values.filter(({ numbers: { nonFinite } }) => nonFinite > 0).map(({ node }) => node));
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

const FLOAT16 = FORMATS.float16;
/** Numbers per value, in the order of `numbersOf`. */
const COUNTED = 6;

/** (6 · nodes), float32: counts, and a magnitude. */
function numbersOf(nodes: readonly Node[]): Tensor {
  const count = (condition: Tensor): Tensor => condition.cast("float32").sum();
  return concatenate(
    nodes.flatMap((node) => {
      const x = new Tensor(node).cast("float32");
      const finite = x.isFinite();
      const magnitude = where(finite, x.abs(), 0);
      const some = magnitude.greater(0);
      return [
        count(finite.not()),
        node.shape.includes(0) ? full([], 0) : magnitude.max(),
        count(finite.and(some.not())),
        count(some.and(magnitude.less(FLOAT16.minSubnormal))),
        count(some.and(magnitude.less(FLOAT16.minNormal))),
        count(magnitude.greater(FLOAT16.maxFinite)),
      ].map((scalar) => scalar.reshape([1]));
    }),
  );
}

/** Of no elements every share is 0. */
function readNumbers(counted: ArrayLike<number>, elements: number): ValueNumbers {
  const at = (i: number): number => Number(counted[i]);
  const size = Math.max(elements, 1);
  return {
    nonFinite: at(0),
    largest: at(1),
    zeroShare: at(2) / size,
    belowSubnormalShare: at(3) / size,
    belowNormalShare: at(4) / size,
    aboveLargestShare: at(5) / size,
  };
}

/** Floating tensors in arrays and plain objects. */
function tensorsIn(value: unknown): readonly Node[] {
  if (value instanceof Tensor) return isFloat(value.dtype) ? [value.node] : [];
  if (Array.isArray(value)) return value.flatMap(tensorsIn);
  if (typeof value !== "object" || value === null || Object.getPrototypeOf(value) !== Object.prototype) return [];
  return Object.values(value).flatMap(tensorsIn);
}
