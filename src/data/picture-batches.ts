/** Batches of pictures, shifted and mirrored: like the order, a function of (seed, index) that is stored nowhere. */
import { philox, philoxKey } from "../formats/philox.ts";
import { requireBoolean, requireInteger, requireKnownKeys } from "../precision/options.ts";
import { permutedIndex } from "./permutation.ts";
import { type Pictures, pictureBytes, requirePictures } from "./pictures.ts";
import { type BatchesOptions, type IndexedSource, indexedBatches, requireIndex } from "./source.ts";

/** Pictures and the class of each. */
export interface PictureBatch {
  /** Index of this batch in its source. */
  readonly index: number;
  /** Passes over the data that were complete when this batch's first picture was drawn. */
  readonly epoch: number;
  /** (batch, channels, height, width), row-major. */
  readonly pixels: Uint8Array;
  /** (batch). */
  readonly labels: Int32Array;
}

/** A set of pictures, the size of its batches, and how pictures are varied. */
export interface PictureBatchesOptions {
  readonly pictures: Pictures;
  /** Pictures per batch, ≥ 1. */
  readonly batch: number;
  /** Integer from 0 to 2^53 − 1. Default 0. */
  readonly seed?: number;
  /**
   * Pads each picture with this many black pixels on every side and cuts its size out at a random place. Default 0: no
   * change.
   */
  readonly crop?: number;
  /** Mirrors every second picture, drawn at random, left to right. Default false. */
  readonly flip?: boolean;
}

/** Keeps these draws apart from those of the order, of dropout and of initial values under one seed: "AUGM" in ASCII. */
const STREAM = 0x4155474d;

/**
 * An endless source of batches: every epoch visits each picture exactly once in a pseudo-random order, shifted and mirrored
 * anew. Row r of batch i is sample number i × batch + r, and all its draws are a function of seed and sample number, so that
 * a run resumes at any batch. Where the batch does not divide the pictures, one batch holds the end of an epoch and the
 * beginning of the next.
 *
 * @example
 * const source = new PictureBatches({ pictures: set.training, batch: 64, seed: 1, crop: 4, flip: true });
 * const { pixels, labels } = source.batch(0);
 */
export class PictureBatches implements IndexedSource<PictureBatch> {
  readonly pictures: Pictures;
  /** Pictures per batch. */
  readonly batchSize: number;
  readonly crop: number;
  readonly flip: boolean;
  readonly #seed: number;

  constructor(options: PictureBatchesOptions) {
    requireKnownKeys("PictureBatches", options, ["pictures", "batch", "seed", "crop", "flip"]);
    const { pictures, batch, seed = 0, crop = 0, flip = false } = options;
    requireBoolean("PictureBatches: flip", flip);
    requireInteger("PictureBatches: batch", batch, 1);
    requireInteger("PictureBatches: seed", seed, 0, Number.MAX_SAFE_INTEGER);
    requireInteger("PictureBatches: crop", crop, 0, Math.min(pictures.height, pictures.width));
    requirePictures("PictureBatches", pictures);
    this.pictures = pictures;
    this.batchSize = batch;
    this.crop = crop;
    this.flip = flip;
    this.#seed = seed;
  }

  batch(index: number): PictureBatch {
    requireIndex("PictureBatches", index, Math.floor(Number.MAX_SAFE_INTEGER / this.batchSize));
    const { pictures, batchSize } = this;
    const count = pictures.labels.length;
    const bytes = pictureBytes(pictures);
    const pixels = new Uint8Array(batchSize * bytes);
    const labels = new Int32Array(batchSize);
    const words = new Uint32Array(4);
    for (let row = 0; row < batchSize; row++) {
      const sample = index * batchSize + row;
      const picture = permutedIndex(sample % count, count, this.#seed, Math.floor(sample / count));
      labels[row] = pictures.labels[picture] ?? 0;
      philox([sample >>> 0, Math.floor(sample / 2 ** 32), 0, STREAM], philoxKey(this.#seed), words);
      this.#write(picture, words, pixels.subarray(row * bytes, (row + 1) * bytes));
    }
    return { index, epoch: Math.floor((index * batchSize) / count), pixels, labels };
  }

  batches(options?: BatchesOptions): AsyncIterable<PictureBatch> {
    return indexedBatches((index) => this.batch(index), Number.POSITIVE_INFINITY, options);
  }

  /** One picture as `draws` decide, into `out` (channels, height, width), which is black. */
  #write(picture: number, draws: Uint32Array, out: Uint8Array): void {
    const { crop, flip } = this;
    const { pixels, height, width } = this.pictures;
    const [down, right] = [shiftOf(draws[0] ?? 0, crop), shiftOf(draws[1] ?? 0, crop)];
    const isMirrored = flip && (draws[2] ?? 0) >= 2 ** 31;
    const source = pixels.subarray(picture * out.length, (picture + 1) * out.length);
    if (down === 0 && right === 0 && !isMirrored) {
      out.set(source);
      return;
    }
    const [first, last] = [Math.max(0, -right), Math.min(width, width - right)];
    const rows = out.length / width;
    for (let row = 0; row < rows; row++) {
      const y = (row % height) + down;
      if (y < 0 || y >= height) continue;
      const [from, to] = [(row + down) * width + right, row * width];
      if (!isMirrored) out.set(source.subarray(from + first, from + last), to + first);
      else for (let x = first; x < last; x++) out[to + width - 1 - x] = source[from + x] ?? 0;
    }
  }
}

/** A shift from −most to most, each as likely as the next: the place of a cut-out in a padded picture. */
const shiftOf = (word: number, most: number): number => Math.floor((word / 2 ** 32) * (2 * most + 1)) - most;

/**
 * The pictures of a set in order, in batches of which the last may be smaller: views, not copies.
 *
 * @example
 * const source = new OrderedPictures(set.heldOut, { batch: 256 });
 * for (let i = 0; i < source.count; i++) source.batch(i);
 */
export class OrderedPictures implements IndexedSource<PictureBatch> {
  readonly pictures: Pictures;
  /** Pictures per batch, at most. */
  readonly batchSize: number;
  /** Number of batches. */
  readonly count: number;

  constructor(pictures: Pictures, options: { readonly batch: number }) {
    requireKnownKeys("OrderedPictures", options, ["batch"]);
    const { batch } = options;
    requireInteger("OrderedPictures: batch", batch, 1);
    requirePictures("OrderedPictures", pictures);
    this.pictures = pictures;
    this.batchSize = Math.min(batch, pictures.labels.length);
    this.count = Math.ceil(pictures.labels.length / this.batchSize);
  }

  batch(index: number): PictureBatch {
    requireIndex("OrderedPictures", index, this.count);
    const { pixels, labels } = this.pictures;
    const [first, end] = [index * this.batchSize, Math.min(labels.length, (index + 1) * this.batchSize)];
    const bytes = pictureBytes(this.pictures);
    return {
      index,
      epoch: 0,
      pixels: pixels.subarray(first * bytes, end * bytes),
      labels: labels.subarray(first, end),
    };
  }

  batches(options?: BatchesOptions): AsyncIterable<PictureBatch> {
    return indexedBatches((index) => this.batch(index), this.count, options);
  }
}
