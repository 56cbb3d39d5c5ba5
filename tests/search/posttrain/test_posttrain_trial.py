"""A post-training run is a trial: an id, a row, one ledger, the same bits wherever it was killed; errors are a line."""

from __future__ import annotations

import functools
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from launch import cli, evaluate, posttrain, status
from launch.snapshot import snapshot
from models import counts, transformer
from models.config import ModelConfig
from models.errors import ConfigError
from models.serialize import to_json
from scaling.data import DataConfig
from scaling.sweep.results import TIMES_AND_DEVICES, Results
from scaling.sweep.trial import Trial, override
from scaling.tasks.arithmetic import Arithmetic
from scaling.tasks.text import CharTokenizer
from scaling.train.adaptation import LowRank, Only
from scaling.train.checkpoint import Checkpoints, load_params
from scaling.train.config import TrainConfig
from scaling.train.objectives import Coverage, PolicyGradient
from search.metrics.curves import powers_of_two
from search.policy import load_policy
from search.posttrain import MeasureConfig, PostTrainConfig, PostTraining, Rollouts
from search.posttrain.measure import votes
from search.posttrain.progress import Progress
from search.posttrain.report import accuracy_table
from search.posttrain.trial import PostTrial, pretraining_flops

REPOSITORY = Path(__file__).resolve().parents[3]
NAME = "arithmetic:operation=add,digits=1,other_digits=1"
TASK = Arithmetic(operation="add", digits=1, other_digits=1)
TOKENS = CharTokenizer.of(TASK)
MODEL = ModelConfig(vocab_size=TOKENS.vocab_size, d_model=8, n_layers=1, n_heads=2, d_ff=16).resolved()
TRAIN = TrainConfig(
    steps=3, batch_size=4, seq_len=7, learning_rate=1e-2, warmup_steps=0, checkpoint_every=1,
    objective=PolicyGradient(group=4, kl=0.05), init_from="start", seed=7,
)  # fmt: skip
MEASURE = MeasureConfig(problems=5, samples=4, served=100)


def pretrained(root: Path, model: ModelConfig = MODEL, scale: float = 2.0) -> Path:
    """The directory of a finished trial of this model with random parameters, which knows the digits of the task."""
    data = DataConfig(source="task", path=NAME, tokenizer="characters")
    one = Trial(model, data, TrainConfig(steps=3, batch_size=2, seq_len=8))
    path = root / "trials" / one.id
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(to_json(one)))
    with Checkpoints(path / "checkpoints") as checkpoints:
        drawn = jax.jit(partial(transformer.init, model))(jax.random.key(0))
        checkpoints.save(3, {"params": jax.tree.map(lambda x: scale * x, drawn)}, {"config": to_json(one)})
    return path


@functools.cache
def policy(root: str) -> Path:
    return pretrained(Path(root))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("policies")


def config_of(root: Path, **changes: Any) -> PostTrainConfig:
    one = PostTrainConfig("test", NAME, TRAIN, measure=MEASURE)
    return override(one, {"train.init_from": str(policy(str(root))), "rollouts.problems": 20} | changes)


@functools.cache
def engine(root: Path) -> Rollouts:
    """One engine for all runs, which keeps nothing of any."""
    return PostTrial(config_of(root), root / "engine").rollouts()


@functools.cache
def step(root: Path) -> Any:
    """The compiled update of all runs that train alike."""
    return PostTrial(config_of(root), root / "engine").training(engine(root))._step


def training(trial: PostTrial, root: Path) -> PostTraining:
    run = trial.training(engine(root))
    run._step = step(root)
    return run


def graded(monkeypatch: pytest.MonkeyPatch, root: Path, reward: Callable[..., float] | None = None) -> None:
    """Digits are rewarded too, so that an untrained model learns."""
    rewards = reward or (lambda problem, text: TASK.verify(problem, text) + 0.1 * sum(c.isdigit() for c in text))
    monkeypatch.setattr(engine(root), "reward", rewards)


@functools.cache
def quiet(root: Path) -> Path:
    """The directory of a run that nothing disturbed, with the reward of the task alone."""
    trial = PostTrial(config_of(root), root / "quiet")
    trial.run(training(trial, root))
    return root / "quiet"


def left(directory: Path, trial: str) -> tuple[Any, ...]:
    """What a run leaves: its row, its lines, its parameters, bit for bit."""
    row = Results(directory).get(trial)
    assert row is not None
    path = directory / "trials" / trial
    params = [np.asarray(x).tobytes() for x in jax.tree.leaves(load_params(path))]
    return {k: v for k, v in row.items() if k not in TIMES_AND_DEVICES}, (path / "metrics.jsonl").read_text(), params


