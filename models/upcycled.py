"""Fine-tunes of one dense checkpoint as the experts of one model (CLIP-MoE, Zhang et al. 2024, arXiv:2409.19291).

There, fine-tunes that train feed-forward blocks alone (`CHANNELS`) become experts, and then a router trains alone
(`ROUTERS`): both are patterns for `scaling.train.adaptation.Only`. Expert e of a layer is the feed-forward block of
fine-tune e; routers are drawn, all other weights are those that the fine-tunes share. So a router that sends every
token to expert e makes the model fine-tune e, and where fine-tunes are one and weights of the chosen sum to one, any
router makes it that one, as long as no token is dropped (sparse upcycling, Komatsuzaki et al. 2023). Each further
expert adds the feed-forward block's parameters, each further choice its FLOPs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from models import transformer
from models.channels import Dense, Experts
from models.config import ModelConfig
from models.errors import require
from models.layer import Layer
from models.transformer import Params, stack_layers, unstack_layers
from models.weight import walk

CHANNELS = ("*/feedforward/*",)  # what the fine-tunes may train
ROUTERS = ("*/feedforward/router*",)  # what the model of experts trains first


def with_fine_tunes(
    config: ModelConfig,
    fine_tunes: Sequence[Params],
    experts: Experts,
    seed: int = 0,
    rest: Literal["equal", "mean"] = "equal",
) -> tuple[ModelConfig, Params]:
    """(the model with one expert per fine-tune in place of every dense block of `config`, its parameters).

    experts: how tokens are routed; its width stays None. seed: of routers. rest: what is no feed-forward block has to
    be "equal" in all fine-tunes, or is their "mean" (of float64; then no router gives a fine-tune back).

    Raises:
      ConfigError: the model has experts, or blocks with an activation of their own; `experts` has weights that no
        fine-tune has, or another number or width of experts; parameters are not those of `config`, or not shared.
    """
    c = config.resolved()
    converted = _with_experts(c, experts, len(fine_tunes))
    given = [_checked(c, params, i) for i, params in enumerate(fine_tunes)]
    unrolled = dataclasses.replace(converted, scan_layers=False)
    routers = unflatten_dict({p: w for p, w in walk(transformer.weights(unrolled)) if p not in given[0]})
    whole = flatten_dict(transformer.drawn(unrolled.resolved(), routers, jax.random.key(seed)))
    dense = {i for i, layer in enumerate(c.layers) if isinstance(layer.channel, Dense)}
    blocks = {(f"block_{i}", Dense.slot) for i in dense}
    for path in given[0]:
        values = [np.asarray(params[path]) for params in given]
        if path[:2] in blocks:
            whole[path] = np.stack(values)
            continue
        problem = f"differ in {'/'.join(path)}, which is no feed-forward block"
        same = all(np.array_equal(values[0], value) for value in values[1:])
        require(same or rest == "mean", "fine_tunes", problem, "train feed-forward blocks alone, or set rest to mean")
        whole[path] = values[0] if same else np.mean(values, 0, np.float64).astype(values[0].dtype)
    params = unflatten_dict(whole)
    return converted, stack_layers(params, converted) if converted.scan_layers else params


def _with_experts(c: ModelConfig, experts: Experts, count: int) -> ModelConfig:
    """The config with experts for its dense blocks."""
    problem, fix = f"are {experts.experts} for {count} fine-tunes", f"set experts to {count}, and give 2 or more"
    require(experts.experts == count >= 2, "experts.experts", problem, fix)
    for field, nothing in (("d_ff", None), ("shared", 0), ("free", None), ("bottleneck", None)):
        value, fix = getattr(experts, field), f"leave it {nothing}"
        require(value == nothing, f"experts.{field}", "asks for weights that no fine-tune has", fix)
    fix = "give a model whose blocks are dense"
    require(not c.routed, "model", "has experts", fix)
    require(any(isinstance(x.channel, Dense) for x in c.layers), "model", "has no dense feed-forward block", fix)

    def converted(layer: Layer) -> Layer:
        if not isinstance(layer.channel, Dense):
            return layer
        own, fix = layer.channel.resolved(c.stream), f"use the model's, {c.activation}"
        problem = f"is {own.activation} in a block of its own, which experts do not have"
        require(own.activation == c.activation, "model.activation", problem, fix)
        return dataclasses.replace(layer, channel=dataclasses.replace(experts, d_ff=own.d_ff))

    if not c.pattern:
        return dataclasses.replace(c, moe=dataclasses.replace(experts, d_ff=c.d_ff))
    pattern, prologue = (tuple(map(converted, layers)) for layers in (c.pattern, c.prologue))
    return dataclasses.replace(c, pattern=pattern, prologue=prologue)


def _checked(c: ModelConfig, params: Params, number: int) -> dict[tuple[str, ...], Any]:
    """Unrolled parameters by path, which have the shapes that the config declares."""
    declared = {path: w.shape for path, w in walk(transformer.weights(c))}
    found = {path: np.shape(value) for path, value in flatten_dict(params).items()}
    for path in sorted(declared.keys() | found.keys()):
        problem = f"has {'/'.join(path)} of shape {found.get(path)}, not {declared.get(path)}"
        same = declared.get(path) == found.get(path)
        require(same, f"fine_tunes[{number}]", problem, "give parameters of the model that they are fine-tunes of")
    return flatten_dict(unstack_layers(params, c))
