"""A search that was stopped between two rounds goes on as if nothing had happened, in this process or another."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from models import transformer
from models.config import ModelConfig
from models.errors import ConfigError
from search import searcher as searchers
from search.config import SearchConfig
from search.decoder import TransformerDecoder
from search.saved import Keep
from search.searcher import Found, Searcher, SearchProblem
from search.strategies.beam import beam, dvts
from search.verifiers.scorer import LikelihoodScorer, ValueScorer
from tests.search.trees import Trees, random_trees

TREES = random_trees(0)
WALK = SearchConfig(
    problems=3, prompt_len=1, max_tokens=TREES.depth, max_steps=TREES.depth, max_rounds=8, tokens_per_step=1, trace=True
)
WALKS = [SearchProblem(i, i % 2, i) for i in range(8)]
VOCAB, END, DELIMITER = 17, 5, 7
MODEL = ModelConfig(vocab_size=VOCAB, d_model=16, n_layers=1, n_heads=2, n_kv_heads=1, d_ff=32, max_seq_len=48)
WRITE = SearchConfig(
    problems=3, prompt_len=8, max_tokens=12, max_steps=8, max_rounds=12, delimiters=(DELIMITER,), ends=(END,)
)
PROMPTS = [tuple(np.random.default_rng(i).integers(0, VOCAB, 3 + i % 5).tolist()) for i in range(8)]


def table(payloads: list, texts: list) -> np.ndarray:
    """A verifier of the host that cannot score problem 5."""
    if 5 in payloads:
        raise ValueError("no such problem")
    return np.array([TREES.value[i % 2, TREES.walk(i % 2, text)] for i, text in zip(payloads, texts)])


def search(kind: str) -> Searcher:
    if kind == "written":
        params = transformer.init(MODEL, jax.random.key(0))
        return Searcher(TransformerDecoder(MODEL, params, WRITE.prompt_len), beam(4, 2), WRITE, LikelihoodScorer())
    if kind == "of the host":
        return Searcher(TREES.decoder, beam(8, 4), WALK, table)
    return Searcher(TREES.decoder, beam(8, 4), WALK, ValueScorer())


def problems(kind: str) -> list[SearchProblem]:
    return [SearchProblem(i, p) for i, p in enumerate(PROMPTS)] if kind == "written" else WALKS


def essence(found: Found) -> str:
    """Everything but the time it took, to the last bit."""
    free = dataclasses.replace(found, cost=dataclasses.replace(found.cost, seconds=0))
    return json.dumps(dataclasses.asdict(free))


class Stop(Exception):
    """Instead of a signal."""


def interrupted(search: Searcher, given: list[SearchProblem], keep: Keep, writes: int, monkeypatch: Any) -> None:
    """Run until the state was written so often."""
    done = []

    def write(*arguments: Any) -> None:
        done.append(original(*arguments))
        if len(done) == writes:
            raise Stop

    original = searchers.write
    with monkeypatch.context() as patch:
        patch.setattr(searchers, "write", write)
        with pytest.raises(Stop):
            list(search.run(given, keep))


@pytest.mark.parametrize("kind", ["of the host", "written"])
def test_a_resumed_search_gives_the_same_bits(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, keep = problems(kind), Keep(tmp_path / "state", 0, 1)
    first = search(kind)
    other = search(kind) if kind == "written" else first
    whole = {f.problem.number: essence(f) for f in first.run(given)}
    rng = np.random.default_rng(0)
    for go_on in (first, first, other):  # in the searcher that was stopped, and in one that never ran
        keep.path.unlink(missing_ok=True)
        interrupted(first, given, keep, int(rng.integers(1, 9)), monkeypatch)
        found = list(go_on.run(iter(given), keep))
        assert {f.problem.number: essence(f) for f in found} == whole
        assert len(found) == len(given) and [f.problem.payload for f in found] == [
            given[f.problem.number].payload for f in found
        ]
    if kind == "written":
        assert all(other.ledger[f.problem.number] == f.cost for f in found)


def test_another_process_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    walker, keep = search("walked"), Keep(tmp_path / "state", 0, 1)
    interrupted(walker, WALKS, keep, 4, monkeypatch)
    code = (
        "import sys; from pathlib import Path; from tests.search.test_saved import *\n"
        "for f in search('walked').run(WALKS, Keep(Path(sys.argv[1]), 0, 1)): print(essence(f))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(keep.path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == sorted(map(essence, walker.run(WALKS)))


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A state after a few rounds."""
    keep = Keep(tmp_path_factory.mktemp("kept") / "state", 0, 1)
    next(search("walked").run(WALKS, keep))
    return keep.path.read_bytes()


def refused(search: Searcher, given: list[SearchProblem], content: bytes, path: Path) -> str:
    path.write_bytes(content)
    with pytest.raises(ConfigError) as raised:
        next(search.run(given, Keep(path)))
    text = str(raised.value)
    assert text.startswith(f"{path}: ") and "\n" not in text
    return text


def test_a_state_of_another_search_is_refused_with_what_differs(kept: bytes, tmp_path: Path) -> None:
    def other(config: SearchConfig = WALK, trees: Trees = TREES, strategy: Any = None, **of: Any) -> Searcher:
        return Searcher(trees.decoder, strategy or beam(8, 4), config, of.get("scorer", ValueScorer()))

    for changed, message in (
        (other(dataclasses.replace(WALK, seed=4)), "its search.seed is 0, and here it is 4"),
        (other(trees=random_trees(1)), "its policy.params is"),
        (other(scorer=LikelihoodScorer()), "its verifier.kind is ValueScorer, and here it is LikelihoodScorer"),
        (other(strategy=dvts(8, 4)), "its strategy.name is beam, and here it is dvts"),
        (other(strategy=beam(8, 2)), "its strategy.program is"),
    ):
        assert message in refused(changed, WALKS, kept, tmp_path / "state")
    same = other()
    swapped = [*WALKS[:1], SearchProblem(1, 0, 1), *WALKS[2:]]
    assert "another problem than number 1 in place 1" in refused(same, swapped, kept, tmp_path / "state")
    assert "problems, and here are 2" in refused(same, WALKS[:2], kept, tmp_path / "state")


def test_damage_is_refused(kept: bytes, tmp_path: Path) -> None:
    walker, rng = search("walked"), np.random.default_rng(1)
    for place in (0, 64, *rng.integers(65, len(kept), 20)):
        flipped = bytearray(kept)
        flipped[place] ^= 1 << rng.integers(8)
        assert "is damaged" in refused(walker, WALKS, bytes(flipped), tmp_path / "state")
    for length in (0, 10, 65, len(kept) - 1):
        assert "is damaged" in refused(walker, WALKS, kept[:length], tmp_path / "state")
