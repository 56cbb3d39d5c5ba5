"""Experts of a trained model put behind a bottleneck that they share (MoLAE, Liu et al. 2025, arXiv:2503.23100).

Every expert's W_e `[width, d_model]` becomes A_e B with one B `[rank, d_model]` for all, which is what
`Experts(bottleneck=rank)` computes, with B read before experts and another such map after them. In two phases: each W_e
is brought to its own best rank (`own`; None: it stays), then the stack [W_1; ..; W_E] is, whose best B are its first
right singular vectors and A_e = W_e B^T. Exact where the stack has no more than `rank` of them; the squared error is
otherwise the sum of the other singular values' squares (Eckart & Young 1936). Of E experts with m matrices of width f,
m E f (d_model - rank) weights fall away and 2 rank d_model are added.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from models.channels.experts import Experts
from models.config import ModelConfig
from models.errors import require
from models.transformer import Params, stack_layers, unstack_layers


def with_latent_experts(
    config: ModelConfig, params: Params, rank: int, own: int | None = None
) -> tuple[ModelConfig, Params]:  # fmt: skip
    """(the model whose experts share a bottleneck of `rank`, its parameters): those of `config`, numpy where they are
    new. ConfigError for a rank outside 1 .. d_model, or without experts that have no bottleneck yet."""
    c = config.resolved()
    for name, value in (("rank", rank), ("own", own or 1)):
        require(1 <= value <= c.d_model, name, f"is {value}", f"use 1 to {c.d_model}, the model's width")
    fix = "give a model with experts that have no bottleneck"
    found = any(_to_convert(layer.channel) for layer in c.layers)
    require(found, "model", "has no experts to put behind a bottleneck", fix)
    if c.moe is not None:
        converted = dataclasses.replace(c, moe=dataclasses.replace(c.moe, bottleneck=rank))
    else:
        pattern, prologue = (
            tuple(dataclasses.replace(layer, channel=_narrow(layer.channel, rank)) for layer in layers)
            for layers in (c.pattern, c.prologue)
        )
        converted = dataclasses.replace(c, pattern=pattern, prologue=prologue)
    flat = unstack_layers(params, c)
    for i, layer in enumerate(c.layers):
        if _to_convert(layer.channel):
            block = dict(flat[f"block_{i}"])
            block["feedforward"] = _factored(block["feedforward"], rank, own)
            flat = {**flat, f"block_{i}": block}
    return converted, stack_layers(flat, converted) if converted.scan_layers else flat


def _to_convert(channel: Any) -> bool:
    return isinstance(channel, Experts) and channel.bottleneck is None


def _narrow(channel: Any, rank: int) -> Any:
    return dataclasses.replace(channel, bottleneck=rank) if _to_convert(channel) else channel


def _factored(weights: dict[str, Any], rank: int, own: int | None) -> dict[str, Any]:
    """The weights of one block's experts as those behind a bottleneck."""
    up = "gate_up" if "gate_up" in weights else "up"
    first, last = (np.asarray(weights[name]) for name in (up, "down"))  # [experts, d, (2,) f], [experts, f, d]
    inputs = np.moveaxis(first, 1, -1)
    a, lowered = shared_map(inputs.reshape(len(first), -1, first.shape[1]), rank, own)
    narrow_up = np.moveaxis(a.reshape(*inputs.shape[:-1], rank), -1, 1)
    narrow_down, raised = shared_map(last, rank, own)
    new = {up: narrow_up, "down": narrow_down, "lowered": lowered.T, "raised": raised}
    return weights | {name: np.ascontiguousarray(value, first.dtype) for name, value in new.items()}


def shared_map(matrices: np.ndarray, rank: int, own: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(A `[experts, rows, rank]`, B `[rank, columns]` with orthonormal rows), float64: A_e B is the best approximation
    of all `matrices` `[experts, rows, columns]` together, after each was brought to its own best rank `own`."""
    stack = matrices.astype(np.float64)
    if own is not None:
        u, s, v = np.linalg.svd(stack, full_matrices=False)
        stack = (u[..., :own] * s[..., None, :own]) @ v[..., :own, :]
    b = np.linalg.svd(stack.reshape(-1, stack.shape[-1]), full_matrices=False)[2][:rank]
    return stack @ b.T, b
