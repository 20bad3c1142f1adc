/** Borders between parts of a model that have scalers of their own: what crossed them, and whose fault it is. */
import { listNames } from "../errors.ts";
import type { Node } from "../ir/graph.ts";
import { topological } from "../ir/walk.ts";
import { nonFiniteCount } from "../tensor/finite.ts";
import { type LossFacts, watchCotangent } from "../tensor/gradients.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { Variable } from "../tensor/variable.ts";
import { allOf } from "./gradientCheck.ts";
import { orderError, type Session, sessionOf } from "./scalerSession.ts";

/** A scaler, as far as borders know it. */
interface Named {
  readonly name: string;
}

/** A place at which cotangents that one scaler scaled go on scaled by another. */
interface Border {
  /** The tensor of the part below. */
  readonly below: Tensor;
  /** Scaler of the part above, and of the part below. */
  readonly from: Named;
  readonly to: Named;
  /** Of `from` and `to`, when it was made: the ratio of their scales is that of these. */
  readonly sessions: readonly [Session, Session];
}

/** By the node that stands above. Equal structure is one node: static scales may share it. */
const borders = new WeakMap<Node, readonly Border[]>();

/** Notes that `above` is `below`, whose cotangent is scaled by `from` above and by `to` below. */
export function noteBorder(above: Tensor, { below, from, to }: Omit<Border, "sessions">): void {
  const others = (borders.get(above.node) ?? []).filter((border) => border.from !== from || border.to !== to);
  borders.set(above.node, [...others, { below, from, to, sessions: [sessionOf(from), sessionOf(to)] }]);
  watchCotangent(above);
}

/** The borders that gradients of these losses crossed, each with the cotangent from above. */
function crossed(losses: readonly LossFacts[]): readonly (readonly [Border, cotangent: Tensor])[] {
  return losses.flatMap(({ cotangents }) =>
    [...cotangents].flatMap(([node, cotangent]) =>
      (borders.get(node) ?? []).map((border) => [border, cotangent] as const),
    ),
  );
}

/** Gradients of parameters below a border of this scaler are scaled by the other one. */
export function requireAbove(scaler: Named, losses: readonly LossFacts[], parameters: readonly Variable[]): void {
  const own = crossed(losses).flatMap(([{ from, below }]) => (from === scaler ? [below.node] : []));
  if (own.length === 0) return;
  const nodes = new Set(topological(own));
  const foreign = parameters.filter(({ node }) => nodes.has(node));
  if (foreign.length === 0) return;
  throw orderError(
    `unscale: ${listNames(foreign.map(({ name }) => name))} lies below rescale(), where another scaler scales; unscale it there, and pass the optimizer of the other parameters here`,
  );
}

/** What a scaler handed down over borders, and what it got over others: bool scalars, whether it was finite. */
export interface Passage {
  readonly scaler: Named;
  /** Null if it handed down nothing. */
  readonly passedOn: Tensor | null;
  /** Null if it got nothing: its own scaled loss is where it begins. */
  readonly received: Tensor | null;
}

/**
 * What came to `scaler` over borders with the gradients of these losses; first its own passage, then those of the scalers above it.
 *
 * @throws BinadeError `scaler.order` if one of them was updated since.
 */
export function passagesTo(scaler: Named, losses: readonly LossFacts[]): readonly Passage[] {
  const crossings = crossed(losses);
  const above = new Set([scaler]);
  for (const one of above) {
    for (const [border] of crossings) {
      if (border.to !== one) continue;
      requirePresent(border);
      above.add(border.from);
    }
  }
  const finite = (holds: (border: Border) => boolean): Tensor | null =>
    allOf(crossings.flatMap(([border, cotangent]) => (holds(border) ? [nonFiniteCount(cotangent).equal(0)] : [])));
  return [...above].map((one) => ({
    scaler: one,
    passedOn: one === scaler ? null : finite(({ from, to }) => from === one && above.has(to)),
    received: finite(({ to }) => to === one),
  }));
}

function requirePresent({ from, to, sessions }: Border): void {
  const updated = [from, to].find((scaler, i) => sessionOf(scaler) !== sessions[i]);
  if (updated === undefined) return;
  throw orderError(
    `step: gradients came from ${from.name} to ${to.name} before the last update() of ${updated.name}; call update() of every scaler after the last step, and scale the loss again`,
  );
}
