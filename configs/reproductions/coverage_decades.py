"""Coverage grows as log c = a k^b over four decades of samples, while votes and the model's own choice level off.

    python -m launch.reproduce coverage_decades --workdir runs/reproductions/coverage_decades

A byte model of 33 thousand parameters completes four bytes of held-out text: 2,000 items of 10,000 samples each, whose
right ones are drawn from the exact pass rates; 128 written samples of 200 of them are voted on. Seven minutes, five of
them for the ladder that other reproductions share.
"""

from collections import Counter

import numpy as np

from configs.reproductions._text import folders, ladder, trained
from scaling.evaluate.completion import Completions, completions, token_rates
from scaling.laws.coverage import pass_at_k
from scaling.reproduction import Measured, Reproduction, Workspace
from search.engine.config import EngineConfig
from search.engine.engine import Engine
from search.engine.request import Request
from search.policy import Policy, load_policy

CONTEXT, LENGTH = 48, 4
SAMPLES, WRITTEN = 10_000, 128
K = np.unique(np.geomspace(1, SAMPLES, 33).round().astype(int))


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="coverage_decades",
        methods=(4,),
        claim="Coverage of a mixed task follows log c = a k^b over four decades of samples with R² above 0.99",
        source="Brown et al. 2024, Large Language Monkeys, arXiv:2407.21787",
        smallest_effect=0.99,
        unit="R² of log coverage over 1 to 10,000 samples",
        minutes=7,
        not_covered="programs and proofs; policies of many sizes. Right samples are drawn from the exact pass rate of "
        "an item, which is what sampling would estimate; votes are taken among 128 written samples",
        simulated=False,
        run=run,
        sweeps=lambda quick: (ladder(quick),),
    )


def run(work: Workspace) -> Measured:
    table = trained(work)
    policy = load_policy(list(folders(work, table[table["seed"] == 0]))[-1])
    given = completions(ladder(work.quick).data, 60 if work.quick else 2000, CONTEXT, LENGTH)
    right = np.array(work.keep("right", lambda: counted(policy, given)))
    coverage = pass_at_k(np.full((len(right), 1), SAMPLES), right[:, None], K)  # [items, k]

    def r_squared(items: np.ndarray) -> tuple[float, float, float]:
        """R² in log c of the straight line of log(-log c) on log k, with a and b."""
        y = np.log(coverage[items].mean(0))
        b, level = np.polyfit(np.log(K), np.log(-y), 1)
        residual = y + np.exp(level + b * np.log(K))
        return float(1 - residual @ residual / ((y - y.mean()) @ (y - y.mean()))), float(-np.exp(level)), float(b)

    rng, every = np.random.default_rng(0), np.arange(len(right))
    drawn = [r_squared(rng.choice(every, len(every)))[0] for _ in range(1000)]
    low, high = np.quantile(drawn, [0.05, 0.95])
    votes = work.keep("votes", lambda: voted(policy, given, 4 if work.quick else 200))
    fit, a, b = r_squared(every)
    lines = {"coverage": {"x": K.tolist(), "y": coverage.mean(0).tolist()},
             "a k^b": {"x": K.tolist(), "y": np.exp(a * K**b).tolist()}}  # fmt: skip
    few = votes["samples"]
    panels = [
        {"x": "samples", "y": "coverage", "log": "xy", "lines": lines},
        {"x": "samples", "y": "accuracy, 200 items", "log": "x",
         "lines": {name: {"x": few, "y": votes[name]} for name in ("coverage", "majority", "likeliest")}},
    ]  # fmt: skip
    gains = {name: votes[name][-1] - votes[name][-2] for name in ("coverage", "majority", "likeliest")}
    details = {"curves": panels, "a": a, "b": b, "gain from 64 to 128 samples": gains, "items": len(right)}
    return Measured(fit, (float(low), float(high)), float(table["flops"].sum()), details)


def counted(policy: Policy, given: Completions) -> list[int]:
    """Right ones among SAMPLES of every item, drawn from its exact rate."""
    rates = token_rates(policy.model, policy.params, given).rates.prod(1)
    return np.random.default_rng(0).binomial(SAMPLES, rates).tolist()


def voted(policy: Policy, given: Completions, items: int) -> dict:
    """Of the first k written samples: whether one is right, the most frequent is, the likeliest to the model is."""
    engine = Engine(policy.model, policy.params, EngineConfig(slots=256, max_len=64, page_size=16, stage_tokens=4))
    asked = (Request(i, tuple(row), WRITTEN, LENGTH) for i, row in enumerate(given.contexts[:items].tolist()))
    written: dict[int, list] = {i: [()] * WRITTEN for i in range(items)}
    for done in engine.generate(asked):
        written[done.problem][done.sample] = (tuple(done.tokens), float(sum(done.logprobs)))
    counts = [int(k) for k in 2 ** np.arange(WRITTEN.bit_length())]
    answers = {i: tuple(given.answers[i].tolist()) for i in written}
    chosen = {
        "coverage": lambda i, k: any(tokens == answers[i] for tokens, _ in written[i][:k]),
        "majority": lambda i, k: Counter(t for t, _ in written[i][:k]).most_common(1)[0][0] == answers[i],
        "likeliest": lambda i, k: max(written[i][:k], key=lambda one: one[1])[0] == answers[i],
    }
    found = {name: [float(np.mean([rule(i, k) for i in written])) for k in counts] for name, rule in chosen.items()}
    return {"samples": counts} | found
