"""PyTorch peer: one training step of an MLP 784-512-10 (ReLU, batch 128, SGD), in float32 or CPU bfloat16 autocast.

Run: /usr/bin/python3 -s bench/peers/torch_mlp.py --precision bf16 --threads 2 --steps 200
Prints one JSON line: name, precision, threads, medianMs, minMs, spreadMs, torch. With --interactive it warms up, then
runs one step per line "go" on stdin and prints {"elapsedMs": …}.
"""

import torch
from torch import nn
from torch.nn import functional as F
from torch_timing import arguments, make_step, report

BATCH, BATCHES = 128, 4


def main():
    options = arguments("One MLP training step in PyTorch.").parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = [(torch.randn(BATCH, 784), torch.randint(10, (BATCH,))) for _ in range(BATCHES)]
    report("mlp", make_step(model, optimizer, F.cross_entropy, batches, options.precision), options)


main()
