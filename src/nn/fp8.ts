/** 8-bit recipes for linear and convolution layers by path: a study of accuracy. Amaxes and scales of delayed scaling are buffers of the layer. */
import { BinadeError, showValue } from "../errors.ts";
import {
  type DelayedScaling,
  type Fp8Recipe,
  type Fp8RecipeOptions,
  type Fp8Role,
  fp8Recipe,
} from "../precision/fp8-recipe.ts";
import { requireKnownKeys } from "../precision/options.ts";
import { modulePattern } from "../precision/rules.ts";
import type { Device } from "../tensor/device.ts";
import { assignFollowing } from "../tensor/following.ts";
import { nextDelayedTensors } from "../tensor/fp8.ts";
import { type BilinearMap, Fp8Product } from "../tensor/fp8-product.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { Variable } from "../tensor/variable.ts";
import { Convolution } from "./convolution.ts";
import { Linear } from "./layers.ts";
import { Module, pathsOf } from "./module.ts";

/**
 * What delayed scaling remembers of one operand: `scale`, a scalar, and `amaxHistory`, whose slot 0 is the coming step's. Both
 * are float32 buffers, saved with the parameters.
 */
export class AmaxHistory extends Module {
  readonly scale: Variable;
  readonly amaxHistory: Variable;

  constructor({ historyLength }: DelayedScaling, device: Device) {
    super();
    this.scale = this.buffer(new Variable("scale", [], "float32", Float32Array.of(1), device));
    this.amaxHistory = this.buffer(new Variable("amaxHistory", [historyLength], "float32", undefined, device));
  }
}

type Histories = { readonly [R in Fp8Role]: AmaxHistory };

/** The recipe of one linear or convolution layer, and its state; made by `fp8`. */
export class Fp8 extends Module {
  readonly recipe: Fp8Recipe;
  /** Delayed scaling only. */
  readonly input: AmaxHistory | null;
  readonly weight: AmaxHistory | null;
  readonly gradient: AmaxHistory | null;
  readonly #training: Fp8Product;
  readonly #evaluating: Fp8Product;

  constructor(recipe: Fp8Recipe, map: BilinearMap, device: Device) {
    super();
    const { scaling } = recipe;
    const history = (): AmaxHistory | null => (scaling.kind === "delayed" ? new AmaxHistory(scaling, device) : null);
    this.recipe = recipe;
    this.input = history();
    this.weight = history();
    this.gradient = history();
    this.#evaluating = new Fp8Product(recipe, map, null);
    this.#training =
      scaling.kind === "delayed"
        ? new Fp8Product(recipe, map, (role, amax) => this.#remember(role, amax, scaling))
        : this.#evaluating;
  }

  /** What the layer computes, in 8 bits; evaluation leaves amaxes and scales as they are. */
  apply(x: Tensor, weight: Tensor, bias?: Tensor): Tensor {
    const histories = this.#histories();
    const scales = histories && {
      input: histories.input.scale.read(),
      weight: histories.weight.scale.read(),
      gradient: histories.gradient.scale.read(),
    };
    return (this.training ? this.#training : this.#evaluating).apply(x, weight, bias, scales);
  }

  #histories(): Histories | null {
    const { input, weight, gradient } = this;
    return input === null || weight === null || gradient === null ? null : { input, weight, gradient };
  }

  /**
   * The amax of the present step, for the scales of the next. It follows the step, unlike Transformer Engine's: a step that is
   * skipped had a gradient that is not finite, and its infinite amax would stop the scale for the length of the history.
   */
  #remember(role: Fp8Role, amax: Tensor, scaling: DelayedScaling): void {
    const state = this.#histories()?.[role];
    if (state === undefined) return;
    const before = { scale: state.scale.read(), history: state.amaxHistory.read() };
    const { scale, history } = nextDelayedTensors(before, amax, this.recipe.formats[role], scaling);
    assignFollowing(state.scale, scale);
    assignFollowing(state.amaxHistory, history);
  }
}

