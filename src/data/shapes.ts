/** Generated pictures of shapes: a set to train and measure on where no data is at hand, a pure function of its seed. */
import { philox, philoxKey } from "../formats/philox.ts";
import { requireInteger, requireKnownKeys } from "../precision/options.ts";
import type { PictureSet, Pictures } from "./pictures.ts";

/** Signed distance to the edge of a shape of about unit radius, negative inside, up to a factor near 1. */
type Distance = (u: number, v: number) => number;

const disc = (u: number, v: number, radius: number): number => Math.sqrt(u * u + v * v) - radius;
const box = (u: number, v: number, width: number, height: number): number =>
  Math.max(Math.abs(u) - width, Math.abs(v) - height);

/** Directions of a regular pentagon's edges, as constants: no engine's cosine decides what a picture holds. */
const PENTAGON = Float64Array.of(
  ...[0, 1],
  ...[0.9510565, 0.309017],
  ...[0.5877853, -0.809017],
  ...[-0.5877853, -0.809017],
  ...[-0.9510565, 0.309017],
);

/** A star is what lies behind all but at most one of a pentagon's edges: the second greatest distance decides. */
function star(u: number, v: number): number {
  let first = Number.NEGATIVE_INFINITY;
  let second = Number.NEGATIVE_INFINITY;
  for (let i = 0; i < PENTAGON.length; i += 2) {
    const distance = u * (PENTAGON[i] ?? 0) + v * (PENTAGON[i + 1] ?? 0);
    second = Math.max(second, Math.min(first, distance));
    first = Math.max(first, distance);
  }
  return second - 0.36;
}

/** The classes: a name and a shape each. Everything else in a picture is drawn without regard to its class. */
const SHAPES: Readonly<Record<string, Distance>> = {
  disc: (u, v) => disc(u, v, 0.82),
  ring: (u, v) => Math.abs(disc(u, v, 0.68)) - 0.22,
  square: (u, v) => box(u, v, 0.72, 0.72),
  frame: (u, v) => Math.abs(box(u, v, 0.6, 0.6)) - 0.19,
  triangle: (u, v) => Math.max(-v, 0.8660254 * u + 0.5 * v, -0.8660254 * u + 0.5 * v) - 0.5,
  corner: (u, v) => Math.min(box(u, v + 0.5, 0.8, 0.26), box(u + 0.55, v, 0.26, 0.8)),
  cross: (u, v) => Math.min(box(u, v, 0.9, 0.3), box(u, v, 0.3, 0.9)),
  star,
  crescent: (u, v) => Math.max(disc(u, v, 0.9), -disc(u - 0.5, v, 0.75)),
  bars: (u, v) => box(u, Math.abs(v) - 0.5, 0.85, 0.24),
};
const CLASSES = Object.keys(SHAPES);
const DISTANCES = Object.values(SHAPES);

const SIZE = 32;
const PLANE = SIZE * SIZE;
const CHANNELS = 3;

/** Ranges of what varies, in pixels and in steps of brightness (of 255): they decide how hard the set is. */
const RADIUS = [7, 12] as const;
/** Each channel of a background. */
const LIGHT = [70, 185] as const;
/** Width over height of a shape. */
const ASPECT = [0.8, 1.25] as const;
/** Distance between the colours of shape and background: the least that is usual, and the greatest. */
const LEAST_CONTRAST = 50;
const GREATEST_CONTRAST = 150;
const NOISE = 8;
const TEXTURE = 18;
/** Small shapes of any class beside and upon the one that counts. */
const DISTRACTORS = 2;
const DISTRACTOR_RADIUS = [2, 4] as const;

// PCG-RXS-M-XS-32: a linear congruential step, and a permutation of its state. Source: O'Neill 2014, HMC-CS-2014-0905.
const step = (state: number): number => (Math.imul(state, 747796405) + 2891336453) | 0;
function scrambled(state: number): number {
  const word = Math.imul((state >>> ((state >>> 28) + 4)) ^ state, 277803737);
  return ((word >>> 22) ^ word) >>> 0;
}

/** Floating planes of the picture in the making, one after the other. */
type Canvas = Float32Array;

/** Uniform numbers of one picture, from a state that Philox chose. */
class Draws {
  #state = 0;

  restart(state: number): void {
    this.#state = state | 0;
  }

