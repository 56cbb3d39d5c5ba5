"""The compute-optimal frontier without a parametric loss: Chinchilla's approach 1 (envelope of training curves) and
approach 2 (isoFLOP parabolas). Both end in N* = G C^a and D* = H C^b.

Every row of the frontier says why it was used or rejected: a minimum on the edge of the sizes tried is no minimum.

Resampling within a budget says how well its own minimum is known, and nothing about how far minima scatter around a
power of C: a budget that a parabola happens to meet exactly would decide alone. So the variance between budgets is
estimated from their scatter around the line (Paule and Mandel 1982), and enters weights and intervals alike.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import brentq

from models.errors import ConfigError
from scaling.fitting.fitted import Interval, check_level, known_arguments
from scaling.fitting.law import Values
from scaling.fitting.runs import Runs, as_table, check_units, missing, numbers

BINS = 1500
SAID = 1.1  # spread of flops within a budget from which on the summary says what was read as one
WIDEST = 2.5  # spread of flops from which on runs are of no one budget
BUDGETS = ("budget", "isoflop", "isoflop_budget", "flop_budget", "flops_budget", "compute_budget", "budget_flops")
SAME_RUN = 0.1  # difference in ln D up to which a size that comes twice is one run made twice


@dataclasses.dataclass(frozen=True, eq=False)
class Frontier:
    """table: one row per budget with flops, spread (largest over smallest flops read as this budget), params, tokens,
    loss, sd_log_params, used and reason; params: a, b (exponents of N* and D*), G, H (N* = G C^a, D* = H C^b); draws:
    bootstrap of the four, one row per resample; between: standard deviation of ln N* between budgets; notes: what was
    done to the rows, doubts: what is wrong with them."""

    table: pd.DataFrame
    params: Values
    draws: pd.DataFrame
    between: float = np.nan
    named: bool = True  # whether a column named the budgets
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()

    def optimum(self, flops) -> tuple[np.ndarray, np.ndarray]:
        """N* and D* at the budgets flops [.]."""
        c = np.asarray(flops, float)
        return self.params.G * c**self.params.a, self.params.H * c**self.params.b

    @known_arguments
    def interval(self, interval: float = 0.95) -> Values:
        """Percentile interval of a, b, G, H; NaN when fewer than three budgets have a minimum."""
        check_level(interval, "interval")
        if len(self.draws) < 20 or self.table["used"].sum() < 3:
            return Values({name: Interval(np.nan, np.nan) for name in self.params})
        tails = [(1 - interval) / 2, (1 + interval) / 2]
        ends = {name: np.quantile(self.draws[name], tails) for name in self.params}
        return Values({name: Interval(float(low), float(high)) for name, (low, high) in ends.items()})

    @known_arguments
    def summary(self, interval: float = 0.95) -> str:
        """The two powers with intervals, what was done to the rows, and why budgets were rejected."""
        intervals = self.interval(interval)
        used = int(self.table["used"].sum())
        lines = [f"N* = G C^a, D* = H C^b from {used} of {len(self.table)} budgets"]
        lines += [
            f"  {name} {value:<12.6g} [{intervals[name].low:.6g}, {intervals[name].high:.6g}]"
            for name, value in self.params.items()
        ]
        if used < 3:
            lines.append(f"! no interval: {used} budgets have a minimum, at least 3 are needed")
        elif len(self.draws) < 20:
            lines.append(f"! no interval: {len(self.draws)} resamples, at least 20 are needed: give bootstrap=")
        if used > 2 and np.isfinite(self.between):
            lines.append(f"  minima scatter by {self.between:.3g} in ln N* around the line beyond their own deviation")
        lines += [*self.notes, *(f"! {doubt}" for doubt in self.doubts)]
        wide = self.table[:0] if self.named else self.table[self.table["spread"] > SAID]
        lines += [
            f"! {flops:.3g} FLOP: flops within a factor {spread:.3g} were read as one budget; "
            "name a column with budget="
            for flops, spread in zip(wide["flops"].head(8), wide["spread"].head(8), strict=True)
        ]
        rejected = self.table[~self.table["used"]]
        lines += [
            f"! {flops:.3g} FLOP: {reason}"
            for flops, reason in zip(rejected["flops"].head(8), rejected["reason"].head(8), strict=True)
        ]
        return "\n".join(lines)

    __repr__ = summary


def power(log_flops: np.ndarray, log_params: np.ndarray, log_tokens: np.ndarray, weights: np.ndarray) -> dict[str, Any]:
    """Weighted least squares of ln N* and ln D* [..., k] on ln C [k]: a, b, G, H [...]."""
    if len(log_flops) < 2 or np.ptp(log_flops) == 0:
        return dict(a=np.nan, b=np.nan, G=np.nan, H=np.nan)
    middle = np.average(log_flops, weights=weights)
    leverage = weights * (log_flops - middle)
    leverage = leverage / (leverage @ (log_flops - middle))
    a, b = log_params @ leverage, log_tokens @ leverage
    heights = (np.average(y, axis=-1, weights=weights) for y in (log_params, log_tokens))
    with np.errstate(over="ignore"):  # a resample of few budgets may have any slope, and an interval takes infinity
        g, h = (np.exp(height - slope * middle) for height, slope in zip(heights, (a, b), strict=True))
    return dict(a=a, b=b, G=g, H=h)


@known_arguments
def isoflop_minima(
    runs: Runs,
    *,
    columns: Mapping[str, str] | None = None,
    budget: str | None = None,
    gap: float = 0.2,
    bootstrap: int = 1000,
    seed: int = 0,
) -> Frontier:
    """Approach 2: per budget the minimum of a parabola of the loss in ln N, then N* and D* as powers of C.

    runs: needs params, tokens, loss, and flops or `budget`, the column that names the isoFLOP group; a complete column
    of BUDGETS is used by itself. Without one, budgets end where ln C jumps by more than `gap`, and a group in which one
    size comes twice, with other tokens, is parted at its widest jump until none does. Budgets are weighted by the
    inverse of two variances, their own of ln N* and that between budgets. A budget is rejected with fewer than 4 sizes,
    without curvature, with its minimum on the edge, or (without a column) when its flops differ by more than a factor
    WIDEST. Rows are resampled within their budget.
    """
    table = as_table(runs, columns, ("params", "tokens", "loss", *([budget] if budget else [])))
    notes = list(table.attrs["notes"])
    for name in ("params", "tokens", "loss"):
        if name not in table.columns:
            missing(name, table.columns)
    params, loss = numbers(table, "params", positive=True), numbers(table, "loss", positive=True)
    flops, tokens = numbers(table, "flops", positive=True), numbers(table, "tokens", positive=True)
    if budget is not None and budget not in table.columns:
        missing(budget, table.columns)
    doubts = check_units({"params": params, "tokens": tokens, "loss": loss, "flops": flops})
    budget = budget or _budget_column(table, notes)
    groups = (
        budget_groups(flops, params, tokens, gap)
        if budget is None
        else np.unique(table[budget].astype(str), return_inverse=True)[1]
    )
    # cost per parameter and token, so that D* belongs to N* in the table's own FLOP count
    cost = np.log(flops / (params * tokens))
    rows, draws, rng = [], [], np.random.default_rng(seed)
    for group in sorted(np.unique(groups), key=lambda code: flops[groups == code].mean()):
        inside = groups == group
        x, y, c = np.log(params[inside]), loss[inside], np.log(flops[inside]).mean()
        row, resampled = _minimum(x, y, c, cost[inside], rng, max(bootstrap, 200))
        spread = float(np.exp(np.ptp(np.log(flops[inside]))))
        if budget is None and spread > WIDEST:
            row |= {"used": False, "reason": f"flops differ by a factor {spread:.3g}, which is no one budget"}
        rows.append({"flops": row.pop("flops"), "spread": spread} | row)
        draws.append(resampled[:bootstrap])
    frontier = pd.DataFrame(rows)
    used = frontier["used"].to_numpy(bool)
    if used.sum() < 2:
        why = "; ".join(dict.fromkeys(frontier["reason"][~used])) or "one budget makes no line"
        raise ConfigError(
            "runs",
            f"{used.sum()} of {len(used)} budgets have a minimum inside the sizes tried ({why})",
            "train more sizes around the minima, or name the column of the budgets with budget=",
        )
    point, samples, between = _line(frontier[used], np.array(draws)[used], rng)
    return Frontier(frontier, Values(point), samples, between, budget is not None, tuple(notes), tuple(doubts))


def _line(
    minima: pd.DataFrame, drawn: np.ndarray, rng: np.random.Generator
) -> tuple[dict[str, float], pd.DataFrame, float]:
    """Powers of C through the used minima, those through resampled ones, and the scatter between budgets.

    drawn: ln N* of every budget's resamples `[budgets, bootstrap]`.
    """
    log_c, log_n, log_d = (np.log(minima[name].to_numpy()) for name in ("flops", "params", "tokens"))
    own = np.maximum(minima["sd_log_params"].to_numpy(), 1e-3)
    between = between_budgets(log_c, log_n, own)
    weights = 1 / (own**2 + between**2)
    bootstrap = drawn.shape[1]
    shifts = (drawn - log_n[:, None]).T + between * rng.standard_normal((bootstrap, len(log_n)))
    if len(log_n) > 2:  # the scatter of k budgets around a line has k - 2 degrees of freedom
        shifts *= np.sqrt((len(log_n) - 2) / rng.chisquare(len(log_n) - 2, size=(bootstrap, 1)))
    samples = pd.DataFrame(power(log_c, log_n + shifts, log_d - shifts, weights))
    point = {name: float(value) for name, value in power(log_c, log_n, log_d, weights).items()}
    return point, samples, between


def _budget_column(table: pd.DataFrame, notes: list[str]) -> str | None:
    """The column of BUDGETS, in any case, that names the budget of every row; one with gaps is no help, and said."""
    for column in table.columns:
        if str(column).strip().lower() in BUDGETS:
            gaps = int(table[column].isna().sum())
            if not gaps:
                notes.append(f"budgets are those of the column {column!r}")
                return str(column)
            notes.append(f"{column} names no budget for {gaps} of {len(table)} rows: budgets were read from the flops")
    return None


def between_budgets(log_flops: np.ndarray, log_params: np.ndarray, own: np.ndarray) -> float:
    """Standard deviation of ln N* between budgets beyond their own standard deviations [k]: the one with which the
    squared, weighted residuals of the line sum to their degrees of freedom (Paule and Mandel 1982); 0 for two."""
    freedom = len(log_flops) - 2
    if freedom < 1:
        return 0.0

    def surplus(variance: float) -> float:
        weights = 1 / (own**2 + variance)
        line = np.polyval(np.polyfit(log_flops, log_params, 1, w=np.sqrt(weights)), log_flops)
        return float(weights @ (log_params - line) ** 2) - freedom

    if surplus(0.0) <= 0:
        return 0.0
    largest = float(np.var(log_params)) * len(log_params) + 1e-12
    return float(np.sqrt(brentq(surplus, 0.0, largest))) if surplus(largest) < 0 else float(np.sqrt(largest))


def _minimum(x, y, log_flops, cost, rng, size) -> tuple[dict, np.ndarray]:
    """One budget's row of the frontier from ln N, losses and costs [k], and its minimum ln N* in `size` resamples."""
    minimum = parabola(x, y)
    counts = rng.multinomial(len(x), np.full(len(x), 1 / len(x)), size=size)
    resampled = _minima(x, y, counts)
    usable = np.isfinite(resampled) & (resampled > x.min() - 1) & (resampled < x.max() + 1)
    sd = float(np.std(resampled[usable])) if usable.sum() > 10 else np.nan
    reason = _reject(x, y, minimum, sd)
    log_cost = np.interp(minimum[0], *_sorted(x, cost)) if np.isfinite(minimum[0]) else np.nan
    row = {
        "flops": np.exp(log_flops),
        "params": np.exp(minimum[0]),
        "tokens": np.exp(log_flops - minimum[0] - log_cost),
        "loss": minimum[1],
        "sd_log_params": sd,
        "sizes": len(np.unique(x)),
        "used": not reason,
        "reason": reason,
    }
    return row, np.where(usable, resampled, minimum[0])


