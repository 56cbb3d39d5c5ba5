"""Speculative decoding changes how often the target model is called and nothing else."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import transformer
from models.config import ModelConfig
from models.errors import ConfigError
from search.engine import drafters, sampling, verify
from search.engine.config import EngineConfig
from search.engine.decode import lineage_keys
from search.engine.drafters import Guess, Tree
from search.engine.engine import Engine
from search.engine.request import Request
from search.engine.sampling import Sampling
from search.engine.speculative import DraftModel, Speculation, SpeculativeEngine
from tests.search.exact import chi_square, p_value
from tests.search.exact import sequences as sequences_of

VOCAB, WINDOW, NODES, LONG = 5, 2, 6, 3


def markov(seed: int, sharpness: float = 1.5) -> np.ndarray:
    """A random second-order language `[vocab, vocab, vocab]`: probabilities of the next token after two."""
    logits = np.random.default_rng(seed).normal(0, sharpness, (VOCAB, VOCAB, VOCAB))
    p = np.exp(logits)
    p[p < 0.1 * p.max(-1, keepdims=True)] = 0  # filters leave zeros
    return (p / p.sum(-1, keepdims=True)).astype(np.float32)


def sequences(p: np.ndarray) -> np.ndarray:
    """The exact probabilities `[vocab ** LONG]` of the first tokens after (0, 0)."""
    exact = []
    for tokens in itertools.product(range(VOCAB), repeat=LONG):
        before, last, probability = 0, 0, 1.0
        for token in tokens:
            probability *= float(p[before, last, token])
            before, last = last, token
        exact.append(probability)
    return np.array(exact) / np.sum(exact)


def windows_of(tree: Tree, window: jax.Array) -> jax.Array:
    """The last WINDOW tokens at every node, `[n, nodes, WINDOW]`."""
    found = [window]
    for i in range(1, tree.token.shape[1]):
        parents = jnp.stack(found, 1)[jnp.arange(len(window)), jnp.clip(tree.parent[:, i], 0, i - 1)]
        found.append(jnp.concatenate([parents[:, 1:], tree.token[:, i : i + 1]], axis=1))
    return jnp.stack(found, 1)


def expand_from(q: np.ndarray, trust: float):
    """A drafter that says q after the last two tokens."""

    def expand(state: None, node: drafters.Node) -> tuple[None, Guess]:
        n = len(node.token)
        probability = jnp.asarray(q)[node.window[:, 0], node.window[:, 1]]
        candidates = jnp.broadcast_to(jnp.arange(VOCAB, dtype=jnp.int32), (n, VOCAB))
        return state, Guess(candidates, probability, jnp.full(n, trust), jnp.full(n, -1, jnp.int32))

    return expand


def generate(p, expand_of, rule, branch, n, rounds=LONG, nodes=NODES, greedy=False):
    """(the first LONG tokens `[n, LONG]`, accepted per round) of n rows that decode the language p speculatively."""
    @jax.jit
    def run(lineage):
        whose = jnp.stack([jnp.full_like(lineage, 7), lineage, lineage], -1).astype(jnp.uint32)
        keys = sampling.step_keys(lineage_keys(whose), lineage * 0)

        def one(carry, _):
            window, out, length = carry
            base = sampling.step_keys(keys, length)
            first, second = (sampling.step_keys(base, jnp.full(n, i)) for i in (1, 2))
            drafting = first if rule == "rejection" else None
            tree, _ = drafters.grow(expand_of, None, window[:, -1], window, nodes, branch=branch, keys=drafting)
            at = windows_of(tree, window)
            target = jnp.asarray(p)[at[..., 0], at[..., 1]]
            if greedy:
                target = jax.nn.one_hot(target.argmax(-1), VOCAB)
            if rule == "rejection":
                verdict = verify.verify_rejection(second, target, tree)
            else:
                each = jax.vmap(sampling.step_keys, (None, 1), 1)(keys, length[:, None] + tree.depth)
                drawn = jax.vmap(jax.vmap(sampling.invert))(each, target)
                verdict = verify.verify_seeded(drawn, tree)
            new = verdict.emitted(tree)
            for i in range(nodes):
                live = i <= verdict.accepted
                out = out.at[jnp.arange(n), jnp.where(live, length + i, LONG + nodes)].set(new[:, i], mode="drop")
                window = jnp.where(live[:, None], jnp.stack([window[:, 1], new[:, i]], 1), window)
            return (window, out, length + verdict.accepted + 1), verdict.accepted

        zeros = jnp.zeros((n, WINDOW), jnp.int32), jnp.zeros((n, LONG + nodes), jnp.int32), jnp.zeros(n, jnp.int32)
        (_, out, _), accepted = jax.lax.scan(one, zeros, None, length=rounds)
        return out[:, :LONG], accepted

    return jax.tree.map(np.asarray, run(jnp.arange(n)))


@pytest.mark.parametrize("rule", ["rejection", "seeded"])
@pytest.mark.parametrize("branch", [False, True], ids=["chain", "tree"])
def test_sequences_follow_the_exact_distribution(rule, branch):
    p, q = markov(0), markov(1)
    n = 30_000
    tokens, accepted = generate(p, expand_from(q, 0.9), rule, branch, n)
    counts = np.bincount(tokens @ VOCAB ** np.arange(LONG)[::-1], minlength=VOCAB**LONG)
    assert chi_square(counts, sequences(p)) > 1e-3
    assert accepted.mean() > 0.1


def test_the_tokens_of_the_seeded_rule_are_those_of_plain_decoding():
    p, n = markov(0), 500
    plain, _ = generate(p, expand_from(markov(1), 1.0), "seeded", False, n, nodes=1)
    for q, branch in ((markov(1), True), (p, False)):
        ours, _ = generate(p, expand_from(q, 1.0), "seeded", branch, n)
        assert (ours == plain).all()


@pytest.mark.parametrize("rule", ["rejection", "seeded"])
def test_greedy_tokens_are_those_of_plain_decoding(rule):
    p, n = markov(0), 50
    plain, _ = generate(p, expand_from(markov(1), 1.0), rule, False, n, nodes=1, greedy=True)
    ours, accepted = generate(p, expand_from(p, 1.0), rule, True, n, greedy=True)
    assert (ours == plain).all() and accepted.mean() > 1


def test_a_perfect_draft_is_always_accepted():
    p = markov(0)
    _, accepted = generate(p, expand_from(p, 1.0), "rejection", False, 300, rounds=4)
    assert (accepted == NODES - 1).all()


def test_acceptance_is_that_of_the_golden_vectors():
    data = Path(os.environ.get("ISOFLOP_DATA", "/nonexistent")) / "testtime" / "golden_vectors.json"
    if not data.is_file():
        pytest.skip("ISOFLOP_DATA is not set")
    golden = json.loads(data.read_text())["speculative"]
    p, q = (np.array(golden[name] + [0, 0], np.float32) for name in "pq")
    n, nodes = 20_000, 5
    language, draft = (np.broadcast_to(x, (VOCAB, VOCAB, VOCAB)) for x in (p, q))
    _, accepted = generate(language, expand_from(draft, 1.0), "rejection", False, n, rounds=2, nodes=nodes)
    error = 4 / (2 * n) ** 0.5  # four standard errors of a mean of numbers between 0 and 4, roughly
    assert (accepted > 0).mean() == pytest.approx(golden["accept_rate"], abs=error)
    assert accepted.mean() + 1 == pytest.approx(golden["expected_tokens_gamma4"], abs=2 * error)
    assert np.maximum(p - q, 0)[:3] / np.maximum(p - q, 0).sum() == pytest.approx(golden["residual"])


def test_siblings_raise_the_acceptance():
    p, q = markov(0), markov(3)
    chain, tree = (
        generate(p, expand_from(q, 0.9), rule, branch, 5000)[1].mean()
        for rule, branch in (("rejection", False), ("rejection", True))
    )
    assert tree > chain


def test_trees_put_nodes_where_the_estimated_acceptance_is_highest():
    q = np.zeros((VOCAB, VOCAB, VOCAB), np.float32)
    q[..., 0], q[..., 1], q[..., 2] = 0.6, 0.3, 0.1
    window = jnp.zeros((1, WINDOW), jnp.int32)
    tree, _ = drafters.grow(expand_from(q, 1.0), None, window[:, -1], window, 6)
    # worth: root's first child .6, its sibling .4 x .75, the child's child .36, below that .216, then .4 x .25
    assert tree.token[0].tolist() == [0, 0, 0, 1, 0, 0]
    assert tree.parent[0].tolist() == [-1, 0, 1, 0, 2, 3] or tree.parent[0].tolist() == [-1, 0, 1, 0, 1, 2]
    for i in range(1, 6):
        above = int(tree.parent[0, i])
        assert above < i and int(tree.depth[0, i]) == int(tree.depth[0, above]) + 1
        expected = np.asarray(tree.path[0, above]).copy()
        expected[i] = True
        assert (np.asarray(tree.path[0, i]) == expected).all()


def test_the_table_holds_running_means_of_the_longest_known_context():
    table = drafters.empty_table(256, 3)
    stream = np.array([[0, 1]], np.uint32)
    seen = [np.array([[0.5, 0.3, 0.2, 0, 0]], np.float32), np.array([[0.1, 0.9, 0, 0, 0]], np.float32)]
    live = np.array([True])
    step = jax.jit(drafters.learn)
    for p in seen:
        table = step(table, stream, np.array([[3, 4]]), p, live)
    table = step(table, stream, np.array([[2, 4]]), np.array([[0, 0, 0, 0, 1]], np.float32), live)
    table = step(table, stream, np.array([[2, 2]]), seen[0], np.array([False]))
    guess = drafters.look_up(table, stream, np.array([[3, 4]]))
    assert dict(zip(guess.candidates[0].tolist(), guess.probability[0].tolist())) == pytest.approx(
        {0: 0.3, 1: 0.6, 2: 0.1}
    )
    assert float(guess.trust[0]) == pytest.approx(2 / 3)
    shorter = drafters.look_up(table, stream, np.array([[1, 4]]))  # only the last token is known: 2 + 1 observations
    mean = dict(zip(shorter.candidates[0].tolist(), shorter.probability[0].tolist()))
    assert mean == pytest.approx(
        {1: 0.4 / (0.4 + 0.2 + 1 / 3), 0: 0.2 / (0.4 + 0.2 + 1 / 3), 4: 1 / 3 / (0.4 + 0.2 + 1 / 3)}
    )
    for other, window in (([[0, 2]], [[3, 4]]), ([[0, 1]], [[2, 2]]), ([[0, 1]], [[3, -1]])):
        missed = drafters.look_up(table, np.array(other, np.uint32), np.array(window))
        assert float(missed.probability.sum()) == 0


def test_observations_on_one_place_do_not_depend_on_their_order():
    stream, window = np.zeros((3, 2), np.uint32), np.array([[1, 2]] * 3)
    p = np.eye(VOCAB, dtype=np.float32)[:3]
    table = drafters.learn(drafters.empty_table(64, 2), stream, window, p, np.array([False, True, True]))
    guess = drafters.look_up(table, stream[:1], window[:1])
    assert int(guess.candidates[0, 0]) == 1 and float(guess.probability[0, 0]) == 1


def test_look_up_continues_the_latest_longest_match_of_the_text():
    history = np.array([[1, 2, 3, 9, 2, 3, 7, 8, 1, 2, 3, 0, 0], [5, 5, 5, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0]])
    length = np.array([11, 1])
    guess = drafters.find(history, length, np.array([[1, 2, 3], [-1, -1, 5]]))
    assert guess.candidates[:, 0].tolist()[0] == 9  # after 1 2 3, though 2 3 was followed by 7 later
    assert guess.probability.tolist() == [[1.0], [0.0]]
    guess = drafters.find(history, length, np.array([[8, 2, 3], [-1, -1, 5]]))
    assert guess.candidates[0, 0] == 7  # the latest of the occurrences of 2 3 that something follows
    both = drafters.either(
        guess, guess._replace(candidates=guess.candidates + 1, probability=guess.probability * 0 + 1)
    )
    assert both.candidates[:, 0].tolist() == [7, 1]


# -- in the engine --------------------------------------------------------------------------------------------------

TARGET = ModelConfig(vocab_size=VOCAB, d_model=16, n_layers=1, n_heads=2, n_kv_heads=1, d_ff=24, max_seq_len=64)
DRAFT = ModelConfig(vocab_size=VOCAB, d_model=8, n_layers=1, n_heads=1, d_ff=16, max_seq_len=64)
ENGINE = EngineConfig(
    slots=48, max_len=32, page_size=32, prefill_chunk=32, stage_tokens=16, share_rows=16, ends=(4,), stop_sequences=1,
    stop_length=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def models():
    """(the target's parameters, a draft model)."""
    params = transformer.init(TARGET, jax.random.key(0))
    return params, DraftModel(DRAFT, transformer.init(DRAFT, jax.random.key(1)))


def requests_of(*samplings: Sampling) -> list[Request]:
    prompts = [(1, 2, 3), (2,), (1, 2, 1, 2, 1), (0, 3, 2, 2)]
    return [
        Request(i, prompt, 3, 20, s, stop=((3, 3),) if i == 3 else ())
        for i, (prompt, s) in enumerate(zip(prompts, samplings))
    ]


MIXED = requests_of(
    Sampling(),
    Sampling(temperature=0.0),
    Sampling(temperature=0.7, top_k=3, repetition_penalty=1.3),
    Sampling(top_p=0.8, forced=(1, 0), logit_bias=((2, 1.0),)),
)


@pytest.fixture(scope="module")
def plain(models):
    """What the engine generates without guesses, by (problem, sample)."""
    engine = Engine(TARGET, models[0], ENGINE)
    return {(c.problem, c.sample): c for c in engine.generate(MIXED)}, engine.ledger


@pytest.mark.slow
@pytest.mark.parametrize(
    "speculation",
    [
        Speculation(),
        Speculation("model", shape="chain", nodes=4),
        Speculation("table+text", "rejection", nodes=5),
        Speculation("model", "rejection", nodes=4),
        Speculation("text", "rejection", "chain", nodes=4),
        Speculation("model", "rejection", "chain", nodes=4),
    ],
    ids=lambda s: f"{s.drafter}-{s.rule}-{s.shape}",
)
def test_the_engine_with_guesses_generates_what_it_does_without(speculation, models, plain):
    params, draft = models
    engine = SpeculativeEngine(TARGET, params, ENGINE, speculation, draft if speculation.drafter == "model" else None)
    made = {(c.problem, c.sample): c for c in engine.generate(MIXED)}
    expected, ledger = plain
    assert made.keys() == expected.keys()
    for key, ours in made.items():
        if speculation.rule == "seeded" or key[0] == 1:  # problem 1 is greedy
            assert (ours.tokens, ours.finish_reason) == (expected[key].tokens, expected[key].finish_reason)
            np.testing.assert_allclose(ours.logprobs, expected[key].logprobs, atol=1e-4)
        if key[0] == 3:
            assert ours.tokens[:2] == (1, 0)[: len(ours.tokens)]
    counts = engine.speculated
    assert counts.tokens == sum(len(c.tokens) for c in made.values()) == engine.ledger.total.generated_tokens
    assert counts.row_calls < counts.tokens and 0 < counts.acceptance < 1
    if speculation.rule == "seeded":
        assert engine.ledger.total.flops > ledger.total.flops  # guesses that were read in vain cost
    assert_sequences_follow_the_model(engine, params)


def assert_sequences_follow_the_model(engine: Engine, params: dict) -> None:
    """Chi-square of the first three tokens of many samples, in the program that is already there."""
    masked = Sampling(1.4, repetition_penalty=1.3, logit_bias=((2, 1.0),), forced=(1,))
    for problem, s in ((98, Sampling(temperature=0.8, top_k=4)), (99, masked)):
        request = Request(problem, (2, 0), 1536, 3, s, stop=((1, 0),))
        exact = sequences_of(TARGET, params, request, ENGINE.ends)
        assert sum(exact.values()) == pytest.approx(1, abs=1e-5)
        assert p_value(engine.generate([request]), exact) > 1e-3


@pytest.mark.parametrize(
    ("change", "fault"),
    [({"nodes": 1}, "nodes"), ({"drafter": "tabel"}, "drafter"), ({"rule": "x"}, "rule"), ({"candidates": 0}, "cand")],
)
def test_bad_settings_are_refused_by_name(change, fault):
    with pytest.raises(ConfigError, match=f"speculation.{fault}"):
        Speculation(**change)


def test_a_draft_model_must_fit_the_target(models):
    params, draft = models
    with pytest.raises(ConfigError, match="give a draft model"):
        SpeculativeEngine(TARGET, params, ENGINE, Speculation("model"))
    other = DraftModel(dataclasses.replace(DRAFT, vocab_size=9), draft.params)
    with pytest.raises(ConfigError, match="same tokenizer"):
        SpeculativeEngine(TARGET, params, ENGINE, Speculation("model"), other)