  /** 32 random bits. */
  word(): number {
    this.#state = step(this.#state);
    return scrambled(this.#state);
  }

  /** Bytes of `canvas` with noise of standard deviation `deviation`: the sum of four uniform bytes is close to normal. */
  develop(canvas: Canvas, deviation: number, out: Uint8Array): void {
    // Four uniform bytes have a standard deviation of 147.8 together.
    const scale = deviation / 147.8;
    let state = this.#state;
    for (let i = 0; i < out.length; i++) {
      state = step(state);
      const word = scrambled(state);
      const sum = (word & 255) + ((word >>> 8) & 255) + ((word >>> 16) & 255) + (word >>> 24) - 510;
      const value = (canvas[i] ?? 0) + scale * sum;
      out[i] = value < 0 ? 0 : value > 255 ? 255 : value + 0.5;
    }
    this.#state = state;
  }

  between([low, high]: readonly [number, number]): number {
    return low + (this.word() / 2 ** 32) * (high - low);
  }

  below(count: number): number {
    return Math.floor((this.word() / 2 ** 32) * count);
  }

  /** A point on the unit circle, by rejection: it takes a square root and no cosine, which engines round alike. */
  direction(): readonly [number, number] {
    for (;;) {
      const [x, y] = [this.between([-1, 1]), this.between([-1, 1])];
      const square = x * x + y * y;
      if (square > 0.01 && square <= 1) return [x / Math.sqrt(square), y / Math.sqrt(square)];
    }
  }
}

/** A plane colour with a slope and stripes over it. */
function paintBackground(canvas: Canvas, draws: Draws): void {
  const [red, green, blue] = [draws.between(LIGHT), draws.between(LIGHT), draws.between(LIGHT)];
  const [slopeX, slopeY] = draws.direction();
  const slope = draws.between([0, TEXTURE / SIZE]);
  const [alongX, alongY] = draws.direction();
  const [period, depth] = [draws.between([4, 14]), draws.between([0, TEXTURE])];
  for (let at = 0; at < PLANE; at++) {
    const [x, y] = [at % SIZE, (at / SIZE) | 0];
    const phase = (x * alongX + y * alongY) / period;
    const wave = Math.abs(phase - Math.floor(phase) - 0.5) * 4 - 1;
    const light = slope * (slopeX * (x - SIZE / 2) + slopeY * (y - SIZE / 2)) + depth * wave;
    canvas[at] = red + light;
    canvas[PLANE + at] = green + light;
    canvas[2 * PLANE + at] = blue + light;
  }
}

interface Placement {
  readonly distance: Distance;
  readonly centerX: number;
  readonly centerY: number;
  readonly radius: number;
}

/** Adds `tint` where the shape is, with an edge of a pixel. */
function paintShape(
  canvas: Canvas,
  { distance, centerX, centerY, radius }: Placement,
  tint: readonly number[],
  draws: Draws,
): void {
  const [cos, sin] = draws.direction();
  const aspect = Math.sqrt(draws.between(ASPECT));
  const reach = 1.6 * radius;
  const [left, right] = [Math.max(0, Math.floor(centerX - reach)), Math.min(SIZE - 1, Math.ceil(centerX + reach))];
  const [top, bottom] = [Math.max(0, Math.floor(centerY - reach)), Math.min(SIZE - 1, Math.ceil(centerY + reach))];
  for (let y = top; y <= bottom; y++) {
    for (let x = left; x <= right; x++) {
      const [dx, dy] = [(x - centerX) / radius, (y - centerY) / radius];
      const inside = 0.5 - radius * distance((cos * dx + sin * dy) / aspect, (cos * dy - sin * dx) * aspect);
      if (inside <= 0) continue;
      const cover = Math.min(1, inside);
      for (let c = 0; c < CHANNELS; c++) {
        const at = c * PLANE + y * SIZE + x;
        canvas[at] = (canvas[at] ?? 0) + cover * (tint[c] ?? 0);
      }
    }
  }
}

/** A difference of colour of the given length, in any direction of the colour cube. */
function drawTint(draws: Draws, length: number): readonly number[] {
  const [x, y] = draws.direction();
  const [p, q] = draws.direction();
  return [length * x * p, length * y * p, length * q];
}

/** What all pictures of a set have in common, and what keeps them apart from those of another. */
interface Recipe {
  readonly seed: number;
  /** Separates sets of one seed. */
  readonly part: number;
  readonly noise: number;
  readonly leastContrast: number;
}

function paint(label: number, { noise, leastContrast }: Recipe, draws: Draws, canvas: Canvas, out: Uint8Array): void {
  paintBackground(canvas, draws);
  const radius = draws.between(RADIUS);
  // The whole shape is in the picture: it is never a guess what was cut off.
  const place = [radius * 0.9, SIZE - 1 - radius * 0.9] as const;
  const main = { radius, centerX: draws.between(place), centerY: draws.between(place) };
  const contrast = [leastContrast, GREATEST_CONTRAST] as const;
  const tint = drawTint(draws, draws.between(contrast));
  paintShape(canvas, { ...main, distance: DISTANCES[label] ?? star }, tint, draws);
  for (let i = draws.below(DISTRACTORS + 1); i > 0; i--) {
    const small = {
      radius: draws.between(DISTRACTOR_RADIUS),
      centerX: draws.between([0, SIZE]),
      centerY: draws.between([0, SIZE]),
    };
    const distance = DISTANCES[draws.below(DISTANCES.length)] ?? star;
    paintShape(canvas, { ...small, distance }, drawTint(draws, draws.between(contrast)), draws);
  }
  draws.develop(canvas, noise, out);
}

/** Keeps these draws apart from others of the same seed: "SHAP" in ASCII. */
const STREAM = 0x53484150;

/** `count` pictures, classes in turn. */
function paintAll(count: number, recipe: Recipe): Pictures {
  const bytes = CHANNELS * PLANE;
  const pixels = new Uint8Array(count * bytes);
  const labels = Int32Array.from({ length: count }, (_, i) => i % CLASSES.length);
  const [canvas, words, draws] = [new Float32Array(bytes), new Uint32Array(4), new Draws()];
  labels.forEach((label, i) => {
    philox([i, recipe.part, 0, STREAM], philoxKey(recipe.seed), words);
    draws.restart(words[0] ?? 0);
    paint(label, recipe, draws, canvas, pixels.subarray(i * bytes, (i + 1) * bytes));
  });
  return { pixels, labels, channels: CHANNELS, height: SIZE, width: SIZE, classes: CLASSES };
}

export interface GeneratedShapesOptions {
  /** Which set: integer from 0 to 2^53 − 1. Default 0. */
  readonly seed?: number;
  /** Pictures to train on, ≥ 1. Default 12 000. */
  readonly training?: number;
  /** Pictures to hold out, ≥ 1. Default 10 000. */
  readonly heldOut?: number;
  /** Standard deviation of the noise on every byte of a picture: integer from 0 to 127. Default 8. */
  readonly noise?: number;
  /**
   * Least distance between the colours of a shape and of what is behind it, in steps of brightness: integer from 0, where some shapes
   * cannot be seen at all, to 150, the greatest distance. Default 50.
   */
  readonly leastContrast?: number;
}

/**
 * Pictures of 32 × 32 in colour with one of ten shapes each: turned, stretched, of any size, place and colour, on striped
 * and sloping backgrounds, with small shapes strewn about, and with noise. Only the shape depends on the class. Weak
 * contrast makes some pictures of neighbouring classes alike, so that no model is right about all of them.
 *
 * @throws BinadeError `value.range` for a bad option.
 * @example
 * const { training, heldOut } = generatedShapes({ seed: 1 }); // 22 000 pictures in about two seconds
 */
export function generatedShapes(options: GeneratedShapesOptions = {}): PictureSet {
  requireKnownKeys("generatedShapes", options, ["seed", "training", "heldOut", "noise", "leastContrast"]);
  const { seed = 0, training = 12_000, heldOut = 10_000, noise = NOISE, leastContrast = LEAST_CONTRAST } = options;
  requireInteger("generatedShapes: seed", seed, 0, Number.MAX_SAFE_INTEGER);
  requireInteger("generatedShapes: training", training, 1);
  requireInteger("generatedShapes: heldOut", heldOut, 1);
  requireInteger("generatedShapes: noise", noise, 0, 127);
  requireInteger("generatedShapes: leastContrast", leastContrast, 0, GREATEST_CONTRAST);
  const unusual = [
    ...(noise === NOISE ? [] : [`noise ${noise}`]),
    ...(leastContrast === LEAST_CONTRAST ? [] : [`contrast from ${leastContrast}`]),
  ];
  return {
    name: ["generated shapes", `seed ${seed}`, ...unusual].join(", "),
    training: paintAll(training, { seed, part: 0, noise, leastContrast }),
    heldOut: paintAll(heldOut, { seed, part: 1, noise, leastContrast }),
  };
}
