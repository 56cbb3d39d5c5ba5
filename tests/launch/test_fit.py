"""launch.fit and launch.plan from real command lines: what they write and print, and one line for each mistake."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import scaling
from launch import cli, fit, plan
from scaling.fitting.law import Values
from scaling.laws import CHINCHILLA
from scaling.laws.chinchilla import optimal_params
from tests.launch import commands

TRUTH = dict(A=400.0, B=2000.0, E=1.8, alpha=0.34, beta=0.36)
BUDGET = 1e21


def runs(noise: float = 0.002) -> pd.DataFrame:
    """40 runs of a known law, with the columns that a sweep writes."""
    rng = np.random.default_rng(0)
    params, tokens = np.exp(rng.uniform(np.log([[5e7], [1e9]]), np.log([[1e10], [3e11]]), (2, 40)))
    loss = CHINCHILLA(TRUTH, params=params, tokens=tokens) * np.exp(noise * rng.standard_normal(40))
    return pd.DataFrame({"trial": [f"t{i:02d}" for i in range(40)], "status": "done", "params": params,
                         "tokens": tokens, "flops": 6 * params * tokens, "loss": loss})  # fmt: skip


@pytest.fixture
def table(tmp_path: Path) -> Path:
    runs().to_csv(tmp_path / "runs.csv", index=False)
    return tmp_path / "runs.csv"


@pytest.fixture(scope="module")
def document() -> str:
    """The fit of a noiseless table, so that the best plan has a closed form."""
    return scaling.fit(CHINCHILLA, runs(noise=0.0)).resampled(20).to_json()


@pytest.fixture
def saved(tmp_path: Path, document: str) -> Path:
    (tmp_path / "fit.json").write_text(document)
    return tmp_path / "fit.json"


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """refused(command, arguments) -> the one line on stderr of a command that must exit with 2."""

    def run(command, arguments: str) -> str:
        code = cli.execute(command.main, command.FLAGS, command.__doc__, shlex.split(arguments))
        out, err = capsys.readouterr()
        assert (code, out) == (2, "") and err.startswith("error: ") and err.count("\n") == 1
        return err.strip()

    return run


def printed(text: str, name: str) -> float:
    """The number that a summary prints for a name."""
    found = re.search(rf"^\s*{name}\s+(\S+)", text, re.MULTILINE)
    assert found, text
    return float(found[1])


@pytest.mark.slow
def test_a_fit_from_the_shell_is_the_fit_of_a_notebook_in_full_precision(tmp_path: Path) -> None:
    runs().rename(columns={"params": "N", "tokens": "D"}).to_csv(tmp_path / "runs.csv", index=False)
    done = commands.run("fit", "--results", tmp_path / "runs.csv", "--columns", "params=N,tokens=D", "--bootstrap=50",
                        "--seed=3", "--out", tmp_path / "fits" / "one")  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    here = scaling.fit(CHINCHILLA, runs(), bootstrap=50, seed=3)
    read = scaling.Fit.from_json(tmp_path / "fits" / "one" / "fit.json")
    assert dict(read.params) == dict(here.params) and np.array_equal(read.samples, here.samples)
    assert (tmp_path / "fits" / "one" / "summary.txt").read_text() == here.summary() + "\n"
    assert here.summary() in done.stdout
    assert (tmp_path / "fits" / "one" / "predicted.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_plan_from_the_shell_finds_the_closed_form_optimum_of_the_saved_fit(saved: Path) -> None:
    done = commands.run("plan", "--fit", saved, "--flops", BUDGET)
    assert (done.returncode, done.stderr) == (0, "")
    best = optimal_params(Values(TRUTH), BUDGET)
    assert printed(done.stdout, "params") == pytest.approx(best, rel=1e-4)  # five digits are printed
    assert printed(done.stdout, "tokens") == pytest.approx(BUDGET / 6 / best, rel=1e-4)


@pytest.mark.slow
def test_bad_input_ends_a_real_process_with_exit_code_2_and_one_line(tmp_path: Path) -> None:
    done = commands.run("fit", "--results", tmp_path / "absent.csv", "--out", tmp_path / "out")
    assert (done.returncode, done.stdout) == (2, "") and not (tmp_path / "out").exists()
    assert done.stderr == f"error: {tmp_path}/absent.csv: no such file or directory: check the path\n"


@pytest.mark.parametrize("form", ["directory", "parquet", "tsv", "jsonl"])
def test_every_form_of_the_same_table_gives_the_same_fit(form: str, tmp_path: Path, table: Path) -> None:
    path = tmp_path / f"again.{form}"
    if form == "directory":
        path.mkdir()
        runs().to_parquet(path / "results.parquet")
    else:
        write = {"parquet": lambda t: t.to_parquet(path), "tsv": lambda t: t.to_csv(path, sep="\t", index=False),
                 "jsonl": lambda t: t.to_json(path, orient="records", lines=True, double_precision=15)}  # fmt: skip
        write[form](runs())
    for results, out in ((table, "one"), (path, "other")):
        arguments = f"--results {results} --out {tmp_path / out} --bootstrap 0"
        assert cli.execute(fit.main, fit.FLAGS, "", shlex.split(arguments)) == 0
    one, other = (scaling.Fit.from_json(tmp_path / out / "fit.json").params for out in ("one", "other"))
    assert dict(other) == pytest.approx(dict(one), rel=1e-9)  # a jsonl keeps 15 digits


def test_a_held_out_test_prints_its_error_and_coverage_and_saves_the_fit_of_the_other_rows(
    tmp_path: Path, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs().rename(columns={"status": "State"}).to_csv(table, sep=";", index=False)
    arguments = f"--results {table} --out {tmp_path / 'out'} --bootstrap 50 --holdout 'flops>1e21 and params<=5e9'"
    assert cli.execute(fit.main, fit.FLAGS, "", shlex.split(arguments)) == 0
    shown = capsys.readouterr().out
    mask = (runs()["flops"] > 1e21) & (runs()["params"] <= 5e9)
    assert f"fitted on {(~mask).sum()} rows, {mask.sum()} held out by flops>1e21 and params<=5e9" in shown
    assert "separated by ';'" in shown  # what was done to the rows is said here, too
    assert "last value" in shown and "power law without E" in shown and "coverage" in shown
    assert scaling.Fit.from_json(tmp_path / "out" / "fit.json").certificate.points == (~mask).sum()


def test_tokens_in_billions_are_fitted_with_a_one_line_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs().assign(tokens=lambda t: t["tokens"] / 1e9).drop(columns="flops").to_csv(tmp_path / "runs.csv")
    arguments = f"--results {tmp_path / 'runs.csv'} --out {tmp_path / 'out'} --bootstrap 0"
    assert cli.execute(fit.main, fit.FLAGS, "", shlex.split(arguments)) == 0
    warned = [line for line in capsys.readouterr().err.splitlines() if "tokens" in line]
    assert len(warned) == 1 and warned[0].startswith("warning: tokens: the largest value is ") and "1e9" in warned[0]


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ("--columns params=sizes", ["'params=sizes': the table has no column 'sizes': have trial, status, params"]),
        ("--columns tokens=tokenz", ["'tokens=tokenz': the table has no column 'tokenz': did you mean 'tokens'?"]),
        ("--columns params", ["--columns: 'params' is no rename: write params=N,tokens=D"]),
        ("--law kaplan_params", ["no column 'params_nonembed' among trial, status, params, tokens, flops, loss"]),
        ("--law chinchila", ["law: 'chinchila' is not known: did you mean 'chinchilla'?", "overtraining", "hestness"]),
        ("--holdout flops>1e40", ["'flops>1e40' matches none of the 40 rows", "flops goes from"]),
        ("--holdout flops>0", ["'flops>0' holds out every row: leave rows to fit on"]),
        ("--holdout flop>1e20", ["no column 'flop'", "did you mean 'flops'?"]),
        ("--holdout '__import__(0)'", ["no column '__import__'"]),
        ("--holdout 'flops >'", ["flops >", "expected a number"]),
        ("--cluster family", ["no column 'family'"]),
        ("--weights sigma", ["no column 'sigma'"]),
        ("--space wurst", ["space: 'wurst' is no residual space: use one of log, raw, logit"]),
        ("--fixed E=1.8 --fixed E=1.9", ["--fixed: 'E' is given 2 times: give it once"]),
        ("--fixed E=nan", ["fixed: E is nan: give a number between 0 and inf"]),
        ("--columns loss=loss --columns loss=flops", ["--columns: 'loss' is given 2 times: give it once"]),
        ("--objective hubber", ["'hubber' is not known", "huber"]),
        ("--bootstrap=-1", ["--bootstrap", "give a non-negative integer"]),
        ("--bootstraps 5", ["--bootstraps: unknown flag: did you mean --bootstrap?"]),
    ],
)
def test_a_mistake_in_a_flag_of_fit_is_named_with_its_fix(
    tmp_path: Path, table: Path, refused, arguments: str, parts: list[str]
) -> None:
    line = refused(fit, f"--results {table} --out {tmp_path / 'out'} {arguments}")
    assert not [part for part in parts if part not in line], line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("empty.csv", b"", ["empty.csv: unreadable", "check that it is a valid .csv table"]),
        ("rows.csv", b"params,tokens,loss\n", ["rows.csv: the table has no rows"]),
        ("torn.parquet", b"PAR1 and then nothing", ["torn.parquet: unreadable"]),
        ("runs.xlsx", b"PK", ["runs.xlsx: cannot read .xlsx: use one of .csv, .tsv"]),
        ("case.csv", b"N,D,Loss\n1e8,1e9,3\n", ["no column 'params'", "columns={'params': 'N'}"]),
        ("few.csv", b"params,tokens,loss\n1e8,1e9,3\n2e8,1e9,2.9\n", ["2 rows for 5 parameters"]),
    ],
)
def test_a_table_that_cannot_be_fitted_is_named_with_the_fix(
    tmp_path: Path, refused, name: str, content: bytes, parts: list[str]
) -> None:
    (tmp_path / name).write_bytes(content)
    line = refused(fit, f"--results {tmp_path / name} --out {tmp_path / 'out'}")
    assert not [part for part in parts if part not in line], line


@pytest.mark.parametrize(("value", "shown"), [(np.nan, "nan"), (-2.0, "-2.0"), (np.inf, "inf")])
def test_a_loss_that_no_run_can_have_is_refused_by_row_and_trial(
    tmp_path: Path, refused, value: float, shown: str
) -> None:
    bad = runs()
    bad.loc[7, "loss"] = value
    bad.to_csv(tmp_path / "runs.csv", index=False)
    line = refused(fit, f"--results {tmp_path / 'runs.csv'} --out {tmp_path / 'out'}")
    assert line.startswith(f"error: row 7 (trial t07): loss is {shown}")


def test_serving_tokens_makes_the_planned_model_smaller_and_the_budget_is_spent_exactly(
    saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    served, shown = 2e10, {}
    for tokens in (0.0, served):
        arguments = f"--fit {saved} --flops {BUDGET} --inference_tokens {tokens}"
        assert cli.execute(plan.main, plan.FLAGS, "", shlex.split(arguments)) == 0
        shown[tokens] = capsys.readouterr().out
    params, tokens = (printed(shown[served], name) for name in ("params", "tokens"))
    assert params < printed(shown[0.0], "params")
    assert 6 * params * tokens + 2 * params * served == pytest.approx(BUDGET, rel=1e-3)  # four digits are printed
    assert "2e+10 inference tokens" in shown[served]


def test_a_plan_reads_the_fit_of_a_directory(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.execute(plan.main, plan.FLAGS, "", ["--fit", str(saved.parent), "--flops=1e21"]) == 0
    assert "budget 1e+21 FLOP" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ("--flops=lots", ["--flops: 'lots' is not a non-negative number"]),
        ("--flops 1e21 --inference_tokens 1e21", ["no model of 10 parameters or more can be trained and served"]),
        ("--flops 0", ["0.0 is not a positive number"]),
        ("--flops nan", ["nan is not a positive number"]),
        ("", ["--flops: or --loss is needed, and one alone: give --flops 1e21 or --loss 2.0"]),
        ("--flops 1e21 --inference_tokens -1", ["--inference_tokens: '-1' is not a non-negative number"]),
        ("--flops 1e21 --inference_tokens nan", ["--inference_tokens: is nan: give a count"]),
        ("--flops 1e21 --interval 1", ["--interval: 1.0 is no level: give a fraction such as 0.9"]),
        ("--flops 1e21 --inference 5", ["--inference: unknown flag: did you mean --inference_tokens?"]),
    ],
)
def test_a_mistake_in_a_flag_of_plan_is_named_with_its_fix(
    saved: Path, refused, arguments: str, parts: list[str]
) -> None:
    line = refused(plan, f"--fit {saved} {arguments}")
    assert not [part for part in parts if part not in line], line


@pytest.mark.parametrize("damage", ["cut", "empty", "other", "list", "law"])
def test_a_damaged_fit_is_refused_by_name(saved: Path, refused, damage: str) -> None:
    text = saved.read_text()
    damaged = {
        "cut": text[: len(text) // 2],
        "empty": "",
        "other": '{"name": "quickstart"}',
        "list": "[1, 2]",
        "law": json.dumps(json.loads(text) | {"law": "chinchila"}),
    }
    saved.write_text(damaged[damage])
    line = refused(plan, f"--fit {saved} --flops 1e21")
    assert ("did you mean 'chinchilla'?" if damage == "law" else f"{saved}: is not a saved fit") in line


def test_a_law_without_params_and_tokens_cannot_be_planned_with(tmp_path: Path, refused) -> None:
    rng = np.random.default_rng(0)
    tokens = np.geomspace(1e7, 1e10, 20)
    loss = (30 * tokens**-0.2 + 1.5) * np.exp(0.002 * rng.standard_normal(20))
    scaling.fit("hestness", {"tokens": tokens, "loss": loss}).to_json(tmp_path / "fit.json")
    line = refused(plan, f"--fit {tmp_path / 'fit.json'} --flops 1e21")
    assert line == "error: plan: the law hestness has no input 'params': use a law of params and tokens"


def test_a_fit_that_is_not_there_is_refused_by_name(tmp_path: Path, refused) -> None:
    assert f"{tmp_path / 'fit.json'}: no such file" in refused(plan, f"--fit {tmp_path / 'fit.json'} --flops 1e21")
