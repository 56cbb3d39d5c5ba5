"""Rollouts drawn ahead: no sample is older than the bound, in whatever order two processes come, and bits stay."""

from __future__ import annotations

import functools
import random
import shutil
import threading
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from models.errors import ConfigError
from scaling.train.loop import Interrupted
from search.posttrain import PostTraining, RolloutConfig, Rollouts
from search.posttrain.handover import Ahead, Handover, draw_ahead, finish
from search.posttrain.rollouts import Cost
from tests.search.posttrain.test_posttrain import MODEL, TRAIN, made, rows, shared, start

TOTAL = 7


class Arithmetic:
    """A trainer and a drawer without a model: what is drawn names the version, what is trained depends on all of it."""

    @staticmethod
    def batch(rollout: int, params: np.ndarray) -> dict[str, np.ndarray]:
        return {"x": params * 3 + rollout}

    @staticmethod
    def update(params: np.ndarray, batch: dict[str, np.ndarray]) -> np.ndarray:
        return params * 7 % 1009 + batch["x"] % 997


def lagged(staleness: int) -> list[np.ndarray]:
    """Every version, by a plain loop that remembers them."""
    versions = [np.arange(3, dtype=np.int64)]
    for r in range(TOTAL):
        versions.append(Arithmetic.update(versions[r], Arithmetic.batch(r, versions[max(0, r - staleness)])))
    return versions


def interleaved(folder: Path, staleness: int, order: random.Random) -> list[tuple[str, int, int]]:
    """Both sides, one event at a time in a random order, killed now and then: (event, rollout, version)."""
    events: list[tuple[str, int, int]] = []
    mine, other = (Handover(folder, staleness, "run") for _ in range(2))
    versions, published, saved = {0: lagged(staleness)[0]}, -1, 0
    r = 0
    while r < TOTAL:
        side = order.choice(("trainer", "drawer", "kill"))
        if side == "kill" and order.random() < 0.3:  # the trainer goes on from what it saved
            r, published = saved, -1
            mine = Handover(folder, staleness, "run")
            mine.check(r)
        elif side == "drawer":
            wanted = other.wanted()
            if wanted is not None and wanted < TOTAL:
                params = other.params(other.source(wanted), versions[0])
                if params is not None:
                    other.put(wanted, Arithmetic.batch(wanted, params), Cost(0, 0, 1))
                    events.append(("drawn", wanted, other.source(wanted)))
        elif published < r:
            mine.publish(r, versions[r])
            mine.drop(r, saved)
            published = r
            events.append(("published", r, r))
        elif (found := mine.take(r)) is not None:
            batch, cost = found
            events.append(("trained", r, r - cost.staleness))
            versions[r + 1] = Arithmetic.update(versions[r], batch)
            r += 1
            saved = r if order.random() < 0.4 else saved
    assert all((versions[v] == one).all() for v, one in enumerate(lagged(staleness)))
    return events


@pytest.mark.parametrize("staleness", [0, 1, 3])
def test_no_sample_is_older_than_the_bound_in_any_order_of_events_and_kills(staleness: int, tmp_path: Path) -> None:
    furthest = 0
    for seed in range(6):
        events = interleaved(tmp_path / str(seed), staleness, random.Random(seed))
        newest = -1
        for event, rollout, version in events:
            newest = max(newest, version) if event == "published" else newest
            if event == "trained":
                assert rollout - version == min(rollout, staleness)
            if event == "drawn":  # from a version that was there, and no further ahead than the bound
                assert version == max(0, rollout - staleness)
                furthest = max(furthest, rollout - newest)
        shutil.rmtree(tmp_path / str(seed))
    assert furthest == staleness  # the bound is used, and is one


def test_what_the_trainer_has_done_with_is_not_drawn_again(tmp_path: Path) -> None:
    """It goes on, and deletes, between two looks of the process that draws."""
    trainer, params = Handover(tmp_path, 0, "run"), np.ones(2)

    class Slow(Handover):
        def _rollout(self, rollout: int) -> Path:
            if rollout == 0:
                trainer.publish(1, params)
                trainer.drop(1, 1)
            return super()._rollout(rollout)

    trainer.publish(0, params)
    trainer.put(0, {"x": params}, Cost(0, 0, 1))
    assert Slow(tmp_path, 0, "run").wanted() == 1
    assert trainer.params(0, params) is None  # deleted


def test_the_time_of_two_processes_is_that_of_their_events() -> None:
    draws, trains = [3.0, 1.0, 4.0, 1.0, 5.0], [2.0, 6.0, 1.0, 3.0, 2.0]
    assert finish(draws, trains, 0) == sum(draws) + sum(trains) == 28
    # one ahead: drawn at 3, 4, 9 (after version 1 at 5), 12 (version 2 at 11), 17; trained at 5, 11, 12, 15, 19
    assert finish(draws, trains, 1) == 19
    # as far ahead as one likes: drawn at 3, 4, 8, 9, 14; trained at 5, 11, 12, 15, 17
    assert finish(draws, trains, 5) == 17
    assert finish([1.0] * 9, [1.0] * 9, 1) == 10  # evenly matched, twice as fast in the long run


