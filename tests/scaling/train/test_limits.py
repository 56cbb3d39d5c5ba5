"""Limits: which trials end early follows from their losses alone, also after a crash in the middle of a rung."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import ConfigError
from scaling.sweep.run import run_stack
from scaling.train.limits import Judge, Limits
from tests.scaling.sweep import tiny

LOSSES = st.lists(st.one_of(st.floats(1, 9), st.just(math.nan)), min_size=1, max_size=9)


def stopped(judge: Judge, losses: list[float], alive: list[int], step: int) -> set[int]:
    ends = judge.verdicts(step, alive, [0.0] * len(losses), lambda i: losses[i])
    assert all(verdict.stopped for verdict in ends.values())
    return set(ends)


@given(LOSSES, st.sampled_from([0.25, 0.5, 0.7]))
def test_the_best_go_on_and_the_rest_stop(losses: list[float], keep: float) -> None:
    judge = Judge(Limits(rungs=(0.5,), keep=keep), [100] * len(losses), [True] * len(losses))
    assert judge.next_rung(0) == ([50] if len(losses) > 1 else []) and judge.next_rung(50) == []
    gone = stopped(judge, losses, list(range(len(losses))), 50)
    left = [x for i, x in enumerate(losses) if i not in gone]
    assert len(left) == (math.ceil(len(losses) * keep) if len(losses) > 1 else 1)
    ranked = sorted(losses, key=lambda x: (math.isnan(x), x))
    assert sorted(left, key=lambda x: (math.isnan(x), x)) == pytest.approx(ranked[: len(left)], nan_ok=True)
    assert not stopped(judge, losses, list(range(len(losses))), 49)


@given(LOSSES, st.data())
def test_a_crash_in_the_middle_of_a_rung_changes_nothing(losses: list[float], data: st.DataObject) -> None:
    limits, n = Limits(rungs=(0.5,)), len(losses)
    gone = stopped(Judge(limits, [100] * n, [True] * n), losses, list(range(n)), 50)
    written = data.draw(st.sets(st.sampled_from(sorted(gone)))) if gone else set()
    again = Judge(limits, [100] * n, [True] * n, {i: 50 if i in written else 0 for i in range(n)})
    alive = [i for i in range(n) if i not in written]
    assert stopped(again, losses, alive, 50) | written == gone


def test_only_trials_of_one_length_that_do_not_branch_are_compared() -> None:
    judge = Judge(Limits(rungs=(0.5,)), [100, 100, 200, 200, 100], [True, True, True, True, False])
    assert judge.next_rung(0) == [50] and judge.next_rung(50) == [100]
    losses = [1.0, 2.0, 3.0, 4.0, 9.0]
    assert stopped(judge, losses, [0, 1, 2, 3, 4], 50) == {1}
    assert stopped(judge, losses, [0, 2, 3, 4], 100) == {3}


def test_a_trial_that_takes_too_long_fails_and_is_no_rival() -> None:
    judge = Judge(Limits(trial_s=5, rungs=(0.5,)), [100] * 3, [True] * 3)
    ends = judge.verdicts(50, [0, 1, 2], [1.0, 6.0, 1.0], lambda i: [3.0, 1.0, 2.0][i])
    assert {i: verdict.stopped for i, verdict in ends.items()} == {1: False, 0: True}
    assert ends[1].reason == "took over 5 s of training by step 50 of 100"
    assert ends[0].reason == "stopped as number 2 of 2 at step 50 of 100: held-out loss 3.0000, the best has 2.0000"


@pytest.mark.parametrize(
    ("field", "value"), [("trial_s", -1), ("keep", 0), ("keep", 1), ("rungs", (0.0,)), ("rungs", (0.5, 1.0))]
)
def test_limits_out_of_range_are_refused(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"limits.{field}"):
        Limits(**{field: value})


@pytest.mark.slow
def test_a_stack_stops_the_worse_half_at_each_rung_and_records_it(tmp_path) -> None:
    trials = [tiny.trial(tmp_path, train__learning_rate=x) for x in (0.01, 1e-5, 0.02, 1e-6)]
    stack = tiny.one_stack(trials)
    run_stack(stack, tmp_path / "run", "tiny", limits=Limits(rungs=(0.25, 0.5)))
    rows = [tiny.rows(tmp_path / "run", [trial])[trial.id] for trial in trials]
    assert sorted(row["status"] for row in rows) == ["done", "stopped", "stopped", "stopped"]
    assert [rows[i].get("stopped_step") for i in (1, 3)] == [6, 6]
    assert sorted(row["stopped_step"] for row in rows if row["status"] == "stopped") == [6, 6, 12]
    for row in rows:
        if row["status"] == "stopped":
            assert row["loss"] is None and f"at step {row['stopped_step']} of 24" in row["error"]
            assert row["error"].endswith(
                f"held-out loss {row['stopped_loss']:.4f}, " + row["error"].rpartition(", ")[2]
            )
    best = next(trial for trial, row in zip(trials, rows, strict=True) if row["status"] == "done")
    run_stack(stack, tmp_path / "alone", "tiny")  # nobody stops: the best ends as it does among rivals
    assert tiny.params(tmp_path / "alone", best) == tiny.params(tmp_path / "run", best)
