"""Best-of and Metropolis-Hastings at ever larger budgets under a proxy reward with heavy-tailed errors.

    python -m launch.reproduce proxy_overoptimisation --workdir runs/reproductions/proxy_overoptimisation
"""

from functools import partial

import numpy as np

from configs.reproductions._trees import Forest, forest, judged, searched
from scaling.reproduction import Measured, Reproduction, Workspace, bootstrap_interval
from search.searcher import Found
from search.strategies.best_of_n import best_of_n
from search.strategies.metropolis import metropolis

SAMPLES, BETA, WRONG = (4, 16, 64, 256), 0.1, 8
PROXIES = {"heavy tails": dict(noise=2.0, tails=2.0), "normal": dict(noise=3.0)}
PER_SAMPLE = 12 / 7  # proposals for the tokens of a sample: one writes 3.5 of 6 steps anew on average


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="proxy_overoptimisation",
        methods=(184,),
        claim="Where best-of over-optimises a proxy reward, Metropolis-Hastings on its tempered posterior does not: "
        "with 16 times the budget best-of falls behind it",
        source="Faria et al. 2025, Sample, don't search (QAlign), arXiv:2504.03790",
        smallest_effect=0.02,
        unit="accuracy, the lesser of: lead of the chain's vote over best-of-256 at equal tokens; growth of that lead "
        "from 16 samples",
        minutes=2,
        not_covered="language models and learned rewards: the proxy is the truth with Student's t errors of two "
        "degrees of freedom. Under normal errors (details) best-of does not over-optimise on such trees",
        simulated=True,
        run=run,
    )


def voted(trees: Forest, found: list[Found]) -> list[bool]:
    """Whether the answer at which a chain stood most often is right; wrong leaves share WRONG answers."""
    out = []
    for i, one in enumerate(found):
        votes = np.zeros(WRONG + 1)
        for candidate in one.candidates:
            if candidate.weight > 0:
                leaf = trees.leaf(candidate.tokens)
                votes[0 if trees.value[i, leaf] == 1 else 1 + leaf % WRONG] += candidate.weight
        out.append(bool(votes.argmax() == 0 and votes[0] > 0))
    return out


def run(work: Workspace) -> Measured:
    trees = forest(60 if work.quick else 500, seed=1)
    sizes = SAMPLES[:2] if work.quick else SAMPLES

    def measure() -> dict:
        out: dict = {kind: {"best of": [], "chain": []} for kind in (*PROXIES, "tokens")}
        for samples in sizes:
            steps = round(samples * PER_SAMPLE)
            ways = {"best of": (best_of_n(samples), judged), "chain": (metropolis(1, steps, BETA), voted)}
            for name, (strategy, rule) in ways.items():
                for proxy, errors in PROXIES.items():
                    found = searched(trees, trees.blurred(**errors), strategy, rounds=steps + 2)
                    out[proxy][name].append(rule(trees, found))
                    work.say(f"{samples} {name}, {proxy}: {np.mean(out[proxy][name][-1]):.3f}")
                out["tokens"][name].append(float(np.mean([one.cost.generated_tokens for one in found])))
        return out

    kept = work.keep("right", measure)
    heavy = kept["heavy tails"]
    right = np.array([heavy["chain"], heavy["best of"]], float).transpose(2, 0, 1)  # [problems, ways, budgets]

    def least(rows: np.ndarray) -> float:
        chain, best = rows.mean(0)
        lead = chain - best
        return float(min(lead[-1], lead[-1] - lead[sizes.index(16)]))

    panel = partial(dict, x="samples, or as many tokens", y="accuracy", log="x")
    curves = [
        panel(lines={f"{name}, {proxy}": {"x": list(sizes), "y": np.mean(kept[proxy][name], 1).tolist()}
                     for name in ("chain", "best of")})
        for proxy in PROXIES
    ]  # fmt: skip
    spent = 2 * len(right) * sum(map(sum, kept["tokens"].values()))
    return Measured(least(right), bootstrap_interval(right, least), spent, {"curves": curves, "tokens": kept["tokens"]})
