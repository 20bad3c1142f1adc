/** The generated set: a function of its seed, as described, and nothing but the shape tells the classes apart. */
import { createHash } from "node:crypto";
import { describe, expect, it } from "vitest";
import { channelStatistics, generatedShapes, type Pictures } from "../../src/data/index.ts";

const SMALL = { training: 600, heldOut: 200 };
const digest = ({ pixels }: Pictures): string => createHash("sha256").update(pixels).digest("hex").slice(0, 16);

describe("generatedShapes", () => {
  const set = generatedShapes(SMALL);

  it("has ten classes of equal size in pictures of 3 × 32 × 32, and says that it is generated", () => {
    expect(set.name).toBe("generated shapes, seed 0");
    for (const [part, count] of [
      [set.training, 600],
      [set.heldOut, 200],
    ] as const) {
      expect(part).toMatchObject({ channels: 3, height: 32, width: 32 });
      expect(part.pixels).toHaveLength(count * 3072);
      expect(new Set(part.classes).size).toBe(10);
      for (let label = 0; label < 10; label++)
        expect([...part.labels].filter((l) => l === label)).toHaveLength(count / 10);
    }
  });

  it("is the same for the same seed, and a picture does not depend on how many there are", () => {
    expect(digest(generatedShapes(SMALL).training)).toBe(digest(set.training));
    const { pixels } = generatedShapes({ training: 700, heldOut: 1 }).training;
    expect(digest({ ...set.training, pixels: pixels.subarray(0, set.training.pixels.length) })).toBe(
      digest(set.training),
    );
    expect(digest(generatedShapes({ ...SMALL, seed: 1 }).training)).not.toBe(digest(set.training));
    expect(digest(set.training)).not.toBe(digest(generatedShapes({ ...SMALL, seed: 2 ** 32 }).training));
  });

  it("has the same bytes on every machine", () => {
    expect([digest(set.training), digest(set.heldOut)]).toMatchInlineSnapshot(`
      [
        "b1546519b8a7255b",
        "a6bfe238f671d28d",
      ]
    `);
  });

  it("holds out pictures that it does not train on", () => {
    const rows = ({ pixels }: Pictures, count: number): string[] =>
      Array.from({ length: count }, (_, i) =>
        Buffer.from(pixels.subarray(i * 3072, (i + 1) * 3072)).toString("latin1"),
      );
    expect(new Set([...rows(set.training, 600), ...rows(set.heldOut, 200)]).size).toBe(800);
  });

  it("does not tell a class by colour or brightness", () => {
    const whole = channelStatistics(set.training);
    for (let label = 0; label < 10; label++) {
      const rows = [...set.training.labels.keys()].filter((i) => set.training.labels[i] === label);
      const pixels = Uint8Array.from(rows.flatMap((i) => [...set.training.pixels.subarray(i * 3072, (i + 1) * 3072)]));
      const own = channelStatistics({ ...set.training, pixels, labels: new Int32Array(rows.length) });
      // Means of pictures deviate by about 0.14 from each other: those of 60 of them by 0.14/√60 = 0.018, five times which is a bound.
      own.mean.forEach((mean, c) => {
        expect(Math.abs(mean - (whole.mean[c] ?? 0))).toBeLessThan(0.09);
      });
    }
  });

  it("adds the noise that is asked for to the same pictures, and says so", () => {
    const [still, noisy] = [0, 40].map((noise) => generatedShapes({ training: 50, heldOut: 1, noise }));
    const isInside = (byte: number): boolean => byte > 120 && byte < 136; // three deviations off neither bound
    const deviations = [...(still?.training.pixels ?? [])].flatMap((byte, i) =>
      isInside(byte) ? [(noisy?.training.pixels[i] ?? 0) - byte] : [],
    );
    expect(deviations.length).toBeGreaterThan(10_000);
    const mean = deviations.reduce((sum, d) => sum + d, 0) / deviations.length;
    const variance = deviations.reduce((sum, d) => sum + (d - mean) ** 2, 0) / deviations.length;
    // Of 10 000 draws the mean deviates by 0.4 and the standard deviation by 0.3: five times which are the bounds.
    expect(Math.abs(mean)).toBeLessThan(2);
    expect(Math.abs(Math.sqrt(variance) - 40)).toBeLessThan(1.5);
    expect(noisy?.name).toBe("generated shapes, seed 0, noise 40");
  });

  it("lets shapes be as faint as asked for on the same backgrounds, and says so", () => {
    const count = 200;
    const sets = [0, 150].map((leastContrast) =>
      generatedShapes({ training: count, heldOut: 1, noise: 0, leastContrast }),
    );
    const [faint, strong] = sets.map((set) => set.training.pixels);
    const difference = (i: number, at: number): number =>
      Math.hypot(
        ...[0, 1, 2].map((c) => (faint?.[i * 3072 + c * 1024 + at] ?? 0) - (strong?.[i * 3072 + c * 1024 + at] ?? 0)),
      );
    const greatest = Array.from({ length: count }, (_, i) =>
      Math.max(...Array.from({ length: 1024 }, (_, at) => difference(i, at))),
    );
    // One set has every shape at a distance of 150, the other at any from 0 on: they differ by anything from 0 to 150, plus roundings
    // and what small shapes add. In every picture, most of the background is the same.
    expect(Math.min(...greatest)).toBeLessThan(20);
    expect(Math.max(...greatest)).toBeGreaterThan(130);
    expect(Array.from({ length: 1024 }, (_, at) => difference(0, at)).filter((d) => d === 0).length).toBeGreaterThan(
      512,
    );
    expect(sets.map(({ name }) => name)).toEqual([
      "generated shapes, seed 0, noise 0, contrast from 0",
      "generated shapes, seed 0, noise 0, contrast from 150",
    ]);
  });

  it.each([
    { leastContrast: -1 },
    { leastContrast: 151 },
    { training: 0 },
    { heldOut: 0 },
    { seed: -1 },
    { noise: -1 },
    { noise: 0.5 },
    { noise: 128 },
  ])("%j: refused", (options) => {
    expect(() => generatedShapes(options)).toThrow(expect.objectContaining({ code: "value.range" }));
  });
});
