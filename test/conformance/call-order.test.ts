/** Conformance: calls of a scaler and an optimizer in random order, held against a model of what is allowed and what comes of it. */
import fc from "fast-check";
import { beforeAll, describe, expect, it } from "vitest";
import {
  BinadeError,
  GradScaler,
  type Grads,
  gradients,
  optim,
  readOutcome,
  tensor,
  useDevice,
  Variable,
} from "../../src/index.ts";

const INITIAL = { scale: 8, weight: 4, velocity: 0 };
const INTERVAL = 2;
const RATE = 0.5;
const MOMENTUM = 0.5;

/** Gradients that a test holds: of which session, of which kind, with which true value. */
interface Held {
  readonly grads: Grads<"scaled"> | Grads<"true">;
  readonly kind: "scaled" | "true" | "plain";
  readonly session: number;
  readonly value: number;
}

const finite = (held: Held): boolean => Number.isFinite(held.value);

/** What the calls so far have led to, by rules that this file states itself. */
class Model {
  scale = INITIAL.scale;
  tracker = 0;
  weight = INITIAL.weight;
  velocity = INITIAL.velocity;
  session = 0;
  isChecked = false;
  isStepped = false;
  /** Whether something in this session was not finite. */
  hasOverflow = false;

  unscale(held: Held): boolean {
    if (held.kind !== "scaled" || held.session !== this.session || this.isChecked || this.isStepped) return false;
    this.isChecked = true;
    this.hasOverflow ||= !finite(held);
    return true;
  }

  step(held: Held): boolean {
    if (this.isStepped || held.kind === "plain") return false;
    if (held.kind === "scaled" && !this.unscale(held)) return false;
    this.isStepped = true;
    this.isChecked = true;
    this.hasOverflow ||= !finite(held);
    if (finite(held)) this.move(held.value);
    return true;
  }

  move(gradient: number): void {
    this.velocity = MOMENTUM * this.velocity + gradient;
    this.weight -= RATE * this.velocity;
  }

  update(): boolean {
    // What was unscaled and never stepped is a step that was given up.
    if (!this.isStepped && !this.isChecked) return false;
    if (this.hasOverflow) [this.scale, this.tracker] = [Math.max(this.scale / 2, 2 ** -14), 0];
    else if (this.tracker + 1 >= INTERVAL) [this.scale, this.tracker] = [Math.min(this.scale * 2, 2 ** 24), 0];
    else this.tracker++;
    this.session++;
    [this.isChecked, this.isStepped, this.hasOverflow] = [false, false, false];
    return true;
  }
}

class Real {
  readonly weight = new Variable("w", [1], "float32", new Float32Array([INITIAL.weight]));
  readonly optimizer = new optim.SGD([this.weight], { lr: RATE, momentum: MOMENTUM });
  readonly scaler = new GradScaler({ initialScale: INITIAL.scale, growthInterval: INTERVAL });
}

type Call = (model: Model, real: Real, held: Held[]) => Promise<void>;

/** A call that the model allows, or that must be refused with `scaler.order`. */
async function expectAllowed(isAllowed: boolean, act: () => unknown): Promise<void> {
  if (isAllowed) {
    await act();
    return;
  }
  const refused = await Promise.resolve()
    .then(act)
    .then(
      () => "accepted",
      (error: unknown) => (error instanceof BinadeError ? error.code : String(error)),
    );
  expect(refused).toBe("scaler.order");
}

/** Powers of two and their sums: nothing rounds, so that model and library must agree exactly. */
const SLOPES = [1, -0.5, 2, Number.POSITIVE_INFINITY];

const make =
  (slope: number, isScaled: boolean): Call =>
  async (model, { weight, scaler }, held) => {
    const loss = weight
      .read()
      .mul(tensor([slope]))
      .sum();
    const grads = isScaled ? gradients(scaler.scale(loss), [weight]) : gradients(loss, [weight]);
    held.push({ grads, kind: isScaled ? "scaled" : "plain", session: model.session, value: slope });
  };

const onHeld =
  (at: number, act: (model: Model, real: Real, chosen: Held, held: Held[]) => Promise<void>): Call =>
  async (model, real, held) => {
    const chosen = held[at % Math.max(held.length, 1)];
    if (chosen !== undefined) await act(model, real, chosen, held);
  };

const unscale = (at: number): Call =>
  onHeld(at, async (model, { scaler }, chosen, held) => {
    await expectAllowed(model.unscale(chosen), async () => {
      const grads = scaler.unscale(chosen.grads as Grads<"scaled">);
      for (const gradient of grads.values()) await gradient.data();
      held.push({ ...chosen, grads, kind: "true" });
    });
  });

const step = (at: number): Call =>
  onHeld(at, async (model, { scaler, optimizer }, chosen) => {
    const before = { weight: model.weight };
    await expectAllowed(model.step(chosen), async () => {
      const outcome = await readOutcome(scaler.step(optimizer, chosen.grads));
      expect(outcome.applied, `slope ${chosen.value}, weight before ${before.weight}`).toBe(finite(chosen));
    });
  });

const update: Call = async (model, { scaler }) => {
  await expectAllowed(model.update(), () => scaler.update());
};

const apply = (at: number): Call =>
  onHeld(at, async (model, { optimizer }, chosen) => {
    const isAllowed = chosen.kind !== "scaled" && finite(chosen);
    if (!isAllowed && chosen.kind !== "scaled") return; // What is not finite is applied as it is: the user asked for it.
    if (isAllowed) model.move(chosen.value);
    await expectAllowed(isAllowed, () => optimizer.apply(chosen.grads as Grads<"true">));
  });

const saveAndLoad: Call = async (model, { scaler }) => {
  const isAllowed = !model.isChecked && !model.isStepped;
  // What was scaled before belongs to the scale before.
  if (isAllowed) model.session++;
  await expectAllowed(isAllowed, async () => scaler.load(await scaler.state()));
};

const CALLS: fc.Arbitrary<{ readonly name: string; readonly call: Call }> = fc.oneof(
  fc.tuple(fc.constantFrom(...SLOPES), fc.boolean()).map(([slope, isScaled]) => ({
    name: `make ${slope} ${isScaled ? "scaled" : "plain"}`,
    call: make(slope, isScaled),
  })),
  fc.nat(7).map((at) => ({ name: `unscale ${at}`, call: unscale(at) })),
  fc.nat(7).map((at) => ({ name: `step ${at}`, call: step(at) })),
  fc.constant({ name: "update", call: update }),
  fc.nat(7).map((at) => ({ name: `apply ${at}`, call: apply(at) })),
  fc.constant({ name: "save and load", call: saveAndLoad }),
);

describe("a scaler and an optimizer", () => {
  beforeAll(() => {
    useDevice("reference");
  });

  it("case 70: calls in random order do what a model says, or are refused", async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(CALLS, { minLength: 4, maxLength: 14 }), async (calls) => {
        const [model, real, held]: [Model, Real, Held[]] = [new Model(), new Real(), []];
        for (const { call } of calls) await call(model, real, held);
        const shown = calls.map(({ name }) => name).join("; ");
        expect(
          await real.weight
            .read()
            .data()
            .then(([w]) => w),
          shown,
        ).toBe(model.weight);
        expect(await real.scaler.lossScale.item(), shown).toBe(model.scale);
        const velocity = [...real.optimizer.namedState().values()].find(({ shape }) => shape.length === 1);
        expect(
          await velocity
            ?.read()
            .data()
            .then(([v]) => v),
          shown,
        ).toBe(model.velocity);
      }),
      { numRuns: 150, seed: 70 },
    );
  });
});
