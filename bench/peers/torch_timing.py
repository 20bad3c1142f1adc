"""Shared by the PyTorch peers: options, and timing of a training step as a summary or a co-process. Not run alone.

A fair float32 figure from Debian's python3-torch needs libopenblas0; its OpenBLAS 0.3.21 takes Intel processors newer
than itself for a Prescott (OPENBLAS_VERBOSE=2 shows it) until OPENBLAS_CORETYPE=SKYLAKEX says otherwise. PyPI's PyTorch
has MKL.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import torch

WARM_UP_STEPS = 5


def arguments(description):
    """The options that every peer has; the caller adds its own before parsing."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="bf16 is CPU autocast")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20, help=f"timed steps, after {WARM_UP_STEPS} untimed ones")
    parser.add_argument("--interactive", action="store_true", help="one step and one JSON line per 'go' on stdin")
    return parser


def make_step(model, optimizer, loss_function, batches, precision, max_norm=None):
    """A function that runs one training step on the next batch: forward, backward, clipping, update."""
    state = {"step": 0}

    def step():
        inputs, targets = batches[state["step"] % len(batches)]
        state["step"] += 1
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            outputs = model(inputs)
        loss = loss_function(outputs.float(), targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if max_norm is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        optimizer.step()

    return step


def warn_of_reference_blas():
    """Debian's PyTorch takes any libblas; the reference one is about 50 times slower in float32 than OpenBLAS."""
    maps = Path("/proc/self/maps")
    libraries = maps.read_text() if maps.exists() else ""
    if "/libblas.so" in libraries and "openblas" not in libraries:
        print("float32 products run on the reference BLAS: install libopenblas0 before comparing", file=sys.stderr)


def elapsed_ms(step):
    start = time.perf_counter()
    step()
    return (time.perf_counter() - start) * 1e3


def report(name, step, options):
    """Warms up, then prints a summary line or serves "go" lines until stdin ends. spreadMs: interquartile range."""
    warn_of_reference_blas()
    for _ in range(WARM_UP_STEPS):
        step()
    if options.interactive:
        for line in sys.stdin:
            if line.strip() == "go":
                print(json.dumps({"elapsedMs": elapsed_ms(step), "torch": torch.__version__}), flush=True)
        return
    times = [elapsed_ms(step) for _ in range(options.steps)]
    low, _, high = statistics.quantiles(times, n=4) if len(times) > 1 else times * 3
    summary = {"name": name, "precision": options.precision, "threads": options.threads}
    summary |= {"medianMs": statistics.median(times), "minMs": min(times), "spreadMs": high - low}
    print(json.dumps(summary | {"torch": torch.__version__}), flush=True)
