/** How float32 values are kept in fewer bits: stochastic rounding, split words, 8-bit codes. Rows of exact primitives: equal bits everywhere. */
import { BinadeError } from "../errors.ts";
import { type DType, FORMATS } from "../formats/table.ts";
import type { Builder } from "./builder.ts";
import { operandAt as at, type CompositeRow, type Infer, type Node, nameRows } from "./define.ts";
import { type Decade, decadesOf, firstNumerator, magnitudesOf, topRank, zeroCode } from "./dynamic-map.ts";
import { sameShape, showShape } from "./shape.ts";

/** Operands of these dtypes and of one shape → that shape in `result`. */
const from =
  (operands: readonly DType[], result: DType): Infer =>
  (inputs) => {
    const { shape } = at(inputs, 0);
    operands.forEach((dtype, i) => {
      const x = at(inputs, i);
      if (x.dtype !== dtype) {
        const sentence = `operand ${i} is ${x.dtype}, expected ${dtype}`;
        throw new BinadeError("dtype.mismatch", `${sentence}; cast it first, for instance x.cast("${dtype}")`);
      }
      if (!sameShape(x.shape, shape)) {
        const sentence = `operands have shapes ${showShape(shape)} and ${showShape(x.shape)}`;
        throw new BinadeError("shape.mismatch", `${sentence}; make them equal`);
      }
    });
    return { shape, dtype: result };
  };

/** What all rows here share: they are exact, and no gradient flows through bits. */
const EXACT = { kind: "composite", autocast: "as-is", vjp: "none", ulps: 0 } as const;

/** The spacing of bfloat16 in the bits of float32, and half of it. */
const STEP = 2 ** 16;
const HALF_STEP = 2 ** 15;

/** x as the float32 of its nearest bfloat16, and how many bits above that it lies (below: negative); 0 for infinities and NaN. */
function nearest(b: Builder, x: Node): { readonly rounded: Node; readonly above: Node } {
  const rounded = b.cast(b.cast(x, "bfloat16"), "float32");
  const above = b.sub(b.bitcast(x, "int32"), b.bitcast(rounded, "int32"));
  return { rounded, above: b.where(b.isFinite(x), above, 0) };
}

/** A number of bits is read as a magnitude: adding moves away from zero, for either sign. */
const moved = (b: Builder, x: Node, bits: Node | number): Node =>
  b.bitcast(b.add(b.bitcast(x, "int32"), bits), "float32");

/**
 * x (float32) rounded to one of its two bfloat16 neighbours: away from zero with the probability of the part of the gap that
 * lies below it, by the uniform number u (float32 in [0, 1), of which the upper 16 bits count). Numbers of bfloat16 never move;
 * from its largest number on, infinities and NaN included, rounding to nearest decides. As `formats/stochastic.ts`, bit for bit.
 */
const roundStochastic: CompositeRow = {
  ...EXACT,
  infer: from(["float32", "float32"], "bfloat16"),
  decompose: (b, inputs) => {
    const [x, u] = [at(inputs, 0), at(inputs, 1)];
    const raised = moved(b, x, b.cast(b.floor(b.mul(u, STEP)), "int32"));
    const { rounded, above } = nearest(b, raised);
    // Cut off, not rounded: what was rounded away from zero goes back by one.
    const cut = b.where(b.less(above, 0), moved(b, rounded, -STEP), rounded);
    const hasNeighbours = b.less(b.abs(x), FORMATS.bfloat16.maxFinite);
    return b.cast(b.where(hasNeighbours, cut, x), "bfloat16");
  },
  reference: "Gupta et al. 2015, Deep Learning with Limited Numerical Precision, arXiv:1502.02551",
};

/** Exactly halfway and rounded toward zero: the one case in which nearest-even leaves 2¹⁵ and not −2¹⁵ bits. */
const isLowTie = (b: Builder, above: Node): Node => b.equal(above, HALF_STEP);

/**
 * The upper part of a split float32: its nearest bfloat16, ties away from zero. 65537 float32 numbers round to every even
 * bfloat16 if ties go to even, which 16 bits cannot tell apart; with ties away from zero it is 65536 for each. Overflows to
 * infinity where rounding to nearest even does.
 */
const splitUpper: CompositeRow = {
  ...EXACT,
  infer: from(["float32"], "bfloat16"),
  decompose: (b, inputs) => {
    const { rounded, above } = nearest(b, at(inputs, 0));
    return b.cast(b.where(isLowTie(b, above), moved(b, rounded, STEP), rounded), "bfloat16");
  },
};

/** The lower part of a split float32: its bits minus those of the upper part, −32768 … 32767; 0 for infinities and NaN. */
const splitLower: CompositeRow = {
  ...EXACT,
  infer: from(["float32"], "int16"),
  decompose: (b, inputs) => {
    const { above } = nearest(b, at(inputs, 0));
    return b.cast(b.where(isLowTie(b, above), -HALF_STEP, above), "int16");
  },
};

