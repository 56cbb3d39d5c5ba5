"""Keep the hard examples when data abound and the easy ones when they are scarce, in the teacher-student perceptron.

    python -m launch.reproduce pruning_switch --workdir runs/reproductions/pruning_switch

Seconds on one core. At 8 kept examples per dimension the hard fifth of a set teaches most, at 1 the easy fifth.
"""

import numpy as np

from scaling.data.select import Teacher
from scaling.data.select.pruning import Rule
from scaling.reproduction import Measured, Reproduction, Workspace, bootstrap_interval

DIM, SHARE = 50, 0.2
LOADS = (0.5, 1.0, 2.0, 4.0, 8.0)  # kept examples per dimension; the ends are what the claim is about
RULES: tuple[Rule, ...] = ("hard", "easy", "random")


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="pruning_switch",
        methods=(36,),
        claim="Pruning should keep hard examples when data are abundant and easy ones when they are scarce",
        source="Sorscher et al. 2022, arXiv:2206.14486, figure 1",
        smallest_effect=0.1,
        unit="log ratio of errors, the lesser of the two ends",
        minutes=1,
        not_covered="image or text sets and their trained embeddings; the prototype metric is measured (details) on an "
        "embedding that holds the probe's direction",
        simulated=True,
        run=run,
    )


def run(work: Workspace) -> Measured:
    seeds = range(3 if work.quick else 40)
    errors = work.keep("errors", lambda: {
        rule: [[Teacher(DIM, seed).pruned_error(round(load * DIM), SHARE, rule) for load in LOADS] for seed in seeds]
        for rule in RULES
    })  # fmt: skip
    prototype = work.keep("prototype", lambda: {
        rule: [Teacher(DIM, seed).pruned_error(8 * DIM, SHARE, rule, metric="prototype") for seed in seeds]
        for rule in RULES
    })  # fmt: skip
    hard, easy, random = (np.array(errors[rule]) for rule in RULES)  # [seeds, loads]
    ends = np.stack([easy[:, -1], hard[:, -1], hard[:, 0], easy[:, 0], random[:, -1], random[:, 0]], axis=1)

    def effect(rows: np.ndarray) -> float:
        """The lesser of: by how much hard beats both others where data abound, easy where they are scarce."""
        easy_many, hard_many, hard_few, easy_few, random_many, random_few = np.log(rows.mean(0))
        return min(min(easy_many, random_many) - hard_many, min(hard_few, random_few) - easy_few)

    lines = {rule: {"x": list(LOADS), "y": np.mean(errors[rule], axis=0).tolist()} for rule in RULES}
    panel = {"x": "kept examples per dimension", "y": "error", "log": "xy", "lines": lines}
    means = {rule: float(np.mean(prototype[rule])) for rule in RULES}
    details = {"curves": [panel], "seeds": len(seeds), "prototype metric, 8 per dimension": means}
    return Measured(effect(ends), bootstrap_interval(ends, effect), 0.0, details)
