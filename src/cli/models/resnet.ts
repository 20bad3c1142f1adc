/** `--model resnet`: a residual network on labelled pictures. */
import { generatedShapes } from "../../data/index.ts";
import { BinadeError } from "../../errors.ts";
import { fp8 } from "../../nn/fp8.ts";
import { ResNet } from "../../nn/resnet.ts";
import { CLASSIFIER_OPTIMIZERS, classificationTask } from "../../train/classification.ts";
import { digestOf, type LoadedPictures, readPictures } from "../../train/pictures.ts";
import { RESNET_PRESETS } from "../../train/presets.ts";
import { integer, oneOf } from "../options.ts";
import {
  COMMON_DEFAULTS,
  COMMON_ROWS,
  type CommonSettings,
  type ModelKind,
  type PreparedRun,
  type RunRequest,
  row,
} from "./kind.ts";

/** How training pictures are varied, and how each of it is done. */
const AUGMENTATIONS = {
  none: { isCropped: false, isFlipped: false },
  crop: { isCropped: true, isFlipped: false },
  "crop+flip": { isCropped: true, isFlipped: true },
} as const;
type Augmentation = "auto" | keyof typeof AUGMENTATIONS;
const AUGMENTATION_NAMES: readonly Augmentation[] = ["auto", "none", "crop", "crop+flip"];

export interface ResNetSettings extends CommonSettings {
  readonly depth: number;
  readonly augment: Augmentation;
  /** Extent to which pictures of folders are scaled; 0 leaves them as they are. */
  readonly size: number;
}

const presetOf = (name: keyof typeof RESNET_PRESETS): ResNetSettings => ({
  ...COMMON_DEFAULTS,
  optimizer: "sgd",
  augment: "auto",
  size: 0,
  ...RESNET_PRESETS[name],
});

export const resnet: ModelKind<ResNetSettings> = {
  name: "resnet",
  title: "a residual network on labelled pictures",
  dataNoun: "pictures",
  rows: {
    ...COMMON_ROWS,
    depth: row("--depth", "n", integer(8, 1202), "layers of the residual network, 6 n + 2"),
    augment: row(
      "--augment",
      "how",
      oneOf(AUGMENTATION_NAMES),
      "how training pictures are shifted and mirrored; auto does both, IDX files excepted, which hold digits",
    ),
    size: row(
      "--size",
      "n",
      integer(0, 4096),
      "pixels each way to which PNG and JPEG are scaled and cut; 0 keeps them",
    ),
  },
  presets: { s: presetOf("s"), m: presetOf("m") },
  ownFlags: [],
  batchFlags: ["--batch"],
  modelFlags: ["--depth"],
  describe: (p) => `depth ${p.depth}`,
  check: ({ depth, optimizer }) => {
    if (!CLASSIFIER_OPTIMIZERS.includes(optimizer)) {
      const names = CLASSIFIER_OPTIMIZERS.join(", ");
      throw new BinadeError(
        "option.invalid",
        `--optimizer: expected one of ${names} for resnet, got ${optimizer}, which is for the matrices of linear layers; choose another`,
      );
    }
    if (depth % 6 === 2) return;
    const near = 6 * Math.round((depth - 2) / 6) + 2;
    const message = `--depth: expected 6 n + 2 layers for n blocks in each of three stages, got ${depth}; ${near} is near`;
    throw new BinadeError("value.range", message);
  },
  prepare,
};

/** The set that stands in where no data is named. */
function generated(): LoadedPictures {
  const set = generatedShapes();
  const byteLength = set.training.pixels.length + set.heldOut.pixels.length;
  return { ...set, byteLength, sha256: digestOf(set), skipped: [], mayFlip: true };
}

async function prepare({ settings, paths }: RunRequest<ResNetSettings>): Promise<PreparedRun> {
  const { batch, seed, depth, augment, size, fp8: scaling } = settings;
  const data = paths === null ? generated() : await readPictures(paths, { size: size === 0 ? null : size });
  const { classes, channels, height, width } = data.training;
  const { isCropped, isFlipped } = AUGMENTATIONS[augment === "auto" ? (data.mayFlip ? "crop+flip" : "crop") : augment];
  const model = new ResNet({ depth, classes: classes.length, channels, seed });
  if (scaling !== "off") fp8(model, { scaling }, { except: ["stem", "head"] });
  return {
    task: classificationTask({
      model,
      data,
      batch,
      seed,
      // An eighth of the picture, as is usual: 4 pixels of 32.
      crop: isCropped ? Math.floor(Math.min(height, width) / 8) : 0,
      flip: isFlipped,
      settings: { kind: "resnet", depth, augment, size, fp8: scaling },
    }),
    skipped: data.skipped,
    finale: null,
  };
}
