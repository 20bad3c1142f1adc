/** Module: an object that holds parameters, found by walking its fields. */
import { RandomStream } from "../tensor/random.ts";
import { guarded } from "../tensor/trace.ts";
import { Variable } from "../tensor/variable.ts";

/** Variables that are state and not trained. */
const bufferVariables = new WeakSet<Variable>();

interface Found {
  readonly path: string;
  readonly variable: Variable;
  readonly isBuffer: boolean;
}

/**
 * Base of layers and models. Every `Variable` in a field, in an array in a field, or in a submodule there is a parameter,
 * unless it went through `buffer`; its name is the path of fields, such as "blocks.0.attention.qkv.weight". Private
 * `#fields` are not seen. A variable that is reached twice counts once, under the first path in order of fields.
 *
 * @example
 * class Classifier extends nn.Module {
 *   readonly hidden = new nn.Linear(784, 256);
 *   readonly head = new nn.Linear(256, 10);
 *   forward(x: Tensor): Tensor {
 *     return this.head.forward(this.hidden.forward(x).relu());
 *   }
 * }
 */
export abstract class Module {
  #training = true;

  /** Whether the module trains (default) or is evaluated; a compiled function is recorded anew when this has changed. */
  get training(): boolean {
    return guarded(() => this.#training);
  }

  /** Training mode, for this module and those inside: dropout drops. */
  train(): this {
    return this.#setTraining(true);
  }

  /** Evaluation mode, for this module and those inside: dropout is the identity. */
  evaluate(): this {
    return this.#setTraining(false);
  }

  #setTraining(training: boolean): this {
    for (const module of modulesOf(this)) module.#training = training;
    return this;
  }

  /** Marks a variable as state that is saved but not trained; returns it, for use in a field's initialiser. */
  protected buffer(variable: Variable): Variable {
    bufferVariables.add(variable);
    return variable;
  }

  /**
   * Parameters by dotted path, in order of fields. Names the variables: messages, optimizer state and checkpoints use the
   * path from the outermost module that was asked.
   */
  namedParameters(): ReadonlyMap<string, Variable> {
    return new Map(this.#named().flatMap(({ path, variable, isBuffer }) => (isBuffer ? [] : [[path, variable]])));
  }

  /** Buffers by dotted path, random streams included; names them like parameters. */
  namedBuffers(): ReadonlyMap<string, Variable> {
    return new Map(this.#named().flatMap(({ path, variable, isBuffer }) => (isBuffer ? [[path, variable]] : [])));
  }

  parameters(): readonly Variable[] {
    return [...this.namedParameters().values()];
  }

  buffers(): readonly Variable[] {
    return [...this.namedBuffers().values()];
  }

  /** Number of trained elements. */
  get parameterCount(): number {
    return this.parameters().reduce((count, { shape }) => count + shape.reduce((a, b) => a * b, 1), 0);
  }

  #named(): readonly Found[] {
    const found = new Map<Variable, Found>();
    for (const item of variablesIn(this, "", new Set())) if (!found.has(item.variable)) found.set(item.variable, item);
    for (const { path, variable, isBuffer } of found.values()) {
      if (depth(path) >= depth(variable.name)) variable.name = path;
      if (!isBuffer) variable.role = "parameter";
    }
    return [...found.values()];
  }
}

/** A part that is asked for its own parameters must not shorten the names that the whole gave. */
const depth = (path: string): number => path.split(".").length;

function* variablesIn(owner: object, prefix: string, visited: Set<object>): Generator<Found> {
  if (visited.has(owner)) return;
  visited.add(owner);
  for (const [key, value] of Object.entries(owner)) {
    const path = `${prefix}${key}`;
    if (value instanceof Variable) yield { path, variable: value, isBuffer: bufferVariables.has(value) };
    else if (value instanceof RandomStream) yield { path, variable: value.state, isBuffer: true };
    else if (value instanceof Module || Array.isArray(value)) yield* variablesIn(value, `${path}.`, visited);
  }
}

function modulesOf(owner: object, visited = new Set<object>()): readonly Module[] {
  if (visited.has(owner)) return [];
  visited.add(owner);
  const inside = Object.values(owner).flatMap((value: unknown) =>
    value instanceof Module || Array.isArray(value) ? modulesOf(value, visited) : [],
  );
  return owner instanceof Module ? [owner, ...inside] : inside;
}
