// Mutants of what feeds and times training: batches, random numbers, the loop, benchmarks. The columns: ../mutants.mjs.
export const mutants = [
  {
    name: "share of the peak upside down",
    file: "src/bench/measure.ts",
    find: "share: floorMs / medianMs,",
    replace: "share: medianMs / floorMs,",
    test: "test/cli/bench.test.ts",
    expected: "no share of a peak is beyond what noise explains",
  },
  {
    name: "crops that start anew with every batch",
    file: "src/data/picture-batches.ts",
    find: "philox([sample >>> 0, Math.floor(sample / 2 ** 32), 0, STREAM]",
    replace: "philox([row, 0, 0, STREAM]",
    test: "test/data/picture-batches.test.ts",
    expected: "cuts out of 2 pixels of padding",
  },
  {
    name: "a batch prepared for the wrong step",
    file: "src/train/trainer.ts",
    find: "this.#prepare(this.#step + 1)",
    replace: "this.#prepare(this.#step + 2)",
    test: "test/train/classification.test.ts",
    expected: "prepares the next batch while a step runs",
  },
  {
    name: "pictures of other sizes taken in silence",
    file: "src/train/picture-folders.ts",
    find: "if (channels === expected.channels && height === expected.height && width === expected.width) return;",
    replace: "return;",
    test: "test/train/pictures.test.ts",
    expected: "refuses another size",
  },
  {
    name: "dropout mask reused",
    file: "src/tensor/random.ts",
    find: 'this.state.assign(this.state.read().add(arange(4).equal(COUNTER_WORD).cast("uint32")));',
    replace: "void arange;\n    void COUNTER_WORD;",
    test: "test/nn/layers.test.ts",
    expected: "differs between uses, between steps and between seeds",
  },
];
