/** Where scalers, optimizers and sums are kept: with the parameters, whatever the default device is or was. */
import { beforeEach, describe, expect, it } from "vitest";
import {
  compile,
  GradScaler,
  gradients,
  optim,
  readOutcome,
  type Tensor,
  useDevice,
  Variable,
} from "../../src/index.ts";
import { DEVICES } from "../support/devices.ts";

const weight = (name = "w"): Variable => new Variable(name, [2], "float32", Float32Array.of(1, 1));
/** Two devices, of which "null" runs nothing: what is compared is where things are. */
const HERE = DEVICES[0] ?? "reference";
const ELSEWHERE = "null";

describe("devices", () => {
  beforeEach(() => {
    useDevice(ELSEWHERE);
  });

  const step = (scaler: GradScaler, optimizer: optim.SGD, w: Variable) => {
    const outcome = scaler.step(optimizer, gradients(scaler.scale(w.read().mul(1e38).sum()), [w]));
    scaler.update();
    return outcome;
  };

  it.each([
    ["compiled", true],
    ["as it is written", false],
  ])("a scaler that was made before useDevice goes where its first loss is, %s", async (_, isCompiled) => {
    const scaler = new GradScaler({ initialScale: 8 });
    const device = useDevice(HERE);
    const w = weight();
    const optimizer = new optim.SGD([w]);
    useDevice(ELSEWHERE);
    const outcome = isCompiled ? await compile(() => step(scaler, optimizer, w))() : step(scaler, optimizer, w);
    expect(await readOutcome(outcome)).toMatchObject({ applied: false, lossScaleBefore: 8, lossScaleAfter: 4 });
    expect([...scaler.namedState().values()].map((v) => v.device)).toEqual([device, device]);
  });

  it("a look at its scale or its state does not place it, nor does a state that it goes on from", async () => {
    const saved = { scale: 0.1, growthFactor: 2, backoffFactor: 0.5, growthInterval: 5, growthTracker: 3 };
    const scaler = new GradScaler();
    useDevice(HERE);
    const before = await scaler.lossScale.item();
    const state = await scaler.state();
    await scaler.load(saved);
    const float32 = { ...saved, scale: Math.fround(0.1) };
    expect([before, state, await scaler.state()]).toEqual([65536, expect.objectContaining({ scale: 65536 }), float32]);
    for (const bad of [{ ...saved, growthTracker: -1 }, { ...saved, scale: 1e30 }, {}])
      await expect(scaler.load(bad)).rejects.toMatchObject({ code: "scaler.state" });
    const w = weight();
    useDevice(ELSEWHERE);
    const outcome = await readOutcome(step(scaler, new optim.SGD([w]), w));
    expect(outcome).toMatchObject({ applied: true, lossScaleBefore: Math.fround(0.1) });
    expect(await scaler.state()).toEqual({ ...float32, growthTracker: 4 });
  });

  it("is kept where it is told to be", () => {
    const device = useDevice(HERE);
    useDevice(ELSEWHERE);
    const scaler = new GradScaler({ device });
    expect([...scaler.namedState().values()].every((v) => v.device === device)).toBe(true);
  });

  it("a border takes both its scalers along", () => {
    const device = useDevice(HERE);
    const w = weight();
    useDevice(ELSEWHERE);
    const [lower, upper] = [new GradScaler(), new GradScaler()];
    lower.rescale(w.read(), upper);
    const states = [lower, upper].flatMap((scaler) => [...scaler.namedState().values()]);
    expect(states.every((v) => v.device === device)).toBe(true);
  });

  it("parameters elsewhere than its scale are refused by name, with what to do, and nothing is changed", async () => {
    const scaler = new GradScaler();
    scaler.namedState();
    useDevice(HERE);
    const w = weight("encoder.weight");
    const message = new RegExp(
      `scaler is on the device ${ELSEWHERE}, and parameter encoder.weight on ${HERE}; construct the scaler with { device: parameter.device }`,
    );
    const refused = expect.objectContaining({ code: "device.failed", message: expect.stringMatching(message) });
    expect(() => step(scaler, new optim.SGD([w]), w)).toThrow(refused);
    await expect(compile((): Tensor => step(scaler, new optim.SGD([w]), w).applied)()).rejects.toEqual(refused);
    expect([...(await w.read().data())]).toEqual([1, 1]);
  });

  it("a scale that does not move is nowhere", async () => {
    const scalers = [new GradScaler({ staticScale: 4 }), new GradScaler({ enabled: false })];
    useDevice(HERE);
    for (const scaler of scalers) {
      const w = weight();
      expect((await readOutcome(step(scaler, new optim.SGD([w]), w))).applied).toBe(scaler.enabled === false);
    }
  });

  it.each([
    ["an optimizer", (parameters: readonly Variable[]) => new optim.SGD(parameters)],
    ["sums", (parameters: readonly Variable[]) => new optim.GradientAccumulator(parameters)],
    ["an average", (parameters: readonly Variable[]) => new optim.WeightAverage(parameters)],
  ])("%s of parameters on two devices is refused", (_, make) => {
    const a = weight("a");
    useDevice(HERE);
    expect(() => make([a, weight("b")])).toThrow(
      expect.objectContaining({
        code: "device.failed",
        message: expect.stringMatching(
          `parameter a is on the device ${ELSEWHERE}, b on ${HERE}; construct one for each`,
        ),
      }),
    );
  });
});
