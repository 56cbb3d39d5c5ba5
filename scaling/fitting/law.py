"""A law is data: a formula, what goes in and comes out, and what the estimator may assume about it."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from models.errors import ConfigError, nearest
from scaling.fitting.derivatives import Taylor
from scaling.fitting.objectives import SPACES


class Values(dict):
    """Named float64 values that read as attributes: `fit.params.alpha` is `fit.params["alpha"]`."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"{name}: no such name: have {', '.join(self)}") from None


@dataclasses.dataclass(frozen=True, eq=False)
class Law:
    """A closed form with the facts an estimator needs; `predict(p, x)` is plain numpy on float64 arrays.

    name, formula, source: what a reader needs to recognise it.
    inputs, output: columns of the runs table; `units` gives the unit of each.
    predict: (p, x) -> array; p has the parameters as attributes ([S, 1] when batched), x the inputs ([n]).
    linear: parameters in which `predict` is linear; the estimator solves them in closed form.
    exponents: parameters that scale as powers of the inputs (dimensionless; compared across laws).
    bounds: (low, high) of every parameter, in the order they are reported; None means unbounded.
    space: residuals are taken in "log", "raw" or "logit" of the output.
    start: values tried for each parameter that is not linear; the start grid is their product.
    zeros: counts among the inputs that may be 0, such as the compute of a step 0.
    derived: name -> function of the parameters, reported with the fit (Chinchilla: the compute exponent).
    """

    name: str
    formula: str
    inputs: tuple[str, ...]
    output: str
    predict: Callable[[Any, Any], Any]
    bounds: Mapping[str, tuple[float | None, float | None]]
    linear: tuple[str, ...] = ()
    exponents: tuple[str, ...] = ()
    space: str = "log"
    start: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    derived: Mapping[str, Callable[[Any], Any]] = dataclasses.field(default_factory=dict)
    units: Mapping[str, str] = dataclasses.field(default_factory=dict)
    objective: str = "huber"
    source: str = ""
    zeros: tuple[str, ...] = ()

    def __post_init__(self):
        field = f"Law {self.name}"
        if self.space not in SPACES:
            raise ConfigError(f"{field}.space", f"{self.space!r} is not a residual space", f"use one of {SPACES}")
        for role in ("linear", "exponents", "start"):
            for name in getattr(self, role):
                if name not in self.bounds:
                    near = nearest(name, self.bounds)
                    raise ConfigError(
                        f"{field}.{role}",
                        f"{name!r} has no bounds",
                        f"did you mean {near!r}?" if near else "add it to bounds",
                    )
        for name, (low, high) in self.bounds.items():
            if low is not None and high is not None and not low < high:
                raise ConfigError(f"{field}.bounds[{name}]", f"{low} is not below {high}", "give (low, high)")

    @property
    def parameters(self) -> tuple[str, ...]:
        return tuple(self.bounds)

    @property
    def nonlinear(self) -> tuple[str, ...]:
        return tuple(name for name in self.bounds if name not in self.linear)

    def starts(self, name: str) -> np.ndarray:
        """Values of a non-linear parameter on the start grid [k]."""
        if name in self.start:
            return np.asarray(self.start[name], float)
        low, high = self.bounds[name]
        if name in self.exponents and (low, high) == (0, 2):
            # published exponents lie in .05-1; a log-spaced grid resolves them and still reaches the bound
            return np.geomspace(0.04, 1.7, 13)
        if low is not None and high is not None:
            return low + (high - low) * (np.arange(8) + 0.5) / 8
        return np.geomspace(1e-3, 1e3, 13) if low is not None else np.array([-1.0, -0.1, 0.0, 0.1, 1.0])

    def evaluate(self, params, inputs, order: int = 0, along: Iterable[int] | None = None) -> Taylor:
        """The law at params [..., K] and inputs (name -> [n]): a Taylor number with values [..., n], not finite where
        the law is not defined. along: the parameters whose derivatives are wanted, all unless said."""
        p = Values()
        wanted = range(len(self.parameters)) if along is None else set(along)
        for index, name in enumerate(self.parameters):
            seed = {index: 1.0} if order and index in wanted else {}
            p[name] = Taylor(np.asarray(params)[..., index, None], seed, {}, order)
        with np.errstate(all="ignore"):  # a start or a draw may lie where the law has no value: it is inf or nan there
            result = self.predict(p, Values(inputs))
        return result if isinstance(result, Taylor) else Taylor(np.asarray(result, float), order=order)

    def __call__(self, params: Mapping[str, float], /, **inputs) -> np.ndarray:
        """The law at named parameters and inputs: CHINCHILLA(fit.params, params=7e9, tokens=1.4e11)."""
        arrays = {name: np.asarray(value, float) for name, value in inputs.items()}
        values = {name: np.float64(value) for name, value in params.items()}
        return np.asarray(self.predict(Values(values), Values(arrays)), float)

    @cached_property
    def additive(self) -> tuple[str, ...]:
        """Linear parameters whose term depends on no other parameter, such as an irreducible loss."""
        names = self.parameters
        point = [1.0 if name in self.linear else float(np.median(self.starts(name))) for name in names]
        with np.errstate(all="ignore"):
            some = {name: np.array([2.0, 3.0]) for name in self.inputs}
            mixed = self.evaluate(np.array(point), some, order=2).hessian
        coupled = {names[k] for i, j in mixed for k in (i, j) if i != j}
        return tuple(name for name in self.linear if name not in coupled)

    @cached_property
    def coordinates(self) -> Coordinates:
        return Coordinates.of(self)

    def __repr__(self) -> str:
        return f"Law({self.name}: {self.formula})"


