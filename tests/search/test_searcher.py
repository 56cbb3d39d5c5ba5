"""The loop of a search: each problem as if it were alone, costs counted to the token, budgets that hold."""

from __future__ import annotations

import copy
import dataclasses
import types

import jax
import numpy as np
import pytest

from models import counts, transformer
from models.config import ModelConfig
from models.errors import ConfigError
from search.config import Budget, SearchConfig
from search.decoder import TransformerDecoder
from search.engine.config import EngineConfig
from search.engine.engine import Engine
from search.engine.request import Request
from search.engine.sampling import Sampling
from search.ledger import Cost
from search.searcher import Found, Searcher, SearchProblem, Verdicts
from search.strategies.beam import beam
from search.strategies.best_of_n import best_of_n, greedy
from search.verifiers.scorer import LikelihoodScorer, ValueScorer
from tests.search.trees import random_trees

TREES = random_trees(0)
WALK = SearchConfig(
    problems=4, prompt_len=1, max_tokens=TREES.depth, max_steps=TREES.depth, max_rounds=8, tokens_per_step=1
)
VOCAB, END, DELIMITER = 17, 5, 7
MODEL = ModelConfig(vocab_size=VOCAB, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=48, max_seq_len=48)
WRITE = SearchConfig(
    problems=3, prompt_len=12, max_tokens=16, max_steps=8, max_rounds=12, delimiters=(DELIMITER,), ends=(END,), seed=9
)
PROMPTS = [tuple(np.random.default_rng(i).integers(0, VOCAB, 3 + i % 10).tolist()) for i in range(10)]


@pytest.fixture(scope="module")
def params() -> dict:
    return transformer.init(MODEL, jax.random.key(0))


@pytest.fixture(scope="module")
def writer(params: dict) -> Searcher:
    decoder = TransformerDecoder(MODEL, params, WRITE.prompt_len)
    return Searcher(decoder, beam(4, 2), WRITE, LikelihoodScorer())


@pytest.fixture(scope="module")
def walker() -> Searcher:
    return Searcher(TREES.decoder, beam(8, 4), WALK, ValueScorer())


def problems(n: int = 10) -> list[SearchProblem]:
    return [SearchProblem(i, PROMPTS[i]) for i in range(n)]


def by_number(found: list[Found]) -> dict[int, Found]:
    return {f.problem.number: f for f in found}


def essence(found: Found) -> tuple:
    """Everything but the time it took."""
    return found.candidates, found.best, found.rounds, dataclasses.replace(found.cost, seconds=0)


def test_independent_samples_are_those_of_the_engine(params: dict) -> None:
    """Two programs that share neither a cache nor a loop draw the same tokens from the same counters."""
    decoder = TransformerDecoder(MODEL, params, WRITE.prompt_len)
    found = by_number(list(Searcher(decoder, best_of_n(5, scored=False), WRITE).run(problems())))
    engine = Engine(MODEL, params, EngineConfig(slots=4, max_len=48, page_size=8, prefill_chunk=16, ends=(END,)))
    requests = [Request(i, PROMPTS[i], 5, WRITE.max_tokens, Sampling(), seed=WRITE.seed) for i in range(10)]
    for c in engine.generate(requests):
        candidate = found[c.problem].candidates[c.sample]
        assert candidate.tokens == c.tokens
        assert candidate.logprob == pytest.approx(sum(c.logprobs), abs=1e-4)
    for number, f in found.items():
        cost, engines = f.cost, engine.ledger[number]
        assert (cost.prompt_tokens, cost.generated_tokens) == (len(PROMPTS[number]), engines.generated_tokens)
        assert cost.discarded_tokens == 0
        assert cost.depth == max(len(c.tokens) for c in f.candidates)


def test_greedy_takes_the_likeliest_token(params: dict) -> None:
    decoder = TransformerDecoder(MODEL, params, WRITE.prompt_len)
    for f in Searcher(decoder, greedy(), WRITE).run(problems(4)):
        text, tokens = f.problem.prompt, f.candidates[0].tokens
        padded = np.zeros((1, 48), np.int32)
        padded[0, : len(text) + len(tokens)] = text + tokens
        likeliest = np.asarray(transformer.apply(MODEL, params, padded)[0].argmax(-1))
        assert likeliest[len(text) - 1 :][: len(tokens)].tolist() == list(tokens)


def test_answers_do_not_depend_on_order_neighbours_or_slot(writer: Searcher) -> None:
    together = by_number(list(writer.run(problems())))
    backwards = by_number(list(writer.run(reversed(problems()))))
    assert together.keys() == backwards.keys() == set(range(10))
    for number, f in together.items():
        alone = next(writer.run([SearchProblem(number, PROMPTS[number])]))
        assert essence(f) == essence(backwards[number]) == essence(alone)


