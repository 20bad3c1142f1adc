/** Recurrent layers: cells that take one step of a sequence. */
import { requireInteger, requireKnownKeys } from "../precision/options.ts";
import { zeros } from "../tensor/create.ts";
import { type CellParameters, gruCell, type LstmState, lstmCell } from "../tensor/recurrent.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { Variable } from "../tensor/variable.ts";
import { type Seed, seedsOf, uniform } from "./initializers.ts";
import { Module } from "./module.ts";

export interface CellOptions {
  /** Whether both biases are added. Default true. */
  readonly bias?: boolean;
  /** Default: the process's sequence, see `manualSeed`. */
  readonly seed?: Seed;
}

/** What both cells hold: weights (gates · hidden, in) and (gates · hidden, hidden), uniform in ±1/√hidden as PyTorch. */
abstract class Cell extends Module {
  readonly inputWeight: Variable;
  readonly hiddenWeight: Variable;
  readonly inputBias: Variable | null;
  readonly hiddenBias: Variable | null;

  constructor(subject: string, gates: number, inputWidth: number, hiddenWidth: number, options: CellOptions) {
    super();
    requireKnownKeys(subject, options, ["bias", "seed"]);
    requireInteger(`${subject}: input width`, inputWidth, 1);
    requireInteger(`${subject}: hidden width`, hiddenWidth, 1);
    const bound = 1 / Math.sqrt(hiddenWidth);
    const initial = uniform({ low: -bound, high: bound });
    const seeds = seedsOf(options.seed);
    const parameter = (name: string, shape: readonly number[]): Variable => {
      const random = seeds.next();
      return new Variable(name, shape, "float32", () => initial(shape, random));
    };
    const rows = gates * hiddenWidth;
    this.inputWeight = parameter("inputWeight", [rows, inputWidth]);
    this.hiddenWeight = parameter("hiddenWeight", [rows, hiddenWidth]);
    const biased = options.bias ?? true;
    this.inputBias = biased ? parameter("inputBias", [rows]) : null;
    this.hiddenBias = biased ? parameter("hiddenBias", [rows]) : null;
  }

  protected get cellParameters(): CellParameters {
    return {
      inputWeight: this.inputWeight.read(),
      hiddenWeight: this.hiddenWeight.read(),
      inputBias: this.inputBias?.read(),
      hiddenBias: this.hiddenBias?.read(),
    };
  }

  /** Zeros for every example of x, in its dtype. */
  protected initialState(x: Tensor): Tensor {
    return zeros([x.shape[0] ?? 1, this.hiddenWeight.shape[1] ?? 1], x.dtype);
  }
}

/**
 * One step of an LSTM, see `lstmCell`: x (batch, in) → both states (batch, hidden), which start as zeros.
 *
 * @throws BinadeError `value.range` or `option.unknown` for bad options; `shape.mismatch` for other shapes.
 * @example
 * const cell = new nn.LSTMCell(8, 16);
 * const state = sequence.reduce((last: LstmState | undefined, x) => cell.forward(x, last), undefined);
 */
export class LSTMCell extends Cell {
  constructor(inputWidth: number, hiddenWidth: number, options: CellOptions = {}) {
    super("LSTMCell", 4, inputWidth, hiddenWidth, options);
  }

  forward(x: Tensor, state?: LstmState): LstmState {
    const zero = this.initialState(x);
    return lstmCell(x, state ?? { hidden: zero, cell: zero }, this.cellParameters);
  }
}

/**
 * One step of a GRU, see `gruCell`: x (batch, in) → hidden state (batch, hidden), which starts as zeros.
 *
 * @throws BinadeError `value.range` or `option.unknown` for bad options; `shape.mismatch` for other shapes.
 * @example
 * const cell = new nn.GRUCell(8, 16);
 * const hidden = sequence.reduce((last: Tensor | undefined, x) => cell.forward(x, last), undefined);
 */
export class GRUCell extends Cell {
  constructor(inputWidth: number, hiddenWidth: number, options: CellOptions = {}) {
    super("GRUCell", 3, inputWidth, hiddenWidth, options);
  }

  forward(x: Tensor, hidden?: Tensor): Tensor {
    return gruCell(x, hidden ?? this.initialState(x), this.cellParameters);
  }
}
