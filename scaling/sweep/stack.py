"""Stacks: trials of equal shape train in one compiled program; WSD trials branch from the one that decays last."""

from __future__ import annotations

import dataclasses
import functools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from models.serialize import digest
from scaling.sweep.trial import Trial, override
from scaling.train import config as train_config

# Trials that differ only here share a program.
TRACED: dict[str, Any] = {f"train.{name}": value for name, value in train_config.TRACED.items()} | {
    "data.unique_tokens": None
}

STEP_OVERHEAD_FLOPS = 3e7  # a CPU step's dispatch and elementwise work in matmul time; only orders and weighs stacks


@dataclass(frozen=True)
class Stack:
    """Trials that share one program; trunks[i] is the index of the trial that trial i branches from, or None."""

    trials: tuple[Trial, ...]
    trunks: tuple[int | None, ...]

    @functools.cached_property
    def id(self) -> str:
        """Hash of the grouping: which trials, in which order, branching where."""
        return digest(StackKey(tuple(t.id for t in self.trials), self.trunks))[:12]

    @property
    def flops(self) -> float:
        """Work in training FLOPs, what branches share counted once."""
        return sum(self._share(i) * trial.flops for i, trial in enumerate(self.trials))

    @property
    def work(self) -> float:
        """FLOPs plus the fixed cost of a step, in FLOPs: what wall time follows when models are tiny."""
        shares = [self._share(i) * (t.flops + STEP_OVERHEAD_FLOPS * t.train.steps) for i, t in enumerate(self.trials)]
        return sum(shares)

    def _share(self, i: int) -> float:
        """The share of its steps that trial i computes itself."""
        train = self.trials[i].train
        return 1.0 if self.trunks[i] is None else 1 - train.decay_start / train.steps


@dataclass(frozen=True)
class StackKey:
    """What identifies a stack."""

    trials: tuple[str, ...]
    trunks: tuple[int | None, ...]


def shape_key(trial: Trial) -> str:
    """Equal for trials that can share a program."""
    return digest(override(trial, TRACED))


def trunk_key(trial: Trial) -> str:
    """Equal for WSD trials that are one run until the first of them starts to decay."""
    train = dataclasses.replace(trial.train, steps=1, warmup_steps=trial.train.warmup, decay_fraction=0.0)
    return digest(dataclasses.replace(trial, train=train))


def make_stacks(trials: Sequence[Trial], stack_size: int) -> list[Stack]:
    """Group trials by shape into stacks of at most `stack_size`, most work first.

    A WSD family (trials equal but for their length and decay) stays in one stack, so that it can branch: the trial that
    decays last is the trunk, since a branch must leave it before it decays.
    """
    shapes: dict[str, dict[str, list[Trial]]] = defaultdict(lambda: defaultdict(list))
    for trial in trials:
        key = trunk_key(trial) if trial.train.schedule == "wsd" else trial.id
        shapes[shape_key(trial)][key].append(trial)
    stacks = []
    for families in shapes.values():
        group: list[list[Trial]] = []
        for family in families.values():
            if group and sum(map(len, group)) + len(family) > stack_size:
                stacks.append(_stack(group))
                group = []
            group.append(sorted(family, key=lambda t: (-t.train.decay_start, -t.train.steps)))
        stacks.append(_stack(group))
    return sorted(stacks, key=lambda stack: -stack.work)


def _stack(families: Sequence[Sequence[Trial]]) -> Stack:
    trials: list[Trial] = []
    trunks: list[int | None] = []
    for family in families:
        trunk = len(trials)
        trials += family
        trunks += [None] + [trunk] * (len(family) - 1)
    return Stack(tuple(trials), tuple(trunks))