@pytest.mark.parametrize("where", ["rollout", "update", "checkpoint"])
def test_a_trial_that_is_killed_leaves_what_a_quiet_one_does(where: str, root: Path, tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    config, deaths, calls = config_of(root), 0, 0

    def dies(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls in (1, 3, 4):
            raise Killed
        return original(*args, **kwargs)

    for _ in range(8):
        trial = PostTrial(config, tmp_path)
        run = training(trial, root)
        places = {"rollout": (engine(root), "batch"), "update": (run, "_step"), "checkpoint": (run, "_metadata")}
        target, name = places[where]
        original = getattr(target, name)
        setattr(target, name, dies)
        try:
            trial.run(run)
            break
        except Killed:
            deaths += 1
        finally:
            setattr(target, name, original)
    assert deaths == 3
    assert left(tmp_path, config.id) == left(quiet(root), config.id)
    assert not (tmp_path / "trials" / config.id / "state").exists()


def test_one_ledger_has_pretraining_rollouts_references_updates_and_inference(root: Path) -> None:
    config, directory = config_of(root), quiet(root)
    row = Results(directory).get(config.id)
    assert row is not None
    lines = [json.loads(x) for x in (directory / "trials" / config.id / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2, 3]
    assert row["pretrain_flops"] == counts.train_flops(MODEL, 3 * 2 * 8, 8)
    assert row["rollout_flops"] == sum(line.get("rollout_flops", 0) for line in lines) > 0
    tokens, seq = TRAIN.tokens, TRAIN.seq_len
    assert row["reference_flops"] == tokens * counts.forward_flops(MODEL, seq) // seq
    assert row["update_flops"] == counts.train_flops(MODEL, tokens, seq)
    assert row["flops"] == row["rollout_flops"] + row["reference_flops"] + row["update_flops"] == lines[-1]["flops"]
    assert row["total_flops"] == row["pretrain_flops"] + row["flops"]
    assert 0 <= row["sampler_gap"] < 5e-6  # nats: float32 sums in another order
    price = PostTrial(config, directory).price()
    foretold = {"pretrain_flops": price.pretrain, "reference_flops": price.reference, "update_flops": price.update}
    assert foretold == {name: row[name] for name in foretold}
    assert row["rollout_flops"] <= price.rollout and row["measure_flops"] <= price.measure
    found = accuracy_table(directory)
    assert len(found) == 2 * len(powers_of_two(MEASURE.samples))
    assert (found["total"] == found["pretrain"] + found["posttrain"] + found["inference"]).all()
    after = found[(found["step"] == 3) & (found["samples"] == 4)].iloc[0]
    assert after["inference"] == lines[-1]["inference@4"] * 100 and after["posttrain"] == row["flops"]


def test_a_policy_that_practised_is_read_as_any_trial_and_may_practise_again(root: Path) -> None:
    config, directory = config_of(root), quiet(root)
    path = directory / "trials" / config.id
    found = load_policy(path)
    before = jax.tree.leaves(load_policy(policy(str(root))).params)
    assert found.model == MODEL and len(jax.tree.leaves(found.params)) == len(before)
    row = Results(directory).get(config.id)
    assert row is not None and pretraining_flops(path, MODEL) == row["total_flops"]
    facts = evaluate.model_facts(found, None)
    assert (facts["trial"], facts["step"]) == (config.id, TRAIN.steps)  # the run's, as in its table
    assert evaluate.model_facts(load_policy(policy(str(root))), None)["trial"] == policy(str(root)).name
    assert config.from_policy(str(path)).id != config.id == override(config, {"train.log_every": 7}).id


def test_votes_are_the_majority_of_disjoint_blocks() -> None:
    answers, right = ["1", "2", "2", None, None, "3", "3", "1"], np.array([1, 0, 0, 0, 0, 0, 0, 1.0])
    assert votes(answers, right, 1) == 2 / 8
    assert votes(answers, right, 2) == 1 / 4  # of 1 and 2, the first; 2; 3; of 3 and 1, the first
    assert votes(answers, right, 4) == 0 and votes([None, None], np.zeros(2), 2) == 0
    assert powers_of_two(5).tolist() == [1, 2, 4]


def test_low_rank_practice_trains_few_weights_and_leaves_a_whole_policy(root: Path, tmp_path: Path) -> None:
    config = config_of(root, **{"train.trains": LowRank(rank=1), "train.steps": 1, "measure.problems": 2})
    trial = PostTrial(config, tmp_path)
    row = trial.run(trial.training(engine(root)))
    assert row["update_flops"] < counts.train_flops(MODEL, config.train.tokens, TRAIN.seq_len)
    assert jax.tree.structure(load_policy(tmp_path / "trials" / config.id).params) == jax.tree.structure(
        load_policy(policy(str(root))).params
    )


def test_a_verifier_that_fails_too_often_ends_the_run_and_what_was_done_is_kept(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = iter(range(10**6))

    def fails(problem: Any, text: str) -> float:
        if next(steps) >= 2 * 4 * 4:  # in the third step
            raise RuntimeError("no calculator")
        return 1.0 if text else float("nan")

    config = config_of(root, **{"train.checkpoint_every": 0})
    trial = PostTrial(config, tmp_path)
    graded(monkeypatch, root, fails)
    with pytest.raises(ConfigError, match="reward: 100% of the completions of step 2 have no finite reward"):
        trial.run(training(trial, root))
    assert trial.row is None
    assert len((trial.path / "metrics.jsonl").read_text().splitlines()) == 3
    with Checkpoints(trial.path / "state") as kept:
        assert kept.latest() == 2


def test_a_reward_that_is_no_number_is_masked_and_counted(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = iter(range(10**6))
    graded(monkeypatch, root, lambda problem, text: float("nan") if next(turns) % 16 == 3 else 1.0)
    config = config_of(root, **{"train.steps": 1, "measure.problems": 2})
    trial = PostTrial(config, tmp_path)
    row = trial.run(training(trial, root))
    (line,) = [json.loads(x) for x in (trial.path / "metrics.jsonl").read_text().splitlines()][1:]
    assert line["scorable"] == 15 / 16 and line["reward"] == 1 and row["unscorable"] == 1 / 16


def command(*arguments: str) -> int:
    return cli.execute(posttrain.main, posttrain.FLAGS, posttrain.__doc__, list(arguments), posttrain.kinds)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"train.objective": Coverage()}, "train.objective: (Coverage) needs tokens [batch, seq + 1]"),
        ({"train.objective": PolicyGradient(advantage="given")}, "train.objective: (PolicyGradient) needs advantages"),
        ({"train.trains": Only(names=("nothing",))}, "train.trains.names: trains nothing: no weight is called nothing"),
        ({"train.init_from": "nowhere"}, "train.init_from: nowhere is no directory"),
        ({"rollouts.progress": Progress(mark="?")}, "rollouts.progress.mark: '?' is no character of"),
        ({"train.seq_len": 3}, "train.seq_len: 3 leaves a prompt of 4 tokens no room"),
        ({"task": "countdown"}, "data.tokenizer: "),
    ],
)
def test_what_cannot_practise_is_one_line_before_anything_compiles(
    changes: dict[str, Any], line: str, root: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        PostTrial(config_of(root, **changes), tmp_path)
    assert str(caught.value).startswith(line) and "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_reference_of_another_vocabulary_is_one_line(root: Path, tmp_path: Path) -> None:
    other = pretrained(tmp_path / "other", ModelConfig(vocab_size=30, d_model=8, n_layers=1, n_heads=2, d_ff=16))
    change = {"train.objective": PolicyGradient(group=4, kl=0.1, reference=str(other))}
    with pytest.raises(ConfigError, match=r"train\.objective\.reference: has 30 tokens and the trained model"):
        PostTrial(config_of(root, **change), tmp_path / "run")


def test_the_command_prices_refuses_and_says_where_the_figure_is(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.json"
    file.write_text(json.dumps(to_json(config_of(root))))
    given = (f"--config={file}", f"--workdir={quiet(root)}")
    assert command(*given, "--dry_run") == 0
    out = capsys.readouterr().out
    assert config_of(root).id in out and "(done)" in out
    assert command(*given) == 0  # finished: read, not run again
    out = capsys.readouterr().out
    assert "gap of the sampler at most" in out and "report.html" in out
    assert (quiet(root) / "figures" / "total_compute.png").is_file()
    told = status.text(snapshot(quiet(root)))
    assert "(post-training): 100.0% of 3 updates" in told and config_of(root).id in told and "finished" in told
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years of work")
    assert command(f"--config={file}", f"--workdir={tmp_path / 'full'}") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "holds no post-training run" in error


@pytest.mark.slow
def test_two_processes_that_are_killed_leave_what_a_loop_does_that_remembers_versions(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, versions = config_of(root, **{"rollouts.staleness": 1, "train.steps": 6}), list[Any]()
    file = tmp_path / "run.json"
    file.write_text(json.dumps(to_json(config)))
    draw = engine(root).batch

    def remembered(step: int, params: Any) -> Any:
        versions.append(jax.device_get(params))
        batch, cost = draw(step, versions[max(0, step - 1)])
        return batch, replace(cost, staleness=min(step, 1))

    trial = PostTrial(config, tmp_path / "loop")
    run = trial.training(engine(root))
    monkeypatch.setattr(run.rollouts, "batch", remembered)
    trial.run(run)
    arguments = [f"--config={file}", f"--workdir={tmp_path / 'two'}"]
    first = subprocess.Popen([sys.executable, "-m", "launch.posttrain", *arguments], cwd=REPOSITORY)
    metrics = tmp_path / "two" / "trials" / config.id / "metrics.jsonl"
    while first.poll() is None and (not metrics.exists() or len(metrics.read_text().splitlines()) < 4):
        time.sleep(0.02)
    first.kill()
    assert first.wait() == -signal.SIGKILL
    assert command(*arguments) == 0
    assert left(tmp_path / "two", config.id)[1:] == left(tmp_path / "loop", config.id)[1:]
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [line["staleness"] for line in lines[1:]] == [0, 1, 1, 1, 1, 1]
    assert not (metrics.parent / "handover").exists()
