"""How to spend a budget: the model and token count that a fitted law says are best, the bootstrap pushed through.

Cost of training is 6 N D FLOP and of serving 2 N per token, unless a cost function is given; the plan states which.
With `inference_tokens` the budget covers training and serving together (Sardana et al. 2023): a smaller model, longer
trained.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable

import numpy as np

from models.errors import ConfigError, require
from scaling.fitting.fitted import ExtrapolationWarning, Fitted, Interval, check_level, only_known
from scaling.fitting.frontier import Frontier
from scaling.fitting.law import Law, Values

GOLDEN = 0.6180339887498949
SECTIONS = 8
GRID = 50  # sizes of the coarse search
SMALLER = 0.1  # of the smallest fitted size, below which a plan says so
SMALLEST, LARGEST = np.log(10.0), np.log(1e18)  # of ln params


@dataclasses.dataclass(frozen=True)
class Plan:
    """params, tokens and predicted loss of the best run for a budget; `intervals` has (low, high) of each, of level
    `interval`.

    flops: the whole budget, training and serving; cost: the formula it was computed with. The loss interval is the
    prediction interval of the run, the others are bootstrap percentiles; NaN where the fit supports none. reach: params
    x tokens over those of the largest fitted run; above 1 the plan is an extrapolation.
    """

    params: float
    tokens: float
    loss: float
    flops: float
    inference_tokens: float
    tokens_per_param: float
    intervals: Values
    interval: float
    cost: str
    warnings: tuple[str, ...] = ()
    reach: float = np.nan

    def summary(self) -> str:
        lines = [f"budget {self.flops:.4g} FLOP, cost {self.cost}"]
        for name in ("params", "tokens", "tokens_per_param", "loss"):
            if not np.isfinite(getattr(self, name)):
                continue  # a frontier has no loss
            low, high = self.intervals[name]
            band = f"[{low:.4g}, {high:.4g}] at {self.interval:.0%}" if np.isfinite(low) else "no interval"
            lines.append(f"  {name:<17}{getattr(self, name):<12.5g}{band}")
        if self.reach > 1:
            lines.append(f"  extrapolated: {self.reach:.3g} times the params x tokens of the largest fitted run")
        return "\n".join([*lines, *(f"! {w}" for w in self.warnings)])

    __repr__ = summary


def plan(
    fit: Fitted | Frontier,
    flops: float | None = None,
    *,
    loss: float | None = None,
    inference_tokens: float = 0.0,
    interval: float = 0.9,
    cost: Callable | None = None,
    **at,
) -> Plan:
    """The compute-optimal run for `flops`, or the cheapest one that reaches `loss`.

    fit: a fitted law of params and tokens; or an isoFLOP frontier, which knows sizes but no loss beyond its budgets.
    inference_tokens: tokens the model will serve; flops then is the budget of training and serving.
    cost: (params, tokens) -> FLOP, increasing in tokens, instead of 6 N D (+ 2 N inference_tokens).
    at: values of the law's other inputs, if it has any.
    """
    if isinstance(fit, Frontier):
        only_known("plan", at, ("flops", "interval"))
        return _on_frontier(fit, flops, loss, inference_tokens, interval, cost)
    law = fit.law
    given = _checked(law, flops, loss, inference_tokens, interval, at)
    problem = _Problem(fit, inference_tokens, cost, at)
    budget = given
    if loss is not None:
        budget = float(problem.cheapest(fit.z[None], loss)[0])
        if not np.isfinite(budget):
            raise ConfigError(
                "loss", f"{loss} is below what {law.name} can reach", f"it levels off at {problem.floor():.4g}"
            )
    params, tokens, best = (float(a[0]) for a in problem.best(fit.z[None], np.array([budget])))
    if not (tokens > 0 and np.isfinite(best)):
        raise ConfigError(
            "plan",
            f"no model of {np.exp(SMALLEST):.3g} parameters or more can be trained and served for {budget:.4g} FLOP",
            "give a larger budget or fewer inference_tokens",
        )
    _refuse_edge(fit, params, budget)
    intervals = _intervals(fit, problem, budget, loss, interval, params, tokens, at)
    formula = (
        "given function"
        if cost
        else "6 params tokens" + (f" + 2 params x {inference_tokens:.4g} inference tokens" if inference_tokens else "")
    )
    return Plan(
        params,
        tokens,
        best,
        budget,
        float(inference_tokens),
        tokens / params,
        intervals,
        interval,
        formula,
        (*fit.certificate.warnings, *_far(fit, params), *_untested(fit, params, tokens, at)),
        params * tokens / float((fit.table.inputs["params"] * fit.table.inputs["tokens"]).max()),
    )


def _checked(
    law: Law, flops: float | None, loss: float | None, inference_tokens: float, interval: float, at: dict[str, float]
) -> float:
    """The one of `flops` and `loss` that was given; ConfigError for what no plan can be made of."""
    for name in ("params", "tokens"):
        if name not in law.inputs:
            raise ConfigError("plan", f"the law {law.name} has no input {name!r}", "use a law of params and tokens")
    others = [name for name in law.inputs if name not in ("params", "tokens")]
    only_known("plan", at, (*others, "flops", "loss", "inference_tokens", "interval", "cost"))
    for name in law.inputs:
        if name not in ("params", "tokens") and name not in at:
            raise ConfigError("plan", f"the law {law.name} also needs {name!r}", f"give {name}=...")
    given = [value for value in (flops, loss) if value is not None]
    if len(given) != 1:
        raise ConfigError("plan", "give a budget or a loss", "plan(fit, flops=1e21) or plan(fit, loss=2.0)")
    check_level(interval, "interval")
    require(_number(given[0]) and given[0] > 0, "plan", f"{given[0]} is not a positive number",
            "give FLOP, as 1e21" if loss is None else "give a loss above the law's floor")  # fmt: skip
    require(_number(inference_tokens) and inference_tokens >= 0, "inference_tokens",
            f"{inference_tokens} is no count", "give the tokens that the model will serve")  # fmt: skip
    return float(given[0])


def _number(value: object) -> bool:
    """Whether it is one finite number, and neither text nor an array."""
    return isinstance(value, int | float | np.number) and bool(np.isfinite(value))


def _refuse_edge(fit: Fitted, params: float, budget: float) -> None:
    """Raise the error for a plan that is no minimum: on an end of the sizes searched, or of a law whose terms of size
    and length the rows do not determine."""
    loose = [name for name in fit.certificate.not_identified if name not in fit.fixed]
    if loose:
        problem = f"the rows do not determine {', '.join(loose)} of {fit.law.name}, so there is no best size"
        raise ConfigError("fit", problem, "add runs that vary params and tokens apart, or hold parameters with fixed=")
    step = (LARGEST - SMALLEST) / (GRID - 1)
    if not SMALLEST + step < np.log(params) < LARGEST - step:
        raise ConfigError(
            "plan",
            f"the loss at {budget:.3g} FLOP falls to the end of the sizes searched ({params:.3g} parameters)",
            "the law has no best size there: check the units of params and tokens, and the parameters on a bound",
        )


def _far(fit: Fitted, params: float) -> tuple[str, ...]:
    """A note on a planned size that is far below all fitted ones, where serving leaves little for training."""
    smallest = float(fit.table.inputs["params"].min())
    if params > SMALLER * smallest:
        return ()
    return (f"params {params:.3g} is {smallest / params:.3g} times below the smallest fitted size",)


def _on_frontier(
    frontier: Frontier, flops: float | None, loss: float | None, inference_tokens: float, interval: float, cost
) -> Plan:
    """The plan of N* = G C^a and D* = H C^b: no loss, and no serving, which would need one."""
    if flops is None or loss is not None or inference_tokens or cost is not None:
        problem = "an isoFLOP frontier knows sizes for a budget and no loss"
        raise ConfigError("plan", problem, "give flops alone, or plan with a fitted law")
    check_level(interval, "interval")
    require(_number(flops) and flops > 0, "plan", f"{flops} is not a positive number", "give FLOP, as 1e21")
    params, tokens = (float(value) for value in frontier.optimum(flops))
    none = Interval(np.nan, np.nan)
    intervals = Values(dict.fromkeys(("params", "tokens", "tokens_per_param", "flops", "loss"), none))
    used = frontier.table[frontier.table["used"]]
    if len(frontier.draws) >= 20 and len(used) >= 3:
        n = frontier.draws["G"] * flops ** frontier.draws["a"]
        d = frontier.draws["H"] * flops ** frontier.draws["b"]
        for name, draws in (("params", n), ("tokens", d), ("tokens_per_param", d / n)):
            low, high = np.quantile(draws, [(1 - interval) / 2, (1 + interval) / 2])
            intervals[name] = Interval(float(low), float(high))
    reach = flops / float(used["flops"].max())
    formula = f"N* = {frontier.params.G:.4g} C^{frontier.params.a:.4g}, in the FLOP of the table"
    return Plan(params, tokens, np.nan, float(flops), 0.0, tokens / params, intervals, interval, formula, (), reach)


def _untested(fit: Fitted, params: float, tokens: float, at: dict) -> tuple[str, ...]:
    """What the fit says about the interval of the planned loss."""
    return fit.doubts(params=params, tokens=tokens, **at) if fit.certificate.supports_interval else ()


def _intervals(fit, problem, flops, loss, level, params, tokens, at) -> Values:
    none = Interval(np.nan, np.nan)
    names = ("params", "tokens", "tokens_per_param", "flops")
    out = Values(dict.fromkeys(names, none))
    if fit.certificate.supports_interval:
        z = fit.prediction_draws()
        budgets = np.full(len(z), float(flops)) if loss is None else problem.cheapest(z, loss)
        usable = np.isfinite(budgets)
        n, d, _ = problem.best(z[usable], budgets[usable])
        tails = [(1 - level) / 2, (1 + level) / 2]
        for name, values in zip(names, (n, d, d / n, budgets[usable]), strict=True):
            if len(values):
                out[name] = Interval(*(float(q) for q in np.quantile(values, tails)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExtrapolationWarning)  # the plan says it
        prediction = fit.predict(params=params, tokens=tokens, interval=level, **at)
    out["loss"] = Interval(prediction.low, prediction.high)
    return out


class _Problem:
    """Minimise the law over params at a fixed cost, for a batch of parameter draws at once."""

    def __init__(self, fit: Fitted, inference_tokens: float, cost: Callable | None, at):
        self.fit, self.inference_tokens, self.cost = fit, inference_tokens, cost
        self.at = {k: np.asarray(v, float) for k, v in at.items()}

    def tokens(self, log_params, flops):
        """Tokens [B] left for training `exp(log_params)` parameters [B] on `flops` [B]; 0 when serving eats it all."""
        params = np.exp(log_params)
        if self.cost is None:
            return np.maximum(flops - 2 * params * self.inference_tokens, 0.0) / (6 * params)
        low, high = np.zeros_like(params), np.full_like(params, np.log(1e25))
        serving = 2 * params * self.inference_tokens
        payable = self.cost(params, np.ones_like(params)) + serving <= flops
        for _ in range(60):
            middle = 0.5 * (low + high)
            over = self.cost(params, np.exp(middle)) + serving > flops
            low, high = np.where(over, low, middle), np.where(over, middle, high)
        return np.where(payable, np.exp(low), 0.0)

    def loss(self, z, log_params, flops):
        """Predicted loss [B] at draws z [B, K]."""
        tokens = self.tokens(log_params, flops)
        law = self.fit.law
        with np.errstate(all="ignore"):
            inputs = {"params": np.exp(log_params)[:, None], "tokens": np.maximum(tokens, 1e-3)[:, None], **self.at}
            value = law.evaluate(law.coordinates.to_params(z), {k: inputs[k] for k in law.inputs}).value
        return np.where(tokens > 0, np.broadcast_to(value, (len(z), 1))[:, 0], np.inf)

    def best(self, z, flops):
        """params, tokens, loss [B] of the optimum: golden section in ln N, around the best point of a coarse grid."""
        grid = np.linspace(SMALLEST, LARGEST, GRID)
        coarse = np.array([self.loss(z, np.full(len(z), g), flops) for g in grid])
        middle = grid[np.argmin(np.where(np.isfinite(coarse), coarse, np.inf), axis=0)]
        step = grid[1] - grid[0]
        low, high = middle - step, middle + step
        a, b = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
        fa, fb = self.loss(z, a, flops), self.loss(z, b, flops)
        for _ in range(SECTIONS):
            left = fa < fb
            low, high = np.where(left, low, a), np.where(left, b, high)
            new = np.where(left, high - GOLDEN * (high - low), low + GOLDEN * (high - low))
            fresh = self.loss(z, new, flops)
            a, b = np.where(left, new, b), np.where(left, a, new)
            fa, fb = np.where(left, fresh, fb), np.where(left, fa, fresh)
        x = 0.5 * (low + high)
        for h in (1e-2, 1e-3):
            x = np.clip(x + self._parabola(z, x, h, flops), low - step, high + step)
        return np.exp(x), self.tokens(x, flops), self.loss(z, x, flops)

    def _parabola(self, z, x, h, flops):
        """Shift [B] to the vertex of a parabola through x - h, x, x + h: comparing values stops at sqrt(epsilon)."""
        below, here, above = (self.loss(z, x + s, flops) for s in (-h, 0.0, h))
        with np.errstate(all="ignore"):
            curvature = below - 2 * here + above
            shift = 0.5 * h * (below - above) / curvature
        return np.where((curvature > 0) & np.isfinite(shift), shift, 0.0)

    def cheapest(self, z, loss):
        """Smallest budget [B] whose optimum reaches `loss`; inf where none does.

        Bracketed false position (Illinois) in ln C on ln of the loss: a power law is nearly straight there.
        """

        def gap(log_flops):
            return np.log(self.best(z, np.exp(log_flops))[2]) - np.log(loss)

        low, high = np.full(len(z), np.log(1e8)), np.full(len(z), np.log(1e40))
        at_low, at_high = gap(low), gap(high)
        reachable = at_high <= 0
        for _ in range(40):
            with np.errstate(all="ignore"):
                middle = np.where(np.isfinite(at_low), (low * at_high - high * at_low) / (at_high - at_low), np.nan)
            middle = np.where(np.isfinite(middle), np.clip(middle, low, high), 0.5 * (low + high))
            fresh = gap(middle)
            enough = fresh <= 0
            at_low = np.where(enough, 0.5 * at_low, fresh)
            at_high = np.where(enough, fresh, 0.5 * at_high)
            low, high = np.where(enough, low, middle), np.where(enough, middle, high)
            if np.all((np.abs(fresh) < 1e-13) | (high - low < 1e-12) | ~reachable):
                break
        return np.where(reachable, np.exp(middle), np.inf)

    def floor(self) -> float:
        """The loss at an enormous budget."""
        return float(self.best(self.fit.z[None], np.array([1e40]))[2][0])
