"""Where more samples stop paying, said by a law fitted to 32 of them and by exact pass rates of Countdown.

    python -m launch.reproduce sampling_saturation --workdir runs/reproductions/sampling_saturation

The policy is uniform over legal operations, and the task enumerates its chance of success on every problem.
"""

import numpy as np

from scaling.reproduction import Measured, Reproduction, Workspace, t_interval
from scaling.tasks.countdown import Countdown
from search.metrics.coverage import fit_saturation

SETS, PROBLEMS, GAIN = 8, 500, 0.001
SEEN = 2 ** np.arange(6)  # samples to which the law is fitted
ALL = np.arange(1, 4097)


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="sampling_saturation",
        methods=(225,),
        claim="The saturation law's point, after which a sample gains less than 0.1 %, is that of the measured plateau "
        "within half a doubling",
        source="Wang et al. 2025, Test-time scaling performance model (TTSPM)",
        smallest_effect=-0.5,
        unit="doublings between the law's point and the true one, negative, mean over sets of problems",
        minutes=1,
        not_covered="trained policies; rethinking, the sequential half, which has the same law; the law is fitted to 1 "
        "to 32 samples and not to all",
        simulated=True,
        run=run,
    )


def run(work: Workspace) -> Measured:
    sets, problems = (2, 60) if work.quick else (SETS, PROBLEMS)
    task = Countdown(largest=99, smallest_target=10, largest_target=100)

    def measure() -> list[list[float]]:
        given = task.generate(0, sets * problems, "test")
        return np.array([task.value(problem) for problem in given]).reshape(sets, problems).tolist()

    rates = np.array(work.keep("rates", measure))
    points, truth = [], []
    for one in rates:
        points.append(fit_saturation(1 - (1 - one[:, None]) ** SEEN, SEEN, GAIN, bootstrap=0).samples)
        gains = (one * (1 - one) ** ALL[:, None]).mean(1)  # of the sample after so many
        truth.append(int(ALL[np.argmax(gains < GAIN)]))
    apart = -np.abs(np.log2(np.array(points) / np.array(truth)))
    x = np.unique(np.geomspace(1, 512, 40).round())
    law = fit_saturation(1 - (1 - rates.reshape(-1, 1)) ** SEEN, SEEN, GAIN, bootstrap=0).fit.params
    lines = {"exact": {"x": x.tolist(), "y": (1 - (1 - rates.reshape(-1, 1)) ** x).mean(0).tolist()},
             "law of 1 to 32": {"x": x.tolist(), "y": (law.Fmax * (1 - (1 - law.p) ** x)).tolist()}}  # fmt: skip
    details = {
        "curves": [{"x": "samples", "y": "coverage", "log": "x", "lines": lines}],
        "points of the law": points, "true points": truth, "pass@1": float(rates.mean()),
    }  # fmt: skip
    return Measured(float(apart.mean()), t_interval(apart), 0.0, details)
