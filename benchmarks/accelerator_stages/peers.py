"""The peers, in processes that never import jax: a compiled torch training step, and `generate` of transformers.

The same Llama shape as ours: RMS norms, SwiGLU, rotary positions, grouped queries, an untied head. Training: bfloat16
autocast over float32 weights, `torch.compile`, SDPA, fused AdamW, gradients clipped as ours are. Generation: bfloat16
weights, temperature 1 without filters, prompt and samples as ours. Where torch, transformers or the GPU is missing the
line says "absent"; a rehearsal runs both at toy sizes on the CPU.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

from accelerator_stages.common import Absent, Cases

# (d_model, layers, heads, key-value heads, d_ff, vocabulary) of models.presets, which needs jax to be imported.
SHAPES = {"350m": (1024, 24, 16, 8, 2816, 32_000), "1b": (2048, 24, 16, 8, 5632, 32_000), "toy": (32, 1, 2, 1, 64, 256)}
BATCHES = {"350m": (32, 16), "1b": (16, 8)}  # sequences of 2,048 tokens, largest first: memory decides
SAMPLES = (1, 64, 256)


def cases(stage: str, toy: bool, out: Path) -> Cases:
    """One case for each batch or number of samples."""
    if stage == "decode_transformers":
        return {f"bfloat16 x {n}": partial(generate, n, toy) for n in ((4,) if toy else SAMPLES)}
    size = stage.split("_")[1]
    return {f"{n} sequences": partial(train, "toy" if toy else size, n, toy) for n in ((2,) if toy else BATCHES[size])}


def device(toy: bool, *modules: str) -> str:
    """ "cuda", or "cpu" in a rehearsal; `Absent` names what is missing."""
    import importlib.util

    for module in ("torch", *modules):
        if importlib.util.find_spec(module) is None:
            raise Absent(f"{module} is not installed here (--python names another Python)")
    import torch

    if torch.cuda.is_available() and not toy:
        return "cuda"
    if toy:
        return "cpu"
    raise Absent(f"torch {torch.__version__} sees no GPU")


def wait(where: str) -> None:
    """Until the device has done all that it was asked for."""
    import torch

    if where == "cuda":
        torch.cuda.synchronize()


def decoder(d_model: int, layers: int, heads: int, kv_heads: int, d_ff: int, vocabulary: int, seq: int) -> Any:
    """A Llama-style decoder; called with (tokens, targets) `[batch, seq]` it gives the mean loss."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    dim = d_model // heads
    angles = torch.outer(torch.arange(seq), 1e4 ** (-torch.arange(0, dim, 2) / dim))
    turns = torch.cat([angles, angles], -1)[None, None]

    def rotate(x: Any, cos: Any, sin: Any) -> Any:
        low, high = x.chunk(2, -1)
        return x * cos + torch.cat([-high, low], -1) * sin

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention_norm, self.feedforward_norm = nn.RMSNorm(d_model), nn.RMSNorm(d_model)
            self.qkv = nn.Linear(d_model, (heads + 2 * kv_heads) * dim, bias=False)
            self.out = nn.Linear(d_model, d_model, bias=False)
            self.up = nn.Linear(d_model, 2 * d_ff, bias=False)
            self.down = nn.Linear(d_ff, d_model, bias=False)

        def forward(self, x: Any, cos: Any, sin: Any) -> Any:
            batch, length, _ = x.shape
            qkv = self.qkv(self.attention_norm(x)).view(batch, length, -1, dim).transpose(1, 2)
            q, k, v = qkv.split([heads, kv_heads, kv_heads], 1)
            q, k = rotate(q, cos, sin).to(v.dtype), rotate(k, cos, sin).to(v.dtype)
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            x = x + self.out(y.transpose(1, 2).reshape(batch, length, d_model))
            gate, up = self.up(self.feedforward_norm(x)).chunk(2, -1)
            return x + self.down(F.silu(gate) * up)

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens = nn.Embedding(vocabulary, d_model)
            self.blocks = nn.ModuleList(Block() for _ in range(layers))
            self.norm, self.head = nn.RMSNorm(d_model), nn.Linear(d_model, vocabulary, bias=False)
            self.register_buffer("cos", turns.cos())
            self.register_buffer("sin", turns.sin())

        def forward(self, tokens: Any, targets: Any) -> Any:
            x = self.tokens(tokens)
            for block in self.blocks:
                x = block(x, self.cos, self.sin)
            return F.cross_entropy(self.head(self.norm(x)).flatten(0, 1).float(), targets.flatten())

    return Decoder()


def train(size: str, batch: int, toy: bool) -> dict[str, Any]:
    """Tokens per second of one compiled step (a rehearsal does not compile: its compiler alone takes a minute)."""
    where = device(toy)
    import torch

    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    seq = 32 if toy else 2048
    model = decoder(*SHAPES[size], seq).to(where)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    data = torch.randint(0, SHAPES[size][-1], (batch, seq + 1), device=where)
    forward = model if toy else torch.compile(model)

    def step() -> float:
        with torch.autocast(where, torch.bfloat16):
            loss = forward(data[:, :-1], data[:, 1:])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.detach()

    began = time.perf_counter()
    for _ in range(2):
        step()
    wait(where)
    compile_s = time.perf_counter() - began
    chunk, seconds = 4, []
    for _ in range(2 if toy else 3):
        began = time.perf_counter()
        for _ in range(chunk):
            loss = step()
        wait(where)
        seconds.append((time.perf_counter() - began) / chunk)
    if not torch.isfinite(loss):
        raise FloatingPointError("the peer's loss is not finite, so its step did not run")
    return {"tokens_per_s": round(batch * seq / min(seconds)), "step_s": round(min(seconds), 5),
            "slowest_step_s": round(max(seconds), 5), "first_two_steps_s": round(compile_s, 1), "sequences": batch,
            "peer": "torch eager" if toy else "torch.compile, SDPA, fused AdamW, bfloat16 autocast"}  # fmt: skip


def generate(samples: int, toy: bool) -> dict[str, Any]:
    """Tokens per second of `generate`, the prompt's reading included."""
    where = device(toy, "transformers")
    import torch
    import transformers

    d_model, layers, heads, kv_heads, d_ff, vocabulary = SHAPES["toy" if toy else "1b"]
    prompt_len, new = (16, 8) if toy else (512, 128)
    config = transformers.LlamaConfig(
        vocab_size=vocabulary, hidden_size=d_model, intermediate_size=d_ff, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv_heads, max_position_embeddings=prompt_len + new,
        bos_token_id=None, eos_token_id=None, attn_implementation="sdpa",
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device(where):
        model = transformers.LlamaForCausalLM(config).to(torch.bfloat16).eval()
    seconds = []
    for _ in range(2 if toy else 3):
        prompt = torch.randint(0, vocabulary, (1, prompt_len), device=where)
        wait(where)
        began = time.perf_counter()
        with torch.inference_mode():
            out = model.generate(
                prompt, attention_mask=torch.ones_like(prompt), do_sample=True, top_k=0, temperature=1.0,
                max_new_tokens=new, min_new_tokens=new, num_return_sequences=samples, pad_token_id=0,
            )  # fmt: skip
        wait(where)
        seconds.append(time.perf_counter() - began)
        assert tuple(out.shape) == (samples, prompt_len + new)
    return {"tokens_per_s": round(samples * new / min(seconds), 1), "samples": samples, "prompt": prompt_len,
            "new": new, "seconds_per_round": round(min(seconds), 4),
            "peer": "transformers generate, SDPA, bfloat16"}  # fmt: skip
