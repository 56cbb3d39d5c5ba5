"""The torch peer: a plain GPT-2-style decoder; every line on stdin trains `--steps` steps and answers one JSON line.

    echo | python benchmarks/peers/torch_train.py --d_model 128 --layers 4 --heads 4 --seq_len 256 --batch_size 16

Eager float32 unless --bf16 (autocast) or --compile; gradient clipping and fused AdamW, as our step has them. With
--models K it trains K models one after the other: what a sweep costs that does not stack its trials. Needs only torch.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import resource
import sys
import time


def allocator(options: dict[str, int]) -> None:
    """mallopt(option, value) for each; before torch allocates anything."""
    for option, value in options.items():
        ctypes.CDLL(None).mallopt(int(option), value)


def decoder(d_model: int, layers: int, heads: int, seq_len: int, vocab_size: int):
    """Pre-norm blocks, LayerNorm, GELU, learned positions, biases, tied head; called with (tokens, targets)."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention_norm, self.feedforward_norm = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
            self.qkv, self.out = nn.Linear(d_model, 3 * d_model), nn.Linear(d_model, d_model)
            self.up, self.down = nn.Linear(d_model, 4 * d_model), nn.Linear(4 * d_model, d_model)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            batch, seq, _ = x.shape
            qkv = self.qkv(self.attention_norm(x)).view(batch, seq, 3, heads, d_model // heads)
            q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(y.transpose(1, 2).reshape(batch, seq, d_model))
            return x + self.down(F.gelu(self.up(self.feedforward_norm(x)), approximate="tanh"))

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.positions = nn.Embedding(vocab_size, d_model), nn.Embedding(seq_len, d_model)
            self.blocks = nn.ModuleList(Block() for _ in range(layers))
            self.norm = nn.LayerNorm(d_model)

        def forward(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
            for block in self.blocks:
                x = block(x)
            logits = self.norm(x) @ self.tokens.weight.T
            return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())

    return Decoder()


def make_step(options: argparse.Namespace):
    """A function that trains every model one step and returns the last loss."""
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    shape = (options.d_model, options.layers, options.heads, options.seq_len, options.vocab_size)
    models = [decoder(*shape) for _ in range(options.models)]
    adamw = dict(lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    optimizers = [torch.optim.AdamW(model.parameters(), **adamw) for model in models]
    forward = [torch.compile(model) if options.compile else model for model in models]
    data = torch.randint(0, options.vocab_size, (options.batch_size, options.seq_len + 1))

    def step() -> float:
        for model, call, optimizer in zip(models, forward, optimizers):
            with torch.autocast("cpu", torch.bfloat16, enabled=options.bf16):
                loss = call(data[:, :-1], data[:, 1:])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if options.clip:
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        return float(loss.detach())

    return step


def cpu_seconds() -> float:
    """User and system time of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Say "ready" and the version, then answer every line of stdin."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("d_model", "layers", "heads", "seq_len", "batch_size"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--vocab_size", type=int, default=256)
    parser.add_argument("--models", type=int, default=1, help="trained one after the other in every step")
    parser.add_argument("--steps", type=int, default=1, help="steps per line of stdin")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    parser.add_argument("--compile", action="store_true", help="torch.compile instead of eager")
    parser.add_argument("--no_clip", dest="clip", action="store_false", help="leave gradient clipping out")
    parser.add_argument("--mallopt", type=json.loads, default={}, help="JSON: glibc allocator option -> value")
    options = parser.parse_args()
    allocator(options.mallopt)
    import torch

    step = make_step(options)
    for _ in range(2):
        step()
    print(json.dumps({"torch": torch.__version__}), flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), cpu_seconds()
        for _ in range(options.steps):
            loss = step()
        cpu, wall = cpu_seconds() - cpu, time.perf_counter() - wall
        print(json.dumps({"cpu_s": cpu / options.steps, "wall_s": wall / options.steps, "loss": loss}), flush=True)


if __name__ == "__main__":
    main()
