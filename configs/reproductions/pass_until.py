"""Sampling until r passes measures rates of 1e-4, and -log of the rate is a power of size that a larger model follows.

    python -m launch.reproduce pass_until --workdir runs/reproductions/pass_until

Four small byte models give the law, a fifth of 1.6 times their largest size tests it; two seeds of each. An item is the
next four bytes of held-out text. Ten minutes on two cores, all but one of them for training.
"""

import numpy as np

from configs.reproductions._text import folders, ladder, trained
from scaling.evaluate.completion import completions, pass_until, token_rates
from scaling.laws.pass_until import unbiased_rate
from scaling.reproduction import Measured, Reproduction, Workspace
from search.policy import load_policy

CONTEXT, LENGTH = 48, 4
PASSES, MOST = 20, 100_000
WITHIN = 0.05  # of the held-out model's -log PU


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="pass_until",
        methods=(27,),
        claim="-log(pass rate) of small models, measured by sampling until 20 passes, predicts a larger one within 5 % "
        "and better than no growth does",
        source="Hu et al. 2024, arXiv:2310.03262",
        smallest_effect=0.0,
        unit="share of -log PU by which the error stays below 5 % and that of no growth, the lesser",
        minutes=10,
        not_covered="models above 33 thousand parameters, a held-out size more than 1.6 times the largest fitted "
        "one, tasks other than exact completion of text; the interval resamples items, and seeds share data; after a "
        "first run that could not tell growth from none the items were doubled and the claim made stricter",
        simulated=False,
        run=run,
        sweeps=lambda quick: (ladder(quick),),
    )


def run(work: Workspace) -> Measured:
    table = trained(work)
    items, most = (60, 1000) if work.quick else (1600, MOST)
    rows = work.keep("samples", lambda: sampled(work, table, items, most))
    rates = np.array([np.nan_to_num(unbiased_rate(row["passes"], row["samples"])) for row in rows])  # [models, items]
    few = np.array([row["passes"] for row in rows]) < PASSES
    plain = np.array([row["passes"] for row in rows]) / np.array([row["samples"] for row in rows])
    rates = np.where(few, plain, rates)  # a censored item drew a fixed number of samples, where r / m is unbiased
    sizes, size = np.array([row["params"] for row in rows]), max(row["params"] for row in rows)

    def errors(chosen: np.ndarray) -> tuple[float, float]:
        """Relative errors of the held-out size's -log PU: of a line in log N through the smaller sizes, of the last."""
        double = np.log(-np.log(rates[:, chosen].mean(1)))
        small, truth = sizes < size, double[sizes == size].mean()
        slope, level = np.polyfit(np.log(sizes[small]), double[small], 1)
        last = double[sizes == sizes[small].max()].mean()
        return float(np.expm1(level + slope * np.log(size) - truth)), float(np.expm1(last - truth))

    def effect(chosen: np.ndarray) -> float:
        law, last = map(abs, errors(chosen))
        return min(WITHIN, last) - law

    rng, every = np.random.default_rng(0), np.arange(rates.shape[1])
    low, high = np.quantile([effect(rng.choice(every, len(every))) for _ in range(2000)], [0.05, 0.95])
    exact = np.array([row["exact"] for row in rows])
    law = {"x": sizes.tolist(), "y": (-np.log(rates.mean(1))).tolist()}
    details = {
        "curves": [{"x": "parameters", "y": "-log PU", "log": "xy", "lines": {"PassUntil": law}}],
        "errors of -log PU, of the law and of no growth": list(errors(every)),
        "PU by sampling and exactly, per model": np.stack([rates.mean(1), exact], 1).tolist(),
        "items of the smallest model with a rate below 1e-4": int((rates[0] < 1e-4).sum()),
        "censored items, per model": few.sum(1).tolist(),
        "samples": int(sum(map(sum, (row["samples"] for row in rows)))),
    }
    return Measured(effect(every), (float(low), float(high)), float(table["flops"].sum()), details)


def sampled(work: Workspace, table, items: int, most: int) -> list[dict]:
    """Passes and samples of every item, model by model, and the mean of the exact rates."""
    given, rows = None, []
    for folder, params, seed in zip(folders(work, table), table["params"], table["seed"], strict=True):
        policy = load_policy(folder)
        given = given or completions(ladder(work.quick).data, items, CONTEXT, LENGTH)
        found = token_rates(policy.model, policy.params, given).rates
        passes, samples = pass_until(found, PASSES, most, seed=int(seed))
        work.say(f"{params:,} parameters, seed {seed}: {samples.sum():,} samples")
        exact = float(found.prod(1).mean())
        rows.append(dict(params=int(params), passes=passes.tolist(), samples=samples.tolist(), exact=exact))
    return rows
