"""Test items that fell into the training text inflate their own score, not that of their twins; n-grams find them.

    python -m launch.reproduce benchmark_leak --workdir runs/reproductions/benchmark_leak

Five minutes on one core: five models of 0.1M parameters on remainders of four-digit numbers, which they cannot compute.
"""

import json
from pathlib import Path

import numpy as np

from models.presets import ladder
from scaling.data import DataConfig
from scaling.evaluate.evaluate import evaluate
from scaling.evaluate.item import Item
from scaling.evaluate.measures.leakage import Overlap, planted_corpus, recall_and_precision
from scaling.evaluate.suites import suite
from scaling.evaluate.trials import trial_subject
from scaling.reproduction import Measured, Reproduction, Workspace, bootstrap_interval
from scaling.sweep.config import SweepConfig, Value
from scaling.tasks import task_by_name
from scaling.train.config import TrainConfig

TASK = "arithmetic:operation=mod,digits=4,other_digits=2"
CONDITIONS = ((0.0, 0), (1.0, 64), (1.0, 256))  # share of the leaked half, repeats
CONTROL, MAIN = CONDITIONS[0], CONDITIONS[2]
CHARACTERS = 8  # of an n-gram: a question


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="benchmark_leak",
        methods=(145,),
        claim="Items of a benchmark that were in the training text 256 times score higher than their twins that were "
        "not, beyond a model that saw neither",
        source="Zhou et al. 2023, arXiv:2311.01964",
        smallest_effect=0.05,
        unit="accuracy of leaked items less that of their twins, less the same of a clean model",
        minutes=5,
        not_covered="models of use and their benchmarks; leaks in other words, or read once (small models need many "
        "repeats); the loss of other skills after training on a benchmark; the dose (256 repeats) was raised after "
        "32 and 64 repeats left the interval on both sides",
        simulated=False,
        run=run,
        sweeps=lambda quick: [plan(Path("corpora"), quick)],
    )


def plan(folder: Path, quick: bool) -> SweepConfig:
    steps = 20 if quick else 1200
    conditions = (CONTROL, MAIN) if quick else CONDITIONS
    points: list[dict[str, Value]] = [
        {"data.path": str(folder / corpus(*condition)), "train.seed": 0} for condition in conditions
    ]
    points += [{"data.path": str(folder / corpus(*one)), "train.seed": 1} for one in (CONTROL, MAIN)]
    return SweepConfig(
        name="benchmark_leak",
        model=ladder(64, n_layers=2, vocab_size=256),
        data=DataConfig(source="jsonl", path=str(folder / corpus(*CONTROL)), heldout_fraction=0.02),
        train=TrainConfig(steps=steps, batch_size=16, seq_len=64, learning_rate=0.01, final_learning_rate=0.0,
                          eval_sequences=32, checkpoint_every=1000),
        points=tuple(points),
    )  # fmt: skip


def corpus(share: float, repeats: int) -> str:
    return f"leak-{share:g}-{repeats}.jsonl"


def run(work: Workspace) -> Measured:
    items = suite(f"choice.{TASK},items={40 if work.quick else 200}")
    half = len(items) // 2  # the first half may leak, the second are its twins
    solved = [item.prompt + item.choices[item.gold[0]] for item in items]  # type: ignore[index]
    task, rng = task_by_name(TASK), np.random.default_rng(0)
    training = [p.prompt + task.solution(p, rng) for p in task.generate(5, 1500 if work.quick else 70_000)]
    folder, found = work.folder / "corpora", {}
    folder.mkdir(exist_ok=True)
    for share, repeats in CONDITIONS:
        documents = planted_corpus(training, solved[: round(share * half)], repeats)
        (folder / corpus(share, repeats)).write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
        planted = np.arange(len(items)) < round(share * half) * (repeats > 0)
        flagged = Overlap.of(documents, CHARACTERS, characters=True).flagged(solved, least=0.99)
        found[corpus(share, repeats)] = recall_and_precision(flagged, planted)
    table = work.sweep(plan(folder, work.quick), "leaks")
    right = work.keep("right", lambda: scores(work, table["trial"].tolist(), items))
    names = [Path(json.loads(config)["data"]["path"]).name for config in table["config"]]
    by_corpus = {name: np.mean([right[t] for t, n in zip(table["trial"], names, strict=True) if n == name], axis=0)
                 for name in set(names)}  # fmt: skip
    main, clean = by_corpus[corpus(*MAIN)], by_corpus[corpus(*CONTROL)]
    gains = np.stack([main[:half] - clean[:half], main[half:] - clean[half:]], axis=1)  # pairs of a leaked and a twin

    def effect(pairs: np.ndarray) -> float:
        return float(pairs[:, 0].mean() - pairs[:, 1].mean())

    details = {
        "gap by corpus": {name: float(one[: round(float(name.split("-")[1]) * half) or half].mean() - one[half:].mean())
                          for name, one in sorted(by_corpus.items())},
        "accuracy of the twins": {name: float(one[half:].mean()) for name, one in sorted(by_corpus.items())},
        "recall and precision of the checker": {name: [None if np.isnan(x) else x for x in pair]
                                                for name, pair in found.items()},
    }  # fmt: skip
    return Measured(effect(gains), bootstrap_interval(gains, effect), float(table["flops"].sum()), details)


def scores(work: Workspace, trials: list[str], items: tuple[Item, ...]) -> dict[str, list[float]]:
    """Trial -> whether it is right, for each item."""
    found = {}
    for trial in trials:
        subject, _ = trial_subject(work.folder / "sweeps" / "leaks" / "trials" / trial)
        found[trial] = [float(row["correct"]) for row in evaluate(subject, items)]
    return found
