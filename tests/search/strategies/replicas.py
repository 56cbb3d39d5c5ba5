"""One search many times over: thousands of independent problems side by side in one program, and what they leave."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from search.config import SearchConfig
from search.population import ENDED, at_start
from search.rounds import Rounds
from search.strategies.strategy import Strategy
from search.verifiers.scorer import ValueScorer
from tests.search.strategies.enumeration import Text, continuations
from tests.search.trees import Trees


def uneven_trees(seed: int, trees: int = 1, actions: int = 3, depth: int = 3, early: float = 0.25) -> Trees:
    """Trees with leaves at all depths, scores of 0.02 to 1 at leaves and misleading ones before them.

    reward: the leaves' scores; value: the same at leaves, and their exact mean times noise at other nodes.
    """
    rng = np.random.default_rng(seed)
    nodes = (actions ** (depth + 1) - 1) // (actions - 1)
    inner = (actions**depth - 1) // (actions - 1)
    child = np.full((trees, nodes, actions), -1)
    child[:, :inner] = np.arange(inner)[:, None] * actions + 1 + np.arange(actions)
    child[:, 1:inner][rng.random((trees, inner - 1)) < early] = -1
    log_prob = np.log(rng.dirichlet(np.ones(actions), size=(trees, nodes)))
    leaf = (child < 0).all(-1)
    reward = np.where(leaf, np.exp(rng.uniform(-4, 0, (trees, nodes))), 0.0)
    exact = reward.copy()
    for tree in range(trees):
        for node in reversed(range(inner)):
            if not leaf[tree, node]:
                exact[tree, node] = np.exp(log_prob[tree, node]) @ exact[tree, child[tree, node]]
    noisy = np.clip(exact * np.exp(rng.normal(0, 1, exact.shape)), 0.02, 0.98)
    return Trees(child, log_prob, np.where(leaf, reward, noisy), reward, depth)


def fair_trees(seed: int, trees: int = 4, depth: int = 4, likely: float = 1e3) -> Trees:
    """Full binary trees with distinct scores at leaves and random ones before them; `likely`: how even the policy is.

    Sixteen steps sampled of a node are nearly sure to hold both, so searches of what was sampled search it all.
    """
    rng = np.random.default_rng(seed)
    nodes, inner = 2 ** (depth + 1) - 1, 2**depth - 1
    child = np.full((trees, nodes, 2), -1)
    child[:, :inner] = np.arange(inner)[:, None] * 2 + 1 + np.arange(2)
    log_prob = np.log(rng.dirichlet(np.full(2, likely), size=(trees, nodes)))
    score = rng.uniform(0.05, 0.95, (trees, nodes)).astype(np.float32)
    return Trees(child, log_prob, score, np.where(np.arange(nodes) < inner, 0.0, score), depth)


def best_values(trees: Trees) -> Trees:
    """The same trees with the best score that can be reached at every node."""
    value = trees.reward.copy()
    for tree in range(len(value)):
        for node in reversed(range(value.shape[1])):
            below = trees.child[tree, node][trees.child[tree, node] >= 0]
            if len(below):
                value[tree, node] = value[tree, below].max()
    return Trees(trees.child, trees.log_prob, value, trees.reward, trees.depth)


def optimistic(trees: Trees, seed: int) -> Trees:
    """The same trees with scores that promise more than can be reached and only ever fall on the way to a leaf."""
    value = best_values(trees).value
    inner = (trees.child >= 0).any(-1)
    value = np.where(inner, value + np.random.default_rng(seed).uniform(0, 0.3, value.shape), value)
    for tree, node in zip(*np.nonzero(inner)):
        below = trees.child[tree, node]
        value[tree, below] = np.minimum(value[tree, below], value[tree, node])
    return Trees(trees.child, trees.log_prob, np.clip(value, 0, 0.99), trees.reward, trees.depth)


def optimum(trees: Trees, tree: int) -> Text:
    """The text of the highest score."""
    return max(continuations(trees, tree), key=lambda text: trees.reward[tree, trees.walk(tree, text)])


def weights(trees: Trees, tree: int, power: float = 1.0) -> dict[Text, float]:
    """p(x) score(x)^power of every finished text: the target of a filter, unnormalised."""
    return {
        text: p * float(trees.reward[tree, trees.walk(tree, text)]) ** power
        for text, p in continuations(trees, tree).items()
    }


def normalized(found: dict[Text, float]) -> dict[Text, float]:
    total = sum(found.values())
    return {text: p / total for text, p in found.items()}


@dataclass(frozen=True)
class Outcome:
    """Of every replica: texts `[replicas][store]` (None: not complete), weight `[replicas, store]`, best `[replicas]`,
    score `[replicas, store]`, report, and the strategy's state."""

    texts: list[list[Text | None]]
    weight: np.ndarray
    best: np.ndarray
    score: np.ndarray
    report: dict[str, np.ndarray]
    state: Any

    @property
    def answers(self) -> list[Text]:
        assert (self.best >= 0).all()
        found = [row[b] for row, b in zip(self.texts, self.best)]
        assert None not in found
        return found


