"""Rollouts that are drawn ahead, from a policy two versions old, train as well as those that wait, in less time.

    python -m launch.reproduce rollouts_ahead --workdir runs/reproductions/rollouts_ahead

Four minutes on one core. Models of 0.03M weights learn from rewards which letters a prompt asks for, in a code that
they must find out (GRPO, with the clip's ratio to the policy that drew). One arm draws after every update; in the other
somebody else draws ahead, by the files and rules of two processes, which are threads here and leave the same bits. The
time of two processes is simulated from the CPU time that drawing and training took in the first arm. How long they
practise was settled on a seed that is not judged, whose reward rose from 0.08 to 0.95 in 120 updates.
"""

import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from configs.reproductions import _planted as planted
from scaling.reproduction import Measured, Reproduction, Workspace, least, t_interval
from search.posttrain import Rollouts
from search.posttrain.handover import Ahead, Handover, draw_ahead, finish

LETTERS, STALE = 8, 2
MARGIN, FASTER = 0.05, 1.3


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="rollouts_ahead",
        methods=(136,),
        claim="With rollouts two versions old the final reward is at most 0.05 below that of synchronous training, and "
        "two processes would take less than 1 / 1.3 of the time of taking turns (simulated)",
        source="Han et al. 2025, AsyncFlow, arXiv:2507.01663",
        smallest_effect=0.0,
        unit="the lesser of: share of right texts with stale rollouts, less without, plus 0.05; simulated time of "
        "taking turns over that of two processes, less 1.3",
        minutes=8,
        not_covered="language models; many workers, and groups that are streamed before their batch is whole; measured "
        "wall time of two processes: their time is simulated, without that of handing over; other bounds than two",
        simulated=False,
        run=run,
    )


class Clocked:
    """Rollouts, with the CPU seconds at which each was asked for and there."""

    def __init__(self, drawn: Rollouts) -> None:
        self.drawn, self.asked, self.there = drawn, list[float](), list[float]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.drawn, name)

    def batch(self, step: int, params: Any) -> Any:
        self.asked.append(time.process_time())
        found = self.drawn.batch(step, params)
        self.there.append(time.process_time())
        return found

    def times(self) -> tuple[list[float], list[float]]:
        """Seconds of drawing and of training, of every rollout but the first, when programs compile, and the last."""
        draws = np.subtract(self.there, self.asked)[1:-1]
        return draws.tolist(), np.subtract(self.asked[2:], self.there[1:-1]).tolist()


def ahead(drawn: Rollouts, start: Any, steps: int, seed: int, folder: Path) -> tuple[Any, list[dict]]:
    """As `planted.practise`, from rollouts that are drawn ahead."""
    drawn.seed, ended = seed, threading.Event()
    hand = Handover(folder / "handover", STALE, f"seed {seed}")
    drawing = threading.Thread(target=draw_ahead, args=(drawn, hand, start, 1, steps, ended.is_set))
    source = Ahead(drawn, hand, 1, 0, folder / "checkpoints", drawing.is_alive)
    drawing.start()
    try:
        return planted.practise(start, drawn, steps, seed, folder, source, STALE)
    finally:
        ended.set()
        drawing.join()


def one(work: Workspace, drawn: Rollouts, seed: int, imitation: int, steps: int) -> dict:
    """Final shares of right texts, rewards while practising and simulated times of one seed."""
    start, clocked = planted.start(seed, imitation, 1, LETTERS, "."), Clocked(drawn)
    train = planted.imitated(imitation, planted.TASK.horizon)
    found: dict[str, Any] = {"flops": float(train.flops(planted.MODEL, train.tokens, {}))}
    folder = work.folder / f"practice{seed}"
    arms = {
        "waits": planted.practise(start, drawn, steps, seed, folder / "waits", clocked),
        "ahead": ahead(drawn, start, steps, seed, folder / "ahead"),
    }
    for name, (params, rows) in arms.items():
        texts, flops = drawn.drawn(planted.ASKED, params, 4 if work.quick else 32, 0)
        right = float(np.mean([planted.holds(x.problem, x.text) for x in texts]))
        found[name] = {"right": right, "reward": [row["reward"] for row in rows]}
        found["flops"] += flops + rows[-1]["flops"]
    assert max(row["staleness"] for row in arms["ahead"][1]) == min(STALE, steps - 1)
    draws, trains = clocked.times()
    found["seconds"] = {"draw": float(np.median(draws)), "train": float(np.median(trains))}
    found["faster"] = {str(s): finish(draws, trains, 0) / finish(draws, trains, s) for s in (1, STALE, 4)}
    return found


def run(work: Workspace) -> Measured:
    seeds, imitation, steps = (2, 3, 4) if work.quick else (6, 40, 200)
    drawn = planted.rollouts(planted.start(0, imitation, 1, LETTERS, "."), LETTERS)
    every = []
    for seed in range(seeds):
        work.say(f"seed {seed}: practises twice")
        every.append(work.keep(f"seed{seed}", partial(one, work, drawn, seed, imitation, steps)))
    apart = np.array([x["ahead"]["right"] - x["waits"]["right"] for x in every])
    faster = np.array([x["faster"][str(STALE)] for x in every])
    lines = {}
    for name in ("waits", "ahead"):
        mean = np.mean([x[name]["reward"] for x in every], 0)
        lines[name] = {"x": list(range(1, len(mean) + 1)), "y": mean.tolist()}
    details = {
        "curves": [{"x": "update", "y": "share of right texts while practising", "log": "", "lines": lines}],
        "right at the end": {name: [x[name]["right"] for x in every] for name in lines},
        "stale less synchronous": {"mean": float(apart.mean()), "interval": t_interval(apart)},
        "simulated: times faster": {s: [x["faster"][s] for x in every] for s in every[0]["faster"]},
        "CPU seconds of a rollout and its update": [x["seconds"] for x in every],
    }
    effect, interval = least([apart + MARGIN, faster - FASTER])
    return Measured(effect, interval, sum(x["flops"] for x in every), details)
