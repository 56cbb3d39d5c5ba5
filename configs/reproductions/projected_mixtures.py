"""Shares of five sources chosen by optimal transport on pilot samples, against uniform ones at sizes not tried.

    python -m launch.reproduce projected_mixtures --workdir runs/reproductions/projected_mixtures
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np
from scipy.spatial.distance import cdist

from scaling.data.select.transport import Projection, labelled_costs, nearest_mixture, transport
from scaling.reproduction import Measured, Reproduction, Workspace, t_interval

WORLDS, PILOT, TARGET, TRIED = 30, 16, 32, 12  # PILOT, TARGET: points that are shown; TRIED: mixtures that are scored
SIZES, HELD_OUT, DIM = (32, 128), (512, 2048), 6
WANTED = (0.6, 0.3, 0.1, 0.0, 0.0)  # shares of the sources in the target


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="projected_mixtures",
        methods=(16,),
        claim="The mixture that is nearest to the target by optimal transport of pilot samples scores better than "
        "uniform shares at sizes beyond those tried",
        source="Kang et al. 2023, Performance scaling via optimal transport (Projektor), arXiv:2307.02460",
        smallest_effect=0.01,
        unit="accuracy at 512 and 2048 examples, less that with uniform shares",
        minutes=2,
        not_covered="trained networks: the student is the nearest neighbour; images and text; targets that no mixture "
        "of the sources resembles. How well scores are projected is among the numbers and decides nothing",
        simulated=True,
        run=run,
    )


class World(NamedTuple):
    """Gaussian sources around `centres` [sources, dim], each with its own line between two labels."""

    centres: np.ndarray
    normals: np.ndarray

    def drawn(self, rng: np.random.Generator, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Points [sum of counts, dim] and labels, so many of each source."""
        source = np.repeat(np.arange(len(counts)), counts)
        away = rng.normal(size=(len(source), DIM))
        return self.centres[source] + away, ((away * self.normals[source]).sum(1) > 0).astype(int)

    def score(self, rng: np.random.Generator, shares: np.ndarray, size: int) -> float:
        """Accuracy on 1000 points of the target of the nearest neighbour among `size` of a mixture."""
        x, y = self.drawn(rng, rng.multinomial(size, shares))
        test, right = self.drawn(rng, rng.multinomial(1000, WANTED))
        return float((y[cdist(test, x).argmin(1)] == right).mean())


def measured(seed: int) -> dict:
    """Of one world: scores of the chosen and of uniform shares at HELD_OUT sizes, and how scores were projected."""
    rng = np.random.default_rng(seed)
    sources = len(WANTED)
    world = World(1.5 * rng.normal(size=(sources, DIM)), rng.normal(size=(sources, DIM)))
    to, to_labels = world.drawn(rng, rng.multinomial(TARGET, WANTED))
    pilots = [world.drawn(rng, PILOT * np.eye(sources, dtype=int)[s]) for s in range(sources)]
    costs = [labelled_costs(x, y, to, to_labels, far=2.0) for x, y in pilots]
    tried = rng.dirichlet(np.ones(sources), TRIED)
    distances = np.array([transport(costs, shares).distance for shares in tried])
    scores = np.array([[world.score(rng, shares, size) for shares in tried] for size in SIZES])
    projection = Projection.fitted(SIZES, distances, scores)
    chosen, uniform = nearest_mixture(costs, steps=25), np.full(sources, 1 / sources)
    found = {name: [float(np.mean([world.score(rng, shares, size) for _ in range(3)])) for size in HELD_OUT]
             for name, shares in (("chosen", chosen), ("uniform", uniform))}  # fmt: skip
    distance = transport(costs, chosen).distance
    return found | {
        "shares": chosen.tolist(), "correlation": float(np.corrcoef(distances, scores[1])[0, 1]),
        "projected": [float(projection.score(distance, size)) for size in HELD_OUT],
    }  # fmt: skip


def run(work: Workspace) -> Measured:
    worlds = range(3 if work.quick else WORLDS)
    found = [work.keep(f"world{seed}", partial(measured, seed)) for seed in worlds]
    chosen, uniform, projected = (np.array([one[name] for one in found]) for name in ("chosen", "uniform", "projected"))
    gain = (chosen - uniform).mean(1)
    work.say(f"chosen {chosen.mean(0).round(3)}, uniform {uniform.mean(0).round(3)}, {projected.mean(0).round(3)} told")
    details = {
        "accuracy": {"chosen": chosen.mean(0).tolist(), "uniform": uniform.mean(0).tolist(), "sizes": list(HELD_OUT)},
        "error of the projected accuracy": np.abs(projected - chosen).mean(0).tolist(),
        "correlation of score and distance over mixtures": float(np.mean([one["correlation"] for one in found])),
        "shares chosen": np.mean([one["shares"] for one in found], axis=0).tolist(), "shares wanted": list(WANTED),
    }  # fmt: skip
    return Measured(float(gain.mean()), t_interval(gain), 0.0, details)
