"""The loop: a result depends on the trial's config alone, not on its stack, its branches, or where it stopped."""

from __future__ import annotations

import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from models.errors import ConfigError
from scaling.sweep.results import Results
from scaling.sweep.run import run_stack, stack_directory
from scaling.sweep.stack import make_stacks
from scaling.sweep.trial import Trial
from scaling.train.checkpoint import DiskFull, load
from scaling.train.loop import Interrupted
from tests.scaling.sweep import tiny

STEPS = 24
REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("loop")


def wsd(root: Path, **changes: Any) -> Trial:
    standard = {"train__schedule": "wsd", "train__warmup_steps": 2, "train__decay_fraction": 0.25}
    return tiny.trial(root, **standard | changes)


@pytest.fixture(scope="module")
def family(root: Path) -> list[Trial]:
    """One stack with everything: a trunk, its branch, a run that spikes, and a short one on repeated data."""
    return [
        wsd(root),
        wsd(root, train__steps=16),
        wsd(root, train__seed=1, train__learning_rate=1e6),
        wsd(root, train__seed=1, train__steps=13, data__unique_tokens=256),
    ]


@pytest.fixture(scope="module")
def expected(root: Path, family: list[Trial]) -> dict[str, Any]:
    """What the family gives when nothing interrupts it."""
    assert tiny.one_stack(family).trunks == (None, 0, None, None)
    tiny.run(root / "whole", family)
    return tiny.outcome(root / "whole", family)


def test_a_stack_gives_every_trial_the_bits_that_it_has_alone(root, family, expected):
    tiny.run(root / "alone", family, stack_size=1, batch_mode="map")  # one family of two, then every trial by itself
    branch = family[1]
    tiny.run(root / "unbranched", [branch])
    alone = tiny.outcome(root / "alone", family)
    assert alone == expected
    unbranched = tiny.outcome(root / "unbranched", [branch])
    assert unbranched["rows"][branch.id] == expected["rows"][branch.id]
    assert unbranched["params"][branch.id] == expected["params"][branch.id]
    own = [row for row in unbranched["metrics"][branch.id] if row["step"] > branch.train.decay_start]
    assert own == expected["metrics"][branch.id]  # what the branch computed itself, and the mean over its first row too


def test_vmap_agrees_with_map_to_rounding(root, family, expected):
    found = tiny.run(root / "vmap", family, batch_mode="vmap")
    for trial in family:
        row, other = expected["rows"][trial.id], found[trial.id]
        assert row["status"] == other["status"]
        if row["status"] == "done":
            assert abs(row["loss"] - other["loss"]) < 24 * 2**-23 * 16  # rounding of 24 float32 updates


def test_trials_of_different_length_end_where_their_own_config_says(family, expected):
    for trial in family:
        last = expected["metrics"][trial.id][-1]
        if expected["rows"][trial.id]["status"] == "done":
            assert last["step"] == trial.train.steps and last["tokens"] == trial.train.tokens
            assert last["flops"] == pytest.approx(trial.flops, rel=1e-12)


def test_a_run_that_diverges_fails_with_the_step_named_and_the_others_go_on(family, expected):
    status = [expected["rows"][t.id]["status"] for t in family]
    assert status == ["done", "done", "failed", "done"]
    row = expected["rows"][family[2].id]
    assert row["loss"] is None and row["bpb"] is None
    words, step = row["error"].rsplit(" at step ", 1)
    assert words == "loss or its gradient is not finite" or words.startswith("loss spiked to ")
    assert expected["metrics"][family[2].id][-1]["step"] == int(step) + 1 < STEPS
    losses = [expected["rows"][t.id]["loss"] for t in family if t is not family[2]]
    assert all(0 < loss < 2 * math.log(256) for loss in losses)


class After:
    """Called at every boundary: acts at the n-th one."""

    def __init__(self, n: int, act: Any = lambda: True):
        self.left, self.act = n, act

    def __call__(self, *_: Any) -> Any:
        self.left -= 1
        return self.act() if self.left == 0 else False


