"""The noisier the reward model, the further particles are ahead of a beam: all at 16 rollouts, on exact trees.

    python -m launch.reproduce particle_filter_noise --workdir runs/reproductions/particle_filter_noise
"""

import numpy as np

from configs.reproductions._trees import forest, judged, searched
from scaling.reproduction import Measured, Reproduction, Workspace, bootstrap_interval
from search.strategies.beam import beam
from search.strategies.best_of_n import best_of_n
from search.strategies.smc import odds_filter

NOISES, SAMPLES = (0.0, 2.0, 4.0), 16
RIVALS = {
    "particles": lambda: odds_filter(SAMPLES),
    "beam": lambda: beam(SAMPLES),
    "best of": lambda: best_of_n(SAMPLES),
}


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="particle_filter_noise",
        methods=(9,),
        claim="With a noisy reward model a particle filter is more accurate than beam search and best-of at equal "
        "rollouts, and its lead over the beam is larger than with an exact one",
        source="Puri et al. 2025, A probabilistic inference approach to inference-time scaling, arXiv:2502.01618",
        smallest_effect=0.02,
        unit="accuracy, at noise of 2 nats the least of: lead over the beam, lead over best-of, growth of the former",
        minutes=2,
        not_covered="language models and trained reward models; errors that neighbouring steps share. The noise was "
        "settled after a trial on 125 other problems",
        simulated=True,
        run=run,
    )


def run(work: Workspace) -> Measured:
    trees = forest(60 if work.quick else 750, seed=1)

    def measure() -> dict:
        out: dict = {}
        for name, make in RIVALS.items():
            found = [searched(trees, trees.blurred(noise), make()) for noise in NOISES]
            out[name] = [judged(trees, one) for one in found]
            out[name + ", tokens"] = float(np.mean([one.cost.generated_tokens for f in found for one in f]))
            work.say(f"{name}: {np.mean(out[name], 1).round(3).tolist()}")
        return out

    kept = work.keep("right", measure)
    right = np.array([kept[name] for name in RIVALS], float).transpose(2, 0, 1)  # [problems, strategies, noises]

    def least(rows: np.ndarray) -> float:
        particles, others = rows.mean(0)[0], rows.mean(0)[1:]
        lead = particles - others
        return float(min(lead[0, 1], lead[1, 1], lead[0, 1] - lead[0, 0]))

    lines = {name: {"x": list(NOISES), "y": right.mean(0)[i].tolist()} for i, name in enumerate(RIVALS)}
    details = {"curves": [{"x": "noise of the reward's log-odds", "y": "accuracy", "log": "", "lines": lines}],
               "tokens of a problem": {name: kept[name + ", tokens"] for name in RIVALS},
               "pass@1": float(trees.value[:, 0].mean())}  # fmt: skip
    spent = sum(kept[name + ", tokens"] for name in RIVALS) * len(right) * len(NOISES)
    return Measured(least(right), bootstrap_interval(right, least), spent, details)