def test_nothing_is_compiled_after_the_first_searches(writer: Searcher) -> None:
    list(writer.run(problems(4)))
    before = writer.compilations
    list(writer.run(problems()))
    assert writer.compilations == before


def test_whole_search_on_the_device_equals_one_round_at_a_time(walker: Searcher) -> None:
    """A host verifier that says what the table says gives the same search."""

    def table(payloads: list, texts: list) -> np.ndarray:
        return np.array([TREES.value[tree, TREES.walk(tree, text)] for tree, text in zip(payloads, texts)])

    asked = Searcher(TREES.decoder, beam(8, 4), WALK, table)
    given = [SearchProblem(i, i % 2, i % 2) for i in range(9)]
    on_device = by_number(list(walker.run(given)))
    for f in asked.run(given):
        assert essence(f) == essence(on_device[f.problem.number])


def test_beam_with_exact_values_finds_a_right_leaf(walker: Searcher) -> None:
    for f in walker.run([SearchProblem(100 + i, i % 2) for i in range(20)]):
        assert f.answer is not None
        assert TREES.reward[f.problem.prompt, TREES.walk(f.problem.prompt, f.answer)] == 1


@pytest.mark.parametrize(("amount", "unit"), [(7, "tokens"), (100, "flops"), (64, "bytes")])
def test_a_budget_is_never_exceeded_and_nearly_used(amount: float, unit: str) -> None:
    config = dataclasses.replace(WALK, budget=Budget(amount, unit))
    for f in Searcher(TREES.decoder, best_of_n(16), config, ValueScorer()).run(SearchProblem(i, 0) for i in range(4)):
        spent = {"tokens": f.cost.generated_tokens, "flops": f.cost.flops, "bytes": f.cost.bytes}[unit]
        assert amount - 16 * TREES.depth < spent <= amount
        assert f.out_of_budget


def test_the_ledger_equals_a_count_by_hand(params: dict, writer: Searcher) -> None:
    """FLOPs of every token that was drawn, each at its own context, and of reading the prompt."""
    decoder = TransformerDecoder(MODEL, params, WRITE.prompt_len)
    for f in Searcher(decoder, best_of_n(5, scored=False), WRITE).run(problems(4)):
        prompt = len(f.problem.prompt)
        flops = sum(counts.decode_flops(MODEL, prompt + i + 1) for c in f.candidates for i in range(len(c.tokens)))
        flops += sum(counts.decode_flops(MODEL, i + 1) for i in range(prompt))
        assert f.cost.flops == flops
    for f in writer.run(problems(4)):
        distinct = len({c.tokens[: i + 1] for c in f.candidates for i in range(len(c.tokens))})
        assert distinct <= f.cost.kept_tokens <= f.cost.generated_tokens - (f.rounds > 2)


def test_a_verifier_that_fails_marks_its_problem_and_the_others_go_on() -> None:
    def verifier(payloads: list, texts: list) -> np.ndarray:
        if payloads[0] == 2:
            raise ValueError("no such problem")
        if payloads[0] == 0:
            return np.full(1, 0.5)
        return np.full(len(texts), {3: np.nan, 1: 7.0}.get(payloads[0], 0.5))

    search = Searcher(TREES.decoder, beam(8, 4), WALK, verifier)
    found = by_number(list(search.run(SearchProblem(i, i % 2, i) for i in range(6))))
    assert found[2].failed == "the verifier raised ValueError: no such problem"
    assert found[3].failed == "the verifier gave a score that is not finite"
    assert found[0].failed == "the verifier gave 1 scores and 8 counts of tokens for 8 texts"
    assert found[1].failed == "the verifier gave a score of 7, which is not in [0, 1]"
    assert all(found[i].failed is None and found[i].best is not None for i in (4, 5))


def test_what_a_verifier_of_the_host_read_is_on_the_ledger() -> None:
    read: dict[int, int] = {}

    def verifier(payloads: list, texts: list) -> Verdicts:
        took = [len(text) + 3 for text in texts]
        read[payloads[0]] = read.get(payloads[0], 0) + sum(took)
        return Verdicts([0.5] * len(texts), took)

    given = [SearchProblem(i, i % 2, i) for i in range(3)]
    free = by_number(list(Searcher(TREES.decoder, beam(8, 4), WALK, lambda _, texts: [0.5] * len(texts)).run(given)))
    for f in Searcher(TREES.decoder, beam(8, 4), WALK, verifier, host_flops=10.0).run(given):
        before = free[f.problem.number]
        assert before.cost.verifier_tokens == 0 and f.answer == before.answer
        assert f.cost.verifier_tokens == read[f.problem.number] > 0
        assert f.cost.flops - before.cost.flops == 10 * f.cost.verifier_tokens


