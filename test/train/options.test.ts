/** Misspelt options of data sources, tasks, training and generation are refused: they would be ignored silently. */
import { expect, it } from "vitest";
import {
  ByteBatches,
  EvaluationBatches,
  OrderedPictures,
  PictureBatches,
  split,
  TensorBatches,
} from "../../src/data/index.ts";
import { nn, useDevice } from "../../src/index.ts";
import {
  classificationTask,
  findDefaultCorpus,
  generate,
  languageTask,
  readBytes,
  readPictures,
  train,
} from "../../src/train/index.ts";
import { smallPictures } from "../support/pictures.ts";
import { refusal, tinyData, tinyModel, tinyRun } from "./tiny.ts";

const BYTES = new Uint8Array(100);
const SIZE = { batch: 2, context: 4 };
const pictures = smallPictures();
const set = { name: "small", byteLength: 1, sha256: "00", training: pictures, heldOut: pictures };
const ROWS = { inputs: new Float32Array(6), labels: new Int32Array(3), batch: 1 };
/** An option that nothing has, where types let none through. */
const MISSPELT = { sede: 1 } as object;

it.each<readonly [string, () => unknown]>([
  ["ByteBatches", () => new ByteBatches(BYTES, { ...SIZE, ...MISSPELT })],
  ["EvaluationBatches", () => new EvaluationBatches(BYTES, { ...SIZE, ...MISSPELT })],
  ["TensorBatches", () => new TensorBatches({ ...ROWS, ...MISSPELT })],
  ["PictureBatches", () => new PictureBatches({ pictures, batch: 2, ...MISSPELT })],
  ["OrderedPictures", () => new OrderedPictures(pictures, { batch: 2, ...MISSPELT })],
  ["batches", () => new ByteBatches(BYTES, SIZE).batches(MISSPELT)],
  ["split", () => split(BYTES, { context: 4, ...MISSPELT })],
  ["readBytes", () => readBytes(["README.md"], MISSPELT)],
  ["findDefaultCorpus", () => findDefaultCorpus(MISSPELT)],
  ["readPictures", () => readPictures(["pictures"], MISSPELT)],
  ["languageTask", () => languageTask({ model: tinyModel(), data: tinyData(), ...MISSPELT })],
  [
    "classificationTask",
    () => classificationTask({ model: new nn.ResNet({ depth: 8 }), data: set, batch: 2, ...MISSPELT }),
  ],
  ["train", () => train({ ...tinyRun(), ...MISSPELT }).next()],
  ["generate", () => generate(tinyModel(), BYTES, MISSPELT)],
  ["useDevice", () => useDevice("reference", MISSPELT)],
])("%s", async (subject, body) => {
  const error = await refusal((async () => body())());
  expect([error.code, error.message]).toEqual([
    "option.unknown",
    expect.stringContaining(`${subject}: unknown option "sede"; expected one of `),
  ]);
});
