"""Answers scored as a whole rise in a jump, the same answers scored step by step rise in a line.

    python -m launch.reproduce multistep_breakthrough --workdir runs/reproductions/multistep_breakthrough

Ten minutes on one core for the shared ladder, if no reproduction has trained it yet; then two.
"""

import numpy as np

from configs.benchmark_ladder import choices, measured, plan
from scaling.evaluate.measures.breakthrough import breakthroughness, linearity
from scaling.evaluate.trials import per_item
from scaling.fitting.bootstrap import resample_weights
from scaling.reproduction import Measured, Reproduction, Workspace

RISE = 0.1  # of exact match over the sizes, below which there is no curve to speak of
DRAWS = 1000


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="multistep_breakthrough",
        methods=(143,),
        claim="Over model sizes, scores that need all of several steps right rise less linearly than the score of a "
        "single step of the same answers",
        source="Srivastava et al. 2022, BIG-bench, arXiv:2206.04615",
        smallest_effect=0.03,
        unit="linearity of the single step less that of the whole, mean over tasks and lengths of training",
        minutes=12,
        not_covered="tasks of knowledge against tasks of several steps; breakthroughness itself (details), which "
        "over six sizes also calls a curve that ends early a breakthrough; linearity was made the measure after both "
        "were seen",
        simulated=False,
        run=run,
        sweeps=lambda quick: [plan(quick)],
    )


def run(work: Workspace) -> Measured:
    table, rows = measured(work)
    cells, draws, jumps, lines = [], [], [], {}
    chosen = choices(rows)
    for (task, steps), group in chosen.groupby(["task", "steps"]):
        whole, single = (per_item(group, column, "params").to_numpy() for column in ("exact", "token_accuracy"))
        several = group["lengths_tokens"].map(max).max() > 2  # more than one symbol and the end
        if not several or (np.ptp(whole.mean(1)) < RISE and not work.quick):
            continue
        # the same items in every cell of a task, so that cells of one task are not taken as independent
        weights = resample_weights(whole.shape[1], DRAWS, np.random.default_rng(0)) / whole.shape[1]
        cells.append(linearity(single.mean(1)) - linearity(whole.mean(1)))
        draws.append([linearity(single @ w) - linearity(whole @ w) for w in weights])
        jumps.append(breakthroughness(whole.mean(1)) - breakthroughness(single.mean(1)))
        sizes = sorted(int(size) for size in group["params"].unique())
        name = f"{str(task).removeprefix('choice.').partition(',items')[0]}, {steps} steps"
        lines[f"{name}, whole"] = {"x": sizes, "y": whole.mean(1).tolist()}
        lines[f"{name}, single"] = {"x": sizes, "y": single.mean(1).tolist()}
    low, high = np.quantile(np.mean(draws, axis=0), [0.05, 0.95])
    shown = dict(list(lines.items())[:4])
    panel = {"x": "parameters", "y": "score", "log": "x", "lines": shown}
    details = {"curves": [panel], "cells": dict(zip(list(lines)[::2], cells, strict=True)),
               "breakthroughness, whole less single": {"mean": float(np.mean(jumps)), "share above 0":
                                                       float(np.mean(np.array(jumps) > 0))}}  # fmt: skip
    flops = float(table["flops"].sum() + rows["flops"].sum())
    return Measured(float(np.mean(cells)), (float(low), float(high)), flops, details)
