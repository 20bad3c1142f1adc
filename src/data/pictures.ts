/** Labelled pictures in memory: what a set is, how one is checked, split, and normalised. Reads no files. */
import { BinadeError } from "../errors.ts";
import { requireInteger, requireKnownKeys } from "../precision/options.ts";
import { tensor } from "../tensor/create.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { permutedIndex } from "./permutation.ts";

/** Pictures of one size, and the class of each. */
export interface Pictures {
  /** (pictures, channels, height, width), row-major. */
  readonly pixels: Uint8Array;
  /** Class of each picture: an index of `classes`. */
  readonly labels: Int32Array;
  /** 1 for grey, 3 for red, green, blue. */
  readonly channels: number;
  readonly height: number;
  readonly width: number;
  /** Names of the classes, by label. */
  readonly classes: readonly string[];
}

/** What is trained on and what is held out: the same size, channels and classes in both. */
export interface PictureSet {
  /** What to call it in reports. */
  readonly name: string;
  readonly training: Pictures;
  readonly heldOut: Pictures;
}

/** Bytes of one picture. */
export const pictureBytes = ({ channels, height, width }: Pictures): number => channels * height * width;

/** "3 × 32 × 32": channels, height, width. */
export const showPictureSize = ({ channels, height, width }: Omit<Pictures, "pixels" | "labels" | "classes">): string =>
  `${channels} × ${height} × ${width}`;

/**
 * Requires at least one picture, as many labels as pictures, and labels that are indices of `classes`.
 *
 * @param subject what the pictures are, for the error sentence.
 * @throws BinadeError `data.short`, `shape.mismatch` or `index.outOfRange`.
 */
export function requirePictures(subject: string, pictures: Pictures): void {
  const { pixels, labels, classes } = pictures;
  const bytes = pictureBytes(pictures);
  if (labels.length === 0) {
    throw new BinadeError("data.short", `${subject}: expected at least one picture, got none; name other files`);
  }
  if (!(bytes >= 1) || pixels.length !== labels.length * bytes) {
    const expected = `${labels.length} × ${showPictureSize(pictures)} bytes, one picture per label`;
    throw new BinadeError(
      "shape.mismatch",
      `${subject}: expected ${expected}, got ${pixels.length}; pass all pictures and all labels`,
    );
  }
  const wrong = labels.findIndex((label) => label < 0 || label >= classes.length);
  if (wrong < 0) return;
  throw new BinadeError(
    "index.outOfRange",
    `${subject}: the label of picture ${wrong} is ${labels[wrong]}, expected 0 to ${classes.length - 1}; correct the labels or name all classes`,
  );
}

export interface SplitPicturesOptions {
  /** Share of each class that is held out, above 0 and below 1. Default 0.1. */
  readonly heldOut?: number;
  /** Decides which pictures those are; integer from 0 to 2^53 − 1. Default 0. */
  readonly seed?: number;
}

/**
 * Holds out a share of every class, at least one picture of each that has two. Both parts are copies, in the order of the
 * whole.
 *
 * @throws BinadeError `value.range` for a share outside (0, 1) or a bad seed; `data.short` where nothing would be left to hold
 * out or to train on; as `requirePictures` for pictures that are no set.
 * @example
 * const { training, heldOut } = splitPictures(pictures, { heldOut: 0.2 });
 */
export function splitPictures(
  pictures: Pictures,
  options: SplitPicturesOptions = {},
): { readonly training: Pictures; readonly heldOut: Pictures } {
  return splitNamed("splitPictures", pictures, options);
}

/** `splitPictures`, with the subject of its errors: where the pictures came from. */
export function splitNamed(
  subject: string,
  pictures: Pictures,
  options: SplitPicturesOptions,
): { readonly training: Pictures; readonly heldOut: Pictures } {
  requireKnownKeys(subject, options, ["heldOut", "seed"]);
  const { heldOut = 0.1, seed = 0 } = options;
  requireInteger(`${subject}: seed`, seed, 0, Number.MAX_SAFE_INTEGER);
  requirePictures(subject, pictures);
  if (!(heldOut > 0 && heldOut < 1)) {
    throw new BinadeError(
      "value.range",
      `${subject}: heldOut: expected a share above 0 and below 1, got ${heldOut}; 0.1 holds out a tenth`,
    );
  }
  const members = pictures.classes.map((): number[] => []);
  pictures.labels.forEach((label, index) => {
    members[label]?.push(index);
  });
  const isHeldOut = new Uint8Array(pictures.labels.length);
  members.forEach((indices, label) => {
    const count = Math.min(indices.length - 1, Math.max(1, Math.round(indices.length * heldOut)));
    for (let i = 0; i < count; i++) isHeldOut[indices[permutedIndex(i, indices.length, seed, label)] ?? 0] = 1;
  });
  const all = [...isHeldOut.keys()];
  const parts = {
    training: select(
      pictures,
      all.filter((i) => isHeldOut[i] === 0),
    ),
    heldOut: select(
      pictures,
      all.filter((i) => isHeldOut[i] === 1),
    ),
  };
  if (parts.heldOut.labels.length > 0) return parts;
  throw new BinadeError(
    "data.short",
    `${subject}: expected two pictures of a class, one to train on and one to hold out, got ${pictures.labels.length} of ${pictures.classes.length} classes; add more`,
  );
}

