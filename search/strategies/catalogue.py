"""Strategies by name, with their numbers: "greedy", "beam:samples=16,width=4"."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from models.errors import ConfigError, nearest, require
from search.strategies.astar import astar
from search.strategies.beam import beam, dvts
from search.strategies.best_of_n import best_of_n, greedy
from search.strategies.gibbs import particle_gibbs
from search.strategies.mcts import mcts
from search.strategies.metropolis import metropolis
from search.strategies.rebase import rebase
from search.strategies.short_m import short_m
from search.strategies.smc import odds_filter, particle_filter, twisted_smc
from search.strategies.strategy import Strategy

STRATEGIES: dict[str, Callable[..., Strategy]] = {
    make.__name__: make
    for make in (
        greedy, best_of_n, beam, dvts, rebase, particle_filter, odds_filter, particle_gibbs, twisted_smc, astar, mcts,
        metropolis, short_m,
    )
}  # fmt: skip


def strategy_by_name(text: str) -> Strategy:
    """The strategy that a text names: its name, and after a colon its arguments (numbers, words, true or false).

    Raises:
      ConfigError: an unknown strategy or argument, with the nearest that there is, or a value that it does not take.
    """
    kind, _, listed = text.partition(":")
    if kind not in STRATEGIES:
        raise ConfigError("strategy", f"{kind!r} is none", _instead(kind, list(STRATEGIES)))
    make = STRATEGIES[kind]
    parameters = inspect.signature(make).parameters
    given: dict[str, int | float | str | bool] = {}
    for entry in filter(None, listed.split(",")):
        name, equals, value = entry.partition("=")
        if name not in parameters:
            raise ConfigError(f"{kind}.{name}", "is no argument of this strategy", _instead(name, list(parameters)))
        require(bool(equals), f"{kind}.{name}", "has no value", f"write {name}=4, say")
        given[name] = _value(value)
    absent = [name for name, p in parameters.items() if p.default is p.empty and name not in given]
    require(not absent, kind, f"needs {', '.join(absent)}", f"write {kind}:{','.join(f'{a}=4' for a in absent)}")
    try:
        return make(**given)
    except TypeError as error:
        raise ConfigError(kind, f"does not take {listed!r}", "give numbers where it wants numbers") from error


def _value(text: str) -> int | float | str | bool:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _instead(name: str, options: list[str]) -> str:
    match = nearest(name, options)
    return f"did you mean {match!r}?" if match else f"use one of {', '.join(options)}"
