// Checks the checks: each mutant breaks one promise in a copy of the sources, and a named test must fail for it.
// Usage: node scripts/mutants.mjs [part of a mutant's name]
import { spawnSync } from "node:child_process";
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../", import.meta.url));

/** `find` stands exactly once in `file`; `test` is the file, `name` a part of the full name of the test that must fail. */
const MUTANTS = [
  {
    name: "a split that rounds ties to even",
    file: "src/ops/storage.ts",
    find: 'b.cast(b.where(isLowTie(b, above), moved(b, rounded, STEP), rounded), "bfloat16")',
    replace: 'b.cast(rounded, "bfloat16")',
    test: "test/ops/storage.test.ts",
    expected: "case 54: every lower word of a split float32 comes back",
  },
  {
    name: "stochastic rounding that ignores its random numbers",
    file: "src/ops/storage.ts",
    find: 'b.cast(b.where(hasNeighbours, cut, x), "bfloat16")',
    replace: 'b.cast(b.where(hasNeighbours, x, cut), "bfloat16")',
    test: "test/ops/storage.test.ts",
    expected: "case 55: stochastic rounding as formats/stochastic.ts",
  },
  {
    name: "codes rounded down",
    file: "src/ops/storage.ts",
    find: "(d) => firstNumerator(d) - 9)",
    replace: "(d) => firstNumerator(d))",
    test: "test/ops/storage.test.ts",
    expected: "case 57: the code is that of the nearest number",
  },
  {
    name: "gradients summed in their own dtype",
    file: "src/optim/accumulate.ts",
    find: "sum.assign(sum.read().add(factor === null ? wide : wide.mul(factor)));",
    replace: 'sum.assign(sum.read().cast(gradient.dtype).add(gradient).cast("float32"));',
    test: "test/optim/accumulate.test.ts",
    expected: "case 58: keeps what sums of",
  },
  {
    name: "random numbers of rounding that every step repeats",
    file: "src/optim/optimizer.ts",
    find: 'where(at.equal(2), steps.cast("uint32"), word(ROUNDING))',
    replace: "where(at.equal(2), word(0), word(ROUNDING))",
    test: "test/optim/forms.test.ts",
    expected: "stochastic rounding draws others at every step",
  },
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
    name: "recomputed values found in forward",
    file: "src/autodiff/recompute.ts",
    find: "barriers.get(node) ?? build.barrier(node, g)",
    replace: "node",
    test: "test/autodiff/recompute.test.ts",
    expected: "keeps what a part reads and returns, not what it makes",
  },
  {
    name: "newest slot of the amax history not cleared",
    file: "src/precision/fp8.ts",
    find: "history: [0, ...earlier.slice(1), amax]",
    replace: "history: [amax, ...earlier.slice(1), amax]",
    test: "test/conformance/fp8.test.ts",
    expected: "case 61: the history rolls",
  },
  {
    name: "delayed scale from an amax of 0 or infinity",
    file: "src/precision/fp8.ts",
    find: "const isUsable = chosen > 0 && chosen < Infinity;",
    replace: "const isUsable = true;",
    test: "test/conformance/fp8.test.ts",
    expected: "case 61: an amax that is 0",
  },
  {
    name: "power-of-two mode that keeps the mantissa",
    file: "src/precision/fp8.ts",
    find: "return powerOfTwo ? 2 ** binadeOf(scale) : scale;",
    replace: "return scale;",
    test: "test/conformance/fp8.test.ts",
    expected: "case 62: the scale of the power-of-two mode",
  },
  {
    name: "infinite block taken for a NaN one",
    file: "src/precision/fp8.ts",
    find: "if (amax === Infinity) return GREATEST_SCALE;",
    replace: "if (amax === Infinity) return Number.NaN;",
    test: "test/conformance/fp8.test.ts",
    expected: "case 63: codes of block scales",
  },
  {
    name: "8-bit casts that do not saturate",
    file: "src/tensor/fp8.ts",
    find: "const scaled = x.mul(scale).minimum(maxFinite).maximum(-maxFinite);",
    replace: "const scaled = x.mul(scale);",
    test: "test/conformance/fp8.test.ts",
    expected: "case 60: rounding vectors of every format",
  },
  {
    name: "8-bit casts that hide an infinity",
    file: "src/tensor/fp8.ts",
    find: "return where(x.isFinite(), scaled, x).cast(format)",
    replace: "return scaled.cast(format)",
    test: "test/nn/fp8.test.ts",
    expected: "does not hide an infinite gradient",
  },
  {
    name: "gradients in the format of weights",
    file: "src/tensor/fp8-product.ts",
    find: "const format = formats[role];",
    replace: "const format = formats.weight;",
    test: "test/nn/fp8.test.ts",
    expected: "each product sees its operands in the format of their role",
  },
  {
    name: "blocks of the weight along the axis of forward",
    file: "src/tensor/fp8-product.ts",
    find: 'this.#hold("weight", matrix, 0, scales)',
    replace: 'this.#hold("weight", matrix, 1, scales)',
    test: "test/nn/fp8.test.ts",
    expected: "block scaling: each product",
  },
  {
    name: "amax history that a skipped step moves",
    file: "src/nn/fp8.ts",
    find: "assignFollowing(state.amaxHistory, history);",
    replace: "state.amaxHistory.assign(history);",
    test: "test/nn/fp8.test.ts",
    expected: "amaxes and scales keep their bits in a step that is skipped",
  },
  {
    name: "amax history left out of checkpoints",
    file: "src/nn/fp8.ts",
    find: "this.amaxHistory = this.buffer(",
    replace:
      'Object.defineProperty(this, "amaxHistory", { enumerable: false, writable: true });\n    this.amaxHistory = this.buffer(',
    test: "test/conformance/fp8.test.ts",
    expected: "case 65",
  },
  {
    name: "evaluation that remembers amaxes",
    file: "src/nn/fp8.ts",
    find: "return (this.training ? this.#training : this.#evaluating).apply(",
    replace: "return this.#training.apply(",
    test: "test/nn/fp8.test.ts",
    expected: "evaluation, and a layer that does not run",
  },
  {
    name: "results written over operands that a product reads",
    file: "src/compile/inplace.ts",
    find: "visit(node, false);",
    replace: "visit(node, true);",
    test: "test/compile/inplace.test.ts",
    expected: "not over an operand that a product reads",
  },
  {
    name: "memory not asked for before it is allocated",
    file: "src/tensor/runtime.ts",
    find: "  requireRoom(device, program, valueAt);\n",
    replace: "",
    test: "test/tensor/refusal.test.ts",
    expected: "is refused with the plan, and nothing is allocated: a compiled step",
  },
  {
    name: "products held back by what is written into their epilogue later",
    file: "src/compile/order.ts",
    find: "newest(g.cores.length > 0 ? g.cores : membersOf(g))",
    replace: "newest(membersOf(g))",
    test: "test/compile/schedule.test.ts",
    expected: "does not hold a product back",
  },
  {
    name: "rules of the user ignored",
    file: "src/precision/autocast.ts",
    find: "dtype === null || rules.length === 0 ? null : ruleFor(rules, called, path)",
    replace: "dtype === null || rules.length >= 0 ? null : ruleFor(rules, called, path)",
    test: "test/precision/rules.test.ts",
    expected: "a rule by row",
  },
  {
    name: "an overflow blamed on whoever received it",
    file: "src/tensor/overflow.ts",
    find: "isBroken(value) && !value.node.inputs.some(",
    replace: "isBroken(value) && value.node.inputs.some(",
    test: "test/tensor/overflow.test.ts",
    expected: "a product beyond 65504 is found in its module",
  },
  {
    name: "rules of a search that are not needed",
    file: "src/tensor/policy-search.ts",
    find: "found.length === 0 ? found : await search.shrink(found)",
    replace: "found",
    test: "test/tensor/policy-search.test.ts",
    expected: "names the op in the one module that matters",
  },
  {
    name: "exponents of what is rounded up",
    file: "src/tensor/exponents.ts",
    find: "build.where(build.greater(nearest, bits), build.sub(nearest, 2 ** 16), nearest)",
    replace: "nearest",
    test: "test/optim/meters.test.ts",
    expected: "count every element in the binade of its exponent",
  },
  {
    name: "lost updates of elements that do not change",
    file: "src/optim/meters.ts",
    find: "count(changes.and(stays))",
    replace: "count(stays)",
    test: "test/optim/meters.test.ts",
    expected: "count the updates that a float16 weight would lose",
  },
  {
    name: "gradients of an earlier step divided by the scale of this one",
    file: "src/optim/gradScaler.ts",
    find: "if (origin.session !== undefined && origin.session !== sessionOf(this))",
    replace: "if (origin.session === null)",
    test: "test/conformance/call-order.test.ts",
    expected: "case 70",
  },
  {
    name: "statistics of an applied step under the outcome of the next",
    file: "src/optim/gradScaler.ts",
    find: "    endStep();\n",
    replace: "",
    test: "test/optim/following.test.ts",
    expected: "of an applied step stay",
  },
  {
    name: "the first rule decides",
    file: "src/precision/rules.ts",
    find: "rules.findLast(",
    replace: "rules.find(",
    test: "test/precision/rules.test.ts",
    expected: "is overruled by a later one",
  },
  {
    name: "a policy that lets in what it is given",
    file: "src/nn/scope.ts",
    find: "castTreeByPolicy(args, compute)",
    replace: "args",
    test: "test/nn/policy.test.ts",
    expected: "case 52: a policy p=f32,c=bf16,o=f32",
  },
  {
    name: "a policy that forgets its output dtype",
    file: "src/nn/scope.ts",
    find: "castTreeByPolicy(forward(castTreeByPolicy(args, compute)), output)",
    replace: "castTreeByPolicy(forward(castTreeByPolicy(args, compute)), output === compute ? output : compute)",
    test: "test/nn/policy.test.ts",
    expected: "case 52: a policy p=f32,c=bf16,o=f32",
  },
  {
    name: "integers cast with the floats of a tree",
    file: "src/tensor/tree.ts",
    find: "(isAutocastable(tensor.node) ? tensor.cast(dtype) : tensor)",
    replace: "tensor.cast(dtype)",
    test: "test/tensor/tree.test.ts",
    expected: "case 49",
  },
  {
    name: "a dry run that assigns",
    file: "src/tensor/recording.ts",
    find: "effects ? assigned : new Map()",
    replace: "assigned",
    test: "test/tensor/dry-run.test.ts",
    expected: "changes nothing",
  },
  {
    name: "a float32 twin under autocast",
    file: "src/precision/autocast.ts",
    find: "isFullPrecision ? { ...region, dtype: null } : region",
    replace: "region",
    test: "test/tensor/dry-run.test.ts",
    expected: "finds the error that the step makes",
  },
  {
    name: "forward of the user's op under autocast",
    file: "src/tensor/custom.ts",
    find: "outsideRegions(() => definition.forward(...(tensorsOf(inputs) as unknown as A)))",
    replace: "definition.forward(...(tensorsOf(inputs) as unknown as A))",
    test: "test/tensor/custom.test.ts",
    expected: "regions do not reach inside",
  },
  {
    name: "backward of the user's op ignored",
    file: "src/tensor/custom.ts",
    find: 'vjp: backward === undefined ? "decompose"',
    replace: 'vjp: backward !== "none" ? "decompose"',
    test: "test/tensor/custom.test.ts",
    expected: "has the gradient that it says",
  },
  {
    name: "autocast off",
    file: "src/precision/autocast.ts",
    find: 'case "narrow":\n      return current.dtype;',
    replace: 'case "narrow":\n      return null;',
    test: "test/ir/golden.test.ts",
    expected: "gives 16-bit operands to every product and attention",
  },
  {
    name: "casts that do not round",
    file: "src/backends/cpu/vm.ts",
    find: "return opcode === undefined ? register : this.emit(opcode, [register]);",
    replace: "return register;",
    test: "test/backends/cpu.test.ts",
    expected: "chain rounds at every node",
    native: true,
  },
  {
    name: "a rounding left to a store of another format",
    file: "src/backends/cpu/idioms.ts",
    find: "ROUNDED[definition.opcode] === dtype",
    replace: "ROUNDED[definition.opcode] !== undefined",
    test: "test/backends/idioms.test.ts",
    expected: "a rounding to another format stays",
  },
  {
    name: "casts that do not round, in the reference",
    file: "src/formats/codec.ts",
    find: "export function round(value: number, d: DType): number {",
    replace:
      'export function round(value: number, d: DType): number {\n  if (d === "bfloat16" || d === "float16") return value;',
    test: "test/formats/codec.test.ts",
    expected: "round",
  },
  {
    name: "16-bit accumulation",
    file: "src/backends/reference/evaluate.ts",
    find: "Math.fround(sum + Math.fround(product))",
    replace: 'round(sum + product, node.inputs[0]?.dtype ?? "float32")',
    test: "test/backends/accumulation.test.ts",
    expected: "sums on reference accumulate in float32",
  },
  {
    name: "overlapping windows added in 16 bits",
    file: "src/ops/windows.ts",
    find: "const wide = b.cast(g, accumulatorOf(g.dtype));",
    replace: "const wide = g;",
    test: "test/ops/structured.test.ts",
    expected: "overlapAdd adds in float32",
  },
  {
    name: "a convolution's weight gradient rounded to 16 bits",
    file: "src/ops/convolution.ts",
    find: "weightGradient(b, x, cotangent, { ...attributes, kernel: w.shape.slice(2), dtype: wanted[1] ?? w.dtype })",
    replace: "weightGradient(b, x, cotangent, { ...attributes, kernel: w.shape.slice(2), dtype: w.dtype })",
    test: "test/tensor/convolution.test.ts",
    expected: "gives a variable its gradient in float32",
  },
  {
    name: "a convolution's stride forgotten among what tells kernels apart",
    file: "src/ops/convolution.ts",
    find: "[stride, padding, dilation, groups, extents, kernel].flatMap(",
    replace: "[padding, dilation, groups, extents, kernel].flatMap(",
    test: "test/backends/convolution.test.ts",
    expected: "one pair of operands under several strides",
    native: true,
  },
  {
    name: "overflow flag ignored",
    file: "src/optim/gradScaler.ts",
    find: "variable.assign(where(judgement.applied, value, variable.read()));",
    replace: "variable.assign(value);",
    test: "test/conformance/skips.test.ts",
    expected: "a skip is atomic",
  },
  {
    name: "moments updated on a skipped step",
    file: "src/optim/gradScaler.ts",
    find: "variable.assign(where(judgement.applied, value, variable.read()));",
    replace:
      "variable.assign(/\\.(m|v|momentum)$/.test(variable.name) ? value : where(judgement.applied, value, variable.read()));",
    test: "test/conformance/skips.test.ts",
    expected: "a skip is atomic",
  },
  {
    name: "master rounded to 16 bits",
    file: "src/optim/optimizer.ts",
    find: "return [[parameter, result.weight.cast(parameter.dtype)] as const",
    replace: 'return [[parameter, result.weight.cast("bfloat16").cast(parameter.dtype)] as const',
    test: "test/optim/optimizers.test.ts",
    expected: "as PyTorch",
  },
  {
    name: "dropout mask reused",
    file: "src/tensor/random.ts",
    find: 'this.state.assign(this.state.read().add(arange(4).equal(COUNTER_WORD).cast("uint32")));',
    replace: "void arange;\n    void COUNTER_WORD;",
    test: "test/nn/layers.test.ts",
    expected: "differs between uses, between steps and between seeds",
  },
  {
    name: "step 3 and later replays stale inputs",
    file: "src/tensor/compile.ts",
    find: "const given = leaves.map(requireValue);",
    replace:
      "const self = this as unknown as { calls?: number; stale?: LeafValue[] };\n    self.calls = (self.calls ?? 0) + 1;\n    const fresh = leaves.map(requireValue);\n    const given = self.calls >= 3 ? (self.stale ?? fresh) : fresh;\n    self.stale = given;",
    test: "test/tensor/compile.test.ts",
    expected: "replays with new arguments, far beyond the first steps",
  },
  {
    name: "running statistics moved by a skipped step",
    file: "src/tensor/following.ts",
    find: "variable.assign(new Tensor(build.where(applied.node, variable.node, before)));",
    replace: "void [variable, before, applied, Tensor, build];",
    test: "test/optim/following.test.ts",
    expected: "stay as they were when a compiled step is skipped",
  },
  {
    name: "running statistics that ask one optimizer of two",
    file: "src/tensor/following.ts",
    find: "rest.reduce((all, one) => all.and(one), first)",
    replace: "rest.reduce((_all, one) => one, first) && first",
    test: "test/optim/following.test.ts",
    expected: "stay as they were when one of two optimizers skips",
  },
  {
    name: "gradients unscaled twice",
    file: "src/optim/gradientCheck.ts",
    find: "mul(lossScale.reciprocal())",
    replace: "mul(lossScale.reciprocal()).mul(lossScale.reciprocal())",
    test: "test/conformance/unscale.test.ts",
    expected: "13: divides",
  },
  {
    name: "gradients changed after unscaling not looked at",
    file: "src/optim/gradScaler.ts",
    find: "again: checkGradients,",
    replace: "again: checkGradients && false,",
    test: "test/conformance/grad-scaler.test.ts",
    expected: "33: an infinity inserted after unscale (checkGradients: true)",
  },
  {
    name: "a step over two losses that asks one scaler",
    file: "src/optim/gradScaler.ts",
    find: "scalers.map((scaler) => sessionOf(scaler).checked)",
    replace: "[sessionOf(this).checked]",
    test: "test/optim/several-scalers.test.ts",
    expected: "the second overflows",
  },
  {
    name: "a border between scalers that does not rescale",
    file: "src/optim/gradScaler.ts",
    find: ".mul(this.lossScale.div(from.lossScale))",
    replace: "",
    test: "test/optim/several-scalers.test.ts",
    expected: "the lower part keeps gradients that one scale loses",
  },
  {
    name: "a collapsed scale stepped with",
    file: "src/optim/gradScaler.ts",
    find: "return scale.greaterEqual(least).and(scale.lessEqual(greatest));",
    replace: "return scale.greaterEqual(0);",
    test: "test/optim/skip-reasons.test.ts",
    expected: "a scale of 0, whose gradients are finite",
  },
  {
    name: "running statistics of a skipped window kept",
    file: "src/optim/windowStatistics.ts",
    find: "if (copy !== undefined) followSince(variable, copy.read());",
    replace: "void [copy, followSince];",
    test: "test/optim/scaled-accumulation.test.ts",
    expected: "takes back the running statistics of a whole window",
  },
  {
    name: "a scale that grows one step late",
    file: "src/precision/lossScale.ts",
    find: 'if (reaches === "atLeast") return clean.greaterEqual(growthInterval + lag);',
    replace: 'if (reaches === "atLeast") return clean.greater(growthInterval + lag);',
    test: "test/conformance/scale-updates.test.ts",
    expected: "1: grows at the interval",
  },
  {
    name: "a window that starts at once",
    file: "src/precision/scalePresets.ts",
    find: '  reaches: "multiple",\n  lag: 1,',
    replace: '  reaches: "multiple",\n  lag: 0,',
    test: "test/conformance/scale-updates.test.ts",
    expected: "12: deepspeed",
  },
  {
    name: "a floor forgotten",
    file: "src/precision/lossScale.ts",
    find: 'if (exhaustion === "hold") return { fallen: lower.maximum(floor), exhausted: null };',
    replace: 'if (exhaustion === "hold") return { fallen: lower, exhausted: null };',
    test: "test/conformance/scale-updates.test.ts",
    expected: "10: stop at the floor",
  },
  {
    name: "a hysteresis that any clean step refills",
    file: "src/precision/lossScale.ts",
    find: 'rule.refill === "clean" ? finite : finite.and(grows)',
    replace: "finite",
    test: "test/conformance/scale-updates.test.ts",
    expected: "8: Megatron: one clean step does not refill",
  },
  {
    name: "a moving average that follows skipped steps",
    file: "src/optim/average.ts",
    find: "all === null ? value : where(all, value, variable.read())",
    replace: "all === null ? value : value",
    test: "test/optim/scalers.test.ts",
    expected: "an average of weights follows applied steps",
  },
  {
    name: "cotangents added in 16 bits",
    file: "src/autodiff/cotangent.ts",
    find: "const acc = accumulatorOf(dtype);",
    replace: "const acc = first.dtype;\n  void accumulatorOf;",
    test: "test/autodiff/gradients.test.ts",
    expected: "adds 301 unit cotangents",
  },
];

