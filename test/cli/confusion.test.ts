/** Confusion matrices as text of any width. */
import { describe, expect, it } from "vitest";
import { confusionLines } from "../../src/cli/confusion.ts";

const CLASSES = ["cat", "dog", "a very long name of a class", "ho\u001b[31mrse"];
const CONFUSION = [
  [95, 5, 0, 0],
  [12, 1003, 0, 1],
  [0, 0, 0, 0],
  [0, 2, 0, 48],
];

describe("confusionLines", () => {
  it("are the whole table on a wide terminal, control characters made visible", () => {
    expect(confusionLines(CLASSES, CONFUSION, 79).join("\n")).toMatchInlineSnapshot(`
      "                      0    1    2    3
      0 cat                95    5    0    0  95 %
      1 dog                12 1003    0    1  99 %
      2 a very long nam~    0    0    0    0     -
      3 ho·[31mrse          0    2    0   48  96 %"
    `);
  });

  it("shorten names where there is less room", () => {
    expect(confusionLines(CLASSES, CONFUSION, 40).join("\n")).toMatchInlineSnapshot(`
      "                  0    1    2    3
      0 cat            95    5    0    0  95 %
      1 dog            12 1003    0    1  99 %
      2 a very long~    0    0    0    0     -
      3 ho·[31mrse      0    2    0   48  96 %"
    `);
  });

  it("are the most frequent mistakes on a narrow terminal", () => {
    expect(confusionLines(CLASSES, CONFUSION, 32).join("\n")).toMatchInlineSnapshot(`
      "dog taken for cat 12 (1 %)
      cat taken for dog 5 (5 %)
      ho·[3~ taken for dog 2 (4 %)
      dog taken for ho·[3~ 1 (0 %)"
    `);
    const perfect = [
      [3, 0],
      [0, 4],
    ];
    expect(confusionLines(["a".repeat(40), "b"], perfect, 10)).toEqual(["no class w"]);
  });

  it("never exceed the width, and hold a hundred classes", () => {
    const classes = Array.from({ length: 100 }, (_, i) => `class number ${i}`);
    const confusion = classes.map((_, c) => classes.map((__, g) => (c * 7 + g * 3) % 11));
    for (const [names, matrix] of [
      [CLASSES, CONFUSION],
      [classes, confusion],
    ] as const) {
      for (const width of [1, 5, 10, 20, 33, 40, 79, 200, 600]) {
        for (const line of confusionLines(names, matrix, width)) expect(line.length).toBeLessThanOrEqual(width);
      }
    }
    expect(confusionLines(classes, confusion, 79)).toHaveLength(10);
    expect(confusionLines(classes, confusion, 600)).toHaveLength(101);
  });
});
