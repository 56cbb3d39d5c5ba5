"""launch.reproduce: a claim is run once, judged by its interval, continued, and kept."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import numpy as np
import pytest

from launch import cli, gallery, reproduce
from launch.executors.choice import Options
from launch.workspace import Directory
from models.errors import ConfigError
from scaling import finding, kept
from scaling.finding import Finding
from scaling.reproduction import bootstrap_interval, given_table, least, t_interval

COIN = '''
"""A coin: python -m launch.reproduce coin.py --workdir runs/coin"""

import random
from pathlib import Path

from scaling.reproduction import Measured, Reproduction, Workspace


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="coin", methods=(27,), claim="heads come more often than not", source="folklore", smallest_effect=0.5,
        unit="share of heads", minutes=0.1, not_covered="other coins", simulated=True, run=toss,
    )


def toss(work: Workspace) -> Measured:
    with open(work.folder.parent / "runs.txt", "a") as log:
        log.write("run\\n")
    share = work.keep("share", lambda: (log_keep(work), 0.7)[1])
    if (work.folder.parent / "break").exists():
        raise RuntimeError("the table was turned")
    curve = {"x": [1, 2], "y": [0.5, share], "low": [0.4, 0.6], "high": [0.6, 0.8]}
    lines = {"heads": curve, "tails": {"x": [1, 2], "y": [0.5, 0.3]}}
    panel = {"x": "tosses", "y": "share", "log": "x", "lines": lines}
    curves = [panel] if (work.folder.parent / "draw").exists() else []  # a drawing takes a second
    return Measured(share, (share - 0.1, share + 0.1), 0.0, {"curves": curves, "tosses": 100})


def log_keep(work: Workspace) -> None:
    with open(work.folder.parent / "keeps.txt", "a") as log:
        log.write("keep\\n")
'''


@pytest.fixture
def coin(tmp_path: Path) -> Path:
    (tmp_path / "coin.py").write_text(COIN)
    return tmp_path / "coin.py"


def run(*arguments: object) -> int:
    return cli.execute(reproduce.main, reproduce.FLAGS, reproduce.__doc__, [*map(str, arguments)], positional="name")


def lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def test_a_finding_holds_only_when_its_whole_interval_lies_above_the_smallest_effect() -> None:
    assert finding.decide((0.51, 0.9), 0.5) == "holds"
    assert finding.decide((0.1, 0.49), 0.5) == "does not hold"
    assert finding.decide((0.5, 0.9), 0.5) == finding.decide((0.1, 0.5), 0.5) == "cannot tell"
    assert finding.decide((float("nan"), float("nan")), 0.5) == "cannot tell"


def test_a_finding_file_has_the_promised_names_and_refuses_a_verdict_that_its_numbers_deny(tmp_path: Path) -> None:
    one = Finding("coin", (27, 35), "heads", "folklore", 0.7, (0.6, 0.8), 0.5, "share", 1.5, 2e9, "cmd", "abc", "a cpu")
    promised = (
        "name methods claim source verdict effect interval smallest_effect unit minutes flops command commit machine "
        "simulated not_covered"
    )
    assert list(one.to_json()) == promised.split()
    finding.write(tmp_path / "one.json", [one])
    finding.write(tmp_path / "two.json", [one, one])
    assert finding.read(tmp_path / "one.json") == [one] and finding.read(tmp_path / "two.json") == [one, one]
    damaged = json.loads((tmp_path / "one.json").read_text()) | {"verdict": "does not hold"}
    (tmp_path / "one.json").write_text(json.dumps(damaged))
    with pytest.raises(ConfigError, match=r"says 'does not hold', and its interval says 'holds'"):
        finding.read(tmp_path / "one.json")


def test_a_reproduction_is_judged_once_and_a_finished_directory_is_left_as_it_is(coin: Path) -> None:
    work = coin.parent / "work"
    (coin.parent / "draw").touch()
    assert run(coin, "--workdir", work) == 0
    (found,) = finding.read(work / "finding.json")
    assert found.verdict == "holds" and found.interval == pytest.approx((0.6, 0.8))
    assert found.command == "python -m launch.reproduce coin --workdir runs/reproductions/coin"
    page = (work / "finding.html").read_text()
    assert "heads come more often than not" in page and "holds" in page and (work / "figures" / "coin.png").is_file()
    before = (work / "finding.json").read_bytes()
    assert run(coin, "--workdir", work) == 0
    assert (work / "finding.json").read_bytes() == before and lines(coin.parent / "runs.txt") == 1


def test_a_reproduction_that_was_interrupted_computes_nothing_twice(coin: Path) -> None:
    work = coin.parent / "work"
    (coin.parent / "break").touch()
    assert run(coin, "--workdir", work) == 1 and not (work / "finding.json").exists()
    (coin.parent / "break").unlink()
    assert run(coin, "--workdir", work) == 0
    assert lines(coin.parent / "runs.txt") == 2 and lines(coin.parent / "keeps.txt") == 1


def test_a_changed_file_is_measured_again_from_what_is_kept(coin: Path) -> None:
    work = coin.parent / "work"
    run(coin, "--workdir", work)
    coin.write_text(COIN.replace("smallest_effect=0.5", "smallest_effect=0.9"))
    assert run(coin, "--workdir", work) == 0
    assert finding.read(work / "finding.json")[0].verdict == "does not hold"
    assert lines(coin.parent / "runs.txt") == 2 and lines(coin.parent / "keeps.txt") == 1


def test_the_directory_of_another_reproduction_or_of_a_quick_run_is_refused(
    coin: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work, other = coin.parent / "work", coin.parent / "die.py"
    other.write_text(COIN.replace('name="coin"', 'name="die"'))
    assert run(coin, "--workdir", work, "--quick") == 0
    capsys.readouterr()
    for arguments, message in (
        ((coin, "--workdir", work), "holds a quick run, not a full one: choose another --workdir"),
        ((other, "--workdir", work), "is the directory of coin, not of die: choose another --workdir"),
        ((coin, "--workdir", coin.parent), "is not empty (coin.py, die.py, keeps.txt) and is no reproduction's"),
        ((coin, "--quick", "--keep"), "is not for --quick, which decides nothing"),
        (("--json",), "goes with --list"),
        ((), "NAME: is missing"),
    ):
        assert run(*arguments) == 2
        assert message in capsys.readouterr().err


def test_a_misspelt_name_gets_the_near_one(monkeypatch: pytest.MonkeyPatch, coin: Path) -> None:
    monkeypatch.setattr(gallery, "FOLDER", coin.parent)
    assert gallery.names() == ["coin"] and gallery.load("coin").name == "coin"
    with pytest.raises(ConfigError, match=r"no such reproduction: did you mean coin\?"):
        gallery.load("cion")
    (coin.parent / "wrong.py").write_text(COIN)
    with pytest.raises(ConfigError, match=r"defines a reproduction called 'coin': name it wrong"):
        gallery.load("wrong")


def test_the_catalogue_and_the_page_show_what_is_kept_and_what_was_not_run(
    monkeypatch: pytest.MonkeyPatch, coin: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (coin.parent / "die.py").write_text(COIN.replace('name="coin"', 'name="die"'))
    monkeypatch.setattr(gallery, "FOLDER", coin.parent)
    monkeypatch.setattr(gallery, "KEPT", coin.parent / "docs")
    assert run("coin", "--workdir", coin.parent / "work", "--keep") == 0
    capsys.readouterr()
    assert run("--list", "--json") == 0
    listed = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    assert listed["coin"]["verdict"] == "holds" and listed["die"]["verdict"] is None
    assert listed["coin"].keys() == listed["die"].keys() == finding.SHAPE.keys()
    page = gallery.page(gallery.entries())
    assert "| [coin](#coin) | 27 | holds | 0.7 [0.6, 0.8] share of heads | 0.5 |" in page
    assert "| [die](#die) | 27 | not run |" in page and "1 holds, 0 does not hold, 0 cannot tell; 1 not run." in page
    assert run("--list") == 0
    out = capsys.readouterr().out
    assert "not run" in out and "coin" in out


def test_what_is_kept_comes_back_as_json_at_once_and_what_is_no_json_is_refused(tmp_path: Path) -> None:
    work = Directory("coin", tmp_path, False, Options())
    assert work.keep("pair", lambda: (1, 2)) == [1, 2] == work.keep("pair", lambda: (3, 4))
    with pytest.raises(ConfigError, match=r"coin.rate: is no JSON"):
        work.keep("rate", lambda: float("nan"))
    with pytest.raises(ConfigError, match="which names no file"):
        work.keep("../rate", lambda: 1)


def test_what_another_reproduction_trained_counts_once_among_the_minutes(tmp_path: Path) -> None:
    work = Directory("coin", tmp_path, False, Options())
    work.tick(trained="ladder", seconds=600.0)
    work.tick(trained="ladder", seconds=600.0)
    again = Directory("coin", tmp_path, False, Options())
    again.tick(trained="ladder", seconds=600.0)
    assert 600 <= again.seconds < 660


def test_a_shared_value_is_computed_once_and_its_seconds_count_once_for_each_that_reads_it(tmp_path: Path) -> None:
    one, two = (Directory(name, tmp_path / name, False) for name in ("one", "two"))
    assert one.keep("pair", lambda: (1, 2), shared=True) == [1, 2]
    file = tmp_path / "_shared" / "kept" / "pair.json"
    assert 0 <= kept.opened(kept.read(file, dict), file)["seconds"] <= one.seconds
    kept.write_atomically(file, json.dumps(kept.sealed({"value": [1, 2], "seconds": 600.0})))
    for _ in range(2):
        for work in (one, two):
            assert work.keep("pair", lambda: (3, 4), shared=True) == [1, 2]
    assert one.seconds < 60 and 600 <= two.seconds < 660


def test_a_given_table_that_is_not_there_is_asked_for_with_its_origin(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ISOFLOP_DATA", str(tmp_path))
    with pytest.raises(ConfigError, match=r"has no scaling/x.csv: set it to a folder .* \(runs of somebody\)"):
        given_table("scaling/x.csv", "runs of somebody")
    (tmp_path / "scaling").mkdir()
    (tmp_path / "scaling" / "x.csv").write_text("a,b\n1,2\n")
    assert given_table("scaling/x.csv", "runs of somebody").to_dict("list") == {"a": [1], "b": [2]}


def test_intervals_of_repetitions_and_of_resampled_rows_cover_the_mean_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    held = [low <= 1.0 <= high for low, high in (t_interval(rng.normal(1.0, 2.0, 5)) for _ in range(400))]
    assert np.mean(held) == pytest.approx(0.9, abs=4 * np.sqrt(0.9 * 0.1 / 400))
    low, high = bootstrap_interval(rng.normal(1.0, 2.0, 400))
    assert low < 1.0 < high and high - low == pytest.approx(2 * 1.645 * 2.0 / 20, rel=0.15)
    with pytest.raises(ConfigError, match="repeat with at least two seeds"):
        t_interval([1.0])


SWEEP = textwrap.dedent("""
    from models.presets import MICRO
    from scaling.reproduction import Measured, Reproduction
    from scaling.sweep.config import SweepConfig
    from scaling.train.config import TrainConfig

    def plan(quick):
        return [SweepConfig(name="ladder", model=MICRO, train=TrainConfig(steps=10 if quick else 1000, seq_len=16))]

    def get_reproduction() -> Reproduction:
        return Reproduction(
            name="ladder", methods=(), claim="c", source="s", smallest_effect=0.0, unit="nats", minutes=5,
            not_covered="n", simulated=False, run=None, sweeps=plan,
        )
