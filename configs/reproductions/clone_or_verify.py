"""Learning from one's own verified tries beats imitating experts who all do it differently, more so in longer texts.

    python -m launch.reproduce clone_or_verify --workdir runs/reproductions/clone_or_verify

Three minutes on one core. A text of H letters should hold a pattern, which its prompt names in a code. Experts hide it
at a place of their own among random letters; a clone reads n of their texts, all of which are right. The other policy
writes n texts itself and is told which are right (GRPO on 0 or 1). Both start from the same model, which knows letters
and no pattern, and take as many steps of as many texts. Verified tries led at 4 and 12 letters (0.80 against 0.56, 0.71
against 0.44) and by little at 32 (0.63, 0.62): there most random texts are right, which tells little of why, and sixty
updates are too few.
"""

from functools import partial

import numpy as np

from configs.reproductions import _planted as planted
from scaling.reproduction import Measured, Reproduction, Workspace, t_interval
from scaling.tasks.planted import Planted, chance
from search.posttrain import Rollouts

LETTERS = (4, 12, 32)
LONGEST = max(LETTERS)


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="clone_or_verify",
        methods=(12,),
        claim="The lead of learning from verified tries over cloning the same number of expert texts grows with their "
        "length",
        source="Setlur et al. 2025, Scaling Test-Time Compute Without Verification or RL is Suboptimal, "
        "arXiv:2502.12118",
        smallest_effect=0.03,
        unit="success of verified tries less that of a clone, per doubling of the length",
        minutes=6,
        not_covered="learned verifiers; experts of unlike skill (they differ in place and noise alone); several "
        "amounts of data; texts above 32 tokens; prompts that were not practised on",
        simulated=False,
        run=run,
    )


def success(drawn: Rollouts, params: object, samples: int) -> tuple[float, float]:
    """(share of sampled texts that hold their pattern, FLOPs of drawing them)."""
    found, flops = drawn.drawn(planted.ASKED, params, samples, 0)
    return float(np.mean([planted.holds(x.problem, x.text) for x in found])), float(flops)


def one(work: Workspace, drawn: Rollouts, letters: int, seed: int, imitation: int, steps: int) -> dict:
    """Success of one seed at one length: at first, of the clone, and of the one that tried."""
    start = planted.start(seed, imitation, LONGEST, LONGEST, "")
    expert, rng = Planted(symbols=planted.SYMBOLS, horizon=letters), np.random.default_rng([seed, letters])
    asked = [planted.ASKED[i] for i in rng.integers(len(planted.ASKED), size=steps * planted.ROWS)]
    texts = [problem.prompt + expert.solution(problem, rng).rstrip(".") for problem in asked]
    clone = planted.imitate(seed, steps, texts, letters, start)
    tried, rows = planted.practise(start, drawn, steps, seed, work.folder / f"tries{seed}-{letters}")
    found, flops = {}, float(rows[-1]["flops"])
    for name, params in (("before", start), ("clone", clone), ("tried", tried)):
        found[name], spent = success(drawn, params, 4 if work.quick else 12)
        flops += spent
    for count, size in ((imitation, LONGEST), (steps, letters)):
        train = planted.imitated(count, size)
        flops += train.flops(planted.MODEL, train.tokens, {})
    return found | {"flops": flops}


def run(work: Workspace) -> Measured:
    lengths = LETTERS[:2] if work.quick else LETTERS
    seeds, imitation, steps = (2, 3, 2) if work.quick else (3, 40, 60)
    nothing = planted.start(0, imitation, LONGEST, LONGEST, "")
    every = []
    for letters in lengths:
        work.say(f"{letters} letters: {seeds} seeds clone and try")
        drawn = planted.rollouts(nothing, letters)
        every.append([
            work.keep(f"letters{letters}_seed{seed}", partial(one, work, drawn, letters, seed, imitation, steps))
            for seed in range(seeds)
        ])  # fmt: skip
    values = {name: np.array([[x[name] for x in found] for found in every]) for name in ("before", "clone", "tried")}
    doublings = np.log2(lengths)
    gap = values["tried"] - values["clone"]  # [lengths, seeds]
    slope = np.polyfit(doublings, gap, 1)[0]
    lines = {name: {"x": list(lengths), "y": value.mean(1).tolist()} for name, value in values.items()}
    details = {
        "curves": [{"x": "letters", "y": "success", "log": "x", "lines": lines}],
        "success": {name: value.tolist() for name, value in values.items()},
        "lead": gap.tolist(),
        "chance of uniform letters": [
            float(np.mean([chance(x.instance, planted.SYMBOLS, letters) for x in planted.ASKED])) for letters in lengths
        ],
    }
    return Measured(float(slope.mean()), t_interval(slope), sum(x["flops"] for f in every for x in f), details)
