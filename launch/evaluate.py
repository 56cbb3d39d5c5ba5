"""Evaluate a model on benchmarks: one row per item, and a summary with intervals over items.

    python -m launch.evaluate --checkpoint runs/x/trials/0123456789ab --tasks choice.modular,trap.phrase --out scores/x

--tasks names forms of our own tasks (choice, cloze, generate, ordering, numeric, trap; knobs after a colon:
choice.modular:operations=4,items=500,shots=2) or .jsonl files of items. --steps 100,200 (or all) evaluates several
checkpoints of a trial. --out gets items.parquet, summary.csv and manifest.json. Run the same command again after a
crash and it goes on where it stopped; run it in a second terminal and both work on it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch import cli

if TYPE_CHECKING:
    from launch.evaluations import Evaluation
    from scaling.evaluate.item import Item
    from search.policy import Policy

FLAGS = cli.new_flags()
cli.DEFINE_string("checkpoint", None, "a trial's directory, or a Hugging Face folder", flag_values=FLAGS, required=True)
cli.DEFINE_string("tasks", None, "suites, or .jsonl files of items, comma-separated", flag_values=FLAGS, required=True)
cli.DEFINE_string("out", None, "directory of the scores: made, or continued", flag_values=FLAGS, required=True)
cli.DEFINE_string("steps", None, "checkpoints of a trial: 100,200 or all (default: the newest)", flag_values=FLAGS)
cli.DEFINE_bool("chat", False, "ask as a conversation, by the checkpoint's chat template", flag_values=FLAGS)
cli.DEFINE_integer("max_tokens", 64, "of a generated answer", flag_values=FLAGS)
cli.DEFINE_float("interval", 0.9, "level of the intervals over items", flag_values=FLAGS)

POLL_S = 0.5
SAVED = 75  # exit code after SIGTERM, with everything kept (EX_TEMPFAIL)
SHOWN = ("accuracy", "kendall_tau", "exact_match", "brier", "gold_bits_per_byte")


def main(
    checkpoint: str, tasks: str, out: str, steps: str | None, chat: bool, max_tokens: int, interval: float, **_: Any
) -> int:
    from launch.evaluations import Evaluation
    from launch.stop import StopRequest
    from models.errors import require
    from scaling.evaluate.suites import split_names, suite
    from scaling.fitting.fitted import check_level

    check_level(interval, "--interval")
    require(1 <= max_tokens <= 2**20, "--max_tokens", f"is {max_tokens}", "give 1 or more")
    suites: dict[str, Sequence[Item]] = {name: suite(name) for name in split_names(tasks)}
    policies = Policies(checkpoint)
    models = {step: policies.at(step).digest for step in chosen_steps(checkpoint, steps)}
    settings = {"chat": chat, "max_tokens": max_tokens}
    evaluation = Evaluation.open(Path(out), checkpoint, models, suites, settings)
    stop = StopRequest()
    with evaluation.presence() as presence:
        while not evaluation.is_finished() and not stop():
            for index in range(len(evaluation.cells)):
                if stop():
                    break
                if not evaluation.is_done(index) and presence.claim(str(index)):
                    if not evaluation.is_done(index):
                        measure(evaluation, index, policies.at(evaluation.cells[index].step), chat, max_tokens)
                    presence.check()
                    presence.release(str(index))
            if not stop() and not evaluation.is_finished() and presence.claim("finish"):
                evaluation.finish(interval)
                presence.release("finish")
            if not evaluation.is_finished() and not stop():
                time.sleep(POLL_S)  # other processes hold what is left; take over when one of them dies
    if not evaluation.is_finished():
        return SAVED
    return conclude(evaluation)


class Policies:
    """The policies of a checkpoint's steps, of which one is held in memory."""

    def __init__(self, checkpoint: str) -> None:
        self.checkpoint = checkpoint
        self.held: tuple[int | None, Policy] | None = None

    def at(self, step: int | None) -> Policy:
        """The policy of a step."""
        from search.policy import load_policy

        if self.held is None or self.held[0] != step:
            self.held = None
            self.held = step, load_policy(self.checkpoint, step=step)
        return self.held[1]