def test_files_of_another_run_damaged_ones_and_missing_versions_are_one_line(tmp_path: Path) -> None:
    hand, params = Handover(tmp_path, 1, "one"), {"w": np.ones(3, np.float32)}
    hand.publish(0, params)
    hand.put(0, {"x": np.ones(2)}, Cost(1, 2, 3))
    same = hand.params(0, params)
    assert same["w"].tobytes() == params["w"].tobytes() and hand.take(1) is None
    assert Handover(tmp_path, 1, "two").wanted() is None
    with pytest.raises(ConfigError, match="belongs to another run"):
        Handover(tmp_path, 1, "two").take(0)
    with pytest.raises(ConfigError, match="holds other weights than the policy"):
        hand.params(0, {"w": np.ones(4, np.float32)})
    with pytest.raises(ConfigError, match=r"lacks version 4 of the policy, from which rollout 5 is drawn: restore"):
        hand.check(5)
    (tmp_path / "rollout-00000000.npz").write_bytes((tmp_path / "rollout-00000000.npz").read_bytes()[:-40])
    with pytest.raises(ConfigError, match=r"rollout-00000000\.npz: is damaged"):
        hand.take(0)
    hand.fail(ConfigError("reward", "is none", "mend it"))
    with pytest.raises(ConfigError, match="reward: is none: mend it"):
        hand.refuse_failed()
    hand.begin()
    hand.refuse_failed()


@functools.cache
def step() -> Any:
    """The compiled update of all runs."""
    return PostTraining(MODEL, TRAIN, start(), shared(), Path("unused"))._step


def run_of(drawn: Rollouts | Ahead, folder: Path, config: RolloutConfig, **more: Any) -> Any:
    """The state at the end."""
    run = PostTraining(MODEL, TRAIN, start(), drawn, folder, config, **more)
    run._step = step()
    return jax.device_get(run.run())


def trained(folder: Path, config: RolloutConfig, drawer: Rollouts, stops: list[int]) -> Any:
    """The state of a run whose rollouts another thread draws; stopped at some of its looks, and begun again."""
    assert config.staleness is not None
    looks = 0

    def stop() -> bool:
        nonlocal looks
        looks += 1
        return looks in stops

    while True:
        ended = threading.Event()
        hand = Handover(folder / "handover", config.staleness, "run")
        drawing = threading.Thread(target=draw_ahead, args=(drawer, hand, start(), 1, TRAIN.steps, ended.is_set))
        ahead = Ahead(shared(), hand, 1, TRAIN.checkpoint_every, folder / "checkpoints", drawing.is_alive)
        drawing.start()
        try:
            return run_of(ahead, folder, config, stop=stop)
        except Interrupted:
            continue
        finally:
            ended.set()
            drawing.join()


def equal(one: Any, other: Any) -> bool:
    return jax.tree.all(jax.tree.map(lambda a, b: bool((np.asarray(a) == np.asarray(b)).all()), one, other))


def test_without_staleness_the_run_has_the_bits_of_a_synchronous_one(tmp_path: Path) -> None:
    expected = run_of(shared(), tmp_path / "plain", RolloutConfig())
    assert equal(trained(tmp_path, RolloutConfig(staleness=0), shared(), []), expected)
    lines = rows(tmp_path)
    assert [row.pop("staleness") for row in lines] == [0] * TRAIN.steps
    assert lines == rows(tmp_path / "plain")


def test_stale_runs_are_those_of_a_loop_that_remembers_versions_wherever_they_stop(tmp_path: Path) -> None:
    class Remembers(Rollouts):
        """The policy before last draws."""

        def __init__(self) -> None:
            self.__dict__.update(shared().__dict__)
            self.versions: list[Any] = []

        def batch(self, step: int, params: Any) -> Any:
            self.versions.append(jax.device_get(params))
            return super().batch(step, self.versions[max(0, step - 2)])

    expected = run_of(Remembers(), tmp_path / "loop", RolloutConfig())
    config = RolloutConfig(staleness=2)
    assert equal(trained(tmp_path / "whole", config, shared(), []), expected)
    assert equal(trained(tmp_path / "cut", config, shared(), [2, 5, 7]), expected)
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")
    assert [row["staleness"] for row in rows(tmp_path / "whole")] == [0, 1, 2, 2, 2]


def test_a_drawer_that_cannot_go_on_ends_the_run_with_its_reason(tmp_path: Path) -> None:
    bad = made(lambda problem, text: float("nan"), most_unscorable=0.5)
    hand = Handover(tmp_path / "handover", 1, "run")
    hand.publish(0, start())
    with pytest.raises(ConfigError, match="reward: 100% of the completions of step 0 have no finite reward"):
        draw_ahead(bad, hand, start(), 1, TRAIN.steps)
    ahead = Ahead(shared(), hand, 1, 0, tmp_path / "checkpoints", lambda: False)
    with pytest.raises(ConfigError, match="reward: 100% of the completions"):
        ahead.batch(0, start())
    hand.begin()
    with pytest.raises(RuntimeError, match="the process that draws rollouts has ended"):
        ahead.batch(0, start())
