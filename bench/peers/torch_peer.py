"""PyTorch peer: the training steps of bench/works.mjs and a product, in float32 or under CPU bfloat16 autocast.

Run: python3 -s bench/peers/torch_peer.py --work gpt-m --precision bf16 --threads 2 --steps 20
Prints one JSON line; with --interactive it warms up, says who it is, and runs n steps per line "go n" on stdin.

A fair float32 figure from Debian's python3-torch needs libopenblas0; its OpenBLAS 0.3.21 takes Intel processors newer
than itself for a Prescott (OPENBLAS_VERBOSE=2 shows it) until OPENBLAS_CORETYPE=SKYLAKEX says otherwise. PyPI's PyTorch
has MKL.
"""

import torch
from timing import arguments, blas, report
from torch.nn import functional as F
from torch_models import GPT, GPT_PRESETS, VOCABULARY, mlp, resnet20

BATCHES = 4
WORKS = ["gpt-s", "gpt-m", "resnet20", "mlp", "matmul"]


def training_step(model, optimizer, batches, precision, max_norm=None):
    """A function that runs one training step on the next batch: forward, backward, clipping, update."""
    state = {"step": 0}

    def step():
        inputs, targets = batches[state["step"] % len(batches)]
        state["step"] += 1
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            outputs = model(inputs)
        loss = F.cross_entropy(outputs.float().flatten(0, -2), targets.flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if max_norm is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        optimizer.step()

    return step


def gpt_step(preset, options):
    sizes = dict(GPT_PRESETS[preset])
    shape = (sizes.pop("batch"), sizes["context"])
    model = GPT(**sizes)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, **({"fused": True} if options.fused else {}))
    batches = [tuple(torch.randint(VOCABULARY, shape) for _ in range(2)) for _ in range(BATCHES)]
    return training_step(model, optimizer, batches, options.precision, max_norm=1.0)


def classifier_step(model, shape, momentum, options):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=momentum)
    batches = [(torch.randn(shape), torch.randint(10, shape[:1])) for _ in range(BATCHES)]
    return training_step(model, optimizer, batches, options.precision)


def matmul_step(options):
    dtype = torch.bfloat16 if options.precision == "bf16" else torch.float32
    a, b, out = (torch.rand(1024, 1024).to(dtype) for _ in range(3))
    return lambda: torch.mm(a, b, out=out)


def main():
    parser = arguments("One training step in PyTorch.", WORKS)
    parser.add_argument("--fused", action="store_true", help="the fused AdamW (PyTorch 2.4 and later on the CPU)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    if options.work.startswith("gpt-"):
        step = gpt_step(options.work[4:], options)
    elif options.work == "resnet20":
        step = classifier_step(resnet20(), (64, 3, 32, 32), 0.9, options)
    elif options.work == "mlp":
        step = classifier_step(mlp(), (128, 784), 0, options)
    else:
        step = matmul_step(options)
    step()
    library = "MKL" if torch.backends.mkl.is_available() else blas()
    report(f"torch {torch.__version__} ({library})", step, options)


main()