def chosen_steps(checkpoint: str, steps: str | None) -> list[int | None]:
    """The steps to evaluate, ascending; [None] is the newest, or what a Hugging Face model has instead.

    Raises:
      ConfigError: no whole numbers, or `all` of something that has no checkpoints.
    """
    from models.errors import require

    if steps is None:
        return [None]
    folder = Path(checkpoint) / "checkpoints"
    problem = f"{checkpoint} has no checkpoints"
    require(folder.is_dir(), "--steps", problem, "leave --steps out, or give a trial's directory")
    found = sorted(int(p.name) for p in folder.iterdir() if p.name.isdecimal() and p.is_dir())
    if steps == "all":
        require(bool(found), "--steps", problem, "train it first")
        return list(found)
    asked = [part.strip() for part in steps.split(",") if part.strip()]
    require(bool(asked) and all(part.isdecimal() for part in asked), "--steps", f"is {steps!r}", "give 100,200 or all")
    missing = [part for part in asked if int(part) not in found]
    listed = ", ".join(map(str, found)) or "none"
    require(not missing, "--steps", f"{checkpoint} has no step {', '.join(missing)}", f"choose from {listed}")
    return [*sorted({int(part) for part in asked})]


def measure(evaluation: Evaluation, index: int, policy: Policy, chat: bool, max_tokens: int) -> None:
    """Measure the items of one cell and keep their rows."""
    from launch.evaluations import MODEL_COLUMNS
    from scaling.evaluate.evaluate import evaluate, table
    from scaling.evaluate.grading import after_marker, whole
    from scaling.evaluate.suites import verifier
    from search.answers import subject

    cell, name = evaluation.cells[index], evaluation.names[evaluation.cells[index].suite]
    items = evaluation.items(index)
    own, shown = name.endswith(".jsonl"), subject(policy, chat)
    generate = None
    if any(item.format not in ("choice", "cloze") for item in items):
        longest = max(len(shown.reader.question(item)[0]) for item in items)
        generate = generator(policy, longest, max_tokens)
    extract, verify = (after_marker, None) if own else (whole, verifier(name))
    rows = evaluate(shown, items, generate, verify, extract)
    facts = model_facts(policy, cell.step)
    evaluation.write(index, table([facts | row for row in rows], MODEL_COLUMNS))


def generator(policy: Policy, longest: int, max_tokens: int) -> Any:
    """Greedy answers to contexts of up to `longest` tokens, from an engine that fits them; the newest is kept."""
    from search.answers import GreedyAnswers, engine_config

    config = engine_config(policy, longest, max_tokens)
    key = f"{policy.digest} {config.max_len}"
    if key not in _ENGINES:
        _ENGINES.clear()
        _ENGINES[key] = GreedyAnswers(policy, config, max_tokens)
    return _ENGINES[key]


_ENGINES: dict[str, Any] = {}  # digest of the policy and size -> its answers; one is held


def model_facts(policy: Policy, step: int | None) -> dict[str, Any]:
    """Which model a row is of: trial, step, seed, parameters and training tokens, as far as it has them.

    Of a policy that practised: the run's trial, its updates and the tokens of these.
    """
    from models import counts
    from models.serialize import from_json
    from scaling import kept
    from scaling.sweep.trial import Trial
    from search.posttrain.config import posttrained

    run = posttrained(policy.source)
    facts: dict[str, Any] = {"params": counts.params(policy.model)} | ({} if run is None else {"trial": run.name})
    if policy.context is not None:
        return facts
    trial = from_json(Trial, kept.read(Path(policy.source) / "config.json", dict))
    done = trial.train.steps if step is None else step
    return {"trial": trial.id, "step": done, "seed": trial.train.seed,
            "tokens": done * trial.train.tokens_per_step} | facts  # fmt: skip


def conclude(evaluation: Evaluation) -> int:
    """Verify what was written and print its essence."""
    from models.errors import printable

    table, manifest = evaluation.verify()
    for line in table[table["metric"].isin(SHOWN)].itertuples():
        step = f"step {line.step:g}  " if "step" in table else ""
        print(printable(f"{step}{line.task}  {line.metric} {line.value:.3f} [{line.low:.3f}, {line.high:.3f}]"))
    print(
        f"{manifest['items']:,} items, {manifest['flops']:.3g} FLOPs: {evaluation.path / 'items.parquet'}, summary.csv"
    )
    return 0


if __name__ == "__main__":
    cli.run(main, FLAGS, __doc__)
