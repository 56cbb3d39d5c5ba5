"""What architectures cost at one loss beside compute: seconds of training, and bytes and seconds of a decoded token.

The loss is that of the baseline at the compute of its multipliers. Each architecture reaches it at a compute of its
own, by its law, with a model of the best size for that compute (a line of ln N in ln C through its minima); what such a
model costs is interpolated between models of its ladder, ln in ln N, whose counts are exact. Seconds are estimated from
counts and the device's table (scaling/train/step_time.py): nothing runs on the device.

Intervals are those of the multipliers' draws of all laws, with draws of the lines of best sizes beside them, whose
scatter is pooled over all architectures.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd

from models import counts
from models.config import ModelConfig
from models.devices import DEVICES
from models.errors import require
from models.sharding import MeshConfig
from scaling.fitting.multiplier import Multipliers, heights
from scaling.train.config import TrainConfig
from scaling.train.step_time import estimate_decode, estimate_step

Prices = tuple[np.ndarray, dict[str, np.ndarray]]  # ln N of a ladder's models, and what each costs


@dataclasses.dataclass(frozen=True)
class Setting:
    """Where models are trained and decoded: one device of models.devices, rows that a decode step serves at once, and
    tokens that each row holds. dtype: of products, weights and caches."""

    device: str = "h100"
    rows: int = 64
    contexts: tuple[int, ...] = (128, 4096)
    dtype: Literal["float32", "bfloat16"] = "bfloat16"

    def __post_init__(self) -> None:
        known = f"use one of {', '.join(DEVICES)}"
        require(self.device in DEVICES, "setting.device", f"is {self.device!r}", known)
        require(self.rows >= 1, "setting.rows", f"is {self.rows}", "give a positive number of rows")
        fine = bool(self.contexts) and all(context >= 1 for context in self.contexts)
        require(fine, "setting.contexts", f"is {self.contexts}", "give one length or more, each 1 or longer")


@dataclasses.dataclass(frozen=True, eq=False)
class EqualLoss:
    """costs: quantity -> `[1 + draws, architectures]`, the fit first: `flops` and `seconds` of training, `params`, and
    for each context `bytes_CONTEXT` and `decode_CONTEXT` (seconds) of a decoded token. prices: of each architecture's
    ladder, as `prices` gives them."""

    names: tuple[str, ...]
    baseline: str
    loss: float
    flops: float
    level: float
    setting: Setting
    costs: Mapping[str, np.ndarray]
    prices: Mapping[str, Prices]

    def training_seconds(self, name: str, params: np.ndarray, flops: np.ndarray) -> np.ndarray:
        """Seconds `[n]` of training models of `params` parameters with `flops` each."""
        at, each = self.prices[name]
        return flops * np.exp(_between(np.log(params), at, np.log(each["seconds"])))

    def table(self, quantity: str) -> pd.DataFrame:
        """One row per architecture: value, its ratio to the baseline's, and the ends of the ratio's interval."""
        found = self.costs[quantity]
        ratio = found / found[:, [self.names.index(self.baseline)]]
        low, high = np.nanquantile(ratio[1:], [(1 - self.level) / 2, (1 + self.level) / 2], axis=0)
        columns = {"value": found[0], "ratio": ratio[0], "low": low, "high": high}
        return pd.DataFrame(columns, index=pd.Index(self.names, name="architecture"))

    def lines(self) -> list[dict[str, str]]:
        """The table of a page, as text: the baseline's own costs, and ratios to them with intervals."""
        first, last = self.setting.contexts[0], self.setting.contexts[-1]
        shown = {
            "compute": ("flops", "{:.3g} FLOPs", 1.0),
            f"training on {self.setting.device}": ("seconds", "{:.3g} s", 1.0),
            f"bytes of a token at {first:,}": (f"bytes_{first}", "{:,.0f} kB", 1e-3),
            f"bytes of a token at {last:,}": (f"bytes_{last}", "{:,.0f} kB", 1e-3),
            f"time of a token at {last:,}": (f"decode_{last}", "{:.3g} ns", 1e9),
        }
        rows = {name: {"architecture": name} for name in self.names}
        for title, (quantity, form, scale) in shown.items():
            for name, row in self.table(quantity).iterrows():
                ratio = f"{_short(row.ratio)} [{_short(row.low)}, {_short(row.high)}]"
                rows[name][title] = form.format(row.value * scale) if name == self.baseline else ratio
        return [*rows.values()]

    def to_json(self) -> dict[str, Any]:
        """Every quantity's table to five digits, with the setting."""
        numbers = {
            quantity: {
                name: [float(f"{x:.5g}") for x in row]
                for name, row in zip(self.names, self.table(quantity).to_numpy(), strict=True)
            }
            for quantity in self.costs
        }
        said = {"baseline": self.baseline, "loss": float(f"{self.loss:.5g}"), "flops": float(f"{self.flops:.5g}")}
        return said | {"level": self.level, "setting": dataclasses.asdict(self.setting), "costs": numbers}


