"""NumPy peer: a training step of an MLP 784-512-10 (batch 128, SGD), or a product, in float32.

Run: OPENBLAS_NUM_THREADS=2 python3 -s bench/peers/numpy_peer.py --work mlp --steps 200
Threads are those of its BLAS, which reads the environment. With --interactive as the PyTorch peer.
"""

import numpy as np
from timing import arguments, blas, report

BATCH, INPUTS, HIDDEN, CLASSES = 128, 784, 512, 10
LEARNING_RATE = np.float32(0.1)


def uniform(generator, bound, shape):
    return generator.uniform(-bound, bound, shape).astype(np.float32)


def mlp_step(generator):
    """Forward, cross-entropy, backward and update, with as few temporaries as NumPy allows without contortions."""
    w1, b1 = uniform(generator, INPUTS**-0.5, (INPUTS, HIDDEN)), np.zeros(HIDDEN, np.float32)
    w2, b2 = uniform(generator, HIDDEN**-0.5, (HIDDEN, CLASSES)), np.zeros(CLASSES, np.float32)
    x = generator.standard_normal((BATCH, INPUTS), dtype=np.float32)
    rows, targets = np.arange(BATCH), generator.integers(CLASSES, size=BATCH)

    def step():
        hidden = x @ w1
        hidden += b1
        np.maximum(hidden, 0, out=hidden)
        logits = hidden @ w2
        logits += b2
        logits -= logits.max(1, keepdims=True)
        np.exp(logits, out=logits)
        logits /= logits.sum(1, keepdims=True)
        loss = -np.log(logits[rows, targets]).mean()
        logits[rows, targets] -= 1
        logits /= BATCH
        d_hidden = logits @ w2.T
        d_hidden *= hidden > 0
        for parameter, gradient in (
            (w2, hidden.T @ logits),
            (b2, logits.sum(0)),
            (w1, x.T @ d_hidden),
            (b1, d_hidden.sum(0)),
        ):
            gradient *= LEARNING_RATE
            parameter -= gradient
        return loss

    return step


def matmul_step(generator):
    a, b, out = (uniform(generator, 1, (1024, 1024)) for _ in range(3))
    return lambda: np.matmul(a, b, out=out)


def main():
    options = arguments("One training step in NumPy.", ["mlp", "matmul"]).parse_args()
    if options.precision != "fp32":
        raise SystemExit("NumPy has no bfloat16: --precision fp32")
    generator = np.random.default_rng(0)
    step = mlp_step(generator) if options.work == "mlp" else matmul_step(generator)
    step()
    report(f"numpy {np.__version__} ({blas()})", step, options)


main()
