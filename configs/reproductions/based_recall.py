"""BASED on associative recall: features and windows both buy recall with state, 15 minutes on two busy cores.

    python -m launch.reproduce based_recall --workdir runs/reproductions/based_recall

Sixteen pairs among 31 keys in 64 tokens. Layer 0 of every model sees one token back, which binds a value to its key;
layer 1 is Taylor linear attention of 1 to 4 dims or a window of 8 to 64 keys, and keeps from 0.8 to 33 kB a sequence.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from models import counts
from models.config import Layer, ModelConfig
from models.mixers import Attention, Linear, Mixer
from scaling.reproduction import Measured, Reproduction, Workspace, t_interval
from scaling.tasks.sequences import AssociativeRecall
from scaling.train.config import TrainConfig

RECALL = AssociativeRecall(vocab=64, length=64, pairs=16, power=1.0)
SEEDS, ROWS = (1, 2, 3, 4), 256
FEATURES: dict[str, Mixer] = {f"taylor {d}": Linear(features=d) for d in (1, 2, 3, 4)}
WINDOWS: dict[str, Mixer] = {f"window {w}": Attention(window=w) for w in (8, 16, 32, 64)}


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="based_recall", methods=(80,),
        claim="both the features of Taylor linear attention and the window of attention trace recall against state",
        source="Arora et al. 2024, Simple linear attention language models balance the recall-throughput tradeoff",
        smallest_effect=0.05, unit="recall per doubling of the state, the smaller of both slopes", minutes=15,
        not_covered="language, more than two layers, short convolutions, throughput on accelerators",
        simulated=False, run=run,
    )  # fmt: skip


def model_of(mixer: Mixer) -> ModelConfig:
    """Two layers without channels: one token back, then the mixer."""
    pattern = (Layer(Attention(window=2), None), Layer(mixer, None))
    return ModelConfig(RECALL.vocab_size, d_model=64, n_layers=2, n_heads=2, pattern=pattern)


def state_bytes(mixer: Mixer) -> int:
    """What the second layer keeps of a whole sequence."""
    kept = mixer.kept(model_of(mixer).stream).values()
    tokens = min(getattr(mixer, "window", None) or 0, RECALL.length)
    return sum(k.bytes("float32") * (1 if k.per == "row" else tokens) for k in kept)


def recalls(mixer: Mixer, quick: bool) -> list[float]:
    """Recall of unseen sequences after training, for each seed."""
    from scaling.tasks.probe import probe, recalled

    model, found = model_of(mixer), []
    for seed in SEEDS[:2] if quick else SEEDS:
        params = probe(model, RECALL, train_of(quick, seed))
        found.append(recalled(model, params, RECALL, ROWS, seed))
    return found


def train_of(quick: bool, seed: int = 0) -> TrainConfig:
    """Muon, which learns to bind in fewer steps than AdamW."""
    return TrainConfig(10 if quick else 300, 32, RECALL.length, seed, 5e-3, optimizer="muon", weight_decay=0.0)


def run(work: Workspace) -> Measured:
    """Every mixer and seed; one slope of recall in log2 of the state's bytes per seed and family."""
    table: dict[str, Any] = {}
    for family in (FEATURES, WINDOWS):
        for name, mixer in family.items():
            table[name] = work.keep(name.replace(" ", "_"), partial(recalls, mixer, work.quick))
            work.say(f"{name}: {state_bytes(mixer):,} bytes, recall {np.mean(table[name]):.3f}")
    slopes, lines = [], {}
    for label, family in (("Taylor linear attention", FEATURES), ("window", WINDOWS)):
        size = np.log2([state_bytes(mixer) for mixer in family.values()])
        by_seed = np.array([table[name] for name in family])
        slopes.append(np.polyfit(size, by_seed, 1)[0])
        lines[label] = {"x": (2**size).tolist(), "y": by_seed.mean(1).tolist(),
                        "low": by_seed.min(1).tolist(), "high": by_seed.max(1).tolist()}  # fmt: skip
    smaller = np.min(slopes, axis=0)
    train = train_of(work.quick)
    flops = sum(len(table[name]) * counts.train_flops(model_of(mixer), train.tokens, RECALL.length)
                for name, mixer in (FEATURES | WINDOWS).items())  # fmt: skip
    details = {
        "recall": table, "slopes by seed": {"features": list(slopes[0]), "windows": list(slopes[1])},
        "bytes": {name: state_bytes(mixer) for name, mixer in (FEATURES | WINDOWS).items()},
        "curves": [{"x": "bytes of state", "y": "recall", "log": "x", "lines": lines}],
    }  # fmt: skip
    return Measured(float(smaller.mean()), t_interval(smaller), float(flops), details)
