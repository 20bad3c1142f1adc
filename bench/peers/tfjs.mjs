/** tfjs peer, wasm backend (one thread in Node), float32: node bench/peers/tfjs.mjs --work mlp|matmul; npm ci --prefix bench/peers */
import { createRequire } from "node:module";
import { BATCH, CLASSES, HIDDEN, INPUTS, numbers, options, SIZE, serve } from "./serve.mjs";

// The CommonJS builds: their ES modules import without file extensions, which Node refuses.
const require = createRequire(import.meta.url);
const tf = require("@tensorflow/tfjs");
require("@tensorflow/tfjs-backend-wasm");
await tf.setBackend("wasm");

const array = (shape, bound) =>
  tf.tensor(
    numbers(
      shape.reduce((a, b) => a * b, 1),
      bound,
    ),
    shape,
  );

function mlp() {
  const w1 = tf.variable(array([INPUTS, HIDDEN], INPUTS ** -0.5));
  const w2 = tf.variable(array([HIDDEN, CLASSES], HIDDEN ** -0.5));
  const [b1, b2] = [tf.variable(tf.zeros([HIDDEN])), tf.variable(tf.zeros([CLASSES]))];
  const x = array([BATCH, INPUTS]);
  const labels = Int32Array.from({ length: BATCH }, (_, i) => i % CLASSES);
  const y = tf.oneHot(tf.tensor1d(labels, "int32"), CLASSES).toFloat();
  const optimizer = tf.train.sgd(0.1);
  const lossOf = () => {
    const hidden = x.matMul(w1).add(b1).relu();
    return tf.losses.softmaxCrossEntropy(y, hidden.matMul(w2).add(b2));
  };
  return async () => {
    const loss = optimizer.minimize(lossOf, true);
    const [value] = await loss.data();
    loss.dispose();
    return value;
  };
}

function matmul() {
  const [a, b] = [array([SIZE, SIZE]), array([SIZE, SIZE])];
  // The product is there when matMul returns.
  return () => tf.matMul(a, b).dispose();
}

const step = options.work === "mlp" ? mlp() : matmul();
await serve(`tfjs ${tf.version_core} wasm`, step);
process.exit(0);
