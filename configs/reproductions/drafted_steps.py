"""A small policy drafts steps, a larger one rates each in one pass and writes those anew that it does not trust.

    python -m launch.reproduce drafted_steps --workdir runs/reproductions/drafted_steps

The two policies are shared with small_search and sleep_time.
"""

from functools import partial

import numpy as np

from configs.reproductions._chains import ROOM, TASK, plan, posed, reckoners, said
from models import counts
from scaling.reproduction import Measured, Reproduction, Workspace, bootstrap_interval
from scaling.tasks import task_by_name
from search.config import SearchConfig
from search.decoder import TransformerDecoder, ValueHead
from search.engine.sampling import Sampling
from search.policy import Policy
from search.searcher import Searcher, SearchProblem
from search.strategies.step_speculation import PairedDecoder, step_speculation
from search.verifiers.learned import Judged, fit_verifier
from search.verifiers.scorer import ValueScorer

THRESHOLDS = (0.3, 0.5, 0.7, 0.9)
CHOSEN = 0.7  # the published one, on a scale to 1
FASTER, LOSS = 1.3, 0.02
TAUGHT = 200  # training problems of the larger policy's value head, 8 samples each


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="drafted_steps",
        methods=(177,),
        claim="Steps that a small policy drafts and a larger one rates by one pass take at most 1/1.3 of the larger "
        "one's time, at accuracy within two points of its own",
        source="Pan et al. 2025, SpecReason, arXiv:2504.07891",
        smallest_effect=0.0,
        unit="the lesser of: time of the larger policy alone over that with drafts, less 1.3; accuracy with drafts "
        "less without, plus 0.02; at a threshold of 0.7",
        minutes=8,
        not_covered="language models, and clocks: time is counted in passes of the larger policy, one for each of its "
        "tokens and for each rating, a small one's token costing its share of the parameters. A rating is a value "
        "head's, fitted to the larger policy's own samples, instead of a digit that it writes. Both write greedily",
        simulated=False,
        run=run,
        sweeps=lambda quick: (plan(quick),),
    )


def value_head(work: Workspace, policy: Policy) -> ValueHead:
    """What the larger policy's hidden state says of a step: fitted to whether its own samples end right."""
    task = task_by_name(TASK)
    problems = task.generate(1, 16 if work.quick else TAUGHT, "train")
    marks, judged = {policy.continuation(mark)[0] for mark in (task.delimiter, task.end)}, []
    for problem, row in zip(problems, said(policy, [problem.prompt for problem in problems], 8)):
        prompt = tuple(map(int, policy.tokenizer.encode(problem.prompt)))
        for text, _, _ in row:
            tokens = tuple(map(int, policy.tokenizer.encode(text)))
            ends = tuple(i + 1 for i, token in enumerate(tokens) if token in marks)
            judged.append(Judged(prompt, tokens, float(task.verify(problem, text)), ends, list))
    head = fit_verifier("value", policy.model, policy.params, judged, max(len(j.prompt) for j in judged) + ROOM).head
    assert head is not None
    return head


def drafted(work: Workspace) -> dict:
    """Of every problem: right and tokens of the larger policy alone; and by threshold right, tokens that the small one
    wrote, tokens that the larger one wrote instead, ratings."""
    policies, problems, task = reckoners(work), posed(work), task_by_name(TASK)
    small, large = policies["small"], policies["large"]
    prompts = [tuple(map(int, large.tokenizer.encode(problem.prompt))) for problem in problems]
    step, end = (large.continuation(mark)[0] for mark in (task.delimiter, task.end))
    config = SearchConfig(
        problems=32, prompt_len=max(map(len, prompts)), max_tokens=ROOM, max_steps=16, max_rounds=40,
        delimiters=(step,), ends=(end, *large.ends), sampling=Sampling(0.0),
    )  # fmt: skip
    head = value_head(work, large)
    decoder = PairedDecoder(
        TransformerDecoder(small.model, small.params, config.prompt_len),
        TransformerDecoder(large.model, large.params, config.prompt_len, head=head),
    )
    found: dict = {"alone": [
        [float(task.verify(problem, text)), float(tokens)]
        for problem, ((text, tokens, _),) in zip(problems, said(large, [p.prompt for p in problems], 1, 0.0))
    ]}  # fmt: skip
    for threshold in THRESHOLDS:
        search = Searcher(decoder, step_speculation(1, threshold), config, ValueScorer())
        rows = [[0.0] * 4 for _ in problems]
        for one in search.run(SearchProblem(i, prompt) for i, prompt in enumerate(prompts)):
            i, report, cost = one.problem.number, one.report, one.cost
            text = "" if one.answer is None else large.text(prompts[i], one.answer)
            again, ratings = float(cost.discarded_tokens), float(report["drafts"])
            rows[i] = [float(task.verify(problems[i], text)), cost.generated_tokens - again, again, ratings]
        found[str(threshold)] = rows
    return found


def run(work: Workspace) -> Measured:
    found = work.keep("drafted", partial(drafted, work))
    small, large = (counts.params(trial.model) for trial in plan(work.quick).trials())
    cheap, alone = small / large, np.array(found["alone"])

    def both(threshold: float) -> np.ndarray:
        """Of every problem: right alone, time alone, right with drafts, time with drafts."""
        right, written, again, ratings = np.array(found[str(threshold)]).T
        return np.column_stack([alone, right, cheap * written + again + ratings])

    def parts(rows: np.ndarray) -> list[float]:
        right, time, drafted_right, drafted_time = rows.mean(0)
        return [float(time / max(drafted_time, 1e-9)) - FASTER, float(drafted_right - right) + LOSS]

    def effect(rows: np.ndarray) -> float:
        return min(parts(rows))

    rows = {threshold: both(threshold) for threshold in THRESHOLDS}
    x = [float(r[:, 3].mean()) for r in rows.values()]
    lines = {"drafts, rated": {"x": x, "y": [float(r[:, 2].mean()) for r in rows.values()]},
             "larger alone": {"x": [float(alone[:, 1].mean())], "y": [float(alone[:, 0].mean())]}}  # fmt: skip
    details = {
        "curves": [{"x": "passes of the larger policy, a problem", "y": "accuracy", "log": "", "lines": lines}],
        "parts by threshold": {str(threshold): parts(r) for threshold, r in rows.items()},
        "a small token's cost": cheap,
        "share of tokens written anew": {t: float(np.array(r)[:, 2].sum() / np.array(r)[:, 1:3].sum())
                                         for t, r in found.items() if t != "alone"},
    }  # fmt: skip
    chosen = rows[CHOSEN]
    spent = sum(trial.flops for trial in plan(work.quick).trials())
    return Measured(effect(chosen), bootstrap_interval(chosen, effect), float(spent), details)