def budget_groups(flops: np.ndarray, params: np.ndarray, tokens: np.ndarray, gap: float = 0.2) -> np.ndarray:
    """Codes [n] of isoFLOP budgets, ascending: parted where ln C jumps by more than `gap`, and where a group holds one
    size twice with other tokens, at its widest jump."""
    order = np.argsort(flops, kind="stable")
    log_flops, log_tokens, sizes = np.log(flops[order]), np.log(tokens[order]), params[order]
    jumps = np.diff(log_flops)
    starts = {0, *(np.flatnonzero(jumps > gap) + 1).tolist()}
    pending = sorted(starts)
    while pending:
        first = pending.pop()
        last = min((start for start in starts if start > first), default=len(order))
        inside = slice(first, last)
        if last - first > 1 and _comes_twice(sizes[inside], log_tokens[inside]):
            parted = first + 1 + int(np.argmax(jumps[first : last - 1]))
            starts.add(parted)
            pending += [first, parted]
    codes = np.empty(len(flops), int)
    codes[order] = np.searchsorted(sorted(starts), np.arange(len(order)), side="right") - 1
    return codes


def _comes_twice(sizes: np.ndarray, log_tokens: np.ndarray) -> bool:
    """Whether one size has runs of different lengths."""
    return any(np.ptp(log_tokens[sizes == size]) > SAME_RUN for size in np.unique(sizes))


