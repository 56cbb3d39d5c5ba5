"""Every strategy can be named, as text, as JSON and as a config, and is then the function that it names."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import transformer
from models.config import ModelConfig
from models.errors import ConfigError
from models.serialize import from_json, to_json
from scaling.data.tokenizer import ByteTokenizer
from search.config import SearchConfig
from search.named import written
from search.policy import Policy
from search.searcher import Searcher
from search.strategies.answers import reader
from search.strategies.atoms import atom_of_thoughts
from search.strategies.best_of_n import best_of_n
from search.strategies.budget_forcing import budget_forcing
from search.strategies.catalogue import STRATEGIES, read_strategy, strategy_by_name
from search.strategies.deepening import iterative_deepening
from search.strategies.hogwild import WorkersDecoder
from search.strategies.plan_search import plan_search
from search.strategies.pruning import ConfidenceScorer, confident_vote, pruning, restarts
from search.strategies.revision import revision
from search.strategies.setting import NeedsPolicy, Setting
from search.strategies.spawn_join import Calls, spawn_join
from search.strategies.stack import stack
from search.strategies.step_speculation import JudgeScorer, OfLarge, PairedDecoder, step_speculation
from search.strategies.stopping import adaptive_consistency, early_stopping
from search.strategies.strategy import Strategy, View
from search.strategies.votes import by_vote
from search.verifiers.scorer import ValueScorer

LONG = 24
MODEL = ModelConfig(vocab_size=256, d_model=8, n_layers=1, n_heads=2, d_ff=8, max_seq_len=64)
TOKENIZER = ByteTokenizer()
POLICY = Policy(MODEL, transformer.init(MODEL, jax.random.key(0)), TOKENIZER, (0,), "digest", "here")
SEARCH = SearchConfig(problems=2, prompt_len=8, max_tokens=LONG, max_steps=8, delimiters=("\n",), ends=(0,))
SETTING = Setting(POLICY, SEARCH, "number:#", ValueScorer())
READ = reader("number:#").on_device(TOKENIZER.spelling, 256, (0,))
CALLS = Calls(*map(ord, "[-]<+>="), end=0)
SPOKEN: dict[str, Callable[[], Strategy]] = {
    "majority:samples=3": lambda: by_vote(best_of_n(3, scored=False), READ),
    "weighted_vote:samples=3,agg=min": lambda: by_vote(best_of_n(3, "min"), READ, weighted=True),
    "best_of_n:samples=3,vote=weighted": lambda: by_vote(best_of_n(3), READ, weighted=True),
    "early_stopping:window=2,most=4": lambda: early_stopping(READ, 2, 4),
    "adaptive_consistency:criterion=share,most=4": lambda: adaptive_consistency(READ, "share", most=4),
    "pruning:samples=4,checkpoints=[1,3],drop=0.25": lambda: pruning(4, (1, 3), 0.25),
    "restarts:samples=4,threshold=0.9": lambda: restarts(4, 0.9),
    "confident_vote:samples=4,warm_up=2,window=3": lambda: confident_vote(4, READ, warm_up=2, window=3),
    'budget_forcing:samples=2,end_think=";",least=4,most=9,wait="hm, ",header=A': lambda: budget_forcing(
        2, ord(";"), least=4, most=9, wait=tuple(b"hm, "), header=(ord("A"),)
    ),
    "iterative_deepening:samples=2,trigger=hm,first=4": lambda: iterative_deepening(2, tuple(b"hm"), LONG, first=4),
    'revision:samples=4,attempts=2,separator="\\n",pick=majority': lambda: revision(
        4, 2, 10, 0, LONG, pick="majority", answer_of=READ
    ),
    'spawn_join:children=2,call="[",child=-,close="]",reply=<,result=+,done=>,mark="="': lambda: spawn_join(
        2, CALLS, LONG
    ),
    'stack:samples=4,keep=[2,1],mark="hm ",behind="="': lambda: stack(
        4, (2, 1), tuple(b"hm "), 0, LONG, behind=ord("=")
    ),
    "step_speculation:samples=2,small=there,threshold=0.4": lambda: step_speculation(2, 0.4),
    "atom_of_thoughts:samples=2,question=?,close=;,most=3,vote=majority": lambda: by_vote(
        atom_of_thoughts(2, ord("?"), ord(";"), LONG, most=3), READ
    ),
    "plan_search:observations=3,observe=?,close=;,solve=!": lambda: plan_search(3, ord("?"), ord(";"), ord("!"), LONG),
}  # fmt: skip


def programs(strategy: Strategy) -> list[str]:
    """What a strategy does, as text: its plain fields, and the programs of its functions."""
    store, steps = strategy.store, SEARCH.max_steps
    shapes: dict[str, Any] = {"tokens": (store, LONG), "logprobs": (store, LONG), "scores": (store, steps)}
    shapes |= {"ends": (store, steps), "round": (), "left": (), "last": ()}
    whole = ("tokens", "length", "steps", "ends", "aux", "round")
    kinds = {"ended": bool, "complete": bool, "last": bool} | dict.fromkeys(whole, jnp.int32)
    view = View(*(jnp.zeros(shapes.get(n, (store,)), kinds.get(n, jnp.float32)) for n in View._fields))
    state, key = strategy.init(), jnp.zeros(2, jnp.uint32)
    plain = [str(getattr(strategy, f.name)) for f in dataclasses.fields(strategy) if f.name not in FUNCTIONS]
    plain += [str(jax.make_jaxpr(strategy.select)(key, state, view)), str(jax.make_jaxpr(strategy.answer)(state, view))]
    if strategy.control is not None:
        plain.append(str(jax.make_jaxpr(strategy.control)(*[jnp.int32(0)] * 3)))
    return plain


FUNCTIONS = ("init", "select", "answer", "control", "report")


@pytest.mark.parametrize("text", SPOKEN)
def test_a_named_strategy_is_the_function_that_it_names(text: str) -> None:
    assert programs(strategy_by_name(text, SETTING)) == programs(SPOKEN[text]())


NAMED = (
    *SPOKEN, "greedy", "beam:samples=16,width=4", 'beam:samples=4,delimiter="\\n\\n"', "dvts:samples=4,vote=majority",
    "rebase:samples=4,temperature=1", "particle_filter:samples=4,pick=sample", "odds_filter:samples=4",
    "twisted_smc:samples=4,candidates=2", "particle_gibbs:samples=4,iterations=2", "astar:cost=tokens,per_unit=0.1",
    "mcts:simulations=4,answer=visits,exploration=none", "metropolis:chains=2,steps=3,record=false",
    "short_m:chains=4,m=2", 'hogwild:workers=2,openings=["A: ","B: "]',
)  # fmt: skip


def test_every_strategy_is_named_here() -> None:
    assert {read_strategy(text).name for text in NAMED} == set(STRATEGIES)


@pytest.mark.parametrize("text", NAMED)
def test_text_json_and_config_are_one_strategy(text: str) -> None:
    made = read_strategy(text)
    fields = to_json(made)
    assert from_json(type(made), fields) == made
    assert read_strategy(json.dumps({"name": made.name} | fields)) == made
    assert read_strategy(json.dumps({"type": type(made).__name__} | fields)) == made
    assert read_strategy(written(made)) == made


def test_what_a_search_can_be_is_made_of_the_sizes_of_its_strategy() -> None:
    assert read_strategy('beam:samples=4,delimiter="; ",tokens_per_step=5').sized(SEARCH) == dataclasses.replace(
        SEARCH, delimiters=("; ",), tokens_per_step=5
    )
    assert read_strategy("beam:samples=4").sized(SEARCH) == SEARCH
    assert read_strategy("confident_vote:samples=20").sized(SEARCH).max_steps == LONG
    search = read_strategy("beam:samples=4,width=2").search(SETTING)
    assert isinstance(search, Searcher) and search.strategy.width == 4
    assert read_strategy("hogwild:workers=3").rows(SETTING) == 3


def test_some_strategies_search_with_another_decoder_or_scorer(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(read_strategy("hogwild:workers=2").decoder(SETTING), WorkersDecoder)
    assert isinstance(read_strategy("confident_vote:samples=20").scorer(SETTING), ConfidenceScorer)
    revised = read_strategy('revision:samples=4,attempts=2,separator="\\n"')
    host = dataclasses.replace(SETTING, scorer=lambda payloads, texts: [len(text) for text in texts])
    assert revised.scorer(host)([None], [(65, 10, 66, 67)]) == [2]  # behind the last separator
    assert revised.scorer(SETTING) is SETTING.scorer and read_strategy("greedy").scorer(host) is host.scorer
    monkeypatch.setattr("search.policy.load_policy", lambda folder: POLICY)
    drafted = read_strategy("step_speculation:samples=2,small=there")
    assert isinstance(drafted.decoder(SETTING), PairedDecoder) and isinstance(drafted.scorer(SETTING), OfLarge)
    rated = read_strategy('step_speculation:samples=2,small=there,ratings={"1":0.5}')
    assert isinstance(rated.scorer(SETTING), JudgeScorer) and drafted.scorer(host) is host.scorer
    other = dataclasses.replace(POLICY, tokenizer=type("Other", (), {"spelling": (b"a",)})())
    monkeypatch.setattr("search.policy.load_policy", lambda folder: other)
    with pytest.raises(ConfigError, match="step_speculation.small: there has another tokenizer than here"):
        drafted.decoder(SETTING)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("baem", "strategy: 'baem' is none: did you mean 'beam'?"),
        ('{"name": "baem"}', "strategy: 'baem' is none: did you mean 'beam'?"),
        ('{"samples": 4}', "strategy.name: is missing: give one of greedy"),
        ('{"name": "beam", "sample": 4}', "beam.sample: no such field: did you mean beam.samples?"),
        ('{"name": ', "strategy: is not valid JSON"),
        ("beam:sample=4", "beam.sample: is no field of this strategy: did you mean 'samples'?"),
        ("beam:samples=many", "beam.samples: does not take 'many': give an integer"),
        ("beam:samples=1e99", "beam.samples: does not take '1e99'"),
        ("beam:samples=4,width=2,tokens_per_step=0", "beam.tokens_per_step: is 0: give a positive integer"),
        ("best_of_n:samples=0", "samples: is 0: give a positive number"),
        ("astar:per_unit=-1", "astar.per_unit: is -1.0: give a number that is not negative"),
        ("beam:samples=4000000", "beam.samples: is 4,000,000: give at most 1,048,576"),
        ("beam:samples=4,agg=least", "beam.agg: does not take 'least'"),
        ("pruning:samples=4,checkpoints=[1,", "pruning.checkpoints: is not valid JSON"),
        ("revision:samples=4,attempts=2", "revision: needs separator"),
        ("revision:samples=4,attempts=2,separator=ab", "revision.separator: 'ab' is 2 tokens of here: give a text"),
        ("majority:samples=4,answer=numbr", "answer: 'numbr' is no way of reading answers: did you mean 'number'?"),
        ("beam:samples=5,width=2", "width: is 2, which does not divide samples=5"),
    ],
)
def test_what_is_no_strategy_is_one_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        strategy_by_name(text, SETTING)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_what_no_token_spells_is_refused() -> None:
    silent = dataclasses.replace(SETTING, policy=dataclasses.replace(POLICY, tokenizer=Silent()))
    strategy = read_strategy('beam:samples=4,delimiter="\\u0000a"')
    with pytest.raises(ConfigError, match=r"search.delimiters: '\\x00a' can never match"):
        strategy.search(silent)
    for text in ("iterative_deepening:samples=2,trigger=hm", "hogwild:workers=2"):
        with pytest.raises(NeedsPolicy, match="needs a policy"):
            strategy_by_name(text)


class Silent(ByteTokenizer):
    """Bytes but the first, which no token spells."""

    spelling = (b"", *(bytes([byte]) for byte in range(1, 256)))


def test_a_weighted_vote_counts_scores_and_not_samples() -> None:
    strategy = strategy_by_name("weighted_vote:samples=3", SETTING)
    answer, texts = jax.jit(strategy.answer), [b"#7", b"# 3", b"#3.0"]
    tokens = np.full((3, LONG), -1, np.int32)
    for i, text in enumerate(texts):
        tokens[i, : len(text) + 1] = [*text, 0]
    length = jnp.asarray([len(text) + 1 for text in texts])
    zeros, true = jnp.zeros(3), jnp.ones(3, bool)
    for scores, best in (((0.5, 0.2, 0.2), 0), ((0.5, 0.3, 0.3), 1)):
        given = {"tokens": jnp.asarray(tokens), "length": length, "complete": true, "score": jnp.asarray(scores)}
        view = View(**{name: given.get(name, zeros) for name in View._fields})
        assert int(answer((), view).best) == best
