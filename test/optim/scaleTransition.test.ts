/** The transition on the device against the pure state machine: 10 000 random flags, several rules at once. */

import { beforeAll, describe, expect, it } from "vitest";
import { philoxSource } from "../../src/formats/index.ts";
import { compile, type Tensor, tensor, useDevice, Variable } from "../../src/index.ts";
import { nextScaleTensors } from "../../src/optim/scaleTransition.ts";
import { initialLossScale, lossScaleRule, nextLossScale } from "../../src/precision/lossScale.ts";
import { DEVICES } from "../support/devices.ts";

const STEPS = 10_000;

/** Overflow one time in `every`. 1.1, 0.9, 0.7 and 1.3 as float32 holds them: the device multiplies in float32. */
const RULES = [
  { options: { growthInterval: 20 }, every: 40 },
  {
    options: {
      initialScale: 1000,
      growthFactor: Math.fround(1.1),
      backoffFactor: Math.fround(0.9),
      growthInterval: 1,
      profile: "pytorch",
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
  { options: { initialScale: 1e38, growthFactor: 16, growthInterval: 1, profile: "pytorch" }, every: 5 },
] as const;

describe.each(DEVICES)("the loss scale's transition on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
  });

  it(`follows the state machine through ${STEPS} steps`, async () => {
    const machines = RULES.map(({ options }, i) => {
      const rule = lossScaleRule(options);
      const state = initialLossScale(rule);
      const scale = new Variable(`scale${i}`, [], "float32", new Float32Array([state.scale]));
      return { rule, state, scale, growthTracker: new Variable(`tracker${i}`, [], "int32") };
    });
    const step = compile((finite: Tensor) =>
      machines.map(({ rule, scale, growthTracker }, i) => {
        const flag = finite.slice(0, i, 1).reshape([]).cast("bool");
        const next = nextScaleTensors({ scale: scale.read(), growthTracker: growthTracker.read() }, rule, flag);
        scale.assign(next.scale);
        growthTracker.assign(next.growthTracker);
        return next;
      }),
    );
    const random = philoxSource(7);
    for (let i = 0; i < STEPS; i++) {
      const flags = RULES.map(({ every }) => random() % every !== 0);
      const results = await step(tensor(new Uint8Array(flags.map(Number))));
      for (const [k, machine] of machines.entries()) {
        machine.state = nextLossScale(machine.state, machine.rule, flags[k] === true);
      }
      // Every state feeds the next one, so a difference anywhere shows at the next look.
      if (i % 50 !== 49) continue;
      for (const [k, { state }] of machines.entries()) {
        const result = results[k];
        const got = { scale: await result?.scale.item(), growthTracker: await result?.growthTracker.item() };
        expect(got, `rule ${k}, step ${i}`).toEqual(state);
      }
    }
  });
});
