"""Rephrases of noisy documents beside the documents themselves: how many tokens fewer until the same loss.

    python -m launch.reproduce rephrased_text --workdir runs/reproductions/rephrased_text
"""

from __future__ import annotations

from functools import partial

import numpy as np

from configs.reproductions._skills import late, model_of, nats, train_of
from models import counts
from scaling.reproduction import Measured, Reproduction, Workspace, least, t_interval
from scaling.tasks.sequences import Labelled
from scaling.tasks.skills import STYLES, Skills, Style, joined
from scaling.train.config import TrainConfig

SEEDS, STEPS, EVERY, WIDTH, TOKENS = (1, 2, 3), 600, 50, 32, 800  # TOKENS: of a step
WEB = Skills(clutter=12, noise=0.1)  # what is there in plenty
TESTS = {"web": Skills(clutter=12), "question": Skills(), "statement": Skills(style="statement")}
ARMS: dict[str, Style | None] = {"real": None, "with questions": "question", "with statements": "statement"}


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="rephrased_text",
        methods=(247,),
        claim="Noisy documents with a clean rephrase of each reach the loss of noisy documents alone, over "
        "three styles, after fewer tokens, in whichever style they are rephrased",
        source="Maini et al. 2024, Rephrasing the web (WRAP), arXiv:2401.16380",
        smallest_effect=1.5,
        unit="tokens of documents alone over tokens of the mixture until the same loss, of the worse style",
        minutes=4,
        not_covered="text and a language model that rephrases it: this rephraser is exact, knows the right answer and "
        "costs nothing; documents that repeat; one in twenty rows of either style among the documents",
        simulated=False,
        run=run,
    )


def shapes(arm: str) -> tuple[int, int]:
    """Rows of documents and of rephrases in a step, of TOKENS tokens in all or just below."""
    alone = TOKENS // WEB.size
    return (alone, 0) if ARMS[arm] is None else (TOKENS // (WEB.size + Skills().size),) * 2


def batch(arm: str, rng: np.random.Generator, step: int) -> Labelled:
    found, style = WEB.draw(rng, shapes(arm)[0]), ARMS[arm]
    few = [Skills(style=STYLES[step % 2], noise=WEB.noise).draw(rng, 2)]  # what the web has of every style
    return joined([found, *few, *([WEB.rephrased(found, style)] if style else [])])


def train(arm: str, quick: bool, seed: int = 0) -> TrainConfig:
    return train_of(2 * EVERY if quick else STEPS, seed, WEB, sum(shapes(arm)) + 2)


def curves(arm: str, quick: bool) -> list[dict[str, list[float]]]:
    """Of every seed: nats of a label in each style after every EVERY steps."""
    from scaling.tasks.probe import learned

    found = []
    for seed in SEEDS[:2] if quick else SEEDS:
        model, tests = model_of(WIDTH), {name: late(kind, seed, 256) for name, kind in TESTS.items()}
        one: dict[str, list[float]] = {name: [] for name in tests}

        def watch(steps: int, params: dict, one: dict = one, tests: dict = tests) -> None:
            for name, test in tests.items():
                one[name].append(nats(model_of(WIDTH), params, test))

        learned(model, train(arm, quick, seed), partial(batch, arm, np.random.default_rng(seed)), watch=watch)
        found.append(one)
    return found


def saved(real: np.ndarray, mixed: np.ndarray) -> float:
    """Steps of `real` over the steps after which `mixed` is first as good as `real` ends, on a line between two looks;
    1 where it never is. Losses `[looks]`, one every EVERY steps."""
    below = np.nonzero(mixed <= real[-1])[0]
    if not len(below):
        return 1.0
    i = int(below[0])
    reached = 1.0 if i == 0 else i + (mixed[i - 1] - real[-1]) / (mixed[i - 1] - mixed[i])
    return len(real) / reached


def run(work: Workspace) -> Measured:
    found, flops = {}, 0.0
    for i, arm in enumerate(ARMS):
        kept = work.keep(f"arm{i}", partial(curves, arm, work.quick))
        found[arm] = np.array([[one[name] for name in TESTS] for one in kept])  # [seeds, styles, looks]
        flops += len(kept) * counts.train_flops(model_of(WIDTH), train(arm, work.quick).steps * TOKENS, WEB.size)
        work.say(f"{arm}: {found[arm][:, :, -1].mean(0).round(3).tolist()} nats of {', '.join(TESTS)}")
    mean = {arm: one.mean(1) for arm, one in found.items()}
    ratio = {arm: np.array([saved(*pair) for pair in zip(mean["real"], one, strict=True)])
             for arm, one in mean.items() if ARMS[arm]}  # fmt: skip
    effect, interval = least(ratio.values())
    styles = list(TESTS)
    other = {"with questions": "with statements", "with statements": "with questions"}
    match = np.mean([found[other[arm]][:, styles.index(style), -1] - found[arm][:, styles.index(style), -1]
                     for arm, style in ARMS.items() if style], axis=0)  # fmt: skip
    steps = (np.arange(mean["real"].shape[1]) + 1) * EVERY * TOKENS
    lines = {arm: {"x": steps.tolist(), "y": one.mean(0).tolist()} for arm, one in mean.items()}
    details = {
        "tokens over tokens": {arm: values.tolist() for arm, values in ratio.items()},
        "nats less in the style of the rephrases than with those of the other": list(t_interval(match)),
        "nats at the end": {arm: dict(zip(TESTS, one[:, :, -1].mean(0).tolist(), strict=True))
                            for arm, one in found.items()},
        "curves": [{"x": "tokens", "y": "nats, mean of three styles", "log": "xy", "lines": lines}],
    }  # fmt: skip
    return Measured(effect, interval, flops, details)
