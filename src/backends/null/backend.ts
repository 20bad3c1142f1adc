/** The backend that runs nothing and records everything: compiler tests need no device. */
import type { Program } from "../../compile/program.ts";
import { DTYPES } from "../../formats/table.ts";
import type { OpRow } from "../../ops/define.ts";
import { OPS } from "../../ops/index.ts";
import { type Executable, HostBackend } from "../backend.ts";

/** A backend whose programs are kept in `programs` and whose results are zeros. Claims every native core and fuses. */
export class NullBackend extends HostBackend {
  override readonly kind = "null";
  override readonly description = "null: runs nothing";
  override readonly threads = 1;
  override readonly capabilities = { dtypes: new Set(DTYPES), cores: ALL_CORES, fuse: true };
  /** Every program that was prepared, in order. */
  readonly programs: Program[] = [];
  /** Number of runs so far. */
  runs = 0;

  /** Programs that never run may be of any size. */
  override availableMemory(): number {
    return Number.POSITIVE_INFINITY;
  }

  override prepare(program: Program): Executable {
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

/** Every core that a row could be run by. */
const ALL_CORES: ReadonlySet<string> = new Set(
  Object.values<OpRow>(OPS).flatMap((row) =>
    row.kind === "composite" && row.native !== undefined ? [`${row.native.family}:${row.native.core}`] : [],
  ),
);
