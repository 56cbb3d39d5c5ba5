"""A budget of tokens is split between edits of a scene and judgements of what they render, over a grid of both.

    python -m launch.reproduce edit_or_judge --workdir runs/reproductions/edit_or_judge

The policy, which writes edits and judgements, is shared with filtered_critiques. A rendering is judged by the mean
score of its judgements; the edit of the best one is taken. The best number of judgements at either budget is chosen on
one half of the scenes and tested on the other, and the other way round.
"""

from functools import partial

import numpy as np

from configs.reproductions import _imitation as imitation
from configs.reproductions import _scenes as scenes
from scaling.reproduction import Measured, Reproduction, Workspace, bootstrap_interval
from search.metrics import Samples
from search.metrics.selection import vote_values
from search.metrics.splits import at_budget, best_elsewhere, judged_grid

SCENES, EDITED, WRITTEN = 500, 32, 16  # scenes; edits of each; judgements of each rendering
VERDICTS = (1, 2, 4, 8, 16)
BUDGETS, SMALL, LARGE = (150, 200, 300, 400, 600, 800, 1200), 200, 1200  # tokens read and written for a scene
CHECKED = 16  # edits among which judgements choose where their number is varied alone


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="edit_or_judge",
        methods=(187,),
        claim="A verifier of rendered scenes gains from more judgements, and how many of them an edit should get "
        "depends on the budget",
        source="Gu et al. 2025, BlenderGym: benchmarking foundational model systems for graphics editing, "
        "arXiv:2504.01786",
        smallest_effect=0.01,
        unit="scenes right, the least of: 16 judgements of 16 edits less one of each; at 200 and at 1200 tokens, the "
        "number of judgements that is best there less the one that is best at the other",
        minutes=5,
        not_covered="images, Blender, and models that see: a scene is a ring of cells, a rendering a list of objects "
        "with their cells. One round of edits, and no verifier but the policy itself. Judgements of one rendering are "
        "drawn, with replacement, from the same 16. Judging is not the best use of tokens here: the commonest "
        "rendering of 16 edits is right for 0.32 of the scenes at some 120 tokens, and judged edits come to 0.34 at "
        "1200. One policy, 7 % of whose edits are right; the interval is over scenes",
        simulated=False,
        run=run,
    )


def written(work: Workspace) -> dict:
    """Of every scene: the rendering of each edit (-1: none), which is right (-1: none is), the scores of each rendering
    `[renderings, judgements]`; mean tokens of prompts, edits, questions and judgements."""
    params, count = scenes.policy(work), 20 if work.quick else SCENES
    writer = imitation.Writer(scenes.MODEL, params, scenes.TOKENS, scenes.SEQ)
    problems = scenes.TASK.generate(6, count, "test")
    asked, prompts = [scenes.asked(p) for p in problems], [p.prompt for p in problems]
    edits = writer.write(params, prompts, EDITED, 6)
    work.say(f"such as {prompts[0]}{edits[0][:4]}")
    seen = [[scenes.TASK.seen(p, text) for text in row] for p, row in zip(problems, edits, strict=True)]
    kinds = [sorted({one for one in row if one is not None}) for row in seen]
    questions = [scenes.CRITIC.prompt(one, shown) for one, row in zip(asked, kinds, strict=True) for shown in row]
    work.say(f"{len(questions)} renderings are judged")
    judged = writer.write(params, questions, WRITTEN, 7) if questions else []
    scores = np.nan_to_num(scenes.scored(judged), nan=0.0).tolist()  # of a judgement without one: none agree
    ends = np.cumsum([len(row) for row in kinds]).tolist()

    def tokens(texts: list[list[str]]) -> float:
        return float(np.mean([len(text) for row in texts for text in row] or [scenes.SEQ]))

    return {
        "edits": [[-1 if x is None else row.index(x) for x in each] for each, row in zip(seen, kinds, strict=True)],
        "right": [row.index(one) if one in row else -1 for one, row in zip(asked, kinds, strict=True)],
        "scores": [scores[end - len(row) : end] for end, row in zip(ends, kinds, strict=True)],
        "tokens": {"prompt": tokens([prompts]), "edit": tokens(edits), "question": tokens([questions]),
                   "judgement": tokens(judged)},
        "flops": writer.flops,
    }  # fmt: skip


def grid(found: dict) -> tuple[np.ndarray, np.ndarray]:
    """(which edits are right `[scenes, EDITED]`, `judged_grid` of them); an edit that shows nothing comes last."""
    edits = np.array(found["edits"])
    right = (edits == np.array(found["right"])[:, None]) & (edits >= 0)
    pools = [np.array([*scores, [-1.0] * WRITTEN])[kind] for kind, scores in zip(edits, found["scores"], strict=True)]
    return right, judged_grid(list(right), pools, VERDICTS)


def run(work: Workspace) -> Measured:
    found = work.keep("written", partial(written, work))
    right, values = grid(found)
    tokens = found["tokens"]
    prices = tokens["edit"] + tokens["question"] + np.array(VERDICTS) * tokens["judgement"]
    by_budget = {budget: at_budget(values, prices, budget - tokens["prompt"]) for budget in BUDGETS}
    gains, chosen = best_elsewhere(by_budget[SMALL], by_budget[LARGE])
    more = values[:, -1, CHECKED - 1] - values[:, 0, CHECKED - 1]
    rows = np.concatenate([more[:, None], gains], 1)
    answers = [[None if x < 0 else x for x in row] for row in found["edits"]]
    votes = vote_values(Samples.of(right.astype(float), answers=answers), np.array([1, 4, 16]))[0].mean(0)
    means = {budget: one.mean(0) for budget, one in by_budget.items()}
    lines = {}
    for j, count in enumerate(VERDICTS):
        points = [(float(budget), float(row[j])) for budget, row in means.items() if np.isfinite(row[j])]
        x, y = (list(one) for one in zip(*points, strict=True)) if points else ([], [])
        lines[f"{count} judgement{'s' * (count > 1)}"] = {"x": x, "y": y}
    checked = values[:, :, CHECKED - 1].mean(0).tolist()
    details = {
        "curves": [{"x": "tokens of a scene", "y": "scenes right", "log": "x", "lines": lines}],
        "parts of the effect": rows.mean(0).tolist(),
        "intervals of the parts": [bootstrap_interval(rows[:, i]) for i in range(3)],
        "best judgements of an edit, at 200 and at 1200 tokens, by half": [
            [VERDICTS[i] for i in one] for one in chosen],
        "best judgements of an edit, by budget": {
            str(budget): VERDICTS[int(np.nanargmax(row))] for budget, row in means.items()},
        "16 edits, by judgements": dict(zip(map(str, VERDICTS), checked, strict=True)),
        "votes of 1, 4 and 16 edits, without judgements": votes.tolist(),
        "some of 32 edits right": float(right.any(1).mean()),
        "tokens": tokens,
    }  # fmt: skip
    flops = scenes.learner(work.quick).flops + found["flops"]

    def least(rows: np.ndarray) -> float:
        return float(rows.mean(0).min())

    return Measured(least(rows), bootstrap_interval(rows, least), float(flops), details)