class Crash(Exception):
    """Stands for the end of the process: nothing is saved after it."""


def crash() -> None:
    raise Crash


def mtimes(directory: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in directory.glob("trials/*/result.json")}


def continued(directory: Path, trials: list[Trial], expected: dict[str, Any]) -> None:
    """Run an interrupted directory to its end; no finished trial is repeated and everything is as expected."""
    before = mtimes(directory)
    tiny.run(directory, trials)
    after = mtimes(directory)
    assert {path: after[path] for path in before} == before
    assert tiny.outcome(directory, trials) == expected
    assert not list(directory.glob("stacks/*"))


@pytest.mark.parametrize("boundary", [1, 3, 4])
def test_a_run_that_was_asked_to_stop_goes_on_to_the_same_bits(tmp_path, family, expected, boundary):
    with pytest.raises(Interrupted):
        tiny.run(tmp_path, family, stop_requested=After(boundary))
    continued(tmp_path, family, expected)


@pytest.mark.parametrize("boundary", [1, 2, 5, 6])
def test_a_run_that_crashed_goes_on_to_the_same_bits(tmp_path, family, expected, boundary):
    with pytest.raises(Crash):
        tiny.run(tmp_path, family, report=After(boundary, crash))
    continued(tmp_path, family, expected)


def test_a_run_that_crashed_between_the_rows_of_one_boundary_goes_on(tmp_path, family, expected, monkeypatch):
    add = Results.add
    with monkeypatch.context() as patch:
        patch.setattr(Results, "add", lambda self, row: (add(self, row), crash()))
        with pytest.raises(Crash):
            tiny.run(tmp_path, family)
    assert len(mtimes(tmp_path)) == 1
    continued(tmp_path, family, expected)


def test_a_full_disk_stops_the_stack_and_with_room_again_it_goes_on(tmp_path, family, expected, monkeypatch):
    usage, calls = shutil.disk_usage, []

    def full_after_the_first_save(path):
        calls.append(path)
        return usage(path)._replace(free=0) if len(calls) > 1 else usage(path)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", full_after_the_first_save)
        with pytest.raises(DiskFull, match="room|free"):
            tiny.run(tmp_path, family)
    continued(tmp_path, family, expected)


