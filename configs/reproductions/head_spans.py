"""MoA: windows that a profile of gradients chooses for every head, against one window of as many keys on average.

    python -m launch.reproduce head_spans --workdir runs/reproductions/head_spans

Two layers of four heads of full attention learn to recall pairs from 64 tokens, and are then given windows without more
training: alpha + beta N each, chosen from a profile of other sequences of 48 and of 64 tokens, or the same for all.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from models import counts
from models.config import Layer, ModelConfig
from models.elastic import Rule, choose, profile, with_spans
from models.mixers import Attention
from scaling.reproduction import JSON, Measured, Reproduction, Workspace, least
from scaling.tasks.sequences import AssociativeRecall
from scaling.train.config import TrainConfig

LENGTHS, PAIRS, STEPS, SEEDS, ROWS, BUDGET, UNIT = (48, 64), 8, 1000, (1, 2, 3, 4), 256, 0.5, 2
RULES = (*(Rule(alpha, beta) for beta in (0.0, 0.25, 0.5, 0.75) for alpha in (2, 8)), Rule(0, 1.0))
MODEL = ModelConfig(64, d_model=64, n_layers=2, n_heads=4, pattern=(Layer(Attention(), None),))


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="head_spans", methods=(75,), smallest_effect=0.1, minutes=5,
        claim="windows of half the keys on average, chosen for every head from a profile of gradients, recall more "
        "than one window of half the keys", source="Fu et al. 2024, MoA: mixture of sparse attention for automatic "
        "large language model compression, arXiv:2406.14909", unit="share of labels, at the worse of both lengths",
        not_covered="language, pretrained models, more than two layers and 64 tokens, blocks and sinks, the time that "
        "narrower windows save", simulated=False, run=run,
    )  # fmt: skip


def kind(length: int) -> AssociativeRecall:
    return AssociativeRecall(vocab=64, length=length, pairs=PAIRS, power=1.0)


def train_of(quick: bool, seed: int = 0) -> TrainConfig:
    """Muon, which learns to bind in fewer steps than AdamW."""
    return TrainConfig(10 if quick else STEPS, 32, LENGTHS[-1], seed, 5e-3, optimizer="muon", weight_decay=0.0)


def chosen(params: Any, seed: int) -> list[Rule]:
    """The rules of all heads, layer by layer."""
    import jax.numpy as jnp
    import optax

    costs = {}
    for length in LENGTHS:
        data = kind(length).draw(np.random.default_rng(seed + 2000), 32)  # neither trained on nor tested

        def loss(logits: Any, data: Any = data) -> Any:
            nats = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(data.labels))
            return jnp.sum(nats * data.scored) / data.scored.sum()

        windows = [rule.window(length) for rule in RULES]
        found = profile(MODEL, params, jnp.asarray(data.tokens), loss, windows)
        costs[length] = found.reshape(-1, len(RULES))
    return choose(costs, RULES, BUDGET, UNIT)


def recalls(seed: int, quick: bool) -> JSON:
    """Recall at each length with all keys, with chosen windows and with one; and the rules."""
    from scaling.tasks.probe import probe, recalled

    params = probe(MODEL, kind(LENGTHS[-1]), train_of(quick, seed))
    rules, heads = chosen(params, seed), MODEL.n_heads
    ways = {"all": [Rule(0, 1.0)] * len(rules), "chosen": rules, "one": [Rule(0, BUDGET)] * len(rules)}
    found: dict[str, Any] = {"rules": [list(rule) for rule in rules]}
    for name, rules in ways.items():
        layers = [rules[i : i + heads] for i in range(0, len(rules), heads)]
        found[name] = [recalled(with_spans(MODEL, layers, n), params, kind(n), ROWS, seed) for n in LENGTHS]
    return found


def run(work: Workspace) -> Measured:
    found = []
    for seed in SEEDS[:2] if work.quick else SEEDS:
        found.append(work.keep(f"seed_{seed}", partial(recalls, seed, work.quick)))
        work.say(f"seed {seed}: {found[-1]}")
    more = np.array([one["chosen"] for one in found]) - np.array([one["one"] for one in found])  # [seeds, lengths]
    effect, interval = least(more.T)
    train = train_of(work.quick)
    flops = len(found) * counts.train_flops(MODEL, train.tokens, LENGTHS[-1])
    share = {n: [float(np.mean([Rule(*r).window(n) / n for r in one["rules"]])) for one in found] for n in LENGTHS}
    details = {
        "by seed": found, "mean window, as a share of N": {str(n): values for n, values in share.items()},
        "different rules among 8 heads": [len({tuple(r) for r in one["rules"]}) for one in found],
    }  # fmt: skip
    return Measured(effect, interval, float(flops), details)
