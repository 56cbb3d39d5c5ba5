"""The joint frontier of training and test-time compute: which model, how long trained, and what to do with it.

A fitted loss law says what a training budget buys, a fitted accuracy law per strategy what k samples per problem buy on
top; the plan spends one budget on both, or two separate ones. A sample costs 2 params FLOP per token (attention and the
prompt are left out, as training is 6 params tokens) plus what its verifier costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

import scaling
from models.errors import ConfigError, require
from scaling.fitting.allocation import SMALLEST
from scaling.fitting.fit import Fit
from scaling.fitting.fitted import Interval, check_level
from scaling.fitting.law import Values

BEYOND = 16  # times the most samples that a law was fitted on: further out no plan goes unless asked to
SIZES, SMALLER, LARGER = 800, 1e-8, 1.5  # model sizes tried, relative to the optimum of training alone
LADDER, AROUND = 120, 240  # sample counts tried, and then around the best one


@dataclass(frozen=True, eq=False)
class Option:
    """A strategy that a plan may choose: its accuracy law, and what one of its samples costs.

    accuracy: a fit of accuracy on `samples` and on the training law's output or `params` (`test_time` of the
    catalogue, say). tokens_per_sample: generated tokens, discarded ones included. verifier_flops: per sample, whatever
    the model's size.
    """

    name: str
    accuracy: Fit
    tokens_per_sample: float
    verifier_flops: float = 0.0

    def __post_init__(self) -> None:
        for name in ("tokens_per_sample", "verifier_flops"):
            value = getattr(self, name)
            enough = np.isfinite(value) and (value > 0 if name == "tokens_per_sample" else value >= 0)
            require(bool(enough), f"{self.name}.{name}", f"is {value}", "give what one sample costs")

    @property
    def most(self) -> int:
        """The most samples that the law was fitted on; 1 for a law without samples."""
        return int(self.accuracy.table.inputs["samples"].max()) if "samples" in self.accuracy.law.inputs else 1


@dataclass(frozen=True, eq=False)
class JointPlan:
    """What to train and how to use it.

    samples: per problem. loss and accuracy: predicted. train_flops + inference_flops: how the budget is spent;
    inference_flops is for all problems. intervals: (low, high) of loss and accuracy at `level`. table: every strategy
    at its best, and `one sample`: the accuracy if nothing were spent on more than one sample of the best strategy.
    """

    params: float
    tokens: float
    strategy: str
    samples: int
    loss: float
    accuracy: float
    train_flops: float
    inference_flops: float
    problems: float
    intervals: Values
    level: float
    table: pd.DataFrame
    warnings: tuple[str, ...] = ()

    def summary(self) -> str:
        """The plan, the strategies side by side, and every warning."""
        lines = [
            f"training {self.train_flops:.4g} FLOP (6 params tokens), serving {self.inference_flops:.4g} FLOP "
            f"(2 params per token) for {self.problems:.4g} problems",
            f"  {'strategy':<17}{self.strategy}, {self.samples} samples per problem",
        ]
        for name in ("params", "tokens", "loss", "accuracy"):
            band = ""
            if name in self.intervals:
                low, high = self.intervals[name]
                band = f"[{low:.4g}, {high:.4g}] at {self.level:.0%}" if np.isfinite(low) else "no interval"
            lines.append(f"  {name:<17}{getattr(self, name):<12.5g}{band}".rstrip())
        lines.append(f"  {'':<24}{'params':>10} {'tokens':>10} {'samples':>8} {'loss':>8} {'accuracy':>9}")
        for row in self.table.itertuples(index=False):
            lines.append(
                f"  {row.strategy:<24}{row.params:>10.4g} {row.tokens:>10.4g} {row.samples:>8d} {row.loss:>8.4f} "
                f"{row.accuracy:>9.4f}"
            )
        return "\n".join([*lines, *(f"! {warning}" for warning in self.warnings)])

    __repr__ = summary


def joint_plan(
    training: Fit, options: Sequence[Option], *, flops: float | None = None, train_flops: float | None = None,
    inference_flops: float | None = None, inference_tokens: float | None = None, problems: float = 1.0,
    max_samples: int | None = None, interval: float = 0.9,
) -> JointPlan:  # fmt: skip
    """The model, tokens, strategy and samples per problem with the highest predicted accuracy.

    training: a fit of a law of params and tokens. Budgets, one of: `flops` for training and serving together, split
    freely; `flops` and `inference_tokens`, the tokens generated for all problems, which then fix the number of samples;
    `train_flops` and `inference_flops`, two budgets that cannot be exchanged. problems: how many will be served.
    max_samples: 16 times the most that a law was fitted on unless given.

    Raises ConfigError for other combinations, laws that do not fit each other, or budgets too small for one sample.
    """
    check_level(interval, "interval")
    _check(training, options, flops, train_flops, inference_flops, inference_tokens, problems)
    problem = _Problem(training, flops, train_flops, inference_flops, inference_tokens, float(problems))
    found = []
    for option in options:
        best = problem.best(option, max_samples or BEYOND * option.most)
        if best is not None:
            found.append((option, best))
    require(len(found) > 0, "budget", "does not pay for one sample per problem of any strategy",
            "give a larger budget or fewer problems")  # fmt: skip
    option, best = max(found, key=lambda pair: pair[1]["accuracy"])
    rows = [other for _, other in sorted(found, key=lambda pair: -pair[1]["accuracy"])]
    single = problem.best(option, 1) if inference_tokens is None else None
    if single is not None:
        rows.append({**single, "strategy": f"{option.name}, 1 sample"})
    table = pd.DataFrame(rows, columns=["strategy", "params", "tokens", "samples", "loss", "accuracy"])
    notes = _warnings(training, option, best, max_samples or BEYOND * option.most)
    spent = best["samples"] * problems * (2 * best["params"] * option.tokens_per_sample + option.verifier_flops)
    return JointPlan(
        **{name: best[name] for name in ("params", "tokens", "strategy", "samples", "loss", "accuracy")},
        train_flops=6 * best["params"] * best["tokens"],
        inference_flops=spent,
        problems=float(problems),
        intervals=_intervals(training, option, best, interval),
        level=interval,
        table=table,
        warnings=notes,
    )


def _check(training, options, flops, train_flops, inference_flops, inference_tokens, problems) -> None:
    """Raise ConfigError for budgets that do not go together and laws that cannot be chained."""
    given = [name for name, value in dict(flops=flops, train_flops=train_flops, inference_flops=inference_flops,
             inference_tokens=inference_tokens).items() if value is not None]  # fmt: skip
    allowed = (["flops"], ["flops", "inference_tokens"], ["train_flops", "inference_flops"])
    fix = "give flops, flops and inference_tokens, or train_flops and inference_flops"
    require(given in allowed, "budget", f"is given as {', '.join(given) or 'nothing'}", fix)
    for name, value in dict(flops=flops, train_flops=train_flops, inference_flops=inference_flops,
                            inference_tokens=inference_tokens, problems=problems).items():  # fmt: skip
        fine = value is None or (np.isfinite(value) and value > 0)
        require(bool(fine), name, f"{value} is not a positive number", "give a positive number")
    require(len(options) > 0, "options", "are empty", "give at least one strategy with an accuracy law")
    for name in ("params", "tokens"):
        if name not in training.law.inputs:
            raise ConfigError("training", f"the law {training.law.name} has no input {name!r}", "fit loss on both")
    known = (training.law.output, "params", "tokens", "samples")
    for option in options:
        law = option.accuracy.law
        unknown = [name for name in law.inputs if name not in known]
        require(not unknown, f"accuracy law of {option.name}", f"{law.name} needs {', '.join(unknown)}",
                f"use a law of {', '.join(known)}, such as test_time")  # fmt: skip
        shares = option.accuracy.table.measured
        require(bool(np.all((shares >= 0) & (shares <= 1))), f"accuracy law of {option.name}",
                f"{law.name} was fitted to values outside 0 to 1", "fit it to the share of right answers")  # fmt: skip
        sized = {training.law.output, "params"} & set(law.inputs)
        require(bool(sized), f"accuracy law of {option.name}", f"{law.name} says nothing about the model",
                f"use a law of {training.law.output} and samples, such as test_time")  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Problem:
    """The budgets, and the best plan within them for one strategy."""

    training: Fit
    flops: float | None
    train_flops: float | None
    inference_flops: float | None
    inference_tokens: float | None
    problems: float

    @cached_property
    def optimum(self) -> float:
        """The size that training alone would choose for the whole training budget."""
        return scaling.plan(self.training, flops=self.flops or self.train_flops).params

    def best(self, option: Option, limit: int) -> dict | None:
        """The best plan with at most `limit` samples of this strategy; None when not even one can be paid."""
        if self.inference_tokens is not None:
            fixed = int(self.inference_tokens / (option.tokens_per_sample * self.problems) + 1e-9)
            if fixed < 1:
                return None
            tried = np.array([fixed])
        else:
            tried = np.unique(np.geomspace(1, max(limit, 1), LADDER).round().astype(int))
        accuracy = self.accuracies(option, tried)
        if not np.isfinite(accuracy).any():
            return None
        at = int(np.nanargmax(accuracy))
        low, high = tried[max(at - 1, 0)], tried[min(at + 1, len(tried) - 1)]
        around = np.unique(np.linspace(low, high, AROUND).round().astype(int))
        samples = int(around[np.nanargmax(self.accuracies(option, around))])
        params, tokens = self.spend(option, samples)
        loss = float(self.training.outputs(self.training.z[None], _point(params=params, tokens=tokens))[0, 0])
        value = float(_accuracy(self.training, option, samples, params, tokens, loss)[0])
        return dict(strategy=option.name, params=params, tokens=tokens, samples=samples, loss=loss, accuracy=value)

    def accuracies(self, option: Option, samples: np.ndarray) -> np.ndarray:
        """Accuracy [K] at sample counts [K], the model being the best for each; NaN where the budget does not pay."""
        out = np.full(len(samples), np.nan)
        if self.flops is None:
            sizes = np.array([self._largest(option, k) for k in samples])
            paid = sizes >= 1
            if paid.any():
                params = np.minimum(sizes[paid], self.optimum)
                tokens = np.asarray(self.train_flops) / (6 * params)
                loss = self.training.outputs(self.training.z[None], {"params": params, "tokens": tokens})[0]
                out[paid] = _accuracy(self.training, option, samples[paid], params, tokens, loss)
            return out
        flops, fixed = self.flops, samples[:, None] * self.problems * option.verifier_flops

        def at(log_sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            """Tokens and loss [K, G] at ln sizes [K, G] or [G] when serving is paid; inf where nothing is left."""
            sizes = np.exp(log_sizes)
            serving = 2 * sizes * option.tokens_per_sample * samples[:, None] * self.problems + fixed
            tokens = (flops - serving) / (6 * sizes)
            inputs = {"params": np.broadcast_to(sizes, tokens.shape), "tokens": np.maximum(tokens, 1.0)}
            loss = self.training.outputs(self.training.z[None], {k: v.ravel() for k, v in inputs.items()})[0]
            return tokens, np.where(tokens >= 1, loss.reshape(tokens.shape), np.inf)

        # serving only makes models smaller
        grid = np.linspace(max(np.log(self.optimum * SMALLER), SMALLEST), np.log(self.optimum * LARGER), SIZES)
        _, loss = at(grid)
        best = np.clip(np.argmin(loss, axis=1), 1, SIZES - 2)
        below, here, above = (loss[np.arange(len(samples)), best + step] for step in (-1, 0, 1))
        with np.errstate(invalid="ignore"):
            shift = 0.5 * (below - above) / (below - 2 * here + above)
        vertex = grid[best] + np.where(np.isfinite(shift), np.clip(shift, -1, 1), 0.0) * (grid[1] - grid[0])
        tokens, loss = at(vertex[:, None])
        rows = np.flatnonzero(np.isfinite(loss[:, 0]))
        out[rows] = _accuracy(
            self.training, option, samples[rows], np.exp(vertex[rows]), tokens[rows, 0], loss[rows, 0]
        )
        return out

    def _largest(self, option: Option, samples: int) -> float:
        """The largest model that the inference budget can serve with so many samples."""
        per_sample = float(self.inference_flops or 0.0) / (self.problems * samples)
        return (per_sample - option.verifier_flops) / (2 * option.tokens_per_sample)

    def spend(self, option: Option, samples: int) -> tuple[float, float]:
        """params and tokens of the lowest loss with so many samples per problem."""
        if self.flops is None:
            # along a training budget loss falls up to the optimum and rises beyond: the nearest size that can be served
            params = min(self._largest(option, samples), self.optimum)
            return params, float(self.train_flops or 0.0) / (6 * params)
        served = samples * self.problems
        left = self.flops - served * option.verifier_flops
        plan = scaling.plan(self.training, flops=left, inference_tokens=served * option.tokens_per_sample)
        return plan.params, plan.tokens


def _point(**values: float) -> dict[str, np.ndarray]:
    return {name: np.atleast_1d(np.asarray(value, float)) for name, value in values.items()}


def _accuracy(training: Fit, option: Option, samples, params, tokens, loss) -> np.ndarray:
    """Predicted accuracy [.] of a strategy."""
    given = _point(samples=samples, params=params, tokens=tokens) | _point(**{training.law.output: loss})
    law = option.accuracy
    inputs = {name: given[name] for name in law.law.inputs}
    shape = np.broadcast_shapes(*(value.shape for value in given.values()))
    return np.broadcast_to(law.outputs(law.z[None], inputs)[0], shape)


def _intervals(training: Fit, option: Option, best: dict, level: float) -> Values:
    """Prediction intervals of the run's loss and of the accuracy.

    To first order the accuracy's own uncertainty and that of the loss it is read at add as variances.
    """
    at = dict(params=best["params"], tokens=best["tokens"])
    loss = training.predict(level, **at)
    given = {**at, "samples": best["samples"], training.law.output: best["loss"]}
    own = option.accuracy.predict(level, **{name: given[name] for name in option.accuracy.law.inputs})
    out = Values(loss=Interval(float(loss.low), float(loss.high)))
    middle = best["accuracy"]
    ends = []
    for end, other in ((own.low, loss.high), (own.high, loss.low)):
        moved = _accuracy(training, option, best["samples"], best["params"], best["tokens"], other)[0]
        ends.append(np.hypot(middle - end, middle - moved))
    out["accuracy"] = Interval(float(np.maximum(middle - ends[0], 0.0)), float(np.minimum(middle + ends[1], 1.0)))
    return out


def _warnings(training: Fit, option: Option, best: dict, limit: int) -> tuple[str, ...]:
    """What a reader of the plan must know: how far it lies outside what was measured."""
    notes = [*training.certificate.warnings]
    notes += [f"accuracy law of {option.name}: {warning}" for warning in option.accuracy.certificate.warnings]
    if best["samples"] >= limit > 1:
        notes.append(f"more than {limit} samples were not considered: the accuracy law was fitted on {option.most}")
    elif best["samples"] > option.most:
        notes.append(f"{best['samples']} samples are {best['samples'] / option.most:.3g} times the most fitted")
    measured = option.accuracy.table.inputs.get(training.law.output)
    if measured is not None and not measured.min() <= best["loss"] <= measured.max():
        ends = f"{measured.min():.4g} to {measured.max():.4g}"
        notes.append(f"the loss {best['loss']:.4g} is outside the {ends} that the accuracy law was fitted on")
    sizes = training.table.inputs["params"]
    if best["params"] < sizes.min() / 10:
        notes.append(
            f"params {best['params']:.3g} is {sizes.min() / best['params']:.3g} times below the smallest fitted size"
        )
    return tuple(notes)