def at_equal_loss(
    found: Multipliers,
    ladders: Mapping[str, Sequence[ModelConfig]],
    train: TrainConfig,
    setting: Setting,
    seed: int = 0,
) -> EqualLoss:
    """Costs of every architecture of `found` at the loss of its baseline.

    ladders: models of each architecture, of two sizes or more, around its best. train: its batch and length are those
    of training. Raises ConfigError where an architecture has no ladder, or its best size lies beyond it.
    """
    names = tuple(map(str, found.table.index))
    for name in names:
        sizes = {counts.params(model) for model in ladders.get(name, ())}
        require(len(sizes) >= 2, "ladders", f"has {len(sizes)} sizes of {name}", "give two or more")
    log_flops = needed(found.draws, found.flops)
    log_params = best_sizes(found, names, log_flops, seed)
    costs: dict[str, list[np.ndarray]] = {"flops": [*np.exp(log_flops).T], "params": [*np.exp(log_params).T]}
    priced = {name: prices(ladders[name], train, setting) for name in names}
    for code, name in enumerate(names):
        at, each = priced[name]
        problem = f"of {name} hold {np.exp(at[0]):.3g} to {np.exp(at[-1]):.3g} parameters"
        inside = bool(at[0] <= log_params[0, code] <= at[-1])
        require(inside, "ladders", problem, f"add sizes around its best, {np.exp(log_params[0, code]):.3g}")
        for quantity, values in each.items():
            cost = np.exp(_between(log_params[:, code], at, np.log(values)))
            cost = cost * np.exp(log_flops[:, code]) if quantity == "seconds" else cost
            costs.setdefault(quantity, []).append(cost)
    columns = {quantity: np.stack(some, 1) for quantity, some in costs.items()}
    loss = float(heights(found.draws[:1], np.log(found.flops))[0, names.index(found.baseline)])
    return EqualLoss(names, found.baseline, loss, found.flops, found.level, setting, columns, priced)


def needed(parameters: np.ndarray, flops: float) -> np.ndarray:
    """ln C `[B, groups]` at which each law (E, ln A, gamma) has the first group's loss at `flops`; infinite below E."""
    floor, log_a, gamma = np.moveaxis(parameters, -1, 0)
    above = heights(parameters, np.log(flops))[:, :1] - floor
    with np.errstate(all="ignore"):
        return np.where(above > 0, (log_a - np.log(above)) / gamma, np.inf)


def best_sizes(found: Multipliers, names: Sequence[str], log_flops: np.ndarray, seed: int = 0) -> np.ndarray:
    """ln N of the best size at each ln C `[1 + draws, architectures]`; the first row is that of the lines as fitted."""
    minima = found.minima[found.minima["used"]]
    lines, squares, freedom = [], 0.0, 0
    for name in names:
        mine = minima[minima["group"] == name]
        x, y = np.log(mine["flops"].to_numpy(float)), np.log(mine["params"].to_numpy(float))
        spread = float(np.sum((x - x.mean()) ** 2))
        slope = float(np.sum((x - x.mean()) * y)) / spread
        squares += float(np.sum((y - y.mean() - slope * (x - x.mean())) ** 2))
        freedom += len(x) - 2
        lines.append((x.mean(), y.mean(), slope, len(x), spread))
    middle, height, slopes, count, spreads = np.array(lines).T
    rng, draws = np.random.default_rng(seed), len(log_flops)
    noise = np.sqrt(squares / rng.chisquare(freedom, (draws, 1)))  # s as its own scatter leaves it open
    noise[0] = 0.0
    heights_drawn = height + noise * rng.standard_normal((draws, len(names))) / np.sqrt(count)
    slopes_drawn = slopes + noise * rng.standard_normal((draws, len(names))) / np.sqrt(spreads)
    return heights_drawn + slopes_drawn * (log_flops - middle)


def prices(ladder: Sequence[ModelConfig], train: TrainConfig, setting: Setting) -> Prices:
    """ln N of a ladder's models in ascending order, and what each costs: `seconds` of training for one FLOP of it, and
    `bytes_CONTEXT` and `decode_CONTEXT` of a decoded token."""
    device, mesh = DEVICES[setting.device], MeshConfig().resolve(1)
    models = sorted((dataclasses.replace(model, dtype=setting.dtype) for model in ladder), key=counts.params)
    tokens = train.tokens_per_step
    seconds = [
        estimate_step(model, train, mesh, device).total / counts.train_flops(model, tokens, train.seq_len)
        for model in models
    ]
    each = {"seconds": np.array(seconds)}
    for context in setting.contexts:
        each[f"bytes_{context}"] = np.array([token_bytes(model, setting.rows, context) for model in models])
        taken = [estimate_decode(model, setting.rows, context, device) / setting.rows for model in models]
        each[f"decode_{context}"] = np.array(taken)
    return np.log([counts.params(model) for model in models]), each


def token_bytes(model: ModelConfig, rows: int, context: int) -> float:
    """Bytes that one of `rows` tokens decoded at once reads: its share of the weights, and of what its row keeps."""
    return counts.weight_read_bytes(model, rows) / rows + counts.decode_read_bytes(model, context)


def _short(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.2g}"


def _between(at: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """y at `at` on straight lines between the points, and on those of the ends beyond them."""
    right = np.clip(np.searchsorted(x, at), 1, len(x) - 1)
    slope = (y[right] - y[right - 1]) / (x[right] - x[right - 1])
    return y[right - 1] + slope * (at - x[right - 1])