def test_anytime_curves_only_grow_in_cost(params: dict) -> None:
    search = Searcher(TREES.decoder, beam(8, 4), dataclasses.replace(WALK, trace=True), ValueScorer())
    for f in search.run(SearchProblem(i, i % 2) for i in range(6)):
        assert f.anytime is not None
        assert len(f.anytime.cost) == f.rounds
        assert list(f.anytime.cost) == sorted(f.anytime.cost)
        assert f.anytime.tokens[-1] == f.answer


WINDOWED = [
    MODEL,
    dataclasses.replace(MODEL, sliding_window=5),
    dataclasses.replace(MODEL, sliding_window=5, layer_types=("full", "sliding")),
    dataclasses.replace(MODEL, sliding_window=1, n_layers=3, layer_types=("sliding", "sliding", "full")),
]


@pytest.mark.parametrize("model", WINDOWED)
def test_the_price_of_a_token_is_that_of_the_keys_its_windows_leave(model: ModelConfig) -> None:
    price = TransformerDecoder.price(types.SimpleNamespace(config=model), "flops")
    exact = [counts.decode_flops(model, n) for n in range(1, 40)]
    for n, flops in enumerate(exact, 1):
        assert price.fixed + price.per_context * n + price.per_window * int(price.windowed(n)) == flops
        assert price.up_to(n) == sum(exact[:n])


@pytest.mark.slow  # compiles two searches of a model
def test_a_search_with_windows_costs_what_its_tokens_do_and_keeps_its_budget(params: dict) -> None:
    model = WINDOWED[2]
    decoder = TransformerDecoder(model, params, WRITE.prompt_len)
    found = list(Searcher(decoder, best_of_n(5, scored=False), WRITE).run(problems(4)))
    for f in found:
        prompt = len(PROMPTS[f.problem.number])
        read = sum(counts.decode_flops(model, n) for n in range(1, prompt + 1))
        drawn = [counts.decode_flops(model, prompt + n) for c in f.candidates for n in range(1, len(c.tokens) + 1)]
        assert f.cost.flops == read + sum(drawn)
    amount = sum(counts.decode_flops(model, 20) for _ in range(20))
    config = dataclasses.replace(WRITE, budget=Budget(amount, "flops"))
    for f in Searcher(decoder, best_of_n(5, scored=False), config).run(problems(4)):
        prompt = len(PROMPTS[f.problem.number])
        drawn = [counts.decode_flops(model, prompt + n) for c in f.candidates for n in range(1, len(c.tokens) + 1)]
        assert amount - 5 * counts.decode_flops(model, 48) < sum(drawn) <= amount


def test_a_prompt_that_cannot_be_read_fails_its_own_search_alone() -> None:
    class Fussy(type(TREES.decoder)):
        def encode(self, prompt):
            if prompt == "bad":
                raise ValueError("no such tree")
            return super().encode(prompt)

    decoder = copy.copy(TREES.decoder)
    decoder.__class__ = Fussy
    walker = Searcher(decoder, beam(8, 4), WALK, ValueScorer())
    good = [SearchProblem(i, i) for i in range(5)]
    alone = by_number(list(walker.run(good)))
    bad = [SearchProblem(10, "bad"), SearchProblem(2**40, 1)]
    found = by_number(list(walker.run([*good[:2], *bad, *good[2:]])))
    assert {i: essence(found[i]) for i in range(5)} == {i: essence(alone[i]) for i in range(5)}
    assert found[10].failed == "the prompt raised ValueError: no such tree" and found[10].answer is None
    assert found[2**40].failed == f"number: is {2**40}: give 0 to 2^32 - 1"


def test_bad_input_is_refused_before_anything_runs(params: dict) -> None:
    decoder = TransformerDecoder(MODEL, params, WRITE.prompt_len)
    search = Searcher(decoder, best_of_n(2, scored=False), WRITE)
    for prompt, problem in (((), "is empty"), ((1,) * 13, "has 13 tokens"), ((1, 99), "unknown tokens")):
        (found,) = search.run([SearchProblem(0, prompt)])
        assert problem in found.failed and found.answer is None and found.cost == Cost()
    with pytest.raises(ConfigError, match="needs one"):
        Searcher(decoder, beam(4, 2), WRITE)
    with pytest.raises(ConfigError, match="does not divide"):
        beam(5, 2)
    with pytest.raises(ConfigError, match="repetition_penalty"):
        dataclasses.replace(WRITE, sampling=Sampling(repetition_penalty=1.3))
