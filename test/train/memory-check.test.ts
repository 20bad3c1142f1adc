/** What a run takes is known before its first batch: the larger of step and evaluation, which share the arena. */
import { expect, it, vi } from "vitest";
import { ReferenceBackend } from "../../src/backends/reference/backend.ts";
import { EvaluationBatches } from "../../src/data/index.ts";
import { MemoryError, useDevice } from "../../src/index.ts";
import { CONTEXT, eventsOf, refusal, tinyData, tinyModel, tinyRun } from "./tiny.ts";

const MEBI = 2 ** 20;
const TEXT = new Uint8Array(1000).fill(7);

it("a run whose evaluation the machine has no memory for is refused before it begins, though its steps would fit", async () => {
  useDevice("reference");
  vi.spyOn(ReferenceBackend.prototype, "availableMemory").mockReturnValue(100 * MEBI);
  const model = tinyModel();
  const evaluation = new EvaluationBatches(TEXT, { batch: 2 ** 14, context: CONTEXT, batches: 1 });
  const run = tinyRun({ model, data: { ...tinyData(), evaluation } });
  const error = await refusal(eventsOf(run));
  expect(error).toBeInstanceOf(MemoryError);
  expect(error.message).toMatch(
    /^memory: an evaluation in this run needs \d+\.\d MB more, and the machine has 104\.9 MB/,
  );
  expect(model).toMatchObject({ training: true });
  expect(await eventsOf(tinyRun({ model }))).toContainEqual(expect.objectContaining({ type: "done", step: 6 }));
  vi.restoreAllMocks();
});
