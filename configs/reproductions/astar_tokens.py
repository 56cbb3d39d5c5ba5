"""A* over steps with a third of a particle filter's tokens, on exact trees with a noisy reward model.

    python -m launch.reproduce astar_tokens --workdir runs/reproductions/astar_tokens
"""

import numpy as np

from configs.reproductions._trees import DEPTH, forest, judged, searched
from scaling.reproduction import Measured, Reproduction, Workspace, bootstrap_interval
from search.strategies.astar import astar
from search.strategies.smc import odds_filter

NOISES, PARTICLES = (0.0, 2.0), 32
BUDGET = PARTICLES * DEPTH // 3
WAYS = {"particles": (odds_filter, (PARTICLES,), None)} | {
    f"A*, {n} answers": (lambda n: astar(4, 1, 64, answers=n, reserve=0.2), (n,), BUDGET) for n in (1, 4)
}


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="astar_tokens",
        methods=(268,),
        claim="A*-decoding reaches the accuracy of a particle filter with a third of its tokens",
        source="Chatziveroglou 2025, A*-decoding, arXiv:2505.13672",
        smallest_effect=-0.02,
        unit="accuracy of A* less that of 32 particles at noise of 2 nats, the better of two rules to stop",
        minutes=2,
        not_covered="language models and trained reward models; other costs of a step than the fall of its score; "
        "widths other than four children of one node a round; the claim was written after a trial of other problems",
        simulated=True,
        run=run,
    )


def run(work: Workspace) -> Measured:
    trees = forest(60 if work.quick else 750, seed=1)

    def measure() -> dict:
        out: dict = {}
        for name, (make, args, budget) in WAYS.items():
            found = [searched(trees, trees.blurred(noise), make(*args), budget=budget) for noise in NOISES]
            tokens = [float(np.mean([one.cost.generated_tokens for one in f])) for f in found]
            out[name] = {"right": [judged(trees, f) for f in found], "tokens": tokens}
            work.say(f"{name}: {np.mean(out[name]['right'], 1).round(3).tolist()} with {tokens} tokens")
        return out

    kept = work.keep("right", measure)
    right = np.array([kept[name]["right"] for name in WAYS], float).transpose(2, 0, 1)  # [problems, ways, noises]

    def lead(rows: np.ndarray) -> float:
        particles, *others = rows.mean(0)[:, -1]
        return float(max(others) - particles)

    per_noise = {name: dict(zip(map(str, NOISES), right.mean(0)[i].tolist())) for i, name in enumerate(WAYS)}
    tokens = {name: dict(zip(map(str, NOISES), kept[name]["tokens"])) for name in WAYS}
    spent = sum(sum(kept[name]["tokens"]) for name in WAYS) * len(right)
    details = {"accuracy by noise": per_noise, "tokens by noise": tokens}
    return Measured(lead(right), bootstrap_interval(right, lead), spent, details)
