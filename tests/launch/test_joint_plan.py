"""launch.plan with accuracy laws: it reads what launch.fit wrote and prints what the planner says."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import scaling
from launch import cli, plan
from scaling.laws.testtime import TEST_TIME
from search.frontier import Option, joint_plan


@pytest.fixture(scope="module")
def fits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """fit.json of a loss law and of two accuracy laws."""
    folder, rng = tmp_path_factory.mktemp("fits"), np.random.default_rng(0)
    params, tokens = np.exp(rng.uniform(17, 23, 40)), np.exp(rng.uniform(20, 26, 40))
    loss = 1.8 + 400 * params**-0.34 + 2000 * tokens**-0.36
    runs = pd.DataFrame(dict(params=params, tokens=tokens, loss=loss * np.exp(0.002 * rng.standard_normal(40))))
    written = {"loss": scaling.fit("chinchilla", runs)}
    losses, samples = np.repeat(np.linspace(2.0, 3.0, 8), 9), np.tile(2.0 ** np.arange(9), 8)
    for name, f, b in (("vote", 0.5, 0.9), ("cover", 0.1, 0.4)):
        accuracy = TEST_TIME(dict(c=3.0, L0=2.2, f=f, b=b), loss=losses, samples=samples)
        written[name] = scaling.fit("test_time", dict(loss=losses, samples=samples, accuracy=accuracy))
    for name, fit in written.items():
        (folder / name).mkdir()
        fit.to_json(folder / name / "fit.json")
    return folder


def call(fits: Path, arguments: str) -> int:
    return cli.execute(plan.main, plan.FLAGS, "", ["--fit", str(fits / "loss"), *shlex.split(arguments)])


def test_the_command_prints_the_plan_of_the_planner(fits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    laws = f"--accuracy vote={fits / 'vote'},cover={fits / 'cover' / 'fit.json'} --tokens_per_sample 400,800"
    assert call(fits, f"{laws} --problems 1e6 --flops 1e21 --verifier_flops 1e9") == 0
    read = {name: scaling.Fit.from_json(fits / name / "fit.json") for name in ("loss", "vote", "cover")}
    options = [Option("vote", read["vote"], 400, 1e9), Option("cover", read["cover"], 800, 1e9)]
    assert capsys.readouterr().out.strip() == joint_plan(read["loss"], options, flops=1e21, problems=1e6).summary()
    assert call(fits, f"{laws} --problems 1e6 --flops 1e21 --serving_flops 1e20") == 0
    assert "training 1e+21 FLOP" in capsys.readouterr().out
    assert call(fits, f"{laws} --problems 1e6 --flops 1e21 --inference_tokens 6.4e9") == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert {row[0]: row[3] for row in rows if row[0] in ("vote", "cover")} == {"vote": "16", "cover": "8"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--problems 10", "--accuracy: is absent"),
        ("--accuracy vote=HERE/vote", "--tokens_per_sample: is required with --accuracy"),
        ("--accuracy HERE/vote --tokens_per_sample 5", "is no strategy: write vote=fits/vote"),
        ("--accuracy vote=HERE/nowhere --tokens_per_sample 5", "no such file: give the fit.json"),
        ("--accuracy vote=HERE/vote --tokens_per_sample 5,6", "--tokens_per_sample: 2 for 1 strategies"),
        ("--accuracy vote=HERE/vote --tokens_per_sample many", "--tokens_per_sample: 'many' is no number"),
        ("--accuracy vote=HERE/vote --tokens_per_sample 0", "vote.tokens_per_sample: is 0.0"),
        ("--accuracy vote=HERE/loss --tokens_per_sample 5", "chinchilla was fitted to values outside 0 to 1"),
        (
            "--accuracy vote=HERE/vote --tokens_per_sample 5 --serving_flops 1e20 --inference_tokens 5",
            "--serving_flops: comes with --inference_tokens",
        ),
    ],
)
def test_a_mistake_is_one_line_that_says_what_to_give(fits: Path, capsys, arguments: str, words: str) -> None:
    code = call(fits, "--flops 1e21 " + arguments.replace("HERE", str(fits)))
    error = capsys.readouterr().err
    assert code == 2 and words in error and len(error.strip().splitlines()) == 1
