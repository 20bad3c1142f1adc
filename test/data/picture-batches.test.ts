/** Order, cropping and mirroring of batches of pictures: pure functions of seed and index. */
import { describe, expect, it } from "vitest";
import { OrderedPictures, PictureBatches } from "../../src/data/index.ts";
import { smallPictures } from "../support/pictures.ts";

const pictures = smallPictures({ count: 10, channels: 2, height: 5, width: 6 });
const BYTES = 2 * 5 * 6;
const of = (pixels: Uint8Array, row: number): Uint8Array => pixels.subarray(row * BYTES, (row + 1) * BYTES);
/** Pixels (channel, y, x) of a picture; black outside. */
const pixelOf = (bytes: Uint8Array, channel: number, y: number, x: number): number =>
  y >= 0 && y < 5 && x >= 0 && x < 6 ? (bytes[(channel * 5 + y) * 6 + x] ?? -1) : 0;

/** The picture cut out at (dy, dx) of a padded one, and mirrored: written pixel by pixel. */
function changed(source: Uint8Array, dy: number, dx: number, isMirrored: boolean): string {
  const out: number[] = [];
  for (let channel = 0; channel < 2; channel++)
    for (let y = 0; y < 5; y++)
      for (let x = 0; x < 6; x++) out.push(pixelOf(source, channel, y + dy, (isMirrored ? 5 - x : x) + dx));
  return out.join();
}

describe("PictureBatches", () => {
  it("visits each picture once an epoch, without changing it unless told to", () => {
    const source = new PictureBatches({ pictures, batch: 4, seed: 3 });
    const rows = [0, 1, 2, 3, 4].flatMap((i) => {
      const { pixels, labels, epoch, index } = source.batch(i);
      expect({ epoch, index }).toEqual({ epoch: Math.floor((4 * i) / 10), index: i });
      return [...labels].map((label, row) => `${label}: ${of(pixels, row).join()}`);
    });
    const all = [...pictures.labels].map((label, i) => `${label}: ${of(pictures.pixels, i).join()}`).sort();
    expect(rows.slice(0, 10).sort()).toEqual(all);
    expect(rows.slice(10, 20).sort()).toEqual(all);
    expect(rows.slice(0, 10)).not.toEqual(rows.slice(10, 20));
  });

  it.each([
    [0, true],
    [2, false],
    [2, true],
  ] as const)("cuts out of %i pixels of padding, mirrored: %s", (crop, flip) => {
    const source = new PictureBatches({ pictures, batch: 40, seed: 1, crop, flip });
    const plain = new PictureBatches({ pictures, batch: 40, seed: 1 });
    const seen = new Set<string>();
    for (let batch = 0; batch < 20; batch++) {
      const [made, original] = [source.batch(batch), plain.batch(batch)];
      expect(made.labels).toEqual(original.labels);
      for (let row = 0; row < 40; row++) {
        const got = of(made.pixels, row).join();
        const change = places(crop, flip).find((place) => changed(of(original.pixels, row), ...place) === got);
        expect(change, `batch ${batch}, row ${row}`).toBeDefined();
        seen.add(`${change}`);
      }
    }
    // 800 draws of at most 50 places: all of them come.
    expect(seen.size).toBe(places(crop, flip).length);
  });

  function places(crop: number, flip: boolean): readonly (readonly [number, number, boolean])[] {
    const shifts = Array.from({ length: 2 * crop + 1 }, (_, i) => i - crop);
    return shifts.flatMap((dy) =>
      shifts.flatMap((dx) => (flip ? [false, true] : [false]).map((m) => [dy, dx, m] as const)),
    );
  }

  it("is a function of seed and index: asked again, in another order, from elsewhere", async () => {
    const options = { pictures, batch: 4, crop: 2, flip: true };
    const [a, b] = [new PictureBatches({ ...options, seed: 5 }), new PictureBatches({ ...options, seed: 5 })];
    const later = [7, 2, 3].map((i) => a.batch(i));
    expect([b.batch(7), b.batch(2), b.batch(3)]).toEqual(later);
    const stop = new AbortController();
    for await (const batch of b.batches({ from: 7, signal: stop.signal })) {
      expect(batch).toEqual(later[0]);
      stop.abort();
    }
    expect(new PictureBatches({ ...options, seed: 6 }).batch(7)).not.toEqual(later[0]);
    // Beyond 2^32 samples the order goes on.
    expect(a.batch(2 ** 31)).toEqual(b.batch(2 ** 31));
    expect(a.batch(2 ** 31).pixels).not.toEqual(a.batch(0).pixels);
  });

  it.each([
    [{ batch: 0 }, "value.range"],
    [{ seed: -1 }, "value.range"],
    [{ crop: 6 }, "value.range"],
    [{ crop: 0.5 }, "value.range"],
    [{ flip: "yes" as unknown as boolean }, "option.invalid"],
    [{ flipped: true } as object, "option.unknown"],
    [{ pictures: { ...pictures, labels: new Int32Array(10).fill(3) } }, "index.outOfRange"],
  ])("%j: refused", (options, code) => {
    expect(() => new PictureBatches({ pictures, batch: 4, ...options })).toThrow(expect.objectContaining({ code }));
  });
});

describe("OrderedPictures", () => {
  it("are all pictures in order; the last batch is what is left", () => {
    const source = new OrderedPictures(pictures, { batch: 4 });
    expect(source.count).toBe(3);
    const batches = [0, 1, 2].map((i) => source.batch(i));
    expect(batches.map(({ labels }) => labels.length)).toEqual([4, 4, 2]);
    expect(batches.flatMap(({ pixels }) => [...pixels])).toEqual([...pictures.pixels]);
    expect(batches.flatMap(({ labels }) => [...labels])).toEqual([...pictures.labels]);
    expect(() => source.batch(3)).toThrow(expect.objectContaining({ code: "index.outOfRange" }));
  });
});
