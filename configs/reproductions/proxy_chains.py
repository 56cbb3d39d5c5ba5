"""Best-of-N and Metropolis-Hastings against a proxy of the true reward whose errors have heavy or light tails.

    python -m launch.reproduce proxy_chains --workdir runs/reproductions/proxy_chains
"""

from functools import partial

import numpy as np

from configs.reproductions._trees import ACTIONS, DEPTH, INNER, Forest, forest, searched
from scaling.reproduction import Measured, Reproduction, Workspace, bootstrap_interval
from search.strategies.metropolis import metropolis

TAILS = {"heavy": 3, "light": None}  # degrees of freedom of Student's t; None: normal
GAIN, BETA = 2.0, 1.0  # proxy = GAIN for a right leaf + an error; the chains' target is p exp(proxy / BETA)
RANGE = 400.0  # of proxies that fit into a score
SAMPLES, STEPS, CHAINS = (1, 4, 16, 64, 256), (0, 4, 18, 73, 438), 4  # as many tokens each: a proposal draws 3.5 of 6


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="proxy_chains",
        methods=(184,),
        claim="Where errors of a proxy reward have heavy tails, best-of-N loses more true reward beyond its best N "
        "than chains that target p exp(r / beta) lose with as many tokens",
        source="Faria et al. 2025, Sample, don't search, arXiv:2504.03790",
        smallest_effect=0.02,
        unit="accuracy: fall of best-of-N from its best N to 256 samples, less that of the chains",
        minutes=6,
        not_covered="language models and trained reward models; votes over the states of a chain, and other betas. "
        "The claim is about falls, not levels: the chains end no higher, have not mixed, and would fall from 0.32 to "
        "0.27, the level of their target. Heavy tails were chosen after a first trial with normal errors, where "
        "nothing falls and best-of-N is far ahead (details)",
        simulated=True,
        run=run,
    )


def proxy(trees: Forest, freedom: int | None) -> np.ndarray:
    """The proxy reward of every leaf, `[trees, leaves]`."""
    right, rng = trees.value[:, INNER:], np.random.default_rng(3)
    error = rng.standard_normal(right.shape) if freedom is None else rng.standard_t(freedom, right.shape)
    return np.clip(GAIN * right + error, -RANGE / 2, RANGE / 2)


def chained(trees: Forest, reward: np.ndarray, steps: int) -> list[float]:
    """The share of chains that stand at a right leaf after so many proposals, of every tree."""
    scores = np.full(trees.value.shape, 0.5)
    scores[:, INNER:] = 0.5 + reward / RANGE
    made = metropolis(CHAINS, max(steps, 1), BETA / RANGE, record=False)
    found = searched(trees, scores, made, rounds=steps + 2)
    places = [[(trees.leaf(c.tokens), c.weight) for c in one.candidates if c.weight > 0] for one in found]
    return [float(sum(trees.value[i, leaf] * w for leaf, w in at) / CHAINS) for i, at in enumerate(places)]


def distances(trees: Forest, reward: np.ndarray) -> list[float]:
    """Mean total variation between a chain after STEPS and its target, exact: the matrix by its definition."""
    out = []
    for p, r in zip(trees.chance, reward):
        blocks = [p.reshape(-1, ACTIONS ** (DEPTH - cut)) for cut in range(DEPTH)]  # leaves that share `cut` steps
        offers = np.zeros((len(p), len(p)))
        for block in blocks:
            size = block.shape[1]
            for i, row in enumerate(block):
                offers[i * size : (i + 1) * size, i * size : (i + 1) * size] += row / row.sum() / DEPTH
        moves = offers * np.exp(np.clip((r - r[:, None]) / BETA, -20, 0))
        moves[np.diag_indices_from(moves)] += 1 - moves.sum(1)
        target, now, gaps = p * np.exp((r - r.max()) / BETA), p, {}
        for step in range(max(STEPS) + 1):
            gaps[step] = 0.5 * float(abs(now - target / target.sum()).sum())
            now = now @ moves
        out.append([gaps[step] for step in STEPS])
    return np.mean(out, 0).tolist()


def run(work: Workspace) -> Measured:
    count, steps = (60, STEPS[:3]) if work.quick else (2000, STEPS)
    trees, right, gaps = forest(count, seed=1), {}, {}
    target = {}
    for tail, freedom in TAILS.items():
        reward = proxy(trees, freedom)
        chains = [trees.value[:, 0].tolist()]  # a chain begins with a sample of the policy
        for n in steps[1:]:
            chains.append(work.keep(f"{tail}_{n}", partial(chained, trees, reward, n)))
            work.say(f"{tail} tails, {n} proposals: {np.mean(chains[-1]):.3f}")
        by_best = trees.best_of(reward, SAMPLES[: len(steps)])
        right[tail] = np.stack([by_best, np.array(chains).T], 1)  # [trees, 2, sizes]
        few = Forest(trees.child, trees.log_prob[:10], trees.value[:10])
        gaps[tail] = work.keep(f"{tail}_distances", partial(distances, few, reward[:10]))
        weight = trees.chance * np.exp(reward / BETA)
        target[tail] = float(((weight * trees.value[:, INNER:]).sum(1) / weight.sum(1)).mean())

    def fall(rows: np.ndarray) -> float:
        best, chain = rows.mean(0)
        return float((best.max() - best[-1]) - (chain.max() - chain[-1]))

    names = ("best of N", "chain")
    panels = [{"x": "samples' worth of tokens", "y": f"accuracy, {tail} tails", "log": "x",
               "lines": {name: {"x": list(SAMPLES[: len(steps)]), "y": rows.mean(0)[i].tolist()}
                         for i, name in enumerate(names)}} for tail, rows in right.items()]  # fmt: skip
    levels = {tail: dict(zip(names, rows.mean(0).tolist())) for tail, rows in right.items()}
    details = {
        "curves": panels,
        "accuracy by tail": levels,
        "the same difference of falls, light tails": [fall(right["light"]), *bootstrap_interval(right["light"], fall)],
        "chain above best of N at the end": {t: float(np.diff(r[..., -1].mean(0))[0]) for t, r in right.items()},
        "exact accuracy of the chains' target": target,
        "total variation to the target after proposals": {"proposals": list(STEPS), **gaps},
    }
    spent = 2 * count * CHAINS * sum(DEPTH + (DEPTH + 1) / 2 * n for n in steps[1:])
    return Measured(fall(right["heavy"]), bootstrap_interval(right["heavy"], fall), float(spent), details)