""")


def test_a_dry_run_prices_every_sweep_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ladder.py").write_text(SWEEP)
    flops = []
    for more in ((), ("--quick",)):
        assert run(tmp_path / "ladder.py", "--workdir", tmp_path / "work", "--dry_run", *more) == 0
        out = capsys.readouterr().out
        assert "sweep         ladder" in out and "about 5 minutes" in out and not (tmp_path / "work").exists()
        flops.append(float(next(line for line in out.splitlines() if line.startswith("FLOPs")).split()[1]))
    assert flops[0] == pytest.approx(100 * flops[1])


def test_a_shared_sweep_lies_beside_the_directories_of_all_that_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pandas as pd

    import scaling
    from launch import sweep
    from scaling.sweep.config import SweepConfig

    places: list[Path] = []
    monkeypatch.setattr(sweep, "run_sweep", lambda config, path, where: places.append(path))
    monkeypatch.setattr(scaling, "load", lambda path: pd.DataFrame({"wall_s": [1.0]}))
    for name in ("one", "two"):
        work = Directory(name, tmp_path / name, quick=False)
        work.sweep(SweepConfig(), "ladder", shared=True)
        work.sweep(SweepConfig(), "ladder")
    shared = tmp_path / "_shared" / "sweeps" / "ladder"
    assert places == [shared, tmp_path / "one/sweeps/ladder", shared, tmp_path / "two/sweeps/ladder"]


def test_a_claim_of_several_parts_holds_when_each_does_and_fails_when_one_does() -> None:
    tight, wide, low = [0.6, 0.62, 0.61], [0.1, 0.7, 1.6], [0.2, 0.21, 0.22]
    assert least([tight])[1] == t_interval(tight)
    effect, interval = least([tight, wide])
    assert effect == pytest.approx(0.61) and interval == (t_interval(wide)[0], t_interval(tight)[1])
    for parts in ([tight, wide], [tight, low], [tight, [0.58, 0.6, 0.59]]):
        verdicts = [finding.decide(t_interval(one), 0.5) for one in parts]
        whole = next((one for one in ("does not hold", "cannot tell") if one in verdicts), "holds")
        assert finding.decide(least(parts)[1], 0.5) == whole