@pytest.mark.parametrize("damaged", ["newest", "all"])
def test_a_damaged_checkpoint_falls_back_to_an_older_one_or_to_the_start(tmp_path, family, expected, damaged):
    with pytest.raises(Interrupted):
        tiny.run(tmp_path, family, stop_requested=After(4))
    saved = stack_directory(tmp_path, tiny.one_stack(family))
    steps = sorted((path for path in saved.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))
    assert len(steps) == 2
    for step in steps if damaged == "all" else steps[-1:]:
        largest = max((path for path in step.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
        content = bytearray(largest.read_bytes())
        content[len(content) // 2] ^= 1
        largest.write_bytes(content)
    continued(tmp_path, family, expected)


def test_a_branch_of_a_trunk_that_failed_before_the_resume_fails_as_it_would_have(root, tmp_path):
    trials = [
        wsd(root, train__learning_rate=1e6),
        wsd(root, train__learning_rate=1e6, train__steps=16),
        wsd(root, train__steps=12),
        wsd(root, train__steps=24, train__seed=3),
    ]
    assert tiny.one_stack(trials).trunks == (None, 0, None, None)
    tiny.run(tmp_path / "whole", trials)
    whole = tiny.outcome(tmp_path / "whole", trials)
    assert [whole["rows"][t.id]["status"] for t in trials] == ["failed", "failed", "done", "done"]
    assert whole["rows"][trials[0].id]["error"] == whole["rows"][trials[1].id]["error"]
    with pytest.raises(Crash):  # before the first checkpoint, after the trunk's row
        tiny.run(tmp_path / "crashed", trials, report=After(1, crash))
    assert Results(tmp_path / "crashed").has(trials[0].id) and not Results(tmp_path / "crashed").has(trials[1].id)
    continued(tmp_path / "crashed", trials, whole)


def test_a_finished_stack_run_again_changes_no_file(root, family, expected):
    before = tiny.hashes(root / "whole" / "trials")
    tiny.run(root / "whole", family)
    assert tiny.hashes(root / "whole" / "trials") == before


def test_a_stack_refuses_to_go_on_with_other_data(root, tmp_path, family):
    with pytest.raises(Interrupted):
        tiny.run(tmp_path, family, stop_requested=After(1))
    folder = tiny.write_text(tmp_path / "other", seed=1)
    original = root / "text"
    kept = original.rename(root / "kept")
    try:
        folder.rename(original)
        with pytest.raises(ConfigError, match="the run was started on other data.*files was .*: restore that data"):
            tiny.run(tmp_path, family)
    finally:
        original.rename(tmp_path / "other")
        kept.rename(original)


def test_a_run_that_never_decays_is_still_its_own_trunk_and_branch(root, tmp_path):
    shapes = ((0.0, 24), (0.0, 16), (1.0, 24), (0.5, 24))
    trials = [wsd(root, train__decay_fraction=decay, train__steps=steps) for decay, steps in shapes]
    assert tiny.one_stack([trials[0], trials[1]]).trunks == (None, 0)
    tiny.run(tmp_path / "stacked", trials)
    for trial in trials:
        tiny.run(tmp_path / "alone", [trial])
    stacked, alone = (tiny.outcome(tmp_path / name, trials) for name in ("stacked", "alone"))
    assert stacked["rows"] == alone["rows"] and stacked["params"] == alone["params"]


def test_the_held_out_loss_is_logged_every_so_often_and_equals_that_of_a_run_of_that_length(root, tmp_path):
    long, short = (wsd(root, train__schedule="constant", train__eval_every=10, train__steps=s) for s in (24, 10))
    found = tiny.run(tmp_path, [long, short])
    evaluated = [row for row in tiny.metrics(tmp_path, long) if "heldout_loss" in row]
    assert [row["step"] for row in evaluated] == [10, 20]
    assert evaluated[0]["heldout_loss"] == found[short.id]["loss"]
    assert evaluated[0]["heldout_bpb"] == found[short.id]["bpb"]


def test_what_is_logged_and_how_often_it_is_saved_changes_no_result(root, tmp_path, family, expected):
    others = [tiny.override(t, {"train.log_every": 7, "train.checkpoint_every": 0}) for t in family]
    tiny.run(tmp_path, others)
    for trial in others:
        row = tiny.rows(tmp_path, [trial])[trial.id] | {"config": None}
        assert row == expected["rows"][trial.id] | {"config": None}


def test_a_logged_loss_is_the_mean_since_the_last_row(root, tmp_path):
    fine, coarse = (tiny.trial(root, train__log_every=n, train__checkpoint_every=0) for n in (1, 10))
    for trial, name in ((fine, "fine"), (coarse, "coarse")):
        run_stack(tiny.one_stack([trial]), tmp_path / name, "tiny")
    losses = [row["loss"] for row in tiny.metrics(tmp_path / "fine", fine)]
    rows = tiny.metrics(tmp_path / "coarse", coarse)
    assert [row["step"] for row in rows] == [10, 20, 24] and len(losses) == STEPS
    for row, start in zip(rows, (0, 10, 20), strict=True):
        part = losses[start : row["step"]]
        assert row["loss"] == pytest.approx(sum(part) / len(part), rel=1e-6)


# -- starting from another trial ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def parent(root: Path, family: list[Trial], expected: dict[str, Any]) -> str:
    return str(root / "whole" / "trials" / family[0].id)


def test_a_run_starts_from_the_final_parameters_of_another(root, tmp_path, family, expected, parent):
    frozen = wsd(root, train__init_from=parent, train__learning_rate=1e-30, train__weight_decay=0.0)
    found = tiny.run(tmp_path, [frozen])
    assert tiny.params(tmp_path, frozen) == expected["params"][family[0].id]
    assert found[frozen.id]["loss"] == expected["rows"][family[0].id]["loss"]
    metadata = load(tmp_path / "trials" / frozen.id / "checkpoints").metadata
    assert len(metadata["manifest"]["init_from"]) == 64 and metadata["config"]["train"]["init_from"] == parent


def test_another_start_is_another_run_to_resume(root, tmp_path, parent, family):
    start = tmp_path / "start"
    (tmp_path / "parent").mkdir()
    start.symlink_to(parent)
    trial = wsd(root, train__init_from=str(start))
    with pytest.raises(Interrupted):
        tiny.run(tmp_path / "run", [trial], stop_requested=After(1))
    start.unlink()
    start.symlink_to(root / "whole" / "trials" / family[3].id)
    with pytest.raises(ConfigError, match="init_from was .* and is now "):
        tiny.run(tmp_path / "run", [trial])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model.d_ff": 24}, r"train\.init_from: block_0/\S+ is float32\[\S+\] in .* and float32\[\S+\] in this"),
        ({"model.n_layers": 2}, r"train\.init_from: block_1/\S+ is nothing in .* and float32\["),
        ({"model.param_dtype": "bfloat16"}, r"train\.init_from: \S+ is float32\[\S+\] in .* and bfloat16\["),
        ({"train.init_from": "nowhere"}, r"train\.init_from: nowhere holds no final parameters: name the directory of"),
    ],
)
def test_parameters_of_another_shape_are_refused_with_the_leaf_named(root, tmp_path, parent, changes, words):
    trial = tiny.override(wsd(root, train__init_from=parent), changes)
    with pytest.raises(ConfigError, match=words):
        tiny.run(tmp_path, [trial])


# -- data -----------------------------------------------------------------------------------------------------------


def test_prompts_carry_no_loss_and_documents_do_not_see_each_other(root, tmp_path):
    path = tmp_path / "tasks.jsonl"
    lines = [json.dumps({"p": f"{i} plus {i} is ", "text": f"{2 * i}."}) for i in range(200)]
    path.write_text("\n".join(lines))
    task = {"data.path": str(path), "data.source": "jsonl", "data.prompt_field": "p", "data.heldout_fraction": 0.2}
    plain = tiny.override(tiny.trial(root), task)
    masked = tiny.override(plain, {"data.loss_mask": "completion"})
    separate = tiny.override(plain, {"data.loss_mask": "completion", "data.packing": "segments"})
    found = tiny.run(tmp_path / "run", [plain, masked, separate])
    losses = [found[t.id]["loss"] for t in (plain, masked, separate)]
    assert all(map(math.isfinite, losses)) and len(set(losses)) == 3


def test_every_trial_of_a_sweep_leaves_its_config_behind(root, family, expected):
    for stack in make_stacks(family, 8):
        for trial in stack.trials:
            config = json.loads((root / "whole" / "trials" / trial.id / "config.json").read_text())
            assert config == json.loads(Results(root / "whole").get(trial.id)["config"])


def test_a_batch_passes_through_no_more_than_13_files_from_the_command_to_a_product(tmp_path):
    """Counted where a product is traced: repository files on the stack, with the command's own two before them. What
    is minimised is one of them."""
    seen: set[tuple[str, ...]] = set()

    def watch(frame, event, _):
        if event != "call" or not frame.f_code.co_filename.endswith(("causal_attention.py", "contraction.py")):
            return
        files: dict[str, None] = {}
        while frame is not None:
            path = Path(frame.f_code.co_filename)
            if path.is_relative_to(REPOSITORY) and not {"tests", "site-packages"} & set(path.parts):
                files[path.relative_to(REPOSITORY).as_posix()] = None
            frame = frame.f_back
        seen.add(tuple(files))

    one = tiny.trial(tmp_path, train__steps=1, model__d_ff=24)  # a shape that no other test has compiled
    sys.setprofile(watch)
    try:
        tiny.run(tmp_path, [one])
    finally:
        sys.setprofile(None)
    longest = max(seen, key=len)
    assert {"models/causal_attention.py", "scaling/train/step.py", "scaling/sweep/run.py"} <= set(longest)
    assert len(longest) + len(("launch/cli.py", "launch/worker.py")) <= 13, longest
