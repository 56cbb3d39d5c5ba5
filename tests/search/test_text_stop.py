"""Stops given as text are found wherever a sample's tokens spell them, in the engine and in searches."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from models import transformer
from models.config import ModelConfig
from models.errors import ConfigError
from models.huggingface.tokenizer import CheckpointTokenizer
from scaling.data.tokenizer import ByteTokenizer, train_bpe
from search.config import SearchConfig
from search.decoder import TransformerDecoder
from search.engine.config import EngineConfig
from search.engine.engine import Engine
from search.engine.request import Request
from search.engine.sampling import Sampling
from search.engine.speculative import Speculation, SpeculativeEngine
from search.engine.text_stop import Machines, cut, just_completed, machine
from search.policy import Policy
from search.searcher import Searcher, SearchProblem
from search.strategies.best_of_n import best_of_n

# -- the automaton --------------------------------------------------------------------------------------------------

texts = st.text("ab", min_size=1, max_size=4)
spellings = st.lists(st.text("abc", max_size=3).map(str.encode), min_size=1, max_size=6)


def completes(spelling: list[bytes], stops: list[str], tokens: list[int]) -> bool:
    """Whether an occurrence of a stop ends inside of the last token: the oracle."""
    before = b"".join(spelling[t] for t in tokens[:-1])
    whole = before + spelling[tokens[-1]]
    ends = range(len(before) + 1, len(whole) + 1)
    return any(whole[:end].endswith(stop.encode()) for end in ends for stop in stops)


@settings(max_examples=200, deadline=None)
@given(spellings, st.lists(texts, min_size=1, max_size=3), st.lists(st.integers(0, 5), min_size=1, max_size=8))
def test_a_text_is_found_where_the_bytes_of_the_tokens_spell_it(spelling, stops, tokens):
    tokens = [t % len(spelling) for t in tokens]
    made = machine(stops, spelling, len(spelling))
    for n in range(1, len(tokens) + 1):
        assert made.end(tokens[:n])[1] == completes(spelling, stops, tokens[:n])


def test_the_last_tokens_alone_decide_unless_they_spell_nothing():
    spelling, stops = [b"a", b"ab", b"b", b"ba", b"aab"], ["abb", "ba"]
    made = machine(stops, spelling, 5)
    tokens = np.random.default_rng(0).integers(0, 5, (50, 9)).astype(np.int32)
    length = np.arange(50, dtype=np.int32) % 9 + 1
    hits = just_completed(jnp.asarray(made.moves), jnp.asarray(tokens), jnp.asarray(length), 3)
    assert hits.tolist() == [completes(spelling, stops, row[:n].tolist()) for row, n in zip(tokens, length)]
    assert 0 < sum(hits.tolist()) < 50


def test_samples_that_look_for_different_texts_share_one_table():
    spelling = [b"a", b"b", b"ab"]
    machines = Machines(spelling, 3)
    assert machines.table.shape == (0, 0)
    assert machines.state((), [0, 1]) == 0
    first, second = machines.state(("ab",), []), machines.state(("ba", "bb"), [])
    table = np.asarray(machines.table)
    assert table.shape[0] & (table.shape[0] - 1) == 0 and not table[0].any()
    for texts, root in ((("ab",), first), (("ba", "bb"), second)):
        for tokens in np.random.default_rng(1).integers(0, 3, (20, 4)).tolist():
            state = root
            for n, token in enumerate(tokens, 1):
                move = int(table[state, token])
                assert (move < 0) == completes(spelling, list(texts), tokens[:n])
                state = -1 - move if move < 0 else move
                assert state == machines.state(texts, tokens[:n])


def test_a_text_that_no_tokens_spell_is_refused():
    spelling = [b"a", b"b", b"a\n", b""]
    for stops in (["\n"], ["ba"], ["x", "aab"]):
        machine(stops, spelling, 4).check(stops, "stop")
    with pytest.raises(ConfigError, match=r"stop: '\\n\\n' can never match: no tokens that may be drawn spell it"):
        machine(["\n\n"], spelling, 4).check(["\n\n"], "stop")
    with pytest.raises(ConfigError, match="stop: 'ba' can never match"):
        machine(["ba"], spelling, 4).check(["ba"], "stop", ends=[1])  # the sample is over after b
    with pytest.raises(ConfigError, match="can never match"):
        machine(["\n"], spelling, 4).check(["\n"], "stop", allowed=[0, 1])


def test_a_text_is_cut_where_the_first_stop_begins():
    assert cut("one.\n\ntwo.", ["\n\n", "."]) == "one"
    assert cut("one", ["two"]) == "one"
    assert cut("a.b.c", ["."], before=2) == "a.b" and cut("a.\n\nb", [".\n\n", "\n\n"], before=3) == "a"


# -- how tokens are spelled -----------------------------------------------------------------------------------------

WORDS = ["the cat.\n\nThe dog", "naïve café — 日本語 😀", " two  spaces", "x"]


def sentencepiece() -> CheckpointTokenizer:
    """Words with the sign of a space, and a token for every byte, as Llama 2 has them."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "▁", "▁the", "▁cat", ".", "a", "▁a", "T"]
    model = tokenizers.models.BPE(
        {piece: i for i, piece in enumerate(pieces)}, [("▁", "a")], unk_token="<unk>", byte_fallback=True, fuse_unk=True
    )
    made = tokenizers.Tokenizer(model)
    made.add_special_tokens(["<s>", "</s>"])
    made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    decoders = tokenizers.decoders
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return CheckpointTokenizer(made, {}, (2,))