/** A copy of everything that the tests need; dependencies and the native addon are shared. */
function makeCopy() {
  const copy = mkdtempSync(join(tmpdir(), "binade-mutants-"));
  for (const part of [
    "src",
    "test",
    "native",
    "package.json",
    "vitest.config.ts",
    "tsconfig.json",
    "scripts",
    "README.md",
  ])
    cpSync(join(root, part), join(copy, part), { recursive: true });
  for (const part of ["node_modules", "dist"])
    if (existsSync(join(root, part))) symlinkSync(join(root, part), join(copy, part));
  return copy;
}

/** Runs one test file; returns the full names of its tests by state. */
function runTests(copy, file) {
  const report = join(copy, "report.json");
  rmSync(report, { force: true });
  spawnSync(
    process.execPath,
    [join(root, "node_modules/vitest/vitest.mjs"), "run", file, "--reporter=json", `--outputFile=${report}`],
    { cwd: copy, stdio: "ignore" },
  );
  const tests = existsSync(report)
    ? JSON.parse(readFileSync(report, "utf8")).testResults.flatMap((f) => f.assertionResults)
    : [];
  return {
    passed: tests.filter((t) => t.status === "passed").map((t) => t.fullName),
    failed: tests.filter((t) => t.status === "failed").map((t) => t.fullName),
  };
}

