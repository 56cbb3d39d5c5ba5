"""Replies are read and never trained on, a call that fails costs its sample alone, and what is kept is as stated."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from models import transformer
from models.config import ModelConfig
from models.errors import ConfigError
from scaling.tasks.calculation import Calculation, Calculator
from scaling.tasks.edits import Edits
from scaling.tasks.environment import Environment, Reply
from scaling.tasks.task import Problem
from scaling.tasks.text import CharTokenizer
from scaling.train.objectives.objective import read, target_logprobs
from search.engine.request import Completion, Request
from search.posttrain import RolloutConfig, Rollouts
from search.posttrain.episodes import Episode, Stage
from search.posttrain.filters import Balanced, FewestErrors
from search.posttrain.shaping import CosineLength

TASK = Calculation()
TOKENS = CharTokenizer.of(TASK)
PROBLEM = TASK.problem([12, 34, 56], ["*", "+"])


class Scripted:
    """An engine that writes given texts, one after each reply; reading and drawing cost a FLOP a token."""

    prices = SimpleNamespace(prefill=lambda start, stop: stop - start)

    def __init__(self, *turns: str, tokens: CharTokenizer = TOKENS) -> None:
        self.turns, self.asked, self.tokens = list(turns), [], tokens

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        for request in requests:
            self.asked.append(request)
            text = self.turns.pop(0)
            tokens = tuple(int(t) for t in self.tokens.encode(text))[: request.max_tokens]
            reason = "stop" if text.endswith("=") else "eos" if text.endswith(".") else "length"
            logprobs = tuple(-float(t) for t in tokens)
            yield Completion(request.problem, 0, tokens, logprobs, reason, len(request.prompt), flops=len(tokens))


def played(*turns: str, environment: Environment | None = None, room: int = 60, most: int = 8) -> Episode:
    stage = Stage(Scripted(*turns), TOKENS, environment or TASK.environment(), room, most)  # type: ignore[arg-type]
    (episode,) = stage.play([PROBLEM], 1, seed=3)
    return episode


def test_replies_stand_where_they_were_asked_for_and_are_not_the_policys() -> None:
    one = played("12*34=", "|408+56=", ".")
    assert one.text == "12*34=408|408+56=464." == TASK.solution(PROBLEM, np.random.default_rng(0))
    assert TOKENS.decode([t for t, own in zip(one.tokens, one.own, strict=True) if not own]) == "408464"
    assert one.logprobs == [-float(t) * own for t, own in zip(one.tokens, one.own, strict=True)]
    assert (one.calls, one.failed, one.drawn, one.finish_reason) == (2, 0, 15, "eos")
    read_again = sum(len(PROBLEM.prompt + text) - 1 for text in ("12*34=408", "12*34=408|408+56=464"))
    assert one.flops == 15 + read_again
    assert TASK.verify(PROBLEM, one.text)


@pytest.mark.parametrize(
    ("turns", "room", "most", "text", "reason"),
    [
        (("1+=", "|12*34=", "."), 60, 8, "1+=!|12*34=408.", "eos"),  # an error is said, and the policy goes on
        (("12*34=", "5=", "6="), 60, 2, "12*34=4085=!6=", "length"),  # one call too many
        (("12*34=",), len("12*34+56:12*34=40"), 8, "12*34=40", "length"),  # no room for the reply
        (("12*34=",), len("12*34+56:12*34=408"), 8, "12*34=408", "length"),  # and none for what follows it
        (("99",), 60, 8, "99", "length"),
    ],
)
def test_an_episode_ends_where_it_must(turns: tuple[str, ...], room: int, most: int, text: str, reason: str) -> None:
    one = played(*turns, room=room, most=most)
    assert (one.text, one.finish_reason) == (text, reason) and len(one.own) == len(one.tokens) == len(text)


def test_an_environment_may_end_an_episode_and_one_that_raises_leaves_a_fault() -> None:
    class Stubborn(Calculator):
        def step(self, state: Any, text: str) -> Reply:
            if "9" in text:
                raise RuntimeError("the calculator is broken")
            return Reply(None, "!", failed=True, done=True)

    ended = played("12=", environment=Stubborn())
    assert (ended.text, ended.finish_reason, ended.failed, ended.fault) == ("12=!", "stop", 1, None)
    assert isinstance(played("9=", environment=Stubborn()).fault, RuntimeError)


@pytest.mark.parametrize("task", [Calculation(operations=3), Edits()])
def test_solutions_are_what_a_policy_and_its_environment_write_together(task: Any) -> None:
    rng, environment = np.random.default_rng(0), task.environment()
    for problem in task.generate(0, 20):
        solution = task.solution(problem, rng)
        state, text = environment.reset(problem), ""
        for part in solution.split("=")[:-1]:
            asked = part[next((i for i, c in enumerate(part) if c in "|"), 0) :] + "="
            reply = environment.step(state, asked)
            assert not reply.failed and not reply.done
            state, text = reply.state, text + asked + reply.shown
        assert text + "." == solution and task.verify(problem, solution)


def test_what_no_tool_can_do_is_an_error_and_never_computed() -> None:
    calculator, editor = Calculation().environment(), Edits().environment()
    for text in ("9**9**9=", "1-2=", "=", "2+=", "9" * 19 + "*2=", "1+2+3=", "٣+1="):
        assert calculator.step(None, text) == Reply(None, "!", failed=True)
    for text in ("d4=", "i5a=", "s0=", "d0a=", "x0=", "s9b=", "=", "i0e="):
        assert editor.step("abca", text) == Reply("abca", "!", failed=True, done=True)
    assert editor.step("a", "d0=").failed and editor.step("abcabcab", "i0a=").failed


MODEL = ModelConfig(vocab_size=TOKENS.vocab_size, d_model=8, n_layers=1, n_heads=2, d_ff=16).resolved()
SEQ, PROMPTS, GROUP = 24, 3, 4
GAP = 5e-6  # nats: float32 sums in another order, as in test_posttrain.py


class Chatty(Environment):
    """Answers some digits; raises at a nine."""

    calls = ("1", "2", "3", "9")

    def reset(self, problem: Problem) -> int:
        return 0

    def step(self, state: Any, text: str) -> Reply:
        if text.endswith("9"):
            raise RuntimeError("nine")
        return Reply(state + 1, f"*{state}*", failed=text.endswith("3"))


@functools.cache
def rollouts() -> tuple[Rollouts, Any]:
    params = jax.device_get(jax.jit(partial(transformer.init, MODEL))(jax.random.key(0)))
    made = Rollouts(
        MODEL, params, TOKENS, TASK.generate(0, 9), lambda problem, text: float("*0*" in text), prompts=PROMPTS,
        group=GROUP, seq_len=SEQ, ends=(int(TOKENS.encode(".")[0]),), most_unscorable=1.0, environment=Chatty(),
        most_calls=2, filter=FewestErrors(oversample=2),
    )  # fmt: skip
    return made, params


def test_the_sampler_is_the_trainer_around_replies_too() -> None:
    """What follows a reply was drawn after reading it all again; the trainer reads the whole at once."""
    made, params = rollouts()
    batch, cost = made.batch(0, params)
    flat = {name: x.reshape(-1, x.shape[-1]) for name, x in batch.items() if x.ndim == 3}
    logp = jax.jit(lambda p, t: target_logprobs(read(MODEL, p, t[:, :-1]), t[:, 1:]))(params, flat["tokens"])
    own = flat["weights"] > 0
    assert np.abs(np.asarray(logp) - flat["sampled_logprobs"])[own].max() < GAP
    assert (flat["sampled_logprobs"][~own] == 0).all()
    again, _ = made.batch(0, params)
    assert all(np.array_equal(batch[name], again[name], equal_nan=True) for name in batch)
    texts = [TOKENS.decode(tokens) for tokens in flat["tokens"]]
    replies = sum(text.count("*0*") + text.count("*1*") for text in texts)
    assert replies >= 6 and cost.calls >= replies and 0 < cost.failed < cost.calls
    assert cost.completions == 2 * PROMPTS * GROUP > own.any(1).sum() == PROMPTS * GROUP


def test_every_flop_of_reading_again_is_some_episodes_and_faults_have_no_reward() -> None:
    made, params = rollouts()
    found = made.drawn(TASK.generate(0, 3), params, 6, seed=1)
    assert [(one.row, one.sample) for one in found.episodes] == [(i, j) for i in range(3) for j in range(6)]
    prompts = sum(made.engine.prices.prefill(0, len(one.prompt) - 1) for one in found.episodes[::6])
    assert found.flops == prompts + sum(one.flops for one in found.episodes)
    faults = [one for one in found.episodes if one.fault is not None]
    assert faults and all(np.isnan(made._reward(one)) for one in faults)
    assert all(one.calls <= 2 for one in found.episodes)


def test_of_successes_those_with_fewest_errors_stay_and_of_failures_any() -> None:
    rewards = np.array([1, 0, 1, 0, 1, 0, 1, 0.0])
    calls, failed = np.array([2, 2, 4, 0, 0, 1, 3, 1]), np.array([1, 2, 1, 0, 0, 1, 0, 0])
    kept = [FewestErrors().kept(np.random.default_rng(i), rewards, calls, failed, 4) for i in range(600)]
    assert all(set(one) >= {2, 6} and len(set(one)) == 4 and list(one) == sorted(one) for one in kept)  # 0 and 1/4
    counts = np.bincount(np.concatenate(kept), minlength=8)[1::2]
    assert counts.sum() == 1200 and abs(counts - 300).max() < 4 * np.sqrt(600 * 0.25)
    ties = {tuple(FewestErrors().kept(np.random.default_rng(i), rewards, calls * 0, failed, 4)) for i in range(200)}
    assert len(ties) == 6 * 6  # nothing tells them apart


@pytest.mark.parametrize("right", range(9))
def test_the_share_of_successes_stays_and_what_has_no_reward_goes_first(right: int) -> None:
    rewards = np.array([1.0] * right + [0.0] * (8 - right))
    kept = FewestErrors().kept(np.random.default_rng(0), rewards, np.ones(8), np.zeros(8), 4)
    assert len(kept) == 4 and abs(rewards[kept].sum() - right / 2) <= 0.5
    rewards[1:6] = np.nan
    kept = FewestErrors().kept(np.random.default_rng(0), rewards, np.ones(8), np.zeros(8), 4)
    assert len(set(kept)) == 4 and {0, 6, 7} <= set(kept)


@pytest.mark.parametrize("right", range(9))
def test_a_balanced_group_is_half_of_either_or_what_there_is(right: int) -> None:
    rewards = np.array([1.0] * right + [0.0] * (8 - right))
    kept = [Balanced().kept(np.random.default_rng(i), rewards, np.zeros(8), np.zeros(8), 4) for i in range(100)]
    expected = min(right, max(2, 4 - (8 - right)))
    assert all(len(set(one)) == 4 and rewards[one].sum() == expected for one in kept)
    assert len(np.unique(np.concatenate(kept))) == 8  # any may stay
    rewards[0] = np.nan
    assert (Balanced().kept(np.random.default_rng(0), rewards, np.zeros(8), np.zeros(8), 4) > 0).all()


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"rollouts\.most_calls: is 0"):
        RolloutConfig(most_calls=0)
    with pytest.raises(ConfigError, match=r"rollouts\.filter\.oversample: is 1"):
        FewestErrors(oversample=1)
    with pytest.raises(ConfigError, match=r"calculation\.digits: is 9"):
        Calculation(digits=9)


def test_a_shaped_reward_is_of_the_tokens_that_the_policy_drew(monkeypatch: pytest.MonkeyPatch) -> None:
    made, params = rollouts()
    found = [one for one in made.drawn(TASK.generate(0, 3), params, 6, seed=2).episodes if one.fault is None]
    plain = [made._reward(one) for one in found]
    shape = CosineLength(longest=SEQ, ngram=2)
    monkeypatch.setattr(made, "shaping", shape)
    for one, reward in zip(found, plain, strict=True):
        own = [token for token, drawn in zip(one.tokens, one.own, strict=True) if drawn]
        assert made._reward(one) == shape.shaped(reward, own, one.finish_reason == "length") and len(own) == one.drawn
    assert len(set(plain)) == 2 and any(one.drawn < len(one.tokens) for one in found)
