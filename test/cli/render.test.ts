/** The renderers, read through a small terminal: no line too wide, no redraw too soon, no control character. */

import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { JsonRenderer, ProgressRenderer, usesColor } from "../../src/cli/render.ts";
import type { MeteredGradient, SkippedEvent, StartedEvent, StepEvent, TrainEvent } from "../../src/train/events.ts";
import { decodeEvent } from "../../src/train/jsonl.ts";

/** A terminal that keeps what a person would see, and notes when a line grows wider than it is. */
class Screen {
  readonly isTTY: boolean;
  readonly columns: number | undefined;
  readonly lines: string[] = [""];
  widest = 0;
  writes = 0;
  raw = "";
  #column = 0;

  constructor(isTTY: boolean, columns?: number) {
    this.isTTY = isTTY;
    this.columns = columns;
  }

  write(text: string): void {
    this.writes++;
    this.raw += text;
    // biome-ignore lint/suspicious/noControlCharactersInRegex: a terminal is controlled by them
    for (const [token] of text.matchAll(/\x1b\[\d*[mK]|./gsu)) this.#put(token);
  }

  #put(token: string): void {
    const line = this.lines.at(-1) ?? "";
    if (token === "\n") {
      this.lines.push("");
      this.#column = 0;
    } else if (token === "\r") this.#column = 0;
    else if (token.endsWith("K") && token.startsWith("\x1b"))
      this.lines[this.lines.length - 1] = line.slice(0, this.#column);
    else if (token.length === 1) {
      expect(token).toMatch(/^[^\p{Cc}]$/u);
      this.lines[this.lines.length - 1] = line.slice(0, this.#column) + token + line.slice(this.#column + 1);
      this.#column++;
      this.widest = Math.max(this.widest, this.#column);
    }
  }
}

const started = (fields: Partial<StartedEvent> = {}): StartedEvent => ({
  type: "started",
  step: 0,
  model: { parameters: 10_770_000, layers: 6, heads: 6, width: 384 },
  precision: "fp16-mixed",
  device: "cpu",
  threads: 2,
  seed: 1,
  steps: 2000,
  batch: 8,
  context: 256,
  data: { name: "TypeScript 7.0.2 declarations", byteLength: 2_994_349, sha256: "00" },
  ...fields,
});

const step = (index: number, fields: Partial<StepEvent> = {}): StepEvent => ({
  type: "step",
  step: index,
  loss: 2.34567,
  learningRate: 1e-3,
  gradientNorm: 1,
  lossScale: 65536,
  tokensPerSecond: 12_345,
  elapsedMs: index * 100,
  skippedSteps: 0,
  ...fields,
});

const skip = (index: number, fields: Partial<SkippedEvent> = {}): SkippedEvent => ({
  type: "skipped",
  step: index,
  reason: "gradientOverflow",
  parameters: ["blocks.0.w", "head"],
  lossScaleBefore: 65536,
  lossScaleAfter: 32768,
  ...fields,
});

/** Renders `[time, event]` rows, and gives the screen. */
function show(rows: readonly (readonly [number, TrainEvent])[], screen: Screen, color = false): Screen {
  let now = 0;
  const renderer = new ProgressRenderer(screen, () => now, { color });
  for (const [time, event] of rows) {
    now = time;
    renderer.render(event);
  }
  return screen;
}

const lastLine = (columns: number, events: readonly TrainEvent[]): string =>
  show(
    events.map((event, index) => [index * 1000, event] as const),
    new Screen(true, columns),
  ).lines.at(-1) ?? "";

describe("meters", () => {
  const gradient = (name: string, size: number, fields: Partial<MeteredGradient> = {}): MeteredGradient => ({
    name,
    size,
    zeroShare: 0,
    belowSubnormalShare: 0,
    belowNormalShare: 0,
    aboveLargestShare: 0,
    nonFiniteShare: 0,
    ...fields,
  });

  it("name the parameter that loses most, and weigh shares by size", () => {
    const gradients = [
      gradient("a", 30, { belowSubnormalShare: 0.1, lostUpdateShare: 0.5 }),
      gradient("b", 10, {
        belowSubnormalShare: 0.5,
        aboveLargestShare: 0.04,
        nonFiniteShare: 0.04,
        lostUpdateShare: 0.1,
      }),
    ];
    const lineOf = (of: readonly MeteredGradient[]): string | undefined =>
      show([[0, { type: "metered", step: 3, gradients: of, elapsedMs: 1 }]], new Screen(true, 200)).lines[0];
    expect(lineOf(gradients)).toBe(
      "step 3: gradients below 2^-24: 20.0 % (most in b: 50.0 %), above 65504: 2.0 %; updates lost to a bfloat16 weight: 40.0 %",
    );
    expect(lineOf([gradient("a", 2)])).toBe("step 3: gradients below 2^-24: 0.0 %, above 65504: 0.0 %");
  });
});

describe("ProgressRenderer on a terminal", () => {
  it.each([
    [100, "[=============>           ] 1000/2000  loss 2.3457  12.3k tok/s  scale 2^16  3 skipped  1m 40s left"],
    [80, "[===> ] 1000/2000  loss 2.3457  12.3k tok/s  scale 2^16  3 skipped  1m 40s left"],
    [60, "1000/2000  loss 2.3457  12.3k tok/s  3 skipped  1m 40s left"],
    [40, "1000/2000  loss 2.3457  1m 40s left"],
    [24, "1000/2000  loss 2.3457"],
    [20, "[====>  ] 1000/2000"],
    [10, "1000/2000"],
  ])("fits %i columns", (columns, expected) => {
    expect(lastLine(columns, [started(), step(1), step(1000, { skippedSteps: 3 })])).toBe(expected);
  });

  it("never exceeds the width, whatever the numbers", () => {
    const anyNumber = fc.oneof(fc.double(), fc.nat(), fc.constantFrom(Number.NaN, Number.POSITIVE_INFINITY, 0, -1));
    const numbers = fc.record({
      loss: anyNumber,
      lossScale: anyNumber,
      tokensPerSecond: anyNumber,
      elapsedMs: anyNumber,
      skippedSteps: fc.nat(),
    });
    const column = fc.oneof(fc.integer({ min: 20, max: 220 }), fc.integer({ min: 2, max: 19 }));
    fc.assert(
      fc.property(column, fc.nat(), fc.nat(), numbers, fc.boolean(), (columns, index, steps, fields, color) => {
        const screen = new Screen(true, columns);
        const rows = [
          [0, step(0)],
          [1000, step(index, fields)],
        ] as const;
        const renderer = new ProgressRenderer(screen, () => screen.writes * 1000, { color });
        renderer.render(started({ steps }));
        screen.widest = 0;
        for (const [, event] of rows) renderer.render(event);
        expect(screen.widest).toBeLessThan(columns);
        expect(screen.lines.at(-1)).not.toBe("");
      }),
      { numRuns: 200 },
    );
  });

  it("takes 80 columns where the terminal does not say", () => {
    for (const columns of [undefined, 0]) {
      const screen = show(
        [
          [0, step(1)],
          [200, step(2)],
        ],
        new Screen(true, columns),
      );
      expect(screen.lines.at(-1)).toHaveLength(71);
    }
  });

  it("redraws at most ten times a second", () => {
    const rows = Array.from({ length: 3001 }, (_, index) => [index, step(index)] as const);
    expect(show(rows, new Screen(true, 80)).writes).toBe(31);
  });

  it("clears what a longer line left behind", () => {
    const screen = show(
      [
        [0, step(1, { loss: 1234.5 })],
        [100, step(2, { loss: Number.NaN, tokensPerSecond: 1 })],
      ],
      new Screen(true, 30),
    );
    expect(screen.lines.at(-1)).toBe("2/2  loss NaN  0s left");
  });

  it("keeps milestones above the line, and the last line at the end", () => {
    const screen = show(
      [
        [0, started({ steps: 4 })],
        [100, step(1)],
        [200, { type: "evaluated", step: 1, heldOutLoss: 1.5, bitsPerByte: 2.164, elapsedMs: 1 }],
        [300, step(2)],
        [310, { type: "checkpointed", step: 2, path: "runs/gpt", byteLength: 43_200_000, elapsedMs: 1 }],
        [320, step(3)],
        [330, { type: "warning", step: 3, code: "x", message: "beware" }],
        [340, skip(4)],
        [345, step(4)],
        [
          350,
          {
            type: "done",
            step: 4,
            loss: 1.25,
            heldOutLoss: 1.5,
            bitsPerByte: 2.164,
            elapsedMs: 61_000,
            tokensPerSecond: 950,
            skippedSteps: 1,
            reason: "finished",
            sample: "a\n\x1bb",
          },
        ],
      ],
      new Screen(true, 60),
    );
    expect(screen.lines.join("\n")).toMatchInlineSnapshot(`
      "data        TypeScript 7.0.2 declarations, 2994349 bytes
      sha256      00
      model       10.8M parameters: layers 6, heads 6, width 384
      precision   fp16-mixed on cpu, 2 threads
      run         4 steps of 8 x 256 tokens, seed 1
      step 1: held-out loss 1.5000, 2.164 bits per byte
      step 2: checkpoint runs/gpt (43.2 MB)
      warning: beware
      [======] 4/4  loss 2.3457  12.3k tok/s  scale 2^16  0s left
      finished    step 4 of 4 in 1m 01s, 950 tok/s
      loss        1.2500
      held out    1.5000, 2.164 bits per byte
      skipped     1 step
      checkpoint  runs/gpt (43.2 MB)
      sample
      a
      ·b
      "
    `);
  });

  it("leaves the cursor on an empty line when a run fails", () => {
    const screen = new Screen(true, 60);
    const renderer = new ProgressRenderer(screen, () => 0);
    renderer.close();
    expect(screen.raw).toBe("");
    renderer.render(step(1));
    renderer.close();
    renderer.close();
    expect(screen.lines).toHaveLength(2);
    expect(screen.lines.at(-1)).toBe("");
  });

  it("shows the loss scale only for float16", () => {
    const shows = (precision: string): boolean => lastLine(100, [started({ precision }), step(1)]).includes("scale");
    expect(["fp16-mixed", "float16", "fp16-unscaled"].filter(shows)).toHaveLength(3);
    expect(["bf16-mixed", "bfloat16", "fp32", "float32"].filter(shows)).toEqual([]);
  });

  it("colours nothing unless told to", () => {
    const rows = [
      [0, started()],
      [1, step(1)],
      [2, { type: "warning", step: 1, code: "x", message: "y" }],
    ] as const;
    expect(show(rows, new Screen(true, 80)).raw).not.toContain("m\x1b[");
    expect(show(rows, new Screen(true, 80)).raw).not.toMatch(/\[\d+m/);
    expect(show(rows, new Screen(true, 80), true).raw).toMatch(/\[32m.*\[33mwarning: y/s);
  });
});

describe("ProgressRenderer elsewhere", () => {
  it("writes the first step, then every 5 %, then the last", () => {
    const rows = Array.from({ length: 101 }, (_, index) => [index, step(index + 1)] as const);
    const screen = show([[0, started({ steps: 101 })], ...rows], new Screen(false));
    const steps = screen.lines
      .filter((line) => line.includes("loss"))
      .map((line) => Number.parseInt(line.slice(5), 10));
    expect(steps).toEqual([1, 7, 13, 19, 25, 31, 37, 43, 49, 55, 61, 67, 73, 79, 85, 91, 97, 101]);
    // biome-ignore lint/suspicious/noControlCharactersInRegex: that is what must not be there
    expect(screen.raw).not.toMatch(/[\r\x1b]/);
  });

  it("writes every 10 seconds where 5 % take longer", () => {
    const rows = Array.from({ length: 31 }, (_, index) => [index * 1000, step(index + 1)] as const);
    const screen = show([[0, started({ steps: 100_000 })], ...rows], new Screen(false));
    expect(screen.lines.filter((line) => line.includes("loss")).map((line) => line.slice(0, 10))).toEqual([
      "step 1/100",
      "step 11/10",
      "step 21/10",
      "step 31/10",
    ]);
  });

  it("writes a whole run as plain lines", () => {
    const screen = show(
      [
        [0, started({ steps: 2, step: 1, threads: 1, model: { parameters: 950 } })],
        [10, skip(1)],
        [20, skip(2)],
        [1010, skip(3, { parameters: [], reason: "forwardOverflow" })],
        [1100, step(1, { loss: Number.NaN, skippedSteps: 3 })],
        [1200, { type: "evaluated", step: 1, heldOutLoss: 1.5, bitsPerByte: 2.164, elapsedMs: 1 }],
        [1210, { type: "checkpointed", step: 1, path: "a\x1b[2J\n", byteLength: 999, elapsedMs: 1 }],
        [1300, step(2)],
        [
          1400,
          {
            type: "done",
            step: 2,
            loss: null,
            heldOutLoss: null,
            elapsedMs: 100,
            tokensPerSecond: 950,
            skippedSteps: 0,
            reason: "interrupted",
          },
        ],
      ],
      new Screen(false),
    );
    expect(screen.lines.join("\n")).toMatchInlineSnapshot(`
      "data        TypeScript 7.0.2 declarations, 2994349 bytes
      sha256      00
      model       950 parameters
      precision   fp16-mixed on cpu, 1 thread
      run         2 steps of 8 x 256 tokens, seed 1, from step 1
      step 1: skipped, gradients not finite (blocks.0.w and 1 more); loss scale 2^16 -> 2^15
      step 3: skipped, loss not finite; loss scale 2^16 -> 2^15
      step 1/2  loss NaN  12.3k tok/s  scale 2^16  3 skipped
      step 1: held-out loss 1.5000, 2.164 bits per byte
      step 1: checkpoint a·[2J· (999 B)
      step 2/2  loss 2.3457  12.3k tok/s  scale 2^16  0s left
      interrupted step 2 of 2 in 0s
      skipped     0 steps
      checkpoint  a·[2J· (999 B)
      "
    `);
  });
});

describe("JsonRenderer", () => {
  it("writes each event as one line that reads back", () => {
    const screen = new Screen(false);
    const renderer = new JsonRenderer(screen);
    const events = [started(), step(1, { loss: Number.NaN }), skip(2)];
    for (const event of events) renderer.render(event);
    renderer.close();
    expect(screen.raw.split("\n").slice(0, -1).map(decodeEvent)).toEqual(events);
  });
});

describe("usesColor", () => {
  it.each([
    [true, {}, true],
    [false, {}, false],
    [true, { NO_COLOR: "1" }, false],
    [true, { NO_COLOR: "" }, true],
    [true, { TERM: "dumb" }, false],
    [true, { TERM: "xterm" }, true],
  ])("terminal %s with %j: %s", (isTTY, environment, expected) => {
    expect(usesColor({ isTTY, write: () => undefined }, environment)).toBe(expected);
  });
});