def wordlevel() -> CheckpointTokenizer:
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<s>": 0, "a": 1, "b": 2, ".": 3}, unk_token="<s>"))
    return CheckpointTokenizer(made, {}, (0,))


TOKENIZERS = {
    "bytes": ByteTokenizer(),
    "byte level": train_bpe(["the cat. the dog. naïve café 日本語 😀" * 3], 280),
    "sentencepiece": sentencepiece(),
    "words": wordlevel(),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_spelling_of_tokens_is_what_they_add_to_a_text(name):
    tokenizer = TOKENIZERS[name]
    policy = Policy(None, {}, tokenizer, (), "", "")
    assert len(policy.spelling) == tokenizer.vocab_size
    prompt = [int(t) for t in tokenizer.encode("a")]
    for text in WORDS:
        tokens = [int(t) for t in tokenizer.encode(text)]
        for n in range(len(tokens) + 1):
            spelled = b"".join(policy.spelling[t] for t in tokens[:n]).decode(errors="replace")
            if not spelled.endswith("\ufffd"):  # how a cut character looks is the tokenizer's own affair
                assert policy.text(prompt, tokens[:n]) == spelled


def test_the_text_of_a_sample_keeps_the_space_after_its_prompt_and_the_character_it_completes():
    tokenizer = TOKENIZERS["sentencepiece"]
    policy = Policy(None, {}, tokenizer, (), "", "")
    ids = tokenizer._tokenizer.token_to_id
    prompt, sample = [ids("<s>"), ids("▁the")], [ids("▁cat"), ids(".")]
    assert tokenizer.decode(sample) == "cat." and policy.text(prompt, sample) == " cat."
    bytes_of = [ids(f"<0x{byte:02X}>") for byte in "é".encode()]
    assert policy.text([*prompt, bytes_of[0]], [bytes_of[1], ids(".")]) == "é."


# -- in the engine and in searches ----------------------------------------------------------------------------------

VOCAB, END = 17, 16
MODEL = ModelConfig(vocab_size=VOCAB, d_model=16, n_layers=1, n_heads=2, n_kv_heads=1, d_ff=24, max_seq_len=48)
CONFIG = EngineConfig(slots=4, max_len=48, page_size=8, prefill_chunk=16, stage_tokens=6, ends=(END,))
SPELLING = [b"a", b"b", b".", b"\n", b".\n", b"a.", b"\n\n", b" a", b"b\n", b"ab", b"ba", b"c", b"d", b"e", b"f", b"g"]
STOPS = (".\n", "\n\n")
PROMPT = (1, 3, 2)


@pytest.fixture(scope="module")
def params() -> dict:
    return transformer.init(MODEL, jax.random.key(0))


def ended(tokens: tuple[int, ...], stops: tuple[str, ...] = STOPS) -> int:
    """How many of the tokens are there when a stop is complete."""
    spelling = [*SPELLING, b""]
    hits = [n for n in range(1, len(tokens) + 1) if completes(spelling, list(stops), list(tokens[:n]))]
    return hits[0] if hits else len(tokens)


# a speculative engine has a program with several loops to compile
@pytest.mark.parametrize("kind", [Engine, pytest.param(SpeculativeEngine, marks=pytest.mark.slow)])
def test_a_sample_ends_with_the_token_that_completes_a_text(kind, params):
    more = (Speculation(drafter="table"),) if kind is SpeculativeEngine else ()
    engine = kind(MODEL, params, CONFIG, *more, spelling=SPELLING)
    beside = Request(4, PROMPT, 2, 30, stop_texts=STOPS)  # the same program for both
    free = {c.sample: c for c in engine.generate([Request(3, PROMPT, 12, 30), beside]) if c.problem == 3}
    stopped = {c.sample: c for c in engine.generate([Request(3, PROMPT, 12, 30, stop_texts=STOPS)])}
    reasons = set()
    for i, whole in free.items():
        n = ended(whole.tokens)
        assert stopped[i].tokens == whole.tokens[:n]
        assert stopped[i].logprobs == pytest.approx(whole.logprobs[:n], abs=1e-5)
        reasons.add((stopped[i].finish_reason, n < len(whole.tokens)))
    assert ("stop", True) in reasons


@pytest.mark.parametrize("kind", [Engine, pytest.param(SpeculativeEngine, marks=pytest.mark.slow)])
def test_no_sample_ends_before_its_least_tokens(kind, params):
    more = (Speculation(drafter="table"),) if kind is SpeculativeEngine else ()
    engine = kind(MODEL, params, CONFIG, *more, spelling=SPELLING)
    ends, never = Sampling(logit_bias=((END, 3.0),)), Sampling(logit_bias=((END, -float("inf")),))
    least = dataclasses.replace(ends, min_tokens=5)
    barred = [Request(3, PROMPT, 8, 5, never, stop_texts=("#",))]
    first = {c.sample: c for c in engine.generate([*barred, Request(4, PROMPT, 1, 5, least, stop_texts=STOPS)])
             if c.problem == 3}  # fmt: skip
    free = {c.sample: c for c in engine.generate([Request(3, PROMPT, 8, 30, ends, stop_texts=STOPS)])}
    found = {c.sample: c for c in engine.generate([Request(3, PROMPT, 8, 30, least, stop_texts=STOPS)])}
    assert min(len(c.tokens) for c in free.values()) < 5
    for i, c in found.items():
        assert c.tokens[:5] == first[i].tokens and len(c.tokens) >= 5
        if len(c.tokens) < 30:
            stops = completes([*SPELLING, b""], list(STOPS), list(c.tokens))
            assert c.finish_reason == ("eos" if c.tokens[-1] == END else "stop") and (stops or c.tokens[-1] == END)
    with pytest.raises(ConfigError, match=r"sampling.min_tokens: is 5: give at most 4"):
        engine.check(Request(0, PROMPT, 1, 4, least))


def test_an_engine_that_knows_no_texts_refuses_a_request_for_them(params):
    engine = Engine(MODEL, params, CONFIG)
    problem = r"request 0.stop_texts: asks for texts, but the engine does not know them: give Engine\(spelling="
    with pytest.raises(ConfigError, match=problem):
        next(engine.generate([Request(0, PROMPT, stop_texts=("a",))]))


@pytest.mark.slow  # compiles two searches
def test_a_search_ends_steps_and_generations_at_texts(params):
    decoder = TransformerDecoder(MODEL, params, 8)

    def search(**changes) -> list:
        config = SearchConfig(
            problems=2, prompt_len=8, max_tokens=20, max_steps=20, tokens_per_step=None, seed=1, **changes
        )
        searcher = Searcher(decoder, best_of_n(8, scored=False), config, spelling=SPELLING)
        return [c for found in searcher.run([SearchProblem(i, PROMPT) for i in range(2)]) for c in found.candidates]

    free = search(ends=(END,))
    for whole, candidate in zip(free, search(ends=(END, *STOPS)), strict=True):
        assert candidate.tokens == whole.tokens[: ended(whole.tokens)]
    with pytest.raises(ConfigError, match="search.ends: holds texts, but the search does not know those of tokens"):
        Searcher(decoder, best_of_n(2, scored=False), SearchConfig(ends=(".",)))
    with pytest.raises(ConfigError, match=r"search.delimiters: '#' can never match"):
        Searcher(decoder, best_of_n(2, scored=False), SearchConfig(delimiters=("#",)), spelling=SPELLING)