export interface Fp8Options {
  /** Paths of modules, with everything inside; `*` is one part of a path, `**` any number. Default "**", all. */
  readonly modules?: string | readonly string[];
  /** Paths that keep their precision, by whichever of several they are reached; of a GPT the head, and what else is sensitive. Default none. */
  readonly except?: string | readonly string[];
}

/**
 * Has linear and convolution layers multiply what 8-bit formats hold of their operands: a study of what training in 8 bits would do
 * to accuracy, and not faster than float32. Scales and casts have the same bits on every device; sums and weight gradients are
 * float32. Attention's own products, recurrent cells and embeddings stay as they are; autocast goes on for them, and gives the
 * dtype of the layers' results. State of delayed scaling starts anew, in buffers named "….fp8.input.scale" and so on.
 *
 * @param recipe as `fp8Recipe` takes it; null: back to products without 8 bits.
 * @returns the model.
 * @throws BinadeError as `fp8Recipe`; `option.invalid` for something else than a module, or a path at which there is no such
 * layer, before any is changed.
 * @example
 * const model = new nn.GPT({ vocabulary: 256, context: 64, layers: 2, heads: 2, width: 64 });
 * nn.fp8(model, { scaling: "delayed" }, { except: ["head", "blocks.0"] });
 */
export function fp8<M extends Module>(model: M, recipe: Fp8RecipeOptions | null, options: Fp8Options = {}): M {
  requireModule("fp8", model);
  requireKnownKeys("fp8", options, ["modules", "except"]);
  if (recipe === undefined)
    throw new BinadeError(
      "option.invalid",
      "fp8: expected a recipe or null, got undefined; {} is the default recipe, null takes one away",
    );
  const ready = recipe === null ? null : fp8Recipe(recipe);
  const { modules = "**", except = [] } = options;
  const layers = [...pathsOf(model)].flatMap(([layer, paths]) => (isProduct(layer) ? [{ layer, paths }] : []));
  const isChosen = matcherOf("modules", modules, layers);
  const isExcepted = matcherOf("except", except, layers);
  for (const { layer, paths } of layers) {
    if (isChosen(paths) && !isExcepted(paths)) layer.fp8 = ready === null ? null : made(ready, layer);
  }
  model.namedBuffers();
  return model;
}

function requireModule(subject: string, model: unknown): void {
  if (model instanceof Module) return;
  throw new BinadeError("option.invalid", `${subject}: expected a module, got ${showValue(model)}; pass a model`);
}

/** Layers that multiply an input by a weight. */
const isProduct = (module: Module): module is Linear | Convolution =>
  module instanceof Linear || module instanceof Convolution;

function made(recipe: Fp8Recipe, layer: Linear | Convolution): Fp8 {
  const fp8 = new Fp8(recipe, layer.bilinearMap(), layer.weight.device);
  return layer.training ? fp8.train() : fp8.evaluate();
}

/** A path that matches no layer is a mistake that would go unnoticed: the layer would keep its precision without a word. */
function matcherOf(
  key: string,
  given: string | readonly string[],
  layers: readonly { readonly paths: readonly string[] }[],
): (paths: readonly string[]) => boolean {
  const texts = typeof given === "string" ? [given] : given;
  if (!Array.isArray(texts) || !texts.every((text) => typeof text === "string")) {
    throw new BinadeError("option.invalid", `fp8: ${key}: expected a path or a list of paths, got ${showValue(given)}`);
  }
  const patterns = texts.map((text: string) => ({ text, pattern: modulePattern(text) }));
  const known = layers.flatMap(({ paths }) => paths);
  const unmet = patterns.find(({ pattern }) => !known.some((path) => pattern.test(path)));
  if (unmet !== undefined) {
    throw new BinadeError(
      "option.invalid",
      `fp8: ${key}: no linear or convolution layer is at ${JSON.stringify(unmet.text)}; ${layersText(known)}`,
    );
  }
  return (paths) => patterns.some(({ pattern }) => paths.some((path) => pattern.test(path)));
}

const layersText = (paths: readonly string[]): string =>
  paths.length === 0 ? "the model has none" : `expected one of ${paths.map((path) => JSON.stringify(path)).join(", ")}`;