@dataclasses.dataclass(frozen=True)
class Coordinates:
    """The coordinates the estimator works in: one-sided bounds become logarithms, boxes and free ones stay.

    A positive coefficient spans twenty decades and a logarithm makes its steps multiplicative; a step can then never
    leave the bound, and a coefficient that belongs at zero drifts to -inf and is recognised there. An additive constant
    stays as it is: its logarithm would bend the valley in which it trades against the slower power.
    """

    sign: np.ndarray  # [K] +1, -1 for a one-sided bound below, above; 0 for identity
    origin: np.ndarray  # [K] the bound of a one-sided parameter
    low: np.ndarray  # [K] box of the coordinate
    high: np.ndarray

    @staticmethod
    def of(law: Law) -> Coordinates:
        sign, origin, low, high = [], [], [], []
        additive = law.additive
        for name, (lo, hi) in law.bounds.items():
            one_sided = (lo is None) != (hi is None) and name not in additive
            sign.append((1.0 if hi is None else -1.0) if one_sided else 0.0)
            origin.append((lo if hi is None else hi) if one_sided else 0.0)
            low.append(-690.0 if one_sided else (-np.inf if lo is None else lo))
            high.append(690.0 if one_sided else (np.inf if hi is None else hi))
        return Coordinates(*(np.array(x, float) for x in (sign, origin, low, high)))

    def to_params(self, z: np.ndarray) -> np.ndarray:
        """Parameters [..., K] at coordinates z [..., K]."""
        with np.errstate(over="ignore"):  # a draw of a coefficient that nothing determines may be infinite
            return np.where(self.sign == 0, z, self.origin + self.sign * np.exp(np.where(self.sign == 0, 0.0, z)))

    def to_z(self, params: np.ndarray) -> np.ndarray:
        """Coordinates [..., K] of parameters [..., K]; a parameter on its bound goes to the lowest coordinate."""
        distance = np.maximum(self.sign * (params - self.origin), 1e-299)
        return np.clip(np.where(self.sign == 0, params, np.log(distance)), self.low, self.high)

    def slopes(self, params: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """dp/dz and d2p/dz2 at parameters [..., K] (equal for a logarithm; 1 and 0 for the identity)."""
        slope = np.where(self.sign == 0, 1.0, params - self.origin)
        return slope, np.where(self.sign == 0, 0.0, slope)


# filled by the catalogue of laws, so that a law can be asked for by name and the machinery imports none
_KNOWN: dict[str, Law] = {}


def register(laws: Iterable[Law]) -> None:
    """Make these laws known to `by_name`; ConfigError for a name that another law has."""
    for law in laws:
        if _KNOWN.setdefault(law.name, law) is not law:
            raise ConfigError(f"Law {law.name}", "another law has this name", "give it a name of its own")


def by_name(name: str) -> Law:
    """The law of that name; ConfigError listing all of them when there is none."""
    if name not in _KNOWN:
        importlib.import_module("scaling.laws")  # the catalogue, which registers itself
    if name not in _KNOWN:
        near = nearest(name, _KNOWN)
        hint = f"did you mean {near!r}? " if near else ""
        raise ConfigError("law", f"{name!r} is not known", f"{hint}have {', '.join(_KNOWN)}")
    return _KNOWN[name]


def as_law(law: Law | str) -> Law:
    """A law, or the one of that name."""
    return by_name(law) if isinstance(law, str) else law
