/** Every preset against its system: 10 000 patterns of overflows each, recorded by scripts/fixtures/scale_presets.py. */
import { createHash } from "node:crypto";
import { describe, expect, it } from "vitest";
import { type LossScaleOptions, lossScaleRule, SCALE_PRESETS, type ScalePreset } from "../../src/index.ts";
import { countingMachine } from "../../src/precision/lossScale.ts";
import { type MachineState, Scalar, type ScaleMachine, whereScalar } from "../../src/precision/scaleMachine.ts";
import { readJson } from "../support/fixtures.ts";
import { generator } from "../support/random.ts";

interface Recorded {
  readonly source: string;
  readonly settings: readonly LossScaleOptions[];
  /** Patterns in which the system ended the run. */
  readonly ended: number;
  /** One digest per block of patterns: the scale after each step as float64, NaN once the run was over. */
  readonly sha256: readonly string[];
  readonly first: readonly (readonly (number | string)[])[];
}
interface Fixture {
  readonly patterns: number;
  readonly steps: number;
  readonly block: number;
  readonly shares: readonly number[];
}
const fixture = readJson<Fixture & Readonly<Record<string, Recorded>>>("scale-presets.json");
const { patterns, steps, block, shares } = fixture;
const PRESETS = Object.keys(SCALE_PRESETS).filter((preset) => preset !== "binade") as ScalePreset[];

const [FALSE, TRUE] = [new Scalar(0, "int32"), new Scalar(1, "int32")];

/** The scales after each step of the pattern with this seed. */
function scalesOf(machines: readonly ScaleMachine[], seed: number): Float64Array {
  const draw = generator(seed);
  const machine = machines[Math.floor(draw() * machines.length)] as ScaleMachine;
  const share = shares[Math.floor(draw() * shares.length)] ?? 0;
  const scales = new Float64Array(steps).fill(Number.NaN);
  let state: MachineState<Scalar> = Object.fromEntries(
    machine.fields.map(({ name, dtype, initial }) => [name, new Scalar(initial, dtype)]),
  );
  for (let i = 0; i < steps; i++) {
    const moved = machine.next<Scalar>(state, { finite: draw() >= share ? TRUE : FALSE }, whereScalar);
    if (moved.exhausted?.holds === true) break;
    state = moved.state;
    scales[i] = state.scale?.value ?? Number.NaN;
  }
  return scales;
}

describe.each(PRESETS)("preset %s", (preset) => {
  const recorded = fixture[preset] as Recorded;
  const { source } = recorded;
  const machines = recorded.settings.map((options) => countingMachine(lossScaleRule({ preset, ...options })));

  it(`moves as ${source} in the patterns that were kept whole`, () => {
    recorded.first.forEach((scales, seed) => {
      expect([...scalesOf(machines, seed)], `pattern ${seed}`).toEqual(scales.map(Number));
    });
  });

  it(`moves as ${source} in ${patterns} patterns`, () => {
    let ended = 0;
    const digests = Array.from({ length: patterns / block }, (_, b) => {
      const hash = createHash("sha256");
      for (let seed = b * block; seed < (b + 1) * block; seed++) {
        const scales = scalesOf(machines, seed);
        ended += Number(Number.isNaN(scales[steps - 1]));
        hash.update(new Uint8Array(scales.buffer));
      }
      return hash.digest("hex");
    });
    expect(digests).toEqual(recorded.sha256);
    expect(ended).toBe(recorded.ended);
  });
});

it("every system that was recorded is a preset", () => {
  const names = Object.keys(fixture).filter((key) => typeof fixture[key] === "object" && key !== "shares");
  expect(names.sort()).toEqual([...PRESETS].sort());
});
