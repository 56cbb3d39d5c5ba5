"""At growing lengths a thought is made to take back its last result and go on, against more thoughts for the tokens.

    python -m launch.reproduce second_looks --workdir runs/reproductions/second_looks

The weak thinker is shared with other reproductions. A forced look makes thoughts worse: a third of them are right on
hard problems, and nearly half of plain ones.
"""

from functools import partial

import numpy as np

from configs.reproductions._policy import ROOM, TASK, plan, thinkers, thinking, write
from scaling.reproduction import Measured, Reproduction, Workspace, bootstrap_interval
from scaling.tasks import Problem, task_by_name
from scaling.tasks.reasoned import AGAIN
from search.config import SearchConfig
from search.decoder import TransformerDecoder
from search.metrics import Samples
from search.metrics.selection import best_of_k, vote_values
from search.policy import Policy, load_policy
from search.searcher import Searcher, SearchProblem
from search.strategies.deepening import iterative_deepening
from search.verifiers.scorer import LikelihoodScorer

FIRST, GROWTH = 8, 2.0  # budgets in tokens, of thoughts of some thirty
SORTED, LOOKS, PLAIN = 6, 8, 12  # samples that sort problems; with triggers; and without
K, COMPARED = np.arange(1, LOOKS + 1), 4


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="second_looks",
        methods=(53,),
        claim="On hard problems, thoughts that are made to look again at growing budgets, the best of 4 taken, are "
        "right more often than the best of as many tokens of plain thoughts",
        source="Chen et al. 2025, Iterative deepening sampling as efficient test-time scaling, arXiv:2502.05449",
        smallest_effect=0.02,
        unit="accuracy on the third of the problems that is hardest for the policy",
        minutes=8,
        not_covered="language models, and triggers in words: the mark that takes a result back is written in the place "
        "of the end of a step, at budgets of 8, 16 and 32 tokens, and earlier steps stay. Samples are scored by the "
        "policy's own likelihood; a vote is in the details. The policy was not taught to mend what is wrong: in what "
        "it learned from, results are taken back at random, and more often in some chains than in others",
        simulated=False,
        run=run,
        sweeps=lambda quick: (plan(quick),),
    )


def looked(policy: Policy, problems: list[Problem]) -> list[list[tuple[str, int, float]]]:
    """(text, tokens, score) of every thought with triggers, of every problem."""
    prompts = [tuple(int(t) for t in policy.tokenizer.encode(problem.prompt)) for problem in problems]
    step, end, again = (policy.continuation(mark)[0] for mark in ("|", ".", AGAIN))
    config = SearchConfig(
        problems=32, prompt_len=max(map(len, prompts)), max_tokens=ROOM, max_steps=ROOM, max_rounds=2,
        ends=(end, *policy.ends), sampling=thinking(policy), seed=2,
    )  # fmt: skip
    strategy = iterative_deepening(LOOKS, (again,), ROOM, first=FIRST, growth=GROWTH, instead=step)
    search = Searcher(TransformerDecoder(policy.model, policy.params, config.prompt_len), strategy, config,
                      LikelihoodScorer())  # fmt: skip
    rows: list[list[tuple[str, int, float]]] = [[] for _ in problems]
    for found in search.run(SearchProblem(i, prompt) for i, prompt in enumerate(prompts)):
        i = found.problem.number
        rows[i] = [(policy.text(prompts[i], c.tokens), len(c.tokens), c.score) for c in found.candidates]
    return rows


def compared(work: Workspace) -> dict:
    """Of every hard problem: right, score, tokens and answer of the samples of both kinds."""
    policy, task = load_policy(thinkers(work)["weak"]), task_by_name(TASK)
    posed = list({p.prompt: p for p in task.generate(4, 32 if work.quick else 1500, "test")}.values())
    prompts = [problem.prompt for problem in posed]
    first = write(policy, prompts, SORTED, thinking(policy), seed=3)
    rate = np.array([np.mean([task.verify(p, text) for text, _, _ in row]) for p, row in zip(posed, first)])
    hard = [posed[i] for i in np.argsort(rate, kind="stable")[: len(posed) // 3]]
    work.say(f"{len(hard)} of {len(posed)} problems are hard: {np.sort(rate)[: len(hard)].mean():.2f} of six are right")
    both = {"looks": looked(policy, hard),
            "plain": write(policy, [p.prompt for p in hard], PLAIN, thinking(policy), seed=1)}  # fmt: skip
    work.say(f"such as {both['looks'][0][:4]}")
    return {
        name: {
            "correct": [[float(task.verify(p, one[0])) for one in row] for p, row in zip(hard, rows, strict=True)],
            "tokens": [[float(one[1]) for one in row] for row in rows],
            "score": [[float(one[2]) for one in row] for row in rows],
            "answer": [[task.answer(one[0]) for one in row] for row in rows],
        }
        for name, rows in both.items()
    } | {"looks at a thought": float(np.mean([one[0].count(AGAIN) for row in both["looks"] for one in row]))}


def run(work: Workspace) -> Measured:
    found = work.keep("compared", partial(compared, work))
    samples = {name: Samples.of(each["correct"], each["score"], each["answer"])
               for name, each in found.items() if isinstance(each, dict)}  # fmt: skip
    tokens = {name: float(np.mean(found[name]["tokens"])) for name in samples}
    equal = np.minimum(K * tokens["looks"] / tokens["plain"], PLAIN)  # plain thoughts for the same tokens
    every = np.arange(1, PLAIN + 1)

    def best(name: str, k: np.ndarray) -> np.ndarray:
        one = samples[name]
        return np.array([best_of_k(c, s, k) for c, s in zip(one.correct, one.scores or (), strict=True)])

    def paired(looks: np.ndarray, plain: np.ndarray) -> np.ndarray:
        """Accuracy of every problem with K samples that look again, and with plain ones of as many tokens."""
        return np.stack([looks, [np.interp(equal, every, row) for row in plain]], 1)

    by = {
        "best of N": paired(best("looks", K), best("plain", every)),
        "vote": paired(vote_values(samples["looks"], K, False, 200)[0],
                       vote_values(samples["plain"], every, False, 200)[0]),
    }  # fmt: skip

    def lead(rows: np.ndarray) -> float:
        looks, plain = rows.mean(0)[:, K.tolist().index(COMPARED)]
        return float(looks - plain)

    x = (K * tokens["looks"]).tolist()
    lines = {f"{name}, {kind}": {"x": x, "y": rows.mean(0)[j].tolist()}
             for name, rows in by.items() for j, kind in enumerate(("with looks", "plain"))}  # fmt: skip
    details = {
        "curves": [{"x": "tokens of a problem", "y": "accuracy on hard problems", "log": "x", "lines": lines}],
        "lead with 4, and its interval": {n: [lead(rows), *bootstrap_interval(rows, lead)] for n, rows in by.items()},
        "one sample right": {name: float(np.mean(found[name]["correct"])) for name in samples},
        "tokens of a sample": tokens,
        "results taken back in a thought with looks": found["looks at a thought"],
        "hard problems": len(by["vote"]),
    }  # fmt: skip
    flops = sum(trial.flops for trial in plan(work.quick).trials())
    return Measured(lead(by["best of N"]), bootstrap_interval(by["best of N"], lead), float(flops), details)
