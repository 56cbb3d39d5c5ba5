"""Small models that are distilled from a teacher's chains of thought gain in arithmetic and lose in everything else.

    python -m launch.reproduce specialised_chains --workdir runs/reproductions/specialised_chains

Three minutes on one core. General models of three sizes (8,000 to 30,000 weights) learn four domains in equal parts;
then each is distilled from a teacher of arithmetic: the five likeliest tokens of its distribution at every place of a
chain. Accuracy is that of greedy decoding on held-out problems.
Three seeds could not tell (0.418 [-0.228, 1.064] against 0.05), so there are twice as many.
"""

from functools import partial
from typing import Any

import numpy as np

from configs.reproductions import _domains as domains
from models import transformer
from models.weight import walk
from scaling.reproduction import Measured, Reproduction, Workspace, t_interval
from scaling.train.objectives import Distillation, Frozen

WIDTHS = (16, 24, 32)
TEACHER = domains.model(48)
ALONE, GENERAL = domains.train_config(3e-3), domains.train_config(4e-3)
DISTILLED = domains.train_config(2e-3, Distillation(teacher="a model of arithmetic", divergence="top", top=5))


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="specialised_chains",
        methods=(150,),
        claim="Distilling a teacher's chains of thought lifts the arithmetic of small models at every size and lowers "
        "their general accuracy",
        source="Fu et al. 2023, Specializing smaller language models towards multi-step reasoning, arXiv:2301.12726",
        smallest_effect=0.05,
        unit="accuracy, the lesser of its rise on the target and its fall elsewhere, at the size where that is least",
        minutes=5,
        not_covered="language; larger models; several teachers (all seeds have one); chains that the teacher draws (it "
        "reads those of the task); answers alone as a control",
        simulated=False,
        run=run,
    )


def taught(steps: int) -> Any:
    """The teacher."""
    return domains.trained(TEACHER, ALONE, domains.rows(domains.CHAINS), steps, 100)


def one(teacher: Frozen, width: int, seed: int, general: int, distilled: int, problems: int) -> dict:
    """Losses and accuracies of every domain, before and after."""
    model = domains.model(width)
    base = domains.trained(model, GENERAL, domains.mixture(), general, seed)
    chains = domains.rows(domains.CHAINS)
    after = domains.trained(model, DISTILLED, chains, distilled, seed, base, {"teacher": teacher})
    return {"before": domains.judged(model, base, problems), "after": domains.judged(model, after, problems)}


def run(work: Workspace) -> Measured:
    seeds, learned, general, distilled, problems = (2, 100, 100, 100, 20) if work.quick else (6, 1000, 800, 400, 300)
    teacher = Frozen(TEACHER, taught(learned))
    skill = work.keep("teacher", lambda: domains.judged(TEACHER, teacher.params, problems))
    found: dict[int, list[dict]] = {}
    for width in WIDTHS:
        work.say(f"width {width}: learns all domains, then the teacher's chains")
        found[width] = [
            work.keep(f"width{width}_{seed}", partial(one, teacher, width, seed, general, distilled, problems))
            for seed in range(seeds)
        ]
    moved = {
        width: np.array([np.subtract(x["after"]["accuracy"], x["before"]["accuracy"]) for x in each])
        for width, each in found.items()
    }  # [seed, domain]
    others = [i for i in range(len(domains.DOMAINS)) if i != domains.CHAINS]
    sides = {f"{width}, target": rows[:, domains.CHAINS] for width, rows in moved.items()}
    sides |= {f"{width}, others": -rows[:, others].mean(1) for width, rows in moved.items()}
    least = min(sides.values(), key=lambda values: float(values.mean()))
    sizes = [sum(w.size for _, w in walk(transformer.weights(domains.model(width)))) for width in WIDTHS]
    curves = [
        {"x": "weights", "y": f"accuracy, {name}", "log": "x", "lines": {
            when: {"x": sizes, "y": [float(np.mean([np.array(x[when]["accuracy"])[which] for x in found[width]]))
                                     for width in WIDTHS]} for when in ("before", "after")}}
        for name, which in (("arithmetic", [domains.CHAINS]), ("other domains", others))
    ]  # fmt: skip
    details = {
        "curves": curves,
        "teacher's accuracy": skill["accuracy"][domains.CHAINS],
        "intervals": {name: [float(values.mean()), *t_interval(values)] for name, values in sides.items()},
    }
    flops = domains.flops(TEACHER, ALONE, learned)
    for width in WIDTHS:
        model = domains.model(width)
        own = domains.flops(model, GENERAL, general) + domains.flops(model, DISTILLED, distilled, {"teacher": TEACHER})
        flops += seeds * own
    return Measured(float(least.mean()), t_interval(least), flops, details)
