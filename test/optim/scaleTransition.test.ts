/** The transition on the device against the pure state machine: 10 000 random flags, every preset and more at once. */

import { beforeAll, describe, expect, it } from "vitest";
import { philoxSource } from "../../src/formats/index.ts";
import {
  compile,
  type LossScaleOptions,
  SCALE_PRESETS,
  type ScalePreset,
  type Tensor,
  tensor,
  useDevice,
} from "../../src/index.ts";
import { deviceMachine, ScaleVariables } from "../../src/optim/scaleTransition.ts";
import { countingMachine, lossScaleRule } from "../../src/precision/lossScale.ts";
import { initialState, moveNumbers } from "../../src/precision/scaleMachine.ts";
import { DEVICES } from "../support/devices.ts";

/** The reference device is slow: it goes all the way only where there is no other. */
const stepsOn = (device: string): number => (device === "reference" && DEVICES.length > 1 ? 300 : 10_000);

/** Overflow one time in `every`. 1.1, 0.9, 0.7 and 1.3 as float32 holds them: the device multiplies in float32. */
const RULES: readonly { readonly options: LossScaleOptions; readonly every: number }[] = [
  { options: { growthInterval: 20 }, every: 40 },
  {
    options: {
      initialScale: 1000,
      growthFactor: Math.fround(1.1),
      backoffFactor: Math.fround(0.9),
      growthInterval: 1,
      preset: "pytorch",
    },
    every: 2,
  },
  {
    options: {
      initialScale: 1024,
      growthFactor: 1.5,
      backoffFactor: Math.fround(0.7),
      growthInterval: 3,
      floor: 3,
      ceiling: 1e6,
    },
    every: 4,
  },
  { options: { initialScale: 1e38, growthFactor: 16, growthInterval: 1, preset: "pytorch" }, every: 5 },
  { options: { preset: "fairseq", growthInterval: 4, tolerance: 0.25 }, every: 4 },
  { options: { hysteresis: 3, refill: "clean", tolerance: 0.1, growthInterval: 3 }, every: 3 },
  ...Object.keys(SCALE_PRESETS).map((preset) => ({
    options: { preset: preset as ScalePreset, growthInterval: 3 },
    every: 4,
  })),
];

describe.each(DEVICES)("the loss scale's transition on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
  });

  it(`follows the state machine through ${stepsOn(device)} steps`, async () => {
    const machines = RULES.map(({ options }) => {
      const rule = lossScaleRule(options);
      const [numbers, tensors] = [countingMachine(rule), deviceMachine(rule)];
      return { numbers, tensors, state: initialState(numbers), variables: new ScaleVariables(tensors), ends: 0 };
    });
    const step = compile((finite: Tensor) =>
      machines.map(({ tensors, variables }, i) =>
        variables.move(tensors, { finite: finite.slice(0, i, 1).reshape([]).cast("bool") }),
      ),
    );
    const random = philoxSource(7);
    for (let i = 0; i < stepsOn(device); i++) {
      const flags = RULES.map(({ every }) => random() % every !== 0);
      const exhausted = await step(tensor(new Uint8Array(flags.map(Number))));
      // Every state feeds the next one, so a difference anywhere shows at the next look.
      const isLooked = i % 100 === 99;
      for (const [k, machine] of machines.entries()) {
        const moved = moveNumbers(machine.numbers, machine.state, { finite: flags[k] === true });
        machine.state = moved.state;
        machine.ends += Number(moved.exhausted);
        if (!isLooked) continue;
        expect(await machine.variables.values(), `rule ${k}, step ${i}`).toEqual(machine.state);
        expect((await exhausted[k]?.item()) ?? 0).toBe(Number(moved.exhausted));
      }
    }
    expect(machines.filter(({ ends }) => ends > 0).length).toBeGreaterThan(0);
  });
});
