/** Sets of pictures: what is refused, how one is split, statistics and normalisation. */
import { beforeAll, describe, expect, it } from "vitest";
import { channelStatistics, normalize, requirePictures, splitPictures } from "../../src/data/index.ts";
import { tensor, useDevice } from "../../src/index.ts";
import { DEVICES } from "../support/devices.ts";
import { smallPictures } from "../support/pictures.ts";

describe("requirePictures", () => {
  it.each([
    ["no pictures", { labels: new Int32Array(), pixels: new Uint8Array() }, "data.short", /got none/],
    [
      "pictures without labels",
      { labels: Int32Array.of(0) },
      "shape.mismatch",
      /expected 1 × 1 × 3 × 4 bytes.* got 72/,
    ],
    ["a label too great", { labels: Int32Array.of(0, 1, 2, 3, 0, 1) }, "index.outOfRange", /picture 3 is 3, .* 0 to 2/],
    ["a label below 0", { labels: Int32Array.of(0, 1, 2, 0, -1, 1) }, "index.outOfRange", /picture 4 is -1/],
  ] as const)("refuses %s", (_, change, code, message) => {
    const pictures = { ...smallPictures(), ...change };
    expect(() => requirePictures("x", pictures)).toThrow(
      expect.objectContaining({ code, message: expect.stringMatching(message) }),
    );
  });
});

describe("splitPictures", () => {
  const whole = smallPictures({ count: 90 });

  it("holds out a share of every class and loses nothing", () => {
    const { training, heldOut } = splitPictures(whole, { heldOut: 0.2 });
    for (const [part, size] of [
      [training, 24],
      [heldOut, 6],
    ] as const) {
      for (const label of [0, 1, 2]) expect([...part.labels].filter((l) => l === label)).toHaveLength(size);
    }
    const rows = ({ pixels, labels }: typeof whole): string[] =>
      [...labels].map((label, i) => `${label}: ${pixels.subarray(i * 12, (i + 1) * 12).join()}`);
    expect([...rows(training), ...rows(heldOut)].sort()).toEqual(rows(whole).sort());
    expect(splitPictures(whole, { heldOut: 0.2 }).heldOut).toEqual(heldOut);
    expect(splitPictures(whole, { heldOut: 0.2, seed: 1 }).heldOut).not.toEqual(heldOut);
  });

  it("trains on at least one picture of each class, and refuses where nothing is left to hold out", () => {
    const few = smallPictures({ count: 6 });
    expect(splitPictures(few, { heldOut: 0.99 }).training.labels).toHaveLength(3);
    expect(() => splitPictures(smallPictures({ count: 3 }))).toThrow(expect.objectContaining({ code: "data.short" }));
    const misspelt = { heldout: 0.5 } as object;
    expect(() => splitPictures(few, misspelt)).toThrow(expect.objectContaining({ code: "option.unknown" }));
    expect(() => splitPictures(few, { seed: 0.5 })).toThrow(expect.objectContaining({ code: "value.range" }));
    const labels = Int32Array.from(few.labels, (label, i) => (i === 1 ? 3 : label));
    expect(() => splitPictures({ ...few, labels })).toThrow(expect.objectContaining({ code: "index.outOfRange" }));
    for (const heldOut of [0, 1, Number.NaN])
      expect(() => splitPictures(few, { heldOut })).toThrow(expect.objectContaining({ code: "value.range" }));
  });
});

describe("channelStatistics", () => {
  it("are mean and deviation of each channel, from 0 to 1", () => {
    const pixels = Uint8Array.of(0, 255, 10, 10, 255, 0, 10, 10);
    const pictures = { ...smallPictures({ channels: 2, height: 1, width: 2 }), pixels, labels: Int32Array.of(0, 1) };
    const { mean, deviation } = channelStatistics(pictures);
    expect(mean).toEqual([0.5, 10 / 255]);
    // The second channel never changes: there is nothing to divide by.
    expect(deviation).toEqual([0.5, 1]);
  });
});

describe.each(DEVICES)("normalize on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
  });

  it("gives mean 0 and deviation 1 in each channel", async () => {
    const pictures = smallPictures({ count: 4, channels: 3 });
    const x = tensor(pictures.pixels, { shape: [4, 3, 3, 4] });
    const values = await normalize(x, channelStatistics(pictures)).data();
    for (let channel = 0; channel < 3; channel++) {
      const own = Array.from(values).filter((_, i) => Math.floor(i / 12) % 3 === channel);
      const mean = own.reduce((a, b) => a + b) / own.length;
      const square = own.reduce((a, b) => a + b * b, 0) / own.length;
      // 48 float32 values of order 1: each is rounded three times.
      expect(mean).toBeCloseTo(0, 5);
      expect(square).toBeCloseTo(1, 5);
    }
  });

  it.each([
    [{ mean: [0], deviation: [0] }, /got 0 and 0 for channel 0/],
    [{ mean: [Number.NaN], deviation: [1] }, /got NaN and 1/],
    [{ mean: [0], deviation: [Number.POSITIVE_INFINITY] }, /got 0 and Infinity/],
  ])("refuses %j, which would make no number of a picture", (statistics, sentence) => {
    const x = tensor(new Uint8Array(12), { shape: [1, 1, 3, 4] });
    expect(() => normalize(x, statistics)).toThrow(expect.objectContaining({ code: "value.range" }));
    expect(() => normalize(x, statistics)).toThrow(sentence);
  });

  it("refuses statistics of other channels", () => {
    expect(() =>
      normalize(tensor(new Uint8Array(12), { shape: [1, 1, 3, 4] }), { mean: [0, 0], deviation: [1, 1] }),
    ).toThrow(expect.objectContaining({ code: "shape.mismatch" }));
  });
});
