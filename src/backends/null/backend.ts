/** The backend that runs nothing and records everything: compiler tests need no device. */
import type { Program } from "../../compile/program.ts";
import { DTYPES } from "../../formats/table.ts";
import { type Backend, type DeviceBuffer, type Executable, HostBuffer, hostBytes } from "../backend.ts";

/** A backend whose programs are kept in `programs` and whose results are zeros. Claims every native core and fuses. */
export class NullBackend implements Backend {
  readonly kind = "null";
  readonly description = "null: runs nothing";
  readonly threads = 1;
  readonly capabilities = { dtypes: new Set(DTYPES), cores: ALL_CORES, fuse: true };
  /** Every program that was prepared, in order. */
  readonly programs: Program[] = [];
  /** Number of runs so far. */
  runs = 0;

  allocate(byteLength: number): DeviceBuffer {
    return new HostBuffer(byteLength);
  }

  write(buffer: DeviceBuffer, bytes: Uint8Array): void {
    hostBytes(buffer).set(bytes);
  }

  read(buffer: DeviceBuffer): Promise<Uint8Array> {
    return Promise.resolve(hostBytes(buffer).slice());
  }

  prepare(program: Program): Executable {
    this.programs.push(program);
    return {
      run: () => {
        this.runs++;
        return Promise.resolve(null);
      },
      release: () => undefined,
    };
  }
}

const ALL_CORES: ReadonlySet<string> = new Set([
  "row:softmax", "row:softmaxBackward", "row:logSoftmax", "row:logSoftmaxBackward", "row:logSumExp", "row:normalize",
  "row:normalizeBackward", "row:crossEntropy", "row:crossEntropyBackward", "attention:attention", "attentionBackward:attentionBackward",
]);
