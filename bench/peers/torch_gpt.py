"""PyTorch peer: one training step of a GPT (AdamW, clipping at 1), in float32 or under CPU bfloat16 autocast.

Run: /usr/bin/python3 -s bench/peers/torch_gpt.py --preset m --precision bf16 --threads 2 --steps 20
Prints one JSON line: name, precision, threads, medianMs, minMs, spreadMs, torch. With --interactive it warms up, then
runs one step per line "go" on stdin and prints {"elapsedMs": …}, so that two sides can be measured in turns.
Attention is scaled_dot_product_attention where PyTorch has it (2.0 and later), explicit products and softmax elsewhere.
"""

import torch
from torch import nn
from torch.nn import functional as F
from torch_timing import arguments, make_step, report

PRESETS = {
    "s": {"layers": 4, "heads": 4, "width": 128, "context": 64, "batch": 12},
    "m": {"layers": 6, "heads": 6, "width": 384, "context": 256, "batch": 8},
}
VOCABULARY = 256
BATCHES = 4


class Block(nn.Module):
    def __init__(self, heads, width, context):
        super().__init__()
        self.heads = heads
        self.attention_norm, self.feed_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.projection = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.register_buffer("future", torch.ones(context, context, dtype=torch.bool).triu(1), persistent=False)

    def attend(self, q, k, v):
        if hasattr(F, "scaled_dot_product_attention"):
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)
        scores = (q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5
        return scores.masked_fill(self.future, float("-inf")).softmax(-1) @ v

    def forward(self, x):
        qkv = self.qkv(self.attention_norm(x)).chunk(3, -1)
        mixed = self.attend(*(part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in qkv))
        x = x + self.projection(mixed.transpose(1, 2).flatten(2))
        return x + self.feed(self.feed_norm(x))


class GPT(nn.Module):
    def __init__(self, layers, heads, width, context):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCABULARY, width), nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(Block(heads, width, context) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, VOCABULARY, bias=False)

    def forward(self, tokens):
        return self.head(self.norm(self.blocks(self.tokens(tokens) + self.positions.weight)))


def cross_entropy(logits, targets):
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def main():
    parser = arguments("One GPT training step in PyTorch.")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="s")
    parser.add_argument("--fused", action="store_true", help="the fused AdamW (PyTorch 2.4 and later on the CPU)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    preset = dict(PRESETS[options.preset])
    shape = (preset.pop("batch"), preset["context"])
    model = GPT(**preset)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, **({"fused": True} if options.fused else {}))
    batches = [tuple(torch.randint(VOCABULARY, shape) for _ in range(2)) for _ in range(BATCHES)]
    step = make_step(model, optimizer, cross_entropy, batches, options.precision, max_norm=1.0)
    report(f"gpt-{options.preset}{'-fused' if options.fused else ''}", step, options)


main()
