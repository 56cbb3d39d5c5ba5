"""One decoder of text and audio tokens: its loss falls with size, and of several utterances the one that a recogniser
understands best is understood better by another.

    python -m launch.reproduce spoken_letters --workdir runs/reproductions/spoken_letters

Letters are spoken as tones (scaling/tasks/tones.py) and become tokens of a codebook by k-means. A decoder learns texts
with their sounds, and speaks held-out texts. One recogniser, which counts codes, chooses; errors are those of another,
which hears spectra and was fitted to other speech.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from configs.reproductions._imitation import Learner, Writer, imitated, rows_of, small
from models.config import ModelConfig
from scaling.reproduction import JSON, Measured, Reproduction, Workspace, bootstrap_interval
from scaling.tasks.text import CharTokenizer
from scaling.tasks.tones import Codebook, Listener, Recogniser, Tones, alphabet

TONES, CODES, LENGTH, SEQ, SAMPLES = Tones(), 64, 5, 27, 8
LETTERS, SOUNDS = alphabet(TONES.letters, CODES)
TOKENS = CharTokenizer(LETTERS + SOUNDS + "=.")
WIDTHS, UTTERANCES, STEPS, TEXTS = (16, 24, 48), 4000, 800, 400
HALF = 0.5


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="spoken_letters",
        methods=(0,),
        claim="The loss of a decoder of text and audio tokens falls with its size, and the best of eight utterances by "
        "a recogniser has half of the errors of one, or fewer, as another recogniser hears them",
        source="Ye et al. 2025, Llasa, arXiv:2502.04128",
        smallest_effect=0.0,
        unit="the least of: share of the errors that the best of eight avoids, less 0.5; nats of an audio token that "
        "each size saves over the one before",
        minutes=3,
        not_covered="speech: letters are pairs of tones; learned codecs; speakers to be imitated; search step by step; "
        "a policy above 0.1M parameters; one seed of training",
        simulated=False,
        run=run,
    )


def model_of(width: int) -> ModelConfig:
    return small(TOKENS, width)


def learner(width: int, quick: bool) -> Learner:
    return Learner(model_of(width), imitated(20 if quick else STEPS, SEQ))


def speech(seed: int, count: int) -> tuple[list[list[int]], np.ndarray, np.ndarray, list[int]]:
    """(texts, frames, letter of each frame, frames of each text)."""
    rng = np.random.default_rng(seed)
    texts = [TONES.text(rng, LENGTH) for _ in range(count)]
    said = [TONES.spoken(rng, text) for text in texts]
    frames, letters = (np.concatenate(parts) for parts in zip(*said, strict=True))
    return texts, frames, letters, [len(one.frames) for one in said]


def strings(texts: list[list[int]], codes: np.ndarray, lengths: list[int]) -> list[tuple[str, str]]:
    """(text and mark, sound and end) of each."""
    parts = np.split(codes, np.cumsum(lengths)[:-1])
    return [("".join(LETTERS[i] for i in text) + "=", "".join(SOUNDS[i] for i in part) + ".")
            for text, part in zip(texts, parts, strict=True)]  # fmt: skip


def losses(model: ModelConfig, params: Any, written: list[tuple[str, str]]) -> np.ndarray:
    """Nats of an audio token of each utterance, its end included."""
    import jax
    import optax

    from models import transformer

    rows = rows_of(TOKENS, SEQ, [(text, [(sound, True)]) for text, sound in written])

    @jax.jit
    def of(params: Any, tokens: jax.Array) -> jax.Array:
        logits = transformer.apply(model, params, tokens[:, :-1])
        return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])

    nats = np.asarray(of(params, rows["tokens"])) * rows["weights"]
    return nats.sum(1) / rows["weights"].sum(1)


def spoken(quick: bool) -> JSON:
    """Of each held-out text: loss of each size, and edits that the verifier and the listener hear in each sample."""
    from scaling.evaluate.completion import edit_distance

    count, samples = (24, 2) if quick else (TEXTS, SAMPLES)
    texts, frames, letters, lengths = speech(0, UTTERANCES)
    book = Codebook.of(frames[:20_000], CODES)
    verifier = Recogniser.of(TONES, book.encode(frames), letters, CODES)
    _, heard, by, _ = speech(1, UTTERANCES)
    listener = Listener.of(TONES, book.centres[book.encode(heard)], by)
    whole = [(text[0], [(text[1:] + sound, True)]) for text, sound in strings(texts, book.encode(frames), lengths)]
    rows, (held, others, _, sizes) = rows_of(TOKENS, SEQ, whole), speech(2, count)
    written = strings(held, book.encode(others), sizes)
    found: dict[str, list] = {"losses": [], "flops": []}
    for width in WIDTHS:
        learns = learner(width, quick)
        params = learns.learn(rows, seed=0)
        found["losses"].append(losses(learns.model, params, written).tolist())
        found["flops"].append(learns.flops)
    writer = Writer(learns.model, params, TOKENS, SEQ)
    drawn = writer.write(params, [prompt for prompt, _ in written], samples, seed=0)
    codes = [[[SOUNDS.index(c) for c in one if c in SOUNDS] for one in row] for row in drawn]
    natural = np.split(book.encode(others), np.cumsum(sizes)[:-1])
    for name, read in {"verifier": verifier.read, "listener": lambda one: listener.read(book.centres[one])}.items():
        edits = [[edit_distance(read(one), text) if one else LENGTH for one in row]
                 for row, text in zip(codes, held, strict=True)]  # fmt: skip
        found[name] = edits
        found[f"{name}, of people"] = [edit_distance(read(x), text) for x, text in zip(natural, held, strict=True)]
    return found | {"flops": sum(found["flops"]) + writer.flops}


def best_of(chooses: np.ndarray, counts: np.ndarray, n: int) -> np.ndarray:
    """Errors `[texts]` of the first of n samples with the fewest errors for who chooses, over all groups of n."""
    groups = [slice(i, i + n) for i in range(0, counts.shape[1], n)]
    rows = np.arange(len(counts))
    return np.mean([counts[:, g][rows, chooses[:, g].argmin(1)] for g in groups], axis=0)


def run(work: Workspace) -> Measured:
    found = work.keep("spoken", partial(spoken, work.quick))
    chooses, counts = np.array(found["verifier"]), np.array(found["listener"])
    numbers = [2**i for i in range(int(np.log2(counts.shape[1])) + 1)]
    errors = np.stack([best_of(chooses, counts, n) for n in numbers], axis=1) / LENGTH
    rows = np.concatenate([errors[:, [0, -1]], np.array(found["losses"]).T], axis=1)

    def parts(rows: np.ndarray) -> list[float]:
        one, best, *nats = rows.mean(0)
        return [float(1 - best / one - HALF), *(-np.diff(nats)).tolist()]

    people = {name: float(np.mean(found[f"{name}, of people"])) / LENGTH for name in ("verifier", "listener")}
    line = {"x": numbers, "y": errors.mean(0).tolist()}
    details: dict[str, JSON] = {
        "parts of the effect": parts(rows),
        "nats of an audio token, by width": dict(zip(map(str, WIDTHS), rows[:, 2:].mean(0).tolist(), strict=True)),
        "errors in a letter of natural speech in codes": people,
        "errors in a letter of one utterance, as the verifier hears it": float(chooses.mean()) / LENGTH,
        "curves": [{"x": "utterances", "y": "errors in a letter", "log": "x", "lines": {"best by the verifier": line}}],
    }
    interval = bootstrap_interval(rows, lambda some: min(parts(some)))
    return Measured(min(parts(rows)), interval, float(found["flops"]), details)
