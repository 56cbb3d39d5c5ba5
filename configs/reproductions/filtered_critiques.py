"""Judgements with a principle, a critique and a score vote on pairs of renderings, and a meta model filters them.

    python -m launch.reproduce filtered_critiques --workdir runs/reproductions/filtered_critiques

The policy is shared with edit_or_judge: it judges a rendering by two of its five objects, at times carelessly. A meta
reward model learns, from its own judgements of other scenes, which were right. Of held-out pairs one rendering is as
asked and in the other one object is elsewhere.
"""

from functools import partial
from typing import Any

import numpy as np
from scipy.special import expit

from configs.reproductions import _imitation as imitation
from configs.reproductions import _scenes as scenes
from scaling.reproduction import Measured, Reproduction, Workspace, bootstrap_interval
from scaling.tasks.scenes import displaced
from search.metrics.judgements import preferred, voted
from search.verifiers.reward_training import Labelled, RewardTraining, outcome, train_reward_model
from search.verifiers.value_head import last_hidden

PAIRS, WRITTEN = 800, 24  # pairs, and judgements of either rendering
TAUGHT, EACH = 1500, 8  # renderings of other scenes that the meta model learns from, and judgements of each
TRAINING = RewardTraining(steps=400, batch=64, learning_rate=1e-3, held_out=0.1)
K, COMPARED = (1, 2, 4, 8, 16), 8
WAYS = ("plain vote", "filtered vote", "vote of half", "the meta model alone")


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="filtered_critiques",
        methods=(163,),
        claim="Of k judgements with principle, critique and score, the vote's preference gets better with k, and "
        "better still where a meta reward model leaves half of them",
        source="Liu et al. 2025, Inference-time scaling for generalist reward modeling, arXiv:2504.02495",
        smallest_effect=0.02,
        unit="accuracy of preference, the lesser of: filtered vote of 8 less plain vote of 8; plain vote of 8 less one",
        minutes=4,
        not_covered="language models, and principles in words: a principle is which two of five objects to look at. "
        "The judge imitates judgements and is not tuned by rejection or reinforcement. It judges one at a time. The "
        "meta model is the better judge: its own word for the same judgements, averaged, prefers right more often "
        "than either vote (0.82 with 8). One policy and one meta model; the interval is over pairs",
        simulated=False,
        run=run,
    )


def meta(params: Any, writer: imitation.Writer, quick: bool) -> tuple:
    """(trunk, head) that says which judgements are right."""
    asked = scenes.questions(scenes.TASK.generate(11, 24 if quick else TAUGHT), 11)
    rows = writer.write(params, [scenes.CRITIC.prompt(*pair) for pair in asked], EACH, 11)
    examples: list[list[Labelled]] = []
    for pair, texts in zip(asked, rows, strict=True):
        read = [(text, scenes.CRITIC.read(text)) for text in texts]
        prompt = scenes.TOKENS.encode(scenes.CRITIC.prompt(*pair)).tolist()
        examples.append([outcome(prompt, scenes.TOKENS.encode(text).tolist(), scenes.CRITIC.right(*pair, one))
                         for text, one in read if one is not None])  # fmt: skip
    apart = round(TRAINING.held_out * len(examples))
    shown, held_out = ([one for row in part for one in row] for part in (examples[apart:], examples[:apart]))
    if quick:  # a policy that has learnt nothing writes no judgement that can be read
        shown = shown or [outcome((1,), (2,), True)]
    return train_reward_model(scenes.MODEL, shown, TRAINING, params=params, held_out=held_out)


def judged(work: Workspace) -> dict:
    """Of every pair, right one first: scores and trust `[2, pairs, judgements]`; and the FLOPs of writing."""
    params, rng = scenes.policy(work), np.random.default_rng(5)
    writer = imitation.Writer(scenes.MODEL, params, scenes.TOKENS, scenes.SEQ)
    trunk, head = meta(params, writer, work.quick)
    work.say("the meta model has learnt; pairs are judged")
    asked = [scenes.asked(p) for p in scenes.TASK.generate(5, 20 if work.quick else PAIRS, "test")]
    pairs = [(a, a) for a in asked] + [(a, displaced(a, 1, scenes.TASK.cells, rng)) for a in asked]
    prompts = [scenes.CRITIC.prompt(*pair) for pair in pairs]
    texts = writer.write(params, prompts, WRITTEN, 5)
    work.say(f"such as {prompts[-1]}{texts[-1][:3]}")
    whole = [scenes.TOKENS.encode(prompt + text).tolist() for prompt, row in zip(prompts, texts) for text in row]
    said = last_hidden(scenes.MODEL, trunk, whole, 256) @ np.asarray(head.weight) + float(head.bias)
    shape, scores = (2, len(asked), WRITTEN), scenes.scored(texts)
    return {
        "scores": [[[None if x != x else x for x in row] for row in side] for side in scores.reshape(shape).tolist()],
        "trust": np.round(expit(said), 4).reshape(shape).tolist(), "flops": writer.flops,
    }  # fmt: skip


def mean(values: np.ndarray) -> float | None:
    """None of nothing."""
    return float(values.mean()) if len(values) else None


def run(work: Workspace) -> Measured:
    found = work.keep("judged", partial(judged, work))
    scores, trust = np.array(found["scores"], float), np.array(found["trust"])
    whole = scores == scenes.CRITIC.looked
    right = np.where(np.isnan(scores), np.nan, whole == np.array([True, False])[:, None, None])
    alone = np.where(np.isnan(scores), np.nan, np.where(whole, trust, 1 - trust))  # that the rendering is right
    both = (trust[0], trust[1])
    values: dict[str, list[np.ndarray]] = {name: [] for name in WAYS}
    for k in K:
        half = max(1, k // 2)
        values["plain vote"].append(preferred(scores[0], scores[1], k))
        values["filtered vote"].append(preferred(scores[0], scores[1], k, both, half))
        values["vote of half"].append(preferred(scores[0], scores[1], half))
        values["the meta model alone"].append(preferred(alone[0], alone[1], k))
    at = K.index(COMPARED)
    rows = np.stack([values["filtered vote"][at], values["plain vote"][at], values["plain vote"][0]], 1)

    def parts(rows: np.ndarray) -> tuple[float, float]:
        filtered, plain, one = rows.mean(0)
        return float(filtered - plain), float(plain - one)

    means = {name: [float(x.mean()) for x in row] for name, row in values.items()}
    lines = {name: {"x": list(K), "y": row} for name, row in means.items()}
    known = np.isfinite(right)
    middle = np.nanmedian(np.where(known, trust, np.nan)) if known.any() else 0.5
    worth = voted(scores)
    details = {
        "curves": [{"x": "judgements of a rendering", "y": "accuracy of preference", "log": "x", "lines": lines}],
        "accuracy by k": {name: dict(zip(map(str, K), row, strict=True)) for name, row in means.items()},
        "parts of the effect": parts(rows),
        "intervals of the parts": [bootstrap_interval(rows, lambda r, i=i: parts(r)[i]) for i in range(2)],
        "judgements that can be read": float(known.mean()),
        "judgements on the right side": mean(right[known]),
        "of the half that is trusted": mean(right[known & (trust >= middle)]),
        "score of the right rendering and of the other": [mean(one[np.isfinite(one)]) for one in worth],
    }
    trained = scenes.learner(work.quick).flops
    per_step = trained / scenes.learner(work.quick).train.steps
    flops = trained + per_step * TRAINING.steps + found["flops"]
    return Measured(min(parts(rows)), bootstrap_interval(rows, lambda r: min(parts(r))), float(flops), details)