class Replicas:
    """Searches by one strategy, `count` at a time: replica i is about tree i % trees."""

    def __init__(self, trees: Trees, strategy: Strategy, count: int = 2048, max_rounds: int = 64):
        config = SearchConfig(
            problems=count, prompt_len=1, max_tokens=trees.depth, max_steps=trees.depth, max_rounds=max_rounds,
            tokens_per_step=1,
        )  # fmt: skip
        self.count, self.decoder = count, trees.decoder
        self.rounds = Rounds(self.decoder, strategy, ValueScorer(), config)
        self._search = jax.jit(self._from)

    def run(self, trees: Trees | None = None, first: int = 0) -> Outcome:
        """Problems `first` and following, dealt to the trees in turn; `trees`: others of the same shapes."""
        params = (self.decoder.params if trees is None else trees.decoder.params, ())
        weight, best, report, p, strategy = jax.device_get(self._search(params, np.uint32(first)))
        texts = [
            [tuple(map(int, row[:n])) if why == ENDED else None for row, n, why in zip(*particles)]
            for particles in zip(p.tokens, p.length, p.reason)
        ]
        return Outcome(texts, weight, best, p.score, report, strategy)

    def _from(self, params: tuple, first: jax.Array) -> tuple:
        rounds, state = self.rounds, self.rounds.empty()
        trees, contexts = len(params[0][0]), state.contexts
        for tree in range(trees):
            contexts = self.decoder.admit(params[0], contexts, jnp.int32(tree), (jnp.int32(tree), jnp.int32(0)))
        contexts = jax.tree.map(lambda x: x[jnp.arange(self.count) % trees], contexts)
        outputs = at_start(self.decoder.start(contexts), state.population.length.shape)
        state = state._replace(
            contexts=contexts,
            problem=first + jnp.arange(self.count, dtype=jnp.uint32),
            occupied=jnp.ones(self.count, bool),
            done=jnp.zeros(self.count, bool),
            population=state.population._replace(outputs=outputs),
        )
        state = rounds.run(params, state, jnp.bool_(True), jnp.int32(2**30))
        weight, best, report, _ = rounds.outcome(state)
        return weight, best, report, state.population._replace(caches=None, outputs=None), state.strategy


def standard_scores(replicas: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """How many standard errors the mean over replicas `[replicas, n]` lies from `exact` `[n]`."""
    error = replicas.std(0, ddof=1) / np.sqrt(len(replicas))
    return (replicas.mean(0) - exact) / error


def measure(outcome: Outcome, texts: list[Text]) -> np.ndarray:
    """The weighted particles of every replica as a measure on texts, times its evidence: `[replicas, texts]`."""
    place = {text: i for i, text in enumerate(texts)}
    found = np.zeros((len(outcome.texts), len(texts)))
    for i, (row, weight) in enumerate(zip(outcome.texts, outcome.weight)):
        for text, w in zip(row, weight):
            if text is not None:
                found[i, place[text]] += w
    return found * np.exp(outcome.report["log_evidence"])[:, None]
