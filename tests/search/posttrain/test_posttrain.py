"""The sampler is the trainer, a run that is stopped anywhere ends with the same bits, no reward is lost or made up."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from models import transformer
from models.config import ModelConfig
from models.errors import ConfigError
from scaling.tasks.arithmetic import Arithmetic
from scaling.tasks.task import Problem
from scaling.tasks.text import CharTokenizer
from scaling.train.config import TrainConfig
from scaling.train.loop import Interrupted
from scaling.train.objectives import PolicyGradient
from scaling.train.objectives.objective import read, target_logprobs
from search.engine.config import EngineConfig
from search.posttrain import PostTraining, RolloutConfig, Rollouts

TASK = Arithmetic(operation="add", digits=1, other_digits=1)
TOKENS = CharTokenizer.of(TASK)
MODEL = ModelConfig(vocab_size=TOKENS.vocab_size, d_model=8, n_layers=1, n_heads=2, d_ff=16).resolved()
SEQ, PROMPTS, GROUP = 7, 4, 4
GAP = 5e-6  # nats: some tens of float32's 1.2e-7 at logits of about 4, summed in another order through one layer
TRAIN = TrainConfig(
    steps=5, batch_size=PROMPTS, seq_len=SEQ, learning_rate=1e-2, warmup_steps=0, init_from="start", checkpoint_every=2,
    objective=PolicyGradient(group=GROUP, kl=0.05), seed=7,
)  # fmt: skip


def graded(problem: Problem, text: str) -> float:
    """A reward that an untrained model earns too: digits are good, and the right answer better."""
    return TASK.verify(problem, text) + 0.1 * sum(letter.isdigit() for letter in text)


@functools.cache
def start() -> Any:
    drawn = jax.jit(partial(transformer.init, MODEL))(jax.random.key(0))
    return jax.device_get(jax.tree.map(lambda x: 2 * x, drawn))


@functools.cache
def shared() -> Rollouts:
    """One engine for all runs: what it keeps of one, nothing, must not reach the next."""
    return made()


def made(reward: Callable[[Problem, str], float] = graded, **changes: Any) -> Rollouts:
    end = int(TOKENS.encode(".")[0])
    return Rollouts(
        MODEL, start(), TOKENS, TASK.generate(0, 30), reward, prompts=PROMPTS, group=GROUP, seq_len=SEQ, seed=3,
        ends=(end,), **changes,
    )  # fmt: skip


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@functools.cache
def quiet(folder: str) -> tuple[Any, list[dict[str, Any]]]:
    state = PostTraining(MODEL, TRAIN, start(), shared(), Path(folder)).run()
    return jax.device_get(state), rows(Path(folder))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, list[dict[str, Any]]]:
    return quiet(str(tmp_path_factory.mktemp("quiet")))


def test_the_sampler_is_the_trainer() -> None:
    """Token by token in the engine and all at once in the trainer: float32 sums in another order, and nothing else."""
    batch, cost = shared().batch(0, start())
    flat = {name: x.reshape(-1, x.shape[-1]) for name, x in batch.items() if x.ndim == 3}
    logp = jax.jit(lambda p, t: target_logprobs(read(MODEL, p, t[:, :-1]), t[:, 1:]))(start(), flat["tokens"])
    scored = flat["weights"] > 0
    gap = np.abs(np.asarray(logp) - flat["sampled_logprobs"])[scored]
    print(f"largest gap {gap.max():.2e} nats over {scored.sum()} tokens")
    assert gap.max() < GAP and cost.tokens == scored.sum() and cost.flops > 0
    assert (flat["sampled_logprobs"][~scored] == 0).all()


def test_a_batch_is_a_function_of_step_and_parameters(whole: Any) -> None:
    first, _ = shared().batch(3, start())
    shared().batch(1, jax.tree.map(lambda x: x + 0.5, start()))  # something else in between
    again, _ = shared().batch(3, start())
    assert all((first[name] == again[name]).all() for name in first)
    other, _ = shared().batch(4, start())
    assert (first["tokens"] != other["tokens"]).any()


def test_rewards_belong_to_the_texts_and_ends_are_scored() -> None:
    batch, _ = shared().batch(2, start())
    for row in range(PROMPTS):
        for i in range(GROUP):
            tokens, weights = batch["tokens"][row, i], batch["weights"][row, i]
            places = np.flatnonzero(weights)
            prompt, text = (TOKENS.decode(t) for t in np.split(tokens[: places[-1] + 2], [places[0] + 1]))
            problem = next(p for p in TASK.generate(0, 30) if p.prompt == prompt)
            assert batch["rewards"][row, i] == np.float32(graded(problem, text))
            assert bool(batch["truncated"][row, i]) == (not text.endswith("."))


@pytest.mark.parametrize("where", ["rollout", "update", "checkpoint"])
def test_a_run_that_is_killed_ends_with_the_same_bits(where: str, tmp_path: Path, whole: Any) -> None:
    class Killed(Exception):
        pass

    calls = {"n": 0}

    def dies(*args: Any, **kwargs: Any) -> Any:
        calls["n"] += 1
        if calls["n"] in (2, 4, 5):
            raise Killed
        return original(*args, **kwargs)

    deaths = 0
    for _ in range(8):
        run = PostTraining(MODEL, TRAIN, start(), shared(), tmp_path)
        places = {"rollout": (shared(), "batch"), "update": (run, "_step"), "checkpoint": (run, "_metadata")}
        target, name = places[where]
        original = getattr(target, name)
        setattr(target, name, dies)
        try:
            state = run.run()
            break
        except Killed:
            deaths += 1
        finally:
            setattr(target, name, original)
    assert deaths >= 2
    expected, lines = whole
    same = jax.tree.map(lambda a, b: bool((np.asarray(a) == np.asarray(b)).all()), expected, jax.device_get(state))
    assert jax.tree.all(same)
    assert rows(tmp_path) == lines


def test_a_reference_that_moves_is_the_policy_of_its_step_also_after_a_kill(tmp_path: Path) -> None:
    """Without an anchor the divergence grows from 0; with one it is 0 again at every step that follows a move."""
    config = RolloutConfig(anchor_every=2)
    state = PostTraining(MODEL, TRAIN, start(), shared(), tmp_path / "whole", config).run()
    kl = [line["kl"] for line in rows(tmp_path / "whole")]
    assert [abs(x) < 1e-6 for x in kl] == [True, False, True, False, True]
    answers = iter([False, False, False, True])
    stopped = PostTraining(MODEL, TRAIN, start(), shared(), tmp_path / "cut", config, stop=lambda: next(answers))
    with pytest.raises(Interrupted):
        stopped.run()
    again = PostTraining(MODEL, TRAIN, start(), shared(), tmp_path / "cut", config).run()
    same = jax.tree.map(lambda a, b: bool((np.asarray(a) == np.asarray(b)).all()), state, again)
    assert jax.tree.all(same) and rows(tmp_path / "cut") == rows(tmp_path / "whole")


def test_a_hot_sampler_is_the_trainer_too(tmp_path: Path) -> None:
    """Log-probabilities are of the law that was drawn from; at another temperature the trainer refuses them."""
    hot = made(temperature=1.5)
    objective = PolicyGradient(group=GROUP, temperature=1.5, entropy=0.01)
    train = replace(TRAIN, steps=2, objective=objective)
    PostTraining(MODEL, train, start(), hot, tmp_path).run()
    lines = rows(tmp_path)
    assert max(line["sampler_gap"] for line in lines) < GAP
    assert all(line["ratio"] == pytest.approx(1, abs=1e-5) for line in lines)
    assert all(0 < line["entropy"] < np.log(TOKENS.vocab_size) for line in lines)
    batch, _ = hot.batch(0, start())
    first = batch["weights"][:, 0].argmax(-1)
    row = batch["tokens"][0, 0]
    scores = transformer.apply(MODEL, start(), row[None, :-1])[0, first[0]] / 1.5
    expected = scores[row[first[0] + 1]] - jax.nn.logsumexp(scores)
    assert batch["sampled_logprobs"][0, 0, first[0]] == pytest.approx(float(expected), abs=GAP)
    with pytest.raises(ConfigError, match=r"rollouts\.temperature: is 1\.5, and the objective's 1\.0: use equal ones"):
        PostTraining(MODEL, TRAIN, start(), hot, tmp_path)
    with pytest.raises(ConfigError, match=r"rollouts\.anchor_every: is 2, and the objective has no reference"):
        PostTraining(MODEL, train, start(), hot, tmp_path, RolloutConfig(anchor_every=2))


def test_rows_say_what_was_sampled_and_what_it_cost(whole: Any) -> None:
    _, lines = whole
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]
    for line in lines:
        assert line["sampler_gap"] < GAP and line["ratio"] == pytest.approx(1, abs=1e-5) and line["clipped"] == 0
        assert line["scorable"] == 1 and line["rollout_flops"] > 0
    spent = [b["flops"] - a["flops"] for a, b in itertools.pairwise(lines)]
    update = TRAIN.flops(MODEL, TRAIN.tokens_per_step, {"reference": MODEL})
    assert spent == [line["rollout_flops"] + update for line in lines[1:]]
    assert abs(lines[0]["kl"]) < 1e-6 < lines[-1]["kl"]


def test_a_reward_that_fails_costs_its_sample_and_too_many_end_the_run(tmp_path: Path) -> None:
    def fails(problem: Problem, text: str) -> float:
        if "1" in text:
            raise RuntimeError("no calculator")
        return float("nan") if "2" in text else 1.0

    most = made(fails, most_unscorable=1.0)
    batch, _ = most.batch(0, start())
    texts = [TOKENS.decode(t) for t in batch["tokens"].reshape(-1, SEQ + 1)]
    answers = [text.split("=")[1] for text in texts]
    expected = [("1" in a) or ("2" in a) for a in answers]
    assert np.isnan(batch["rewards"].ravel()).tolist() == expected and any(expected)
    most.most_unscorable = 0.0
    with pytest.raises(ConfigError, match=r"reward: \d+% of the completions of step 0 have no finite reward"):
        PostTraining(MODEL, TRAIN, start(), most, tmp_path).run()


def test_what_cannot_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"engine\.reuse_prefixes: is on"):
        made(engine=EngineConfig(slots=4, max_len=8, page_size=8))
    wrong = TrainConfig(batch_size=PROMPTS + 1, seq_len=SEQ, init_from="start", objective=TRAIN.objective)
    with pytest.raises(ConfigError, match="rollouts: give"):
        PostTraining(MODEL, wrong, start(), shared(), tmp_path)
    with pytest.raises(ConfigError, match=r"rollouts\.updates: is 0"):
        RolloutConfig(updates=0)