/** The float32 that was split into (upper, lower): every finite one and the infinities bit for bit, NaN as NaN. */
const splitJoin: CompositeRow = {
  ...EXACT,
  infer: from(["bfloat16", "int16"], "float32"),
  decompose: (b, inputs) => moved(b, b.cast(at(inputs, 0), "float32"), b.cast(at(inputs, 1), "int32")),
};

/** The value of the last row whose threshold x reaches; `rows[0]` below all. */
function stepwise(b: Builder, isReached: readonly Node[], values: readonly number[]): Node {
  const [first = 0, ...rest] = values;
  const [reached, ...others] = isReached;
  const [second = 0, ...more] = rest;
  if (reached === undefined) throw new BinadeError("internal", "internal: stepwise needs a threshold");
  return more.reduce<Node>(
    (value, next, i) => {
      const above = others[i];
      if (above === undefined)
        throw new BinadeError("internal", "internal: stepwise needs a threshold for every value");
      return b.where(above, next, value);
    },
    b.where(reached, second, first),
  );
}

/** The least float32 that is at least `value`. */
function ceilFloat32(value: number): number {
  const nearestValue = Math.fround(value);
  if (nearestValue >= value) return nearestValue;
  const bits = new Int32Array(Float32Array.of(nearestValue).buffer);
  bits[0] = (bits[0] ?? 0) + 1;
  return new Float32Array(bits.buffer)[0] ?? value;
}

/** Half-way between the numbers of rank r − 1 and r. */
function thresholdAt(signed: boolean, rank: number): number {
  const magnitudes = magnitudesOf(signed);
  return ceilFloat32(((magnitudes[rank - 1] ?? 0) + (magnitudes[rank] ?? 0)) / 2);
}

const isSigned = (attributes: Readonly<Record<string, unknown>>): boolean => attributes.signed === true;
const later = (decades: readonly Decade[]): readonly Decade[] => decades.slice(1);

/**
 * x (float32, −1 … 1) → the code (uint8) of the nearest number of the dynamic map, signed or not. Half-way between two numbers
 * the larger magnitude wins; within two spacings of float32 of that point either may. Beyond the ends: the ends. NaN: 0.
 */
const quantizeDynamic: CompositeRow = {
  ...EXACT,
  infer: from(["float32"], "uint8"),
  decompose: (b, inputs, attributes) => {
    const signed = isSigned(attributes);
    const x = at(inputs, 0);
    const magnitude = signed ? b.abs(x) : x;
    const decades = decadesOf(signed);
    const reached = later(decades).map(({ rank }) => b.greaterEqual(magnitude, thresholdAt(signed, rank)));
    const of = (value: (decade: Decade) => number): Node => stepwise(b, reached, decades.map(value));
    const numerator = b.sub(
      b.mul(
        magnitude,
        of((d) => d.denominator),
      ),
      of((d) => firstNumerator(d) - 9),
    );
    const item = b.maximum(b.floor(b.div(numerator, 18)), 0);
    const rank = b.add(
      b.minimum(
        item,
        of(({ items }) => items - 1),
      ),
      of((d) => d.rank),
    );
    const top = topRank(signed);
    const bounded = b.where(b.greaterEqual(magnitude, thresholdAt(signed, top)), top, rank);
    const found = b.where(b.less(magnitude, thresholdAt(signed, 1)), 0, bounded);
    if (!signed) return b.cast(found, "uint8");
    const zero = zeroCode(signed);
    const code = b.where(b.less(x, 0), b.sub(zero, b.minimum(found, zero)), b.add(found, zero));
    return b.cast(code, "uint8");
  },
};

/** A code (uint8) → its number of the dynamic map in float32, signed or not. */
const dequantizeDynamic: CompositeRow = {
  ...EXACT,
  infer: from(["uint8"], "float32"),
  decompose: (b, inputs, attributes) => {
    const signed = isSigned(attributes);
    const code = b.sub(b.cast(at(inputs, 0), "float32"), zeroCode(signed));
    const rank = signed ? b.abs(code) : code;
    const decades = decadesOf(signed);
    const reached = later(decades).map((decade) => b.greaterEqual(rank, decade.rank));
    const of = (value: (decade: Decade) => number): Node => stepwise(b, reached, decades.map(value));
    const numerator = b.add(
      b.mul(rank, 18),
      of((d) => firstNumerator(d) - 18 * d.rank),
    );
    const inner = b.div(
      numerator,
      of((d) => d.denominator),
    );
    const value = b.where(b.less(rank, 1), 0, b.where(b.greaterEqual(rank, topRank(signed)), 1, inner));
    return signed ? b.where(b.less(code, 0), b.neg(value), value) : value;
  },
};

export const STORAGE = nameRows({
  roundStochastic,
  splitUpper,
  splitLower,
  splitJoin,
  quantizeDynamic,
  dequantizeDynamic,
});