function mutate(copy, { name, file, find, replace }) {
  const path = join(copy, file);
  const text = readFileSync(path, "utf8");
  if (text.split(find).length !== 2)
    throw new Error(
      `mutant "${name}": its text stands ${text.split(find).length - 1} times in ${file}, expected once; follow the source`,
    );
  writeFileSync(
    path,
    text.replace(find, () => replace),
  );
  return () => writeFileSync(path, text);
}

const copy = makeCopy();
const counts = { passed: 0, failed: 0, skipped: 0 };
try {
  const chosen = MUTANTS.filter((m) => m.name.includes(process.argv[2] ?? ""));
  const baseline = new Map();
  for (const mutant of chosen) {
    if (!baseline.has(mutant.test)) baseline.set(mutant.test, runTests(copy, mutant.test));
    const known = baseline.get(mutant.test).passed.filter((t) => t.includes(mutant.expected));
    if (known.length === 0 && mutant.native && !existsSync(join(root, "dist/native"))) {
      console.log(`skipped: ${mutant.name} — it needs the native addon (npm run build:native)`);
      counts.skipped++;
      continue;
    }
    if (known.length === 0)
      throw new Error(
        `mutant "${mutant.name}": no test named "${mutant.expected}" passes in ${mutant.test}; follow the test`,
      );
    const restore = mutate(copy, mutant);
    const { failed } = runTests(copy, mutant.test);
    restore();
    const killer = failed.find((t) => known.includes(t));
    console.log(
      killer === undefined
        ? `SURVIVED: ${mutant.name} — no test named "${mutant.expected}" in ${mutant.test} failed`
        : `killed: ${mutant.name} — ${killer}`,
    );
    counts[killer === undefined ? "failed" : "passed"]++;
  }
} finally {
  rmSync(copy, { recursive: true, force: true });
}
console.log(
  `${counts.passed} passed, ${counts.failed} failed${counts.skipped > 0 ? `, ${counts.skipped} skipped` : ""}`,
);
process.exitCode = counts.failed > 0 ? 1 : 0;