def _sorted(x, y):
    order = np.argsort(x)
    return x[order], y[order]


def _minima(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Position [B] of the minimum of the parabola through resampled rows, counts [B, k]; NaN without curvature, or with
    fewer than three sizes."""
    scaled = (x - x.mean()) / max(float(np.ptp(x)), 1e-300)
    powers = scaled[:, None] ** np.arange(3)
    present = np.array([(counts[:, x == size] > 0).any(1) for size in np.unique(x)]).sum(0) >= 3
    out = np.full(len(counts), np.nan)
    normal = np.einsum("bk,ki,kj->bij", counts[present], powers, powers)
    coefficients = np.linalg.solve(normal, (counts[present] @ (powers * y[:, None]))[..., None])[..., 0]
    with np.errstate(all="ignore"):
        at = np.where(coefficients[:, 2] > 0, -coefficients[:, 1] / (2 * coefficients[:, 2]), np.nan)
    out[present] = at * float(np.ptp(x)) + x.mean()
    return out


def parabola(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Position, height and curvature of the least-squares parabola's minimum; NaN position without curvature."""
    center = x.mean()
    if len(np.unique(x)) < 3:
        return np.nan, np.nan, np.nan
    curvature, slope, level = np.polyfit(x - center, y, 2)
    if not curvature > 0:
        return np.nan, np.nan, float(curvature)
    at = -slope / (2 * curvature)
    return float(at + center), float(level + 0.5 * slope * at), float(curvature)


def _reject(x, y, minimum, sd) -> str:
    """Why a budget cannot be used; empty when it can."""
    if len(np.unique(x)) < 4:
        return f"{len(np.unique(x))} sizes, at least 4 are needed"
    if not np.isfinite(minimum[0]):
        return "no curvature in the loss"
    if not x.min() < minimum[0] < x.max() or np.argmin(y) in (np.argmin(x), np.argmax(x)):
        return "the minimum is on the edge of the sizes"
    return "" if np.isfinite(sd) else "the minimum is lost when rows are resampled"


@known_arguments
def chinchilla_envelope(
    curves: Runs,
    *,
    columns: Mapping[str, str] | None = None,
    run: str = "trial",
    bins: int = BINS,
    bootstrap: int = 200,
    seed: int = 0,
) -> Frontier:
    """Approach 1: at each of `bins` log-spaced budgets the run with the lowest loss; N* and D* as powers of C.

    curves: one row per logged step with params, tokens, loss and the column `run` (flops = 6 N D unless given). Bins
    won by the smallest or the largest model are on the edge and rejected. The bootstrap resamples runs, never bins:
    bins of one run are the same run. Intermediate points of a decaying schedule lie above the frontier.
    """
    table = as_table(curves, columns, ("params", "tokens", "loss", run))
    for name in ("params", "tokens", "loss", run):
        if name not in table.columns:
            missing(name, table.columns)
    flops, loss = numbers(table, "flops", positive=True), numbers(table, "loss", positive=True)
    params = numbers(table, "params", positive=True)
    codes = np.unique(table[run].astype(str), return_inverse=True)[1]
    grid = np.linspace(np.log(flops.min()), np.log(flops.max()), bins)
    count = codes.max() + 1
    height, size = np.full((count, bins), np.inf), np.empty(count)
    for code in range(count):
        inside = np.flatnonzero(codes == code)
        c, y = _sorted(np.log(flops[inside]), loss[inside])
        height[code] = np.interp(grid, c, y, left=np.inf, right=np.inf)
        size[code] = np.log(params[inside[0]])
    log_ratio = np.log(np.median(flops / (params * numbers(table, "tokens", positive=True))))
    point, frontier = _envelope(grid, height, size, log_ratio)
    if point is None:
        raise ConfigError(
            "curves",
            "no budget is won by a size between the smallest and the largest",
            "give curves of at least three sizes that overlap in compute",
        )
    rng, draws = np.random.default_rng(seed), []
    for _ in range(bootstrap):
        drawn = np.unique(rng.integers(0, count, count))
        sample, _ = _envelope(grid, height[drawn], size[drawn], log_ratio)
        if sample is not None and np.isfinite(sample["a"]):
            draws.append(sample)
    return Frontier(frontier, Values(point), pd.DataFrame(draws, columns=["a", "b", "G", "H"]))


def _envelope(grid, height, size, log_ratio):
    """Power laws and table of the lower envelope of curves height [R, bins] with log sizes [R]."""
    winner = np.argmin(height, axis=0)
    present = np.isfinite(height).sum(0)
    log_n, log_d = size[winner], grid - size[winner] - log_ratio
    reason = np.where(
        present < 2,
        "one run reaches this budget",
        np.where(
            (size[winner] == size.min()) | (size[winner] == size.max()), "won by the smallest or largest size", ""
        ),
    )
    used = reason == ""
    table = pd.DataFrame(
        {
            "flops": np.exp(grid),
            "params": np.exp(log_n),
            "tokens": np.exp(log_d),
            "loss": height.min(0),
            "sd_log_params": np.nan,
            "used": used,
            "reason": reason,
        }
    )
    if used.sum() < 2:
        return None, table
    return power(grid[used], log_n[used], log_d[used], np.ones(used.sum())), table
