/** One step of recurrent networks: LSTM and GRU cells. */
import { BinadeError } from "../errors.ts";
import { showShape } from "../ops/shape.ts";
import { castOperands, inFunction } from "../precision/autocast.ts";
import { requireOptions } from "../precision/options.ts";
import type { FunctionName } from "../precision/rules.ts";
import { linear } from "./functions.ts";
import { requireOperands } from "./require.ts";
import { Tensor } from "./tensor.ts";

/** Parameters of a cell with `gates` gates: 4 of an LSTM, 3 of a GRU. */
export interface CellParameters {
  /** (gates · hidden, in) */
  readonly inputWeight: Tensor;
  /** (gates · hidden, hidden) */
  readonly hiddenWeight: Tensor;
  /** (gates · hidden), kept in its own dtype. Default none. */
  readonly inputBias?: Tensor | undefined;
  readonly hiddenBias?: Tensor | undefined;
}

/** State of an LSTM: both (batch, hidden). */
export interface LstmState {
  readonly hidden: Tensor;
  readonly cell: Tensor;
}

/**
 * One step of an LSTM, with i, f, g, o the parts of x Wᵢᵀ + bᵢ + h Wₕᵀ + bₕ in this order:
 *
 *     c′ = σ(f) ∘ c + σ(i) ∘ tanh(g)          h′ = σ(o) ∘ tanh(c′)
 *
 * Under autocast everything but the biases is in the compute dtype, as in PyTorch. Source: Hochreiter, Schmidhuber 1997, with the
 * forget gate of Gers, Schmidhuber, Cummins 2000.
 *
 * @param x (batch, in) @param state (batch, hidden)
 * @throws BinadeError `shape.mismatch` if they do not fit; `dtype.mismatch` if dtypes differ outside of autocast.
 * @example
 * const { hidden, cell } = lstmCell(x, state, parameters);
 */
export function lstmCell(x: Tensor, state: LstmState, parameters: CellParameters): LstmState {
  requireOptions("lstmCell: state", state);
  const { hidden, cell } = state;
  requireCell("lstmCell", { x, hidden, cell }, parameters);
  return inFunction("lstmCell", () => {
    const [input = x, h = hidden, c = cell] = narrow("lstmCell", [x, hidden, cell]);
    requireState("lstmCell", input, h, parameters, 4);
    if (c.shape.join() !== h.shape.join())
      throw mismatch("lstmCell", `cell ${showShape(c.shape)} and hidden ${showShape(h.shape)} differ; make them equal`);
    const gates = linear(input, parameters.inputWeight, parameters.inputBias).add(
      linear(h, parameters.hiddenWeight, parameters.hiddenBias),
    );
    const [i, f, g, o] = [0, 1, 2, 3].map((k) => part(gates, k, 4)) as [Tensor, Tensor, Tensor, Tensor];
    const next = f.sigmoid().mul(c).add(i.sigmoid().mul(g.tanh()));
    return { hidden: o.sigmoid().mul(next.tanh()), cell: next };
  });
}

/**
 * One step of a GRU, with r, z, n the parts of x Wᵢᵀ + bᵢ and of h Wₕᵀ + bₕ in this order:
 *
 *     n = tanh(nᵢ + σ(rᵢ + rₕ) ∘ nₕ)          h′ = (1 − z) ∘ n + z ∘ h,   z = σ(zᵢ + zₕ)
 *
 * Otherwise as `lstmCell`. Source: Cho et al. 2014, arXiv:1406.1078, with the reset after the product, as PyTorch and cuDNN.
 *
 * @param x (batch, in) @param hidden (batch, hidden)
 * @returns the next hidden state.
 * @example
 * hidden = gruCell(x, hidden, parameters);
 */
export function gruCell(x: Tensor, hidden: Tensor, parameters: CellParameters): Tensor {
  requireCell("gruCell", { x, hidden }, parameters);
  return inFunction("gruCell", () => {
    const [input = x, h = hidden] = narrow("gruCell", [x, hidden]);
    requireState("gruCell", input, h, parameters, 3);
    const fromInput = linear(input, parameters.inputWeight, parameters.inputBias);
    const fromHidden = linear(h, parameters.hiddenWeight, parameters.hiddenBias);
    const reset = part(fromInput, 0, 3)
      .add(part(fromHidden, 0, 3))
      .sigmoid();
    const update = part(fromInput, 1, 3)
      .add(part(fromHidden, 1, 3))
      .sigmoid();
    const candidate = part(fromInput, 2, 3)
      .add(reset.mul(part(fromHidden, 2, 3)))
      .tanh();
    // (1 − z) ∘ n + z ∘ h with one product less.
    return candidate.add(update.mul(h.sub(candidate)));
  });
}

function requireCell(
  subject: FunctionName,
  operands: Readonly<Record<string, unknown>>,
  parameters: CellParameters,
): void {
  requireOptions(`${subject}: parameters`, parameters);
  const { inputWeight, hiddenWeight, inputBias, hiddenBias } = parameters;
  requireOperands(subject, { ...operands, inputWeight, hiddenWeight }, { inputBias, hiddenBias });
}

/** What enters a cell, as autocast has it. */
const narrow = (name: FunctionName, tensors: readonly Tensor[]): readonly Tensor[] =>
  castOperands(
    { name, autocast: "narrow" },
    tensors.map(({ node }) => node),
  ).map((node) => new Tensor(node));

/** Gate k of `gates` gates side by side. */
function part(joint: Tensor, k: number, gates: number): Tensor {
  const width = (joint.shape[1] ?? 0) / gates;
  return joint.slice(1, k * width, width);
}

const mismatch = (subject: FunctionName, message: string): BinadeError =>
  new BinadeError("shape.mismatch", `${subject}: ${message}`);

function requireState(
  subject: FunctionName,
  x: Tensor,
  h: Tensor,
  { hiddenWeight }: CellParameters,
  gates: number,
): void {
  const [batch, width] = h.shape;
  if (x.shape.length !== 2 || h.shape.length !== 2 || x.shape[0] !== batch) {
    throw mismatch(
      subject,
      `expected x (batch, in) and hidden (batch, hidden), got ${showShape(x.shape)} and ${showShape(h.shape)}; make the batches equal`,
    );
  }
  if (hiddenWeight.shape.join() === [gates * (width ?? 0), width].join()) return;
  throw mismatch(
    subject,
    `hiddenWeight is ${showShape(hiddenWeight.shape)}, expected [${gates * (width ?? 0)}, ${width}] for ${gates} gates of a hidden state ${showShape(h.shape)}`,
  );
}
