"""Strategies by name, with their fields: "greedy", "beam:samples=16,width=4", {"name": "beam", "samples": 16}."""

from __future__ import annotations

from typing import get_args

from search.named import by_name, read_named
from search.strategies.astar import AStar
from search.strategies.atoms import AtomOfThoughts
from search.strategies.beam import DVTS, Beam
from search.strategies.best_of_n import BestOfN, Greedy, Majority, WeightedVote
from search.strategies.budget_forcing import BudgetForcing
from search.strategies.deepening import IterativeDeepening
from search.strategies.gibbs import ParticleGibbs
from search.strategies.hogwild import HogwildWorkers
from search.strategies.mcts import MCTS
from search.strategies.metropolis import Metropolis
from search.strategies.plan_search import PlanSearch
from search.strategies.pruning import ConfidentVote, Pruning, Restarts
from search.strategies.rebase import Rebase
from search.strategies.revision import Revision
from search.strategies.setting import Setting, StrategyConfig
from search.strategies.short_m import ShortM
from search.strategies.smc import OddsFilter, ParticleFilter, TwistedSMC
from search.strategies.spawn_join import SpawnJoin
from search.strategies.stack import Stack
from search.strategies.step_speculation import StepSpeculation
from search.strategies.stopping import AdaptiveConsistency, EarlyStopping
from search.strategies.strategy import Strategy

AnyStrategy = (
    Greedy | BestOfN | Majority | WeightedVote | Beam | DVTS | Rebase | ParticleFilter | OddsFilter | TwistedSMC
    | ParticleGibbs | AStar | MCTS | Metropolis | ShortM | EarlyStopping | AdaptiveConsistency | Pruning | Restarts
    | ConfidentVote | BudgetForcing | IterativeDeepening | Revision | Stack | StepSpeculation | SpawnJoin
    | HogwildWorkers | AtomOfThoughts | PlanSearch
)  # fmt: skip
STRATEGIES: dict[str, type[StrategyConfig]] = by_name(get_args(AnyStrategy))


def read_strategy(text: str) -> StrategyConfig:
    """The strategy that a text names, as `search.named.read_named` reads it.

    Raises:
      ConfigError: an unknown strategy or field, with the nearest that there is, or a value that it does not take.
    """
    return read_named(text, STRATEGIES, "strategy")


def strategy_by_name(text: str, setting: Setting | None = None) -> Strategy:
    """The same, made for a policy; setting: None where there is none, for strategies that need no tokenizer."""
    return read_strategy(text).strategy(setting)
