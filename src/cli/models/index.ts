/** The models that `binade train` trains; another one is another row. */
import { gpt } from "./gpt.ts";
import type { ModelKind } from "./kind.ts";
import { resnet } from "./resnet.ts";

export const MODELS: readonly ModelKind[] = [gpt, resnet];
export const DEFAULT_MODEL: ModelKind = gpt;
