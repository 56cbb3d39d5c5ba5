"""Train a reward model on what a job of searches found: every candidate is right or wrong by its prompt's own answer.

    python -m launch.reward --job runs/words/train --out runs/words/reward
    python -m launch.infer ... --strategy beam:samples=16,width=4 --verifier reward:folder=runs/words/reward

The job's checkpoint must be a trial. --kind value fits a head to what the policy's own hidden states say of every step,
which costs a search nothing; steps trains a model of its own, which starts as the policy, on the same labels, and
reads every candidate anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from launch import cli

if TYPE_CHECKING:
    from launch.jobs import Job
    from search.policy import Policy

FLAGS = cli.new_flags()
cli.DEFINE_string("job", None, "directory of a finished job of searches, whose prompts had answers", flag_values=FLAGS,
                  required=True)  # fmt: skip
cli.DEFINE_string("out", None, "folder of the reward model", flag_values=FLAGS, required=True)
cli.DEFINE_enum("kind", "value", ["value", "steps"], "a head on the policy, or a model of its own", flag_values=FLAGS)
cli.DEFINE_string("delimiter", "\n", "text that ends a step of a candidate", flag_values=FLAGS)
cli.DEFINE_integer("most", 4096, "candidates that are learned from, at most", flag_values=FLAGS)
cli.DEFINE_integer("seed", 0, "of the choice among them, and of training", flag_values=FLAGS)


class Labelled(NamedTuple):
    """A candidate that ended: tokens of its prompt and its own, where its steps end, and 1.0 where it is right."""

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    ends: tuple[int, ...]
    right: float


def main(job: str, out: str, kind: str, delimiter: str, most: int, seed: int) -> int:
    import numpy as np

    from launch.jobs import Job
    from models.errors import require
    from search.policy import load_policy
    from search.verifiers.reward_folder import write_reward

    found, checkpoint = Job.find(Path(job))
    require(found.is_finished(), "--job", f"{job} is not finished", "run the job again")
    require(found.config.strategy is not None, "--job", f"{job} has samples, not searches", "run it with --strategy")
    require(not Path(out).exists(), "--out", f"{out} is there already", "choose a new folder")
    require(most >= 2, "--most", f"is {most}", "give 2 or more")
    policy = load_policy(checkpoint)
    own = (Path(checkpoint) / "checkpoints").is_dir()
    require(own, "--job", f"{checkpoint} is no trial", "search with a trial of ours")
    found.verify()
    candidates = list(labelled(found, policy, delimiter))
    some = len({candidate.right for candidate in candidates}) == 2
    require(some, "--job", "has no right candidates, or no wrong ones", "search easier or harder prompts")
    order = np.random.default_rng(seed).permutation(len(candidates))[:most]
    chosen = [candidates[i] for i in sorted(order)]
    params, head = trained(kind, policy, chosen, seed)
    write_reward(out, checkpoint, head, params)
    print(f"{len(chosen):,} candidates, of which {np.mean([c.right for c in chosen]):.1%} are right: {out}")
    return 0


def labelled(job: Job, policy: Policy, delimiter: str) -> Iterator[Labelled]:
    """Every complete candidate of a prompt with an answer."""
    from launch.feed import prompt_tokens
    from launch.jobs import read_lines
    from launch.prompts import Prompt
    from search.strategies.answers import reader

    lines = {line["line"]: line for line in read_lines(job.path / "samples.jsonl") if "candidates" in line}
    way, words, mark = reader(job.config.answer), policy.spelling, delimiter.encode()
    for shard in job.shards:
        for prompt in job.prompts.read(shard):
            if not isinstance(prompt, Prompt) or "answer" not in prompt.fields or prompt.line not in lines:
                continue
            tokens = prompt_tokens(policy, job.config, prompt)
            for candidate in lines[prompt.line]["candidates"]:
                if candidate["complete"]:
                    right = float(way.right(candidate["text"], str(prompt.fields["answer"])))
                    own = tuple(candidate["tokens"])
                    yield Labelled(tokens, own, tuple(ends(own, words, mark)), right)


def ends(tokens: tuple[int, ...], words: Any, mark: bytes) -> Iterator[int]:
    """Where the steps of a text end: after every token that completes `mark`, and at the last."""
    text = b""
    for i, token in enumerate(tokens, 1):
        before, text = len(text), text + words[token]
        if i == len(tokens) or mark in text[max(before - len(mark) + 1, 0) :]:
            yield i


def trained(kind: str, policy: Policy, candidates: list[Labelled], seed: int) -> tuple[Any, Any]:
    """(the trunk's parameters, None for the policy's own; the head), of every step labelled as its candidate ended."""
    from search.verifiers.reward_training import process, train_reward_model
    from search.verifiers.value_head import fit_value_head

    if kind == "steps":
        examples = [process(c.prompt, c.tokens, c.ends, [c.right] * len(c.ends)) for c in candidates]
        return train_reward_model(policy.model, examples, params=policy.params, seed=seed)
    texts = [(*c.prompt, *c.tokens[:end]) for c in candidates for end in c.ends]
    return None, fit_value_head(policy.model, policy.params, texts, [c.right for c in candidates for _ in c.ends])


if __name__ == "__main__":
    cli.run(main, FLAGS, __doc__)
