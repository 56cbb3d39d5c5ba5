"""A seeded search of every strategy with a tiny transformer: tokens, log-probabilities, scores, answers, costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

from models.config import ModelConfig
from search.config import Budget, SearchConfig
from search.decoder import Decoder, TransformerDecoder, ValueHead
from search.searcher import Found, Searcher, SearchProblem
from search.strategies.best_of_n import best_of_n
from search.strategies.budget_forcing import budget_forcing
from search.strategies.catalogue import strategy_by_name
from search.strategies.deepening import iterative_deepening
from search.strategies.hogwild import WorkersDecoder, hogwild
from search.strategies.revision import revision
from search.strategies.spawn_join import Calls, spawn_join
from search.strategies.step_speculation import JudgeScorer, PairedDecoder, step_speculation
from search.strategies.strategy import Strategy
from search.verifiers.generative import generative_verifier
from search.verifiers.scorer import LikelihoodScorer, ValueScorer
from tests.golden import record
from tests.golden.generation import cost, params_of

initial = partial(params_of, scale=1.0)  # flat enough that texts seldom end at once

VOCAB, END, STOP, LONG, PROMPT = 16, 13, 7, 12, 8
PLAIN = ModelConfig(vocab_size=VOCAB, d_model=16, n_layers=1, n_heads=2, n_kv_heads=1, head_dim=8, d_ff=24)
WINDOWED = dataclasses.replace(
    PLAIN, n_layers=2, sliding_window=3, layer_types=("sliding", "full"), attention_softcap=5.0, logit_softcap=8.0,
    scan_layers=True,
)  # fmt: skip
CONFIG = SearchConfig(
    problems=2, prompt_len=PROMPT, max_tokens=LONG, max_steps=5, max_rounds=6, tokens_per_step=4, delimiters=(STOP,),
    ends=(END,), seed=3,
)  # fmt: skip
CALLS = Calls(call=6, child=8, close=7, reply=9, result=10, done=11, answer=12, end=END)
ARGUMENTS = {  # of strategies that are given by their text alone; `cases` has others
    "greedy": "",
    "best_of_n": "samples=3",
    "beam": "samples=4,width=2,lookahead=1",
    "dvts": "samples=4,width=2",
    "rebase": "samples=4",
    "particle_filter": "samples=4",
    "odds_filter": "samples=3",
    "particle_gibbs": f"samples=4,iterations=2,max_tokens={LONG}",
    "twisted_smc": "samples=3,candidates=2",
    "astar": "branch=2,capacity=6",
    "mcts": "simulations=3,actions=2",
    "metropolis": "chains=2,steps=2",
    "short_m": "chains=3,m=2",
}


def problems() -> list[SearchProblem]:
    """Three prompts of different lengths for two places."""
    rng = np.random.default_rng(2)
    return [SearchProblem(i, tuple(rng.integers(0, VOCAB, 3 + 2 * i).tolist())) for i in range(3)]


def decoder(model: ModelConfig = PLAIN) -> TransformerDecoder:
    """The policy, with a value head."""
    weight = np.random.default_rng(3).standard_normal(model.d_model).astype(np.float32)
    return TransformerDecoder(model, initial(model), PROMPT, head=ValueHead(jnp.asarray(weight), jnp.float32(0.1)))


def written(found: Found) -> dict[str, Any]:
    """What a search of one problem gave."""
    return {
        "texts": [" ".join(map(str, c.tokens)) for c in found.candidates],
        "logprobs": [record.number(c.logprob) for c in found.candidates],
        "scores": record.bits([c.score for c in found.candidates]),
        "weights": record.bits([c.weight for c in found.candidates]),
        "best": found.best,
        "rounds": found.rounds,
        "out_of_budget": found.out_of_budget,
        "cost": cost(found.cost),
        "report": {name: record.number(x) for name, x in sorted(found.report.items())},
    }


def searched(policy: Decoder, strategy: Strategy, scorer: Any, **changes: Any) -> dict[str, Any]:
    """Every problem by its number."""
    search = Searcher(policy, strategy, dataclasses.replace(CONFIG, **changes), scorer if strategy.scored else None)
    done = sorted(search.run(problems()), key=lambda f: f.problem.number)
    return {str(f.problem.number): written(f) for f in done}


def catalogued(name: str, model: ModelConfig) -> dict[str, Any]:
    """A strategy of the catalogue, with a value head."""
    return searched(decoder(model), strategy_by_name(f"{name}:{ARGUMENTS[name]}"), ValueScorer())


def together() -> dict[str, Any]:
    """Three workers on one cache."""
    workers = WorkersDecoder(PLAIN, initial(PLAIN), PROMPT)
    return searched(workers, hogwild(3, ((1,), (2, 3), ())), None, seed=4, delimiters=(), tokens_per_step=None)


def spawned() -> dict[str, Any]:
    """Sub-searches, each called for with the tokens of CALLS, which the model writes often enough by chance."""
    drawn = dataclasses.replace(CONFIG.sampling, logit_bias=((CALLS.call, 3.0), (CALLS.child, 3.0), (CALLS.close, 2.0)))
    return searched(decoder(), spawn_join(2, CALLS, LONG, answer_len=3), None, tokens_per_step=None, sampling=drawn)


def drafted() -> dict[str, Any]:
    """Steps of a small model, judged by a larger one."""
    small, large = (TransformerDecoder(model, initial(model), PROMPT) for model in (PLAIN, WINDOWED))
    rating = JudgeScorer({i: i / 8 for i in range(8)})
    return searched(PairedDecoder(small, large), step_speculation(2, 0.4), rating)


def judged() -> dict[str, Any]:
    """Samples that a model's own verdicts score."""
    verifier = generative_verifier(
        PLAIN, initial(PLAIN), VOCAB, CONFIG, (3,), [1, 2, 3, 4], [8, 9, 10, 11], votes=3, most_tokens=2
    )
    return searched(decoder(), best_of_n(2), verifier)


def cases() -> dict[str, Callable[[], dict[str, Any]]]:
    """Every search, by name."""
    made: dict[str, Callable[[], dict[str, Any]]] = {
        name: partial(catalogued, name, WINDOWED if name in ("beam", "particle_filter") else PLAIN)
        for name in ARGUMENTS
    }
    forcing = budget_forcing(2, STOP, least=4, most=8, wait=(1, 2), header=(3,))
    revised = revision(4, 2, STOP, END, LONG, window=1)
    return made | {
        "hogwild": together,
        "spawn_join": spawned,
        "step_speculation": drafted,
        "budget_forcing": lambda: searched(decoder(), forcing, LikelihoodScorer(), delimiters=()),
        "revision": lambda: searched(decoder(), revised, LikelihoodScorer(), delimiters=()),
        "deepening": lambda: searched(decoder(), iterative_deepening(2, (1, 2), LONG, first=3), LikelihoodScorer()),
        "generative_verifier": judged,
        "budget": lambda: searched(
            decoder(), strategy_by_name("beam:samples=4,width=2"), LikelihoodScorer(), budget=Budget(2e5, "flops")
        ),
    }


def long_cases() -> dict[str, Callable[[], dict[str, Any]]]:
    """The same, the catalogue on two kinds of layers."""
    return cases() | {name: partial(catalogued, name, WINDOWED) for name in ARGUMENTS}
