"""The best split of a budget between solutions and verdicts moves toward solutions, on simulated judges.

    python -m launch.reproduce solve_or_verify --workdir runs/reproductions/solve_or_verify
"""

import numpy as np

from scaling.laws.generative_verifier import genrm_frontier
from scaling.reproduction import Measured, Reproduction, Workspace, t_interval
from search.metrics.samples import Samples
from search.metrics.verification import genrm_grid

SETS, PROBLEMS, SOLUTIONS, VERDICTS = 6, 500, 128, 64
RATIO = 1.0  # a verdict costs as much as a solution
WRONG = 6  # wrong answers of a problem, some more tempting than others


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="solve_or_verify",
        methods=(164,),
        claim="Of a budget C = S (1 + V), the best number of solutions grows faster with C than that of verdicts",
        source="Singhi et al. 2025, When to solve, when to verify, arXiv:2504.01005",
        smallest_effect=0.05,
        unit="exponent of S* less that of V*",
        minutes=2,
        not_covered="trained judges and language models: pass rates are Beta(0.6, 1.2), a solution's chance of a yes "
        "is Beta with mean 0.7 when it is right and 0.35 when wrong, so that some wrong ones always convince",
        simulated=True,
        run=run,
    )


def population(seed: int, problems: int) -> tuple[Samples, list[np.ndarray]]:
    """Solutions with their answers, and verdicts [problem][solution, verdict]."""
    rng = np.random.default_rng(seed)
    right = rng.random((problems, SOLUTIONS)) < rng.beta(0.6, 1.2, (problems, 1))
    tempting = rng.dirichlet(np.full(WRONG, 0.5), problems).cumsum(1)
    answers = 1 + (rng.random((problems, SOLUTIONS))[..., None] > tempting[:, None, :-1]).sum(-1)
    yes = np.where(right, rng.beta(7, 3, right.shape), rng.beta(3.5, 6.5, right.shape))
    verdicts = (rng.random((*right.shape, VERDICTS)) < yes[..., None]).astype(float)
    return Samples.of(right, answers=np.where(right, 0, answers)), list(verdicts)


def run(work: Workspace) -> Measured:
    sets, problems = (2, 100) if work.quick else (SETS, PROBLEMS)

    def measure() -> list[dict]:
        out = []
        for seed in range(sets):
            grid = genrm_grid(*population(seed, problems), subsets=200)
            found = genrm_frontier(grid, RATIO, bootstrap=0)
            out.append({"S": float(found.solutions.params.a), "V": float(found.verifications.params.a),
                        "grid": grid.to_dict("list"),
                        "best": found.table[["budget", "solutions", "verifications"]].to_dict("list")})  # fmt: skip
            work.say(f"set {seed}: S* ~ C^{out[-1]['S']:.2f}, V* ~ C^{out[-1]['V']:.2f}")
        return out

    found = work.keep("grids", measure)
    gaps = [one["S"] - one["V"] for one in found]
    grid = {name: np.mean([one["grid"][name] for one in found], 0) for name in found[0]["grid"]}
    cost = grid["solutions"] * (1 + RATIO * grid["verifications"])
    judged = grid["verifications"] > 0
    budgets = np.unique(grid["solutions"])
    best = [float(grid["accuracy"][judged & (cost <= c)].max(initial=0.0)) for c in budgets[1:]]
    votes = [float(value) for value in grid["accuracy"][~judged]][1:]
    lines = {"votes": {"x": budgets[1:].tolist(), "y": votes}, "verdicts": {"x": budgets[1:].tolist(), "y": best}}
    details = {
        "curves": [{"x": "budget in solutions", "y": "accuracy", "log": "x", "lines": lines}],
        "exponents of S* and V*": [float(np.mean([one[name] for one in found])) for name in "SV"],
        "exponents of every set": [[one["S"], one["V"]] for one in found],
        "budgets at which votes are better": [float(c) for c, v, b in zip(budgets[1:], votes, best) if v > b],
    }
    return Measured(float(np.mean(gaps)), t_interval(gaps), 0.0, details)
