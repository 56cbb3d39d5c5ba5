"""Thoughts without the segments that do not help, preferred to what they were, make thinking shorter and better.

    python -m launch.reproduce spliced_thoughts --workdir runs/reproductions/spliced_thoughts

Policies of 0.06M weights think in chains of arithmetic, with results that they take back: a third of what they read.
Their thoughts are cut after each result, mark and step, and each segment without which completions are right as often
goes. What is left is preferred (DPO) to the thought that it was; where that was wrong, the last completion on the way
that is right is. Control: a shorter right thought of the same problem is preferred to a longer right one, in as many
pairs. It draws four times as many thoughts and no completions of beginnings.

Two forms were run before. Policies that had imitated for 400 steps were hardly above chance (0.36 to 0.46; a guess
gets 0.33), and 60 steps of preference at 5e-4 took away what they knew: success fell to 0.10 to 0.26. A gentler form,
which is this one, could not tell with three seeds: 8 to 37 % of the tokens saved, success 3 to 17 points lower, -2.8
[-6.9, 1.4]. The seeds here are eight others.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from configs.reproductions import _imitation as imitation
from scaling.reproduction import Measured, Reproduction, Workspace, least, t_interval
from scaling.tasks.reasoned import Reasoned
from scaling.tasks.task import Problem
from scaling.tasks.text import CharTokenizer
from scaling.train.config import TrainConfig
from scaling.train.objectives import Preference
from search.posttrain.splice import segments, spliced

TASK, SEQ, EXAMPLES = Reasoned(modulus=3, operations=3, slips=45, direct=0, cut=0), 56, 4000
TOKENS = CharTokenizer.of(TASK)
MODEL = imitation.small(TOKENS)
MARKS, TRIES, DRAWN = "=~|", 3, 4  # completions of a beginning; thoughts of a problem
SEEDS = range(6, 14)
SAVED, GAIN = 0.2, 0.03  # least of interest: share of tokens, and success
Pair = tuple[str, str, str]  # prompt, better and worse completion


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="spliced_thoughts",
        methods=(267,),
        claim="Preferring thoughts without the segments that completions do not need saves a fifth of the tokens and "
        "raises success by 3 points",
        source="An et al. 2025, Don't Think Longer, Think Wisely, arXiv:2505.21765",
        smallest_effect=1.0,
        unit="the lesser of: share of tokens saved, in units of 0.2; success gained, in units of 0.03",
        minutes=8,
        not_covered="language models that name patterns and say which to try; an early end of thoughts; SimPO. Slips "
        "that are taken back are the only pattern that can go. The strength of the preference and the policies' "
        "training were changed after two looks, with other seeds",
        simulated=False,
        run=run,
    )


def preferred(steps: int) -> TrainConfig:
    return TrainConfig(
        steps=steps, batch_size=16, seq_len=SEQ, learning_rate=1.5e-4, schedule="constant", warmup_steps=5,
        weight_decay=0.0, objective=Preference(beta=0.1), init_from="the policy that imitated",
    )  # fmt: skip


def imitable(seed: int, count: int) -> list[tuple[str, list[tuple[str, bool]]]]:
    """Problems with a thought each, of those that fit."""
    rng = np.random.default_rng([seed, 1])
    written = [(p.prompt, TASK.solution(p, rng)) for p in TASK.generate(0, count)]
    return [(prompt, [(text, True)]) for prompt, text in written if len(prompt + text) <= SEQ]


def splice_pairs(
    writer: imitation.Writer, start: Any, problems: Sequence[Problem], texts: Sequence[str], seed: int
) -> list[Pair]:
    """What is better than each thought, with it; none for a thought from which nothing went or that nothing mended."""
    mended: dict[int, str] = {}

    def success(numbers: Sequence[int], beginnings: Sequence[str]) -> np.ndarray:
        asked = [problems[i].prompt + text for i, text in zip(numbers, beginnings, strict=True)]
        going = [k for k, text in enumerate(beginnings) if not text.endswith(TASK.end)]
        drawn = writer.write(start, [asked[k] for k in going], TRIES, seed, [numbers[k] for k in going])
        endings = dict(zip(going, drawn, strict=True))
        rates = np.zeros(len(numbers))
        for k, (i, text) in enumerate(zip(numbers, beginnings, strict=True)):
            whole = [text + more for more in endings.get(k, [""])]
            right = [TASK.verify(problems[i], one) for one in whole]
            if any(right):
                mended[i] = whole[right.index(True)]
            rates[k] = np.mean(right)
        return rates

    kept = ["".join(parts) for parts in spliced([segments(text, MARKS) for text in texts], success)]
    pairs = []
    for i, (problem, text, short) in enumerate(zip(problems, texts, kept, strict=True)):
        better = short if TASK.verify(problem, short) else "" if TASK.verify(problem, text) else mended.get(i, "")
        if better and better != text:
            pairs.append((problem.prompt, better, text))
    return pairs


def length_pairs(problems: Sequence[Problem], drawn: Sequence[Sequence[str]], most: int) -> list[Pair]:
    """The shortest right thought of a problem with its longest right one."""
    pairs = []
    for problem, texts in zip(problems, drawn, strict=True):
        right = sorted((text for text in texts if TASK.verify(problem, text)), key=len)
        if right and len(right[0]) < len(right[-1]):
            pairs.append((problem.prompt, right[0], right[-1]))
    return pairs[:most]


def pair_rows(pairs: Sequence[Pair]) -> imitation.Rows:
    """Two rows each: tokens [n, 2, seq + 1], weights [n, 2, seq]."""
    both = [(prompt, [(text, True)]) for prompt, *texts in pairs for text in texts]
    return {name: x.reshape(len(pairs), 2, -1) for name, x in imitation.rows_of(TOKENS, SEQ, both).items()}


def judged(writer: imitation.Writer, params: Any, problems: int) -> dict[str, float]:
    """Of held-out problems; slips: results taken back in a thought."""
    asked = TASK.generate(1, problems, "test")
    drawn = writer.write(params, [p.prompt for p in asked], 2, 1)
    every = [(TASK.verify(p, text), len(text), text.count("~")) for p, texts in zip(asked, drawn) for text in texts]
    return dict(zip(("success", "tokens", "slips"), np.mean(every, 0).tolist(), strict=True))


def one(work: Workspace, seed: int) -> dict:
    """A policy before and after either preference."""
    steps, tuned, asked, problems = (3, 2, 12, 12) if work.quick else (900, 40, 48, 150)
    base = imitation.Learner(MODEL, imitation.imitated(steps, SEQ, rate=4e-3, optimizer="adamw"))
    tune = imitation.Learner(MODEL, preferred(tuned))
    start = base.learn(imitation.rows_of(TOKENS, SEQ, imitable(seed, EXAMPLES)), seed)
    writer, posed = imitation.Writer(MODEL, start, TOKENS, SEQ), TASK.generate(7 + seed, asked)
    drawn = writer.write(start, [p.prompt for p in posed], DRAWN, seed)
    texts = [thoughts[0] for thoughts in drawn]
    better = splice_pairs(writer, start, posed, texts, seed + 1)
    shorter = length_pairs(posed, drawn, len(better))
    found: dict[str, Any] = {"before": judged(writer, start, problems)}
    right = {p.prompt: TASK.verify(p, text) for p, text in zip(posed, texts, strict=True)}
    found["pairs"] = {
        "spliced": len(better), "of wrong thoughts": sum(not right[prompt] for prompt, *_ in better),
        "wrong thoughts": sum(not fine for fine in right.values()), "shorter": len(shorter),
        "share of tokens that went": 1 - sum(len(b) for _, b, _ in better) / max(sum(len(w) for *_, w in better), 1),
    }  # fmt: skip
    for name, pairs in (("spliced", better), ("shorter", shorter)):
        after = tune.learn(pair_rows(pairs), seed, start) if pairs else start
        found[name] = judged(writer, after, problems)
    return found | {"flops": base.flops + 2 * tune.flops + writer.flops}


def run(work: Workspace) -> Measured:
    every = []
    for seed in range(2) if work.quick else SEEDS:
        work.say(f"seed {seed}: thinks, splices, prefers")
        every.append(work.keep(f"seed{seed}", partial(one, work, seed)))
    value = {name: {key: np.array([x[name][key] for x in every]) for key in ("success", "tokens")}
             for name in ("before", "spliced", "shorter")}  # fmt: skip
    saved = {name: 1 - value[name]["tokens"] / value["before"]["tokens"] for name in ("spliced", "shorter")}
    gain = {name: value[name]["success"] - value["before"]["success"] for name in ("spliced", "shorter")}
    effect, interval = least([saved["spliced"] / SAVED, gain["spliced"] / GAIN])
    above = gain["spliced"] - gain["shorter"]
    details = {
        "seeds": every, "tokens saved": {name: x.tolist() for name, x in saved.items()},
        "success gained": {name: x.tolist() for name, x in gain.items()},
        "success above the control": {"mean": float(above.mean()), "interval": t_interval(above)},
    }  # fmt: skip
    return Measured(effect, interval, sum(x["flops"] for x in every), details)
