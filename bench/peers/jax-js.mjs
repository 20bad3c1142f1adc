/**
 * jax-js peer, wasm (one thread in Node), float32: node bench/peers/jax-js.mjs --work mlp|matmul
 * Installed by `npm ci --prefix bench/peers`. Written for its ownership rule: an operation consumes its operands, and `.ref`
 * keeps one for later.
 */
import { readFileSync } from "node:fs";
import { BATCH, CLASSES, HIDDEN, INPUTS, numbers, options, SIZE, serve } from "./serve.mjs";

// Node 20 has none, and jax-js asks it for a GPU.
if (globalThis.navigator === undefined) globalThis.navigator = { userAgent: "node" };
const { blockUntilReady, defaultDevice, init, jit, nn, numpy: np, valueAndGrad } = await import("@jax-js/jax");
await init("wasm");
defaultDevice("wasm");

const array = (shape, bound) =>
  np
    .array(
      numbers(
        shape.reduce((a, b) => a * b, 1),
        bound,
      ),
    )
    .reshape(shape);

function mlp() {
  const loss = ({ w1, b1, w2, b2 }, x, y) => {
    const hidden = nn.relu(np.matmul(x, w1).add(b1));
    const logits = np.matmul(hidden, w2).add(b2);
    return nn
      .logSoftmax(logits)
      .mul(y)
      .sum()
      .mul(-1 / BATCH);
  };
  const lossAndGradients = jit(valueAndGrad(loss));
  let parameters = {
    w1: array([INPUTS, HIDDEN], INPUTS ** -0.5),
    b1: np.zeros([HIDDEN]),
    w2: array([HIDDEN, CLASSES], HIDDEN ** -0.5),
    b2: np.zeros([CLASSES]),
  };
  const x = array([BATCH, INPUTS]);
  const labels = np.array(Int32Array.from({ length: BATCH }, (_, i) => i % CLASSES));
  const y = nn.oneHot(labels, CLASSES);
  const update = jit((p, g) => p.sub(g.mul(0.1)));
  return async () => {
    const kept = Object.fromEntries(Object.entries(parameters).map(([name, p]) => [name, p.ref]));
    const [value, gradients] = lossAndGradients(kept, x.ref, y.ref);
    parameters = Object.fromEntries(Object.entries(parameters).map(([name, p]) => [name, update(p, gradients[name])]));
    await blockUntilReady(parameters);
    return value.jsAsync();
  };
}

function matmul() {
  const [a, b] = [array([SIZE, SIZE]), array([SIZE, SIZE])];
  return async () => {
    const product = np.matmul(a.ref, b.ref);
    await product.blockUntilReady();
    product.dispose();
  };
}

const { version } = JSON.parse(
  readFileSync(new URL("./node_modules/@jax-js/jax/package.json", import.meta.url), "utf8"),
);
const step = options.work === "mlp" ? mlp() : matmul();
await serve(`jax-js ${version} wasm`, step);
process.exit(0);
