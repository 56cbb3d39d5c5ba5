"""The isoFLOP plan: budgets x widths -> shapes, tokens and steps that hit each budget (Hoffmann et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from models import counts
from models.config import ModelConfig
from models.errors import ConfigError, require
from scaling.sweep.combinators import Point
from scaling.sweep.trial import Trial, override, steps_for, training_flops
from scaling.typed import STEPS, WIDTH, at_most, typed

MOST = 1000  # budgets, and widths


@dataclass(frozen=True)
class Isoflop:
    """Budgets (FLOPs per trial) x widths of one shape family.

    Widths are d_model; depth and feed-forward ratio are the base model's.
    A width joins a budget when its tokens per parameter lie in [min_ratio, max_ratio].
    """

    budgets: tuple[float, ...]  # FLOPs of each trial
    widths: tuple[int, ...]  # d_model
    min_ratio: float = 4.0  # tokens per parameter, at least
    max_ratio: float = 1000.0  # and at most
    learning_rate_exponent: float = 0.5  # peak = train.learning_rate x (model.d_model / width)^exponent
    tolerance: float = 0.01  # of the budget
    min_steps: int = 50  # a cell of fewer is left out

    def __post_init__(self) -> None:
        typed(self, "isoflop")
        at_most(self, "isoflop", max_ratio=1e12, min_steps=STEPS)
        for name, values in (("budgets", self.budgets), ("widths", self.widths)):
            require(len(values) <= MOST, f"isoflop.{name}", f"has {len(values):,} entries", f"give at most {MOST:,}")
        require(self.min_steps >= 1, "isoflop.min_steps", f"is {self.min_steps}", "give a positive number of steps")
        exponent = self.learning_rate_exponent
        require(abs(exponent) <= 8, "isoflop.learning_rate_exponent", f"is {exponent}", "give a power such as 0.5")
        require(len(self.budgets) > 0, "isoflop.budgets", "is empty", "give at least one compute budget in FLOPs")
        require(len(self.widths) > 0, "isoflop.widths", "is empty", "give at least one d_model")
        for budget in self.budgets:
            require(budget > 0, "isoflop.budgets", f"has {budget:g}", "give positive FLOPs")
            require(budget <= 1e32, "isoflop.budgets", f"has {budget:g}", "give at most 1e32 FLOPs")
        for width in self.widths:
            require(width >= 1, "isoflop.widths", f"has {width}", "give positive widths")
            require(width <= WIDTH, "isoflop.widths", f"has {width}", f"give at most {WIDTH:,}")
        require(0 < self.tolerance < 1, "isoflop.tolerance", f"is {self.tolerance}", "give a fraction such as 0.01")
        require(
            0 < self.min_ratio < self.max_ratio,
            "isoflop.min_ratio",
            f"{self.min_ratio} is not below max_ratio {self.max_ratio}",
            "give 0 < min_ratio < max_ratio",
        )


def shape(base: ModelConfig, width: int) -> Point:
    """The overrides that give the base family's model of this width.

    A base with head_dim keeps it and gets more heads; one without keeps its number of heads.
    """
    point: dict[str, Any] = {"model.d_model": width}
    if base.head_dim is not None:
        problem = f"{width} is no multiple of model.head_dim {base.head_dim}"
        require(width % base.head_dim == 0, "isoflop.widths", problem, "change either")
        point["model.n_heads"] = width // base.head_dim
    if base.d_ff is not None:
        point["model.d_ff"] = round(base.d_ff * width / base.d_model)
    return point


def at_budget(plan: Isoflop, base: Trial, budget: float, width: int) -> Point | None:
    """The point of one (budget, width) cell, or None when the cell is outside the plan's ranges."""
    point = dict(shape(base.model, width))
    model = override(base, point).model
    steps = steps_for(budget, model, base.train)
    flops = training_flops(model, base.train, steps * base.train.tokens_per_step)
    ratio = steps * base.train.tokens_per_step / counts.params(model)
    reachable = steps >= plan.min_steps and abs(flops / budget - 1) <= plan.tolerance
    if not (reachable and plan.min_ratio <= ratio <= plan.max_ratio):
        return None
    peak = base.train.learning_rate * (base.model.d_model / width) ** plan.learning_rate_exponent
    return point | {"train.steps": steps, "train.learning_rate": peak}


def plan_isoflop(plan: Isoflop, base: Trial) -> list[Point]:
    """All cells of the plan, budgets outer; ConfigError for a budget that no width can reach."""
    points: list[Point] = []
    for budget in plan.budgets:
        cells = [cell for width in plan.widths if (cell := at_budget(plan, base, budget, width)) is not None]
        if not cells:
            tokens = base.train.tokens_per_step
            raise ConfigError(
                "isoflop.budgets",
                f"no width of {list(plan.widths)} spends {budget:.3g} FLOPs within {plan.tolerance:.0%} at "
                f"{plan.min_ratio:g} to {plan.max_ratio:g} tokens per parameter in steps of {tokens} tokens",
                "change the budget, add widths, or lower train.batch_size",
            )
        points += cells
    return points
