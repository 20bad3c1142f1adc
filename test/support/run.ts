/** Runs a request through the compiler on a backend; the reference backend unless another is given. */
import { type Backend, hostBytes } from "../../src/backends/backend.ts";
import { ReferenceBackend, type ReferenceOptions } from "../../src/backends/reference/backend.ts";
import { compileProgram } from "../../src/compile/pipeline.ts";
import type { Program, Request } from "../../src/compile/program.ts";
import { type DType, decodeArray, encodeArray, isFloat, storageArray } from "../../src/formats/index.ts";
import type { Node } from "../../src/ir/graph.ts";
import type { Values } from "./evaluate.ts";

export interface Outcome {
  readonly program: Program;
  readonly outputs: readonly Float64Array[];
  /** What each assigned variable holds afterwards. */
  readonly variables: ReadonlyMap<Node, Float64Array>;
  readonly fault: Awaited<ReturnType<ReturnType<ReferenceBackend["prepare"]>["run"]>>;
}

const encoded = (values: ArrayLike<number>, dtype: DType): Uint8Array => {
  const stored = encodeArray(values, dtype);
  return new Uint8Array(stored.buffer, stored.byteOffset, stored.byteLength);
};

/** Stored bytes as numbers. */
export function decoded(bytes: Uint8Array, dtype: DType): Float64Array {
  const stored = new (storageArray(dtype))(bytes.slice().buffer);
  if (stored instanceof BigInt64Array) throw new Error("int64 has no numbers");
  return Float64Array.from(isFloat(dtype) ? decodeArray(stored, dtype) : stored);
}

/** Compiles and runs `request` over leaves of these values. */
export async function run(request: Request, leaves: Values, on: ReferenceOptions | Backend = {}): Promise<Outcome> {
  const backend = "prepare" in on ? on : new ReferenceBackend(on);
  const program = compileProgram(request, backend.capabilities);
  const buffers = program.bindings.map(({ role, node, buffer }) => {
    const bytes = encoded(role === "input" ? (leaves.get(node) ?? []) : new Float64Array(buffer.elements), node.dtype);
    const device = backend.allocate(bytes.byteLength);
    backend.write(device, bytes);
    return device;
  });
  const fault = await backend.prepare(program).run(buffers);
  const at = (index: number): Float64Array =>
    decoded(hostBytes(buffers[index]), program.bindings[index]?.node.dtype ?? "float32");
  const variables = new Map(
    [...request.assignments.keys()].map((v) => [
      v,
      at(program.bindings.findIndex((b) => b.role === "input" && b.node === v)),
    ]),
  );
  return { program, outputs: program.outputs.map(at), variables, fault };
}
