"""What several reproductions share: two small policies that think in steps, and what they write on held-out problems.

Both are of width 64 and read chains of 2 to 4 operations modulo 5 (scaling/tasks/reasoned.py): a thought is whole, ends
early or is none, and holds results that were taken back. The weak one is a branch of the strong one's training,
whose length was settled so that it lies between chance and certainty: two thirds of its thoughts are right, and 97 % of
the strong one's. Two minutes on one core.

This pair is the fourth. Three earlier ones were trained and discarded before it was fixed: two learned from slips of
20 % and of 40 % in chains of other numbers of operations, and one was trained for too few steps.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from models.presets import ladder
from scaling import kept
from scaling.data import DataConfig, Source
from scaling.reproduction import Workspace
from scaling.sweep.config import SweepConfig
from scaling.tasks import CharTokenizer, Problem, task_by_name
from scaling.tasks.reasoned import EARLY
from scaling.train.config import TrainConfig
from search.config import SearchConfig
from search.decoder import TransformerDecoder
from search.engine.config import EngineConfig
from search.engine.engine import Engine
from search.engine.request import Request
from search.engine.sampling import Sampling
from search.policy import Policy, load_policy
from search.searcher import Searcher, SearchProblem
from search.strategies.strategy import Strategy
from search.verifiers.scorer import LikelihoodScorer

TASK = "reasoned:modulus=5,operations=2/3/4"
STEPS = {"weak": 500, "strong": 900}
SAMPLES = 20  # thoughts on each problem
ROOM, ANSWER_TOKENS = 80, 3  # tokens of a completion, at most; of an answer with the mark before it and the end


def plan(quick: bool = False) -> SweepConfig:
    """The sweep that trains them, or one of seconds."""
    return SweepConfig(
        name="thinkers",
        model=ladder(64, vocab_size=CharTokenizer.of(task_by_name(TASK)).vocab_size, n_layers=2),
        data=DataConfig(
            mixture=(Source(source="task", path=f"{TASK},examples={2000 if quick else 30_000}"),),
            tokenizer="characters", packing="segments", loss_mask="completion",
        ),
        train=TrainConfig(
            batch_size=16, seq_len=128, learning_rate=0.005, schedule="wsd", warmup_steps=20, final_learning_rate=0.0,
            eval_sequences=64, log_every=50, checkpoint_every=1000, optimizer="muon", weight_decay=0.0,
        ),
        points=tuple({"train.steps": steps // 100 if quick else steps} for steps in STEPS.values()),
    )  # fmt: skip


def thinkers(work: Workspace) -> dict[str, Path]:
    """The directory of each policy, by its name."""
    name = "thinkers_quick" if work.quick else "thinkers"
    table = work.sweep(plan(work.quick), name, shared=True).sort_values("steps")
    folders = (work.shared / "sweeps" / name / "trials" / trial for trial in table["trial"])
    return dict(zip(STEPS, folders, strict=True))


def posed(work: Workspace) -> list[Problem]:
    """The held-out problems that all of them are asked."""
    return task_by_name(TASK).generate(0, 24 if work.quick else 500, "test")


def write(
    policy: Policy,
    prompts: Sequence[str],
    samples: int,
    sampling: Sampling,
    most: int = ROOM,
    context: int = 128,
    seed: int = 0,
) -> list[list[tuple[str, int, float]]]:
    """(text, tokens, mean probability of a token) of every sample of every prompt, the same for the same arguments."""
    ends = (policy.continuation(".")[0], *policy.ends)
    asked = [tuple(int(t) for t in policy.tokenizer.encode(prompt)) for prompt in prompts]
    engine = Engine(policy.model, policy.params, EngineConfig(slots=256, max_len=context, page_size=32, ends=ends))
    found: list[list] = [[None] * samples for _ in prompts]
    for one in engine.generate(Request(i, row, samples, most, sampling, seed=seed) for i, row in enumerate(asked)):
        mean = sum(one.logprobs) / len(one.logprobs)
        text = policy.text(asked[one.problem], one.tokens)
        found[one.problem][one.sample] = (text, one.generated_tokens, float(np.exp(mean)))
    return found


def thinking(policy: Policy, temperature: float = 1.0, top_p: float = 1.0) -> Sampling:
    """Thoughts that do not end early."""
    return Sampling(temperature, top_p=top_p, logit_bias=((policy.continuation(EARLY)[0], -np.inf),))


def answering(policy: Policy) -> Sampling:
    """An answer at once."""
    return Sampling(forced=policy.continuation(EARLY))


def answers(work: Workspace, name: str, samples: int = 64) -> pd.DataFrame:
    """What a policy answers at once; as `thoughts`, and not kept: it takes seconds."""
    policy, problems = load_policy(thinkers(work)[name]), posed(work)
    prompts = [problem.prompt for problem in problems]
    return _judged(problems, write(policy, prompts, samples, answering(policy), ANSWER_TOKENS))


def thoughts(
    work: Workspace, name: str, samples: int = SAMPLES, temperature: float = 1.0, top_p: float = 1.0
) -> pd.DataFrame:
    """What a policy writes when it thinks, drawn by whichever reproduction comes first: problem, level, sample, text,
    correct, answer, score, generated_tokens; the problems are `posed`."""
    file = work.shared / "thoughts" / f"{name}_{samples}_{temperature}_{top_p}{'_quick' * work.quick}.json"
    policies, problems = thinkers(work), posed(work)
    if not file.exists():
        work.say(f"the {name} policy writes {samples} thoughts on each of {len(problems)} problems")
        policy = load_policy(policies[name])
        rows = write(policy, [p.prompt for p in problems], samples, thinking(policy, temperature, top_p))
        kept.write_atomically(file, json.dumps(kept.sealed({"rows": rows})))
    rows = kept.opened(kept.read(file, {"rows": [[[(str, int, float)]]]}), file)["rows"]
    return _judged(problems, rows)


def searched(
    work: Workspace, name: str, strategy: Strategy, temperature: float = 1.0, top_p: float = 1.0
) -> list[float]:
    """Whether a search by the policy's own likelihood ends right, of every problem."""
    policy, problems, task = load_policy(thinkers(work)[name]), posed(work), task_by_name(TASK)
    prompts = [tuple(int(t) for t in policy.tokenizer.encode(problem.prompt)) for problem in problems]
    step, end = (policy.continuation(mark)[0] for mark in "|.")
    config = SearchConfig(
        problems=32, prompt_len=max(map(len, prompts)), max_tokens=ROOM, max_steps=8, max_rounds=10,
        delimiters=(step,), ends=(end, *policy.ends), sampling=thinking(policy, temperature, top_p),
    )  # fmt: skip
    decoder = TransformerDecoder(policy.model, policy.params, config.prompt_len)
    right = np.zeros(len(problems))
    search = Searcher(decoder, strategy, config, LikelihoodScorer())
    for found in search.run(SearchProblem(i, prompt) for i, prompt in enumerate(prompts)):
        i = found.problem.number
        text = "" if found.answer is None else policy.text(prompts[i], found.answer)
        right[i] = task.verify(problems[i], text)
    return right.tolist()


