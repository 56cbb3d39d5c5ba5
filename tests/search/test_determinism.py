"""A problem's answer is its own: in any order, beside any others, from any resume point, on any number of devices."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

from models import transformer
from models.config import ModelConfig
from models.errors import ConfigError
from models.sharding import MeshConfig, make_mesh
from search.config import SearchConfig
from search.decoder import TransformerDecoder
from search.engine.config import EngineConfig
from search.saved import Keep
from search.searcher import Found, Searcher, SearchProblem
from search.strategies.beam import beam
from search.strategies.best_of_n import greedy
from search.strategies.catalogue import STRATEGIES, strategy_by_name
from search.verifiers.scorer import ValueScorer
from tests.search.strategies.replicas import uneven_trees

TREES = uneven_trees(3, trees=2)
WALK = SearchConfig(
    problems=2, prompt_len=1, max_tokens=TREES.depth, max_steps=TREES.depth, max_rounds=6, tokens_per_step=1
)
WALKS = [SearchProblem(i, i % 2) for i in range(5)]
NAMED = (
    "greedy", "best_of_n:samples=4", "beam:samples=4,width=2", "dvts:samples=4,width=2",
    "rebase:samples=4", "particle_filter:samples=4", "odds_filter:samples=4",
    "particle_gibbs:samples=4,iterations=2,max_tokens=3", "twisted_smc:samples=4", "astar:branch=2,capacity=8",
    "mcts:simulations=4,actions=2,noise=0.25", "metropolis:chains=2,steps=3", "short_m:chains=4,m=2",
)
OTHERS = {  # made by the same functions, and compared with loops or with the golden results in their own tests
    "majority", "weighted_vote", "early_stopping", "adaptive_consistency", "pruning", "restarts", "confident_vote",
    "budget_forcing", "iterative_deepening", "revision", "step_speculation", "spawn_join", "hogwild",
    "atom_of_thoughts", "plan_search", "stack",
}  # fmt: skip


def essence(found: Found) -> tuple:
    """Everything but the time it took."""
    cost = dataclasses.replace(found.cost, seconds=0)
    return found.problem.number, found.candidates, found.best, found.rounds, cost, found.report


def test_every_strategy_of_the_catalogue_is_tried() -> None:
    assert {text.partition(":")[0] for text in NAMED} == set(STRATEGIES) - OTHERS


@pytest.mark.parametrize("text", NAMED)
def test_answers_do_not_depend_on_order_neighbours_or_resume_point(text: str, tmp_path: Path) -> None:
    search, keep = Searcher(TREES.decoder, strategy_by_name(text), WALK, ValueScorer()), Keep(tmp_path / "state", 0, 1)
    together = sorted(map(essence, search.run(WALKS)))
    backwards = [f for given in (WALKS[::-1][:2], WALKS[::-1][2:]) for f in search.run(given)]
    assert sorted(map(essence, backwards)) == together
    assert len(list(zip(range(3), search.run(WALKS, keep)))) == 3 and keep.path.exists()  # others are on their way
    assert sorted(map(essence, search.run(WALKS, keep))) == together


def mesh(devices: int):
    return make_mesh(MeshConfig(data=devices), jax.devices()[:devices])


def test_walks_on_several_devices_are_those_on_one(tmp_path: Path) -> None:
    config, walks = dataclasses.replace(WALK, problems=4), [SearchProblem(i, i % 2, i % 2) for i in range(10)]
    found, keep = [], Keep(tmp_path / "state", 0, 1)

    def table(payloads: list, texts: list) -> np.ndarray:
        return np.array([TREES.value[tree, TREES.walk(tree, text)] for tree, text in zip(payloads, texts)])

    for devices, scorer in ((1, ValueScorer()), (2, ValueScorer()), (4, table)):
        search = Searcher(TREES.decoder, beam(4, 2), config, scorer, mesh(devices))
        found.append(sorted(map(essence, search.run(walks))))
        compiled = search.compilations
        assert sorted(map(essence, search.run(walks[::-1]))) == found[-1] and search.compilations == compiled
        if devices == 1:
            assert len(list(zip(range(6), search.run(walks, keep)))) == 6 and keep.path.exists()
        if devices == 2:  # they go on with what one device left in the middle
            assert sorted(map(essence, search.run(walks, keep))) == found[-1]
        assert len(search._state.population.tokens.sharding.device_set) == devices
    assert found == found[:1] * 3
    with pytest.raises(ConfigError, match="search.problems: 4 do not divide into 3 shards"):
        Searcher(TREES.decoder, beam(4, 2), config, ValueScorer(), mesh(3))


def test_a_transformer_on_several_devices_differs_in_near_ties_alone() -> None:
    """Tokens come in pairs of logits 1e-6 apart, so that greedy decoding meets a near-tie at every step."""
    model = ModelConfig(vocab_size=16, d_model=32, n_layers=1, n_heads=4, n_kv_heads=2, d_ff=48, max_seq_len=32)
    params = transformer.init(model, jax.random.key(0))
    pairs = params["tokens"][::2].at[:, 0].set(0.0)
    params["tokens"] = params["tokens"].at[::2].set(pairs).at[1::2].set(pairs.at[:, 0].set(1e-6))
    config = SearchConfig(problems=4, prompt_len=8, max_tokens=16, max_steps=1, max_rounds=2)
    prompts = [tuple(np.random.default_rng(i).integers(0, 16, 2 + i % 6).tolist()) for i in range(12)]
    found = []
    for devices in (1, 4):
        decoder = TransformerDecoder(model, params, config.prompt_len)
        search = Searcher(decoder, greedy(), config, mesh=mesh(devices))
        texts = {f.problem.number: f.candidates[0].tokens for f in search.run(map(SearchProblem, range(12), prompts))}
        found.append([texts[i] for i in range(12)])
    for prompt, one, other in zip(prompts, *found):
        differ = [i for i, (a, b) in enumerate(zip(one, other)) if a != b]
        if differ:  # a flip; what follows it is another text
            text = np.zeros((1, 32), np.int32)
            text[0, : len(prompt) + differ[0]] = prompt + one[: differ[0]]
            logits = np.sort(np.asarray(transformer.apply(model, params, text))[0, len(prompt) + differ[0] - 1])
            assert logits[-1] - logits[-2] < EngineConfig().near_tie