/** Copies of the pictures at these indices, in this order. */
function select(pictures: Pictures, indices: readonly number[]): Pictures {
  const bytes = pictureBytes(pictures);
  const pixels = new Uint8Array(indices.length * bytes);
  indices.forEach((from, to) => {
    pixels.set(pictures.pixels.subarray(from * bytes, (from + 1) * bytes), to * bytes);
  });
  return { ...pictures, pixels, labels: Int32Array.from(indices, (i) => pictures.labels[i] ?? 0) };
}

/** Mean and standard deviation of each channel, where a pixel goes from 0 (black) to 1. */
export interface ChannelStatistics {
  readonly mean: readonly number[];
  readonly deviation: readonly number[];
}

/**
 * Statistics of all pixels of each channel. The sums are exact integers, so that they do not depend on an order.
 *
 * @example
 * const statistics = channelStatistics(set.training); // of what is trained on, never of what is held out
 */
export function channelStatistics({ pixels, labels, channels, height, width }: Pictures): ChannelStatistics {
  const plane = height * width;
  const count = labels.length * plane;
  const [sums, squares] = [new Float64Array(channels), new Float64Array(channels)];
  for (let picture = 0, at = 0; picture < labels.length; picture++) {
    for (let channel = 0; channel < channels; channel++) {
      let [sum, square] = [0, 0];
      for (const end = at + plane; at < end; at++) {
        const value = pixels[at] ?? 0;
        sum += value;
        square += value * value;
      }
      sums[channel] = (sums[channel] ?? 0) + sum;
      squares[channel] = (squares[channel] ?? 0) + square;
    }
  }
  const mean = Array.from(sums, (sum) => sum / count / 255);
  const variance = Array.from(squares, (square, c) => square / count / 255 ** 2 - (mean[c] ?? 0) ** 2);
  // A channel that never changes has nothing to scale: it becomes 0 everywhere.
  return { mean, deviation: variance.map((v) => (v > 1e-12 ? Math.sqrt(v) : 1)) };
}

/**
 * (x / 255 − mean) / deviation of each channel, as part of the graph: it fuses with what reads it, and a batch reaches the
 * device as bytes.
 *
 * @param x (pictures, channels, height, width), uint8
 * @returns the same shape, float32.
 * @throws BinadeError `shape.mismatch` where the statistics are not one per channel; `value.range` for a mean that is not finite or
 * a deviation that is not a finite number above 0.
 * @example
 * const logits = model.forward(normalize(pictures, channelStatistics(set.training)));
 */
export function normalize(x: Tensor, { mean, deviation }: ChannelStatistics): Tensor {
  const channels = x.shape[1];
  if (x.shape.length !== 4 || channels !== mean.length || channels !== deviation.length) {
    throw new BinadeError(
      "shape.mismatch",
      `normalize: expected pictures (pictures, ${mean.length}, height, width), got [${x.shape.join(", ")}]; give one mean and one deviation per channel`,
    );
  }
  const wrong = mean.findIndex(
    (m, c) => !Number.isFinite(m) || !(Number.isFinite(deviation[c]) && (deviation[c] ?? 0) > 0),
  );
  if (wrong >= 0) {
    throw new BinadeError(
      "value.range",
      `normalize: expected a finite mean and a deviation above 0, got ${mean[wrong]} and ${deviation[wrong]} for channel ${wrong}; use channelStatistics, which gives 1 where a channel never changes`,
    );
  }
  const perChannel = (values: readonly number[]): Tensor =>
    tensor(Float32Array.from(values), { shape: [1, channels, 1, 1] });
  const scale = perChannel(deviation.map((d) => 1 / (255 * d)));
  const shift = perChannel(mean.map((m, c) => -m / (deviation[c] ?? 1)));
  return x.cast("float32").mul(scale).add(shift);
}
