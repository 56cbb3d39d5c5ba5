"""Likelihoods of continuations and how items are shown, against loops over one token at a time."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest
import tokenizers
from flax.traverse_util import unflatten_dict

from models import transformer
from models.config import ModelConfig
from models.errors import ConfigError
from models.huggingface.tokenizer import CheckpointTokenizer
from models.weight import walk
from scaling.data import train_bpe
from scaling.evaluate import Item, Subject, document_reader, evaluate, table, text_reader
from scaling.evaluate.likelihood import SHORTEST, continuations
from scaling.tasks import CharTokenizer

ALPHABET = "abcdefgh=. "
TOKENIZER = CharTokenizer(ALPHABET)
MODEL = ModelConfig(vocab_size=TOKENIZER.vocab_size, d_model=8, n_layers=1, n_heads=2, d_ff=16, max_seq_len=24,
                    positions="learned")  # fmt: skip
APPLY = jax.jit(transformer.apply, static_argnums=0)


@pytest.fixture(scope="module")
def params() -> dict:
    """Of a model whose distribution is far from uniform."""
    rng = np.random.default_rng(0)
    shapes = {path: weight.shape for path, weight in walk(transformer.weights(MODEL.resolved()))}
    return unflatten_dict({path: rng.normal(size=shape).astype(np.float32) for path, shape in shapes.items()})


def by_hand(params: dict, context: list[int], continuation: list[int]) -> tuple[list[float], list[bool]]:
    """Nats and whether it is the likeliest, one token after the other."""
    nats, greedy, row = [], [], list(context)
    for token in continuation:
        seen = row[-24:]
        padded = np.zeros((1, 24), np.int32)
        padded[0, : len(seen)] = seen
        logits = np.asarray(APPLY(MODEL, params, padded))[0, len(seen) - 1]
        logits = logits.astype(np.float64)
        nats.append(float(logits[token] - np.log(np.exp(logits).sum())))
        greedy.append(int(np.argmax(logits)) == token)
        row.append(token)
    return nats, greedy


def test_continuations_of_every_length_are_scored_as_one_token_after_the_other(params: dict) -> None:
    rng = np.random.default_rng(0)
    lengths = [(1, 1), (5, 3), (SHORTEST - 1, 1), (SHORTEST, 1), (SHORTEST, 2), (SHORTEST + 1, 1), (22, 2), (3, 20)]
    pairs = [tuple(rng.integers(0, MODEL.vocab_size, n).tolist() for n in pair) for pair in lengths]
    pairs += pairs[:3] * 30  # more than one batch
    found = continuations(MODEL, params, pairs)
    for (context, continuation), one in zip(pairs[: len(lengths)], found):
        nats, greedy = by_hand(params, context, continuation)
        assert one.logprobs == pytest.approx(nats, abs=2e-5) and one.greedy.tolist() == greedy
    for first, again in zip(found[:3], found[-3:]):
        assert first.logprobs == pytest.approx(again.logprobs, abs=1e-6)


def test_what_is_too_long_loses_the_left_of_its_context_and_bad_input_is_refused(params: dict) -> None:
    long = list(np.random.default_rng(1).integers(0, MODEL.vocab_size, 40))
    cut, whole = continuations(MODEL, params, [(long, [1, 2]), (long[-23:], [1, 2])])
    assert cut.logprobs == pytest.approx(whole.logprobs, abs=1e-6)
    for pair, words in [
        (([], [1]), "context: is empty"),
        (([1], []), "continuation: is empty"),
        (([1], [99]), "holds unknown tokens \\[99\\]"),
        (([1], [1] * 25), "has 25 tokens, and the model reads 24 at once"),
    ]:
        with pytest.raises(ConfigError, match=words):
            continuations(MODEL, params, [pair])


def test_the_rows_of_items_hold_what_follows_from_the_likelihoods(params: dict) -> None:
    items = [
        Item("1", "s", "ab=", "choice", (2,), ("a.", "bb.", "ba."), shots=(("cd=", "dc."),)),
        Item("2", "s", "ab=", "cloze", ("ba.",)),
    ]
    subject = Subject(MODEL, params, document_reader(TOKENIZER, packed=True))
    first, second = evaluate(subject, items)
    end, ids = [0], lambda text: TOKENIZER.encode(text).tolist()
    context = [*end, *ids("cd=dc."), *end, *ids("ab=")]
    sums = [sum(by_hand(params, context, ids(text))[0]) for text in items[0].choices]
    alone = [sum(by_hand(params, end, ids(text))[0]) for text in items[0].choices]
    assert first["logprobs"] == pytest.approx(sums, abs=5e-5)
    assert first["unconditional"] == pytest.approx(alone, abs=5e-5)
    assert first["correct"] == first["correct_raw"] == (np.argmax(sums) == 2)
    assert first["correct_unconditional"] == (np.argmax(np.subtract(sums, alone)) == 2)
    assert first["probability"] == pytest.approx(np.exp(sums[2]) / np.exp(sums).sum(), abs=1e-5)
    nats, greedy = by_hand(params, [*end, *ids("ab=")], ids("ba."))
    assert second["gold_logprob"] == pytest.approx(sum(nats), abs=5e-5)
    assert second["exact"] == all(greedy) and second["token_accuracy"] == pytest.approx(np.mean(greedy))
    assert table([first, second]).num_rows == 2
    with pytest.raises(ConfigError, match="has generate items, whose answers are generated: hand in a generator"):
        evaluate(subject, [Item("3", "s", "ab=", "generate", ("ba.",))])


def test_generated_answers_are_handed_in_and_graded(params: dict) -> None:
    items = [Item("1", "s", "b a c", "ordering", ("a", "b", "c")), Item("2", "s", "ab=", "generate", ("ba",))]
    subject = Subject(MODEL, params, document_reader(TOKENIZER, packed=False))
    order, text = evaluate(subject, items, lambda contexts: ["a c b", "ba"])
    assert order["tau"] == pytest.approx(1 / 3) and order["score"] == pytest.approx(2 / 3) and not order["correct"]
    assert text["correct"] and text["parsed"] == "ba" and text["fault"] == ""


def test_a_continuation_is_what_the_whole_text_has_beyond_its_context() -> None:
    """A byte-level BPE merges the space before a word into it."""
    bpe = train_bpe(["the cat sat on the mat and the cat ran to the mat " * 20], 270)
    item = Item("1", "s", "sat on ", "cloze", ("the",))
    reader = document_reader(bpe, packed=False)
    context, after = reader.question(item, "the")
    assert bpe.decode(after) == " the" and bpe.decode(context) == "sat on" and len(after) == 1
    assert [*context, *after] == bpe.encode("sat on the").tolist() != [*bpe.encode("sat on "), *bpe.encode("the")]


def checkpoint_tokenizer(first: bool) -> CheckpointTokenizer:
    """Words w0, w1, ... with or without a token that begins a text."""
    words = ["<unk>", "<s>", "</s>", *(f"w{i}" for i in range(10))]
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    if first:
        made.post_processor = tokenizers.processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    template = "{% for m in messages %}{{ m.content }} {% endfor %}"
    return CheckpointTokenizer(made, {"chat_template": template}, (2,))


def test_a_checkpoint_reads_one_first_token_or_where_it_has_none_its_end_of_a_text() -> None:
    item = Item("1", "s", "w1 w2", "choice", (0,), ("w3", "w4"), delimiter=" ", shots=(("w5", "w6"),))
    reader = text_reader(checkpoint_tokenizer(True))
    assert reader.question(item, "w3") == ((1, 8, 9, 4, 5), (6,)) and reader.unconditional(item, "w3") == ((1,), (6,))
    bare = text_reader(checkpoint_tokenizer(False))
    assert bare.question(item, "w3") == ((8, 9, 4, 5), (6,)) and bare.unconditional(item, "w3") == ((2,), (6,))
    asked = Item(**vars(item) | {"unconditional": "w9"})
    assert reader.unconditional(asked, "w3") == ((1, 12), (6,))
    chat = text_reader(checkpoint_tokenizer(False), chat=True)
    assert chat.question(item, "w3") == ((8, 9, 4, 5), (6,))
    with pytest.raises(ConfigError, match="has no chat template"):
        text_reader(CheckpointTokenizer(checkpoint_tokenizer(True)._tokenizer, {}, (2,)), chat=True)


GOLDEN = Path(__file__).parents[2] / "models" / "golden" / "llama"
CHOICES = Path(__file__).parent / "golden" / "llama_choices.json"


def test_choice_scores_of_a_random_llama_are_those_of_transformers() -> None:
    """All of them, and by three normalisations, to 1e-4: see write_choice_golden.py."""
    import json

    from models.huggingface import import_weights

    model, weights = import_weights(GOLDEN)[:2]
    written = json.loads(CHOICES.read_text())
    pairs = [(item["context"], choice) for item in written for choice in item["choices"]]
    pairs += [(item["empty"], choice) for item in written for choice in item["choices"]]  # of a shorter shape
    found = iter(continuations(model, weights, pairs))
    for kind in ("logprobs", "unconditional"):
        for item in written:
            sums = [float(next(found).logprobs.sum()) for _ in item["choices"]]
            assert sums == pytest.approx(item[kind], abs=1e-4)
