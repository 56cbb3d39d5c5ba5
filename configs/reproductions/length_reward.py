"""A reward that falls with length keeps texts below the limit that a plain reward runs into, and they still improve.

    python -m launch.reproduce length_reward --workdir runs/reproductions/length_reward

Three minutes on one core. A model of 0.03M weights writes short texts of random letters, and is rewarded (GRPO) for
those that hold a pattern, which its prompt names in a code that it must find out. Whoever writes more letters has
more chances. Arms: the plain reward of 0 or 1, and the cosine of the length less a penalty of repeated n-grams.
From 0.08 right in 6 letters, the plain reward led to 0.72 in 32, which is the limit, and the shaped one to 0.56 in 24.
"""

from functools import partial

import numpy as np

from configs.reproductions import _planted as planted
from scaling.reproduction import Measured, Reproduction, Workspace, t_interval
from search.posttrain import Rollouts
from search.posttrain.shaping import CosineLength, repeated_share

LIMIT, NGRAM = 32, 3
ARMS = {
    "plain": None,
    "shaped": CosineLength(longest=LIMIT, ngram=NGRAM, repeated=1.0),
}


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="length_reward",
        methods=(13,),
        claim="With a cosine length reward and a penalty of repetition fewer texts reach the limit than with a plain "
        "reward",
        source="Yeo et al. 2025, Demystifying Long Chain-of-Thought Reasoning, arXiv:2502.03373",
        smallest_effect=0.3,
        unit="share of texts that are cut off: with a plain reward, less with the shaped one",
        minutes=6,
        not_covered="the cosine and the penalty apart; reasoning, where length is thought and not chances; prompts "
        "that were not practised on; limits that no answer fits",
        simulated=False,
        run=run,
    )


def arm(work: Workspace, drawn: Rollouts, seed: int, imitation: int, steps: int) -> dict:
    """Before and after of one seed and arm."""
    start = planted.start(seed, imitation, 1, 8, ".")
    folder = work.folder / f"practice{seed}-{list(ARMS.values()).index(drawn.shaping)}"
    params, rows = planted.practise(start, drawn, steps, seed, folder)
    found = {"flops": rows[-1]["flops"], "lengths": [row["length"] for row in rows]}
    train = planted.imitated(imitation, LIMIT)
    found["flops"] += train.flops(planted.MODEL, train.tokens, {})
    for when, policy in (("before", start), ("after", params)):
        texts, flops = drawn.drawn(planted.ASKED, policy, 4 if work.quick else 12, 0)
        found["flops"] += flops
        found[when] = {
            "right": float(np.mean([planted.holds(x.problem, x.text) for x in texts])),
            "cut off": float(np.mean([x.finish_reason == "length" for x in texts])),
            "length": float(np.mean([x.drawn for x in texts])),
            "repeated": float(np.mean([repeated_share(x.tokens, NGRAM) for x in texts])),
        }
    return found


def run(work: Workspace) -> Measured:
    seeds, imitation, steps = (2, 3, 2) if work.quick else (3, 40, 90)
    every: dict[str, list[dict]] = {}
    drawn = planted.rollouts(planted.start(0, imitation, 1, 8, "."), LIMIT)
    for name, shaping in ARMS.items():
        work.say(f"{name}: {seeds} seeds practise")
        drawn.shaping = shaping
        every[name] = [
            work.keep(f"{name}_{seed}", partial(arm, work, drawn, seed, imitation, steps)) for seed in range(seeds)
        ]
    after = {name: {key: np.array([x["after"][key] for x in found]) for key in found[0]["after"]}
             for name, found in every.items()}  # fmt: skip
    shaped = after["shaped"]
    spared = after["plain"]["cut off"] - shaped["cut off"]
    gain = shaped["right"] - np.array([x["before"]["right"] for x in every["shaped"]])
    lines = {}
    for name, found in every.items():
        mean = np.mean([x["lengths"] for x in found], 0)
        lines[name] = {"x": list(range(1, len(mean) + 1)), "y": mean.tolist()}
    details = {
        "curves": [{"x": "update", "y": "letters of a text", "log": "", "lines": lines}],
        "before": every["plain"][0]["before"],
        "after": {name: {key: list(values) for key, values in found.items()} for name, found in after.items()},
        "accuracy gained with the shaped reward": {"mean": float(gain.mean()), "interval": t_interval(gain)},
    }
    flops = sum(x["flops"] for found in every.values() for x in found)
    return Measured(float(spared.mean()), t_interval(spared), flops, details)
