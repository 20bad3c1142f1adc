"""Shared by the Python peers: options, and a training step as a timed summary or as a co-process. Not run alone."""

import argparse
import ctypes
import json
import re
import signal
import statistics
import sys
import time
from pathlib import Path

WARM_UP_STEPS, WARM_UP_SECONDS = 5, 2


def arguments(description, works):
    """The options that every peer has; the caller may add its own before parsing."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--work", choices=works, required=True)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="bf16 is CPU autocast")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20, help="timed steps, after some untimed ones")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu: processor time of all threads")
    parser.add_argument("--interactive", action="store_true", help="n steps and one JSON line per 'go n' on stdin")
    return parser


def blas():
    """The libraries of products that this process has loaded, as text; a warning for the reference BLAS, 50 times slower."""
    maps = Path("/proc/self/maps")
    libraries = sorted(set(re.findall(r"/\S*(?:blas|mkl_core|mkl_rt|libtorch_cpu)\S*", maps.read_text()))) if maps.exists() else []
    for path in libraries:
        version = openblas_version(path)
        if version is not None:
            return f"OpenBLAS {version}"
    if any("libblas.so" in path for path in libraries):
        print("float32 products run on the reference BLAS: install libopenblas0 before comparing", file=sys.stderr)
        return "reference BLAS"
    return None


def openblas_version(path):
    if "openblas" not in path:
        return None
    library = ctypes.CDLL(path)
    for name in ("openblas_get_config", "openblas_get_config64_", "scipy_openblas_get_config64_", "scipy_openblas_get_config"):
        if hasattr(library, name):
            function = getattr(library, name)
            function.restype = ctypes.c_char_p
            found = re.search(r"\d+\.\d+\.\d+", function().decode())
            return found.group() if found else "?"
    return "?"


def elapsed_ms(step, clock):
    now = time.process_time if clock == "cpu" else time.perf_counter
    start = now()
    step()
    return (now() - start) * 1e3


def warm_up(step):
    start = time.perf_counter()
    for _ in range(WARM_UP_STEPS):
        if time.perf_counter() - start < WARM_UP_SECONDS:
            step()


def report(peer, step, options):
    """Warms up, then prints a summary line or serves "go n" lines until stdin ends. spreadMs: interquartile range."""
    if options.interactive:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the runner, which ends its peers itself
    warm_up(step)
    if options.interactive:
        print(json.dumps({"peer": peer}), flush=True)
        for line in sys.stdin:
            steps = int(line.split()[1])
            print(json.dumps({"timesMs": [elapsed_ms(step, options.clock) for _ in range(steps)]}), flush=True)
        return
    times = [elapsed_ms(step, options.clock) for _ in range(options.steps)]
    low, _, high = statistics.quantiles(times, n=4) if len(times) > 1 else times * 3
    summary = {"peer": peer, "work": options.work, "precision": options.precision, "threads": options.threads}
    summary |= {"medianMs": statistics.median(times), "minMs": min(times), "spreadMs": high - low}
    print(json.dumps(summary), flush=True)