def cut_answers(work: Workspace, name: str, table: pd.DataFrame, budget: int, most: int = 8) -> np.ndarray:
    """Whether the answer is right when thoughts are forced to end within `budget` tokens, `[problems, samples]`.

    table: of `thoughts`, of which the first `most` samples of each problem are taken. One that goes on is cut after its
    last closed step that leaves room for an answer.
    """
    policy, problems, task = load_policy(thinkers(work)[name]), posed(work), task_by_name(TASK)
    room = budget - ANSWER_TOKENS
    kept_text = [
        (i, text if tokens <= budget else text[: text.rfind("|", 0, room) + 1])
        for i, text, tokens in table[table["sample"] < most][["problem", "text", "generated_tokens"]].itertuples(False)
    ]
    asked = sorted({(i, text) for i, text in kept_text if not text.endswith(".")})
    prompts = [problems[i].prompt + text for i, text in asked]
    said = write(policy, prompts, 1, answering(policy), ANSWER_TOKENS)
    ends = {pair: one[0][0] for pair, one in zip(asked, said, strict=True)}
    right = [task.verify(problems[i], text + ends.get((i, text), "")) for i, text in kept_text]
    return np.array(right, float).reshape(len(problems), -1)


def _judged(problems: Sequence[Problem], rows: Sequence[Sequence[tuple[str, int, float]]]) -> pd.DataFrame:
    """One row per sample."""
    task = task_by_name(TASK)
    return pd.DataFrame([
        dict(problem=i, level=task.level(problem), sample=j, text=text, correct=float(task.verify(problem, text)),
             answer=task.answer(text), score=score, generated_tokens=tokens)
        for i, problem in enumerate(problems) for j, (text, tokens, score) in enumerate(rows[i])
    ])  # fmt: skip
