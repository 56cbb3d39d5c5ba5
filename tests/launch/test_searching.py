"""A strategy on prompts of one's own: one line for every row, the same whoever writes it, and what fails is marked."""

from __future__ import annotations

import dataclasses
import json
import signal
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest

from launch import answers, reward
from launch.jobs import Job, JobConfig
from launch.prompts import PromptFile
from launch.searching import Prepared, answer_prompts, named_parts, prepared
from models import transformer
from models.config import ModelConfig
from models.errors import ConfigError
from models.sharding import MeshConfig
from scaling.data.tokenizer import ByteTokenizer
from search.config import SearchSizes
from search.engine.config import EngineConfig
from search.engine.placement import engine_mesh
from search.policy import Policy, load_policy
from search.searcher import SearchProblem
from search.strategies.beam import Beam
from search.strategies.best_of_n import BestOfN
from search.strategies.catalogue import read_strategy
from search.verifiers.catalogue import Likelihood, UserFunction
from tests.launch import commands
from tests.launch.test_infer_huggingface import GOLDEN, with_tokenizer

LONG = 10
MODEL = ModelConfig(vocab_size=256, d_model=8, n_layers=1, n_heads=2, d_ff=8, max_seq_len=64)
ENDS = (0, *range(90, 140))  # so many that short texts end
POLICY = Policy(MODEL, transformer.init(MODEL, jax.random.key(0)), ByteTokenizer(), ENDS, "digest", "it")
BEAM = JobConfig(
    max_tokens=LONG, shard_size=2, engine=EngineConfig(max_len=32), strategy=Beam(4, 2), verifier=Likelihood(),
    answer="number", search=SearchSizes(rows=8, tokens_per_step=2),
)  # fmt: skip
ROWS: list[Any] = [
    {"prompt": f"{i} and {i * i}", "answer": i} | ({"task": "sums"} if i % 2 else {"id": f"row {i}"}) for i in range(5)
]
BAD: list[tuple[Any, str]] = [
    ({"prompt": "x" * 23}, "prompt has 23 tokens, but there is room for 22"),
    ({"prompt": "x", "delimiter": 3}, "delimiter is 3: give a text"),
    ({"tokens": [1, 256]}, "prompt has unknown tokens [256]"),
    ({"prompt": "x", "best": 1}, "has a column 'best', which is one of the output's"),
    ('{"prompt": ', "is not JSON"),
]


def job(root: Path, config: JobConfig, rows: list[Any], search: Prepared) -> Job:
    root.mkdir(exist_ok=True)
    file = root / "p.jsonl"
    file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return Job.open(root / "job", config, PromptFile(file), search.digest)


def worked(made: Job, search: Prepared, most: int = 1000) -> list[dict[str, Any]]:
    """The lines of a job that is stopped after `most` looks at whether it is to stop, and of a whole one otherwise."""
    looks = iter(range(most))
    with made.presence("test") as presence:
        answer_prompts(made, search, lambda: next(looks, None) is None, presence)
        if not all(made.is_done(i) for i in range(len(made.shards))):
            return []
        made.finish()
    made.verify()
    return [json.loads(line) for line in (made.path / "samples.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def beam() -> Prepared:
    found = prepared(BEAM, POLICY)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, beam: Prepared) -> list[dict[str, Any]]:
    root = tmp_path_factory.mktemp("whole")
    return worked(job(root, BEAM, [*ROWS, *(row for row, _ in BAD)], beam), beam)


def test_every_line_says_what_the_search_of_its_row_found(whole: list[dict[str, Any]], beam: Prepared) -> None:
    lines = {line["line"] - 1: line for line in whole if "error" not in line}
    assert sorted(lines) == list(range(len(ROWS)))
    problems = [SearchProblem(i, tuple(row["prompt"].encode())) for i, row in enumerate(ROWS)]
    reader, answered = beam.setting.reader(), 0
    for found in beam.of(None).run(problems):
        line, row = lines[found.problem.number], ROWS[found.problem.number]
        assert line.items() >= row.items() - {("prompt", row["prompt"])}
        assert [c["tokens"] for c in line["candidates"]] == [list(c.tokens) for c in found.candidates]
        for name in ("score", "weight", "logprob"):
            assert [c[name] for c in line["candidates"]] == [round(getattr(c, name), 6) for c in found.candidates]
        assert line["best"] == found.best
        text = "" if found.best is None else line["candidates"][found.best]["text"]
        assert line["text"] == text and line["finish_reason"] == ("none" if found.best is None else "answer")
        assert line["correct"] == reader.right(text, str(row["answer"]))
        ledger = dataclasses.asdict(found.cost)
        ledger.pop("seconds")
        assert line["ledger"] == ledger and line["rounds"] == found.rounds
        answered += found.best is not None
    assert answered > 0


def test_rows_that_cannot_be_searched_are_lines_of_their_own(whole: list[dict[str, Any]]) -> None:
    errors = [line["error"] for line in whole if "error" in line]
    assert len(errors) == len(BAD)
    for error, (_, words) in zip(errors, BAD, strict=True):
        assert words in error and "\n" not in error


def test_a_job_that_was_stopped_anywhere_goes_on_to_the_same_lines(
    whole: list[dict[str, Any]], beam: Prepared, tmp_path: Path
) -> None:
    rows, stops = [*ROWS, *(row for row, _ in BAD)], 0
    for most in (1, 2, 3, 4, 5, 6):
        made = job(tmp_path, BEAM, rows, beam)
        stops += not worked(made, beam, most)
    assert stops >= 3
    assert worked(job(tmp_path, BEAM, rows, beam), beam) == whole


def test_the_table_and_the_manifest_hold_what_the_lines_hold(beam: Prepared, tmp_path: Path) -> None:
    made = job(tmp_path, BEAM, ROWS, beam)
    lines = worked(made, beam)
    table = pq.read_table(made.path / "samples.parquet").to_pylist()
    assert [row["best"] for row in table] == [line["best"] for line in lines]
    assert [[c["score"] for c in row["candidates"]] for row in table] == [
        [c["score"] for c in line["candidates"]] for line in lines
    ]
    manifest = made.verify()
    right = [line["correct"] for line in lines]
    assert manifest["right"] == {"": [3, sum(right[::2])], "sums": [2, sum(right[1::2])]}
    assert manifest["depth"] == sum(line["ledger"]["depth"] for line in lines)
    assert manifest["finish_reasons"].keys() <= {"answer", "none"}


def test_jobs_are_compared_in_one_table_and_teach_a_reward_model(beam: Prepared, tmp_path: Path) -> None:
    made = job(tmp_path, BEAM, ROWS, beam)
    lines = worked(made, beam)
    (row,) = answers.table(tmp_path).to_dict("records")
    assert (row["job"], row["strategy"], row["verifier"]) == ("job", "beam:samples=4,width=2", "likelihood")
    assert row["accuracy"] == np.mean([line["correct"] for line in lines]) and row["low"] <= row["accuracy"]
    assert row["flops"] * 5 == pytest.approx(sum(line["ledger"]["flops"] for line in lines))
    assert "likelihood" in answers.shown(answers.table(tmp_path)).splitlines()[1]
    taught = list(reward.labelled(made, POLICY, "e"))
    ended = [(ROWS[line["line"] - 1], c) for line in lines for c in line["candidates"] if c["complete"]]
    assert len(taught) == len(ended) > 0
    for found, (fields, candidate) in zip(taught, ended, strict=True):
        assert found.prompt == tuple(fields["prompt"].encode()) and list(found.tokens) == candidate["tokens"]
        assert found.right == beam.setting.reader().right(candidate["text"], str(fields["answer"]))
        steps = [i for i, token in enumerate(found.tokens, 1) if token == ord("e") or i == len(found.tokens)]
        assert list(found.ends) == steps


def test_steps_end_where_their_text_does_however_tokens_cut_it() -> None:
    assert list(reward.ends((0, 1, 2, 0), [b"a\n", b"\nb", b"\n\nc"], b"\n\n")) == [2, 3, 4]


def test_rows_with_delimiters_of_their_own_are_searches_of_their_own(beam: Prepared, tmp_path: Path) -> None:
    config = dataclasses.replace(BEAM, search=SearchSizes(rows=8), shard_size=8)
    search = prepared(config, POLICY)
    assert search is not None and not search.searches  # nothing ends a step but rows' own
    rows = [{"prompt": "a", "delimiter": "e"}, {"prompt": "b"}, {"prompt": "c", "delimiter": "e"}]
    lines = worked(job(tmp_path, config, rows, search), search)
    assert "search.delimiter" not in json.dumps(lines[0]) and "delimiter is missing" in lines[1]["error"]
    assert list(search.searches) == ["e"]
    alone = next(search.of("e").run([SearchProblem(2, tuple(b"c"))]))
    assert [c["tokens"] for c in lines[2]["candidates"]] == [list(c.tokens) for c in alone.candidates]


VERIFIER = """
import os, time
def score(prompt, completions):
    print("this is for standard error")
    what = prompt["what"]
    if what == "raise": raise ValueError("not this one")
    if what == "hang": time.sleep(600)
    if what == "die": os._exit(3)
    return {"nan": [float("nan")] * 2, "short": [0.5], "large": [0.5, 1.5]}.get(what, [0.25, 0.75])
"""


def test_an_item_that_its_verifier_cannot_score_is_marked_and_the_others_go_on(tmp_path: Path) -> None:
    (tmp_path / "judge.py").write_text(VERIFIER)
    config = dataclasses.replace(
        BEAM, strategy=BestOfN(2), verifier=UserFunction(str(tmp_path / "judge.py"), seconds=0.5), shard_size=8
    )
    search = prepared(config, POLICY)
    assert search is not None
    kinds = ("fine", "raise", "nan", "hang", "die", "short", "large", "fine")
    rows = [{"prompt": "a b", "what": what, "answer": 1} for what in kinds]
    made = job(tmp_path, config, rows, search)
    lines = worked(made, search)
    words = (None, "raised RuntimeError: ValueError: not this one", "is not finite", "took more than 0.5 seconds",
             "its process ended", "1 scores", "score of 1.5, which is not in [0, 1]", None)  # fmt: skip
    for line, word in zip(lines, words, strict=True):
        assert (line.get("failed") is None) == (word is None)
        assert word is None or (word in line["failed"] and line["finish_reason"] == "failed" and not line["correct"])
        assert word is not None or [c["score"] for c in line["candidates"]] == [0.25, 0.75]
        assert line["ledger"]["generated_tokens"] > 0 and line["best"] in ((None,) if word else (None, 0, 1))
    assert [message.partition(": ")[0].rpartition(":")[2] for message in made.bad_lines()] == list("234567")


@pytest.mark.slow
def test_several_devices_write_the_lines_of_one(whole: list[dict[str, Any]], tmp_path: Path) -> None:
    config = dataclasses.replace(BEAM, mesh=MeshConfig(data=2))
    search = prepared(config, POLICY)
    assert search is not None and search.setting.mesh is not None
    found = worked(job(tmp_path, config, ROWS, search), search)
    assert [line["candidates"] for line in found] == [line["candidates"] for line in whole if "error" not in line]


def test_an_int8_cache_of_the_engine_is_that_of_the_search() -> None:
    search = prepared(dataclasses.replace(BEAM, engine=dataclasses.replace(BEAM.engine, kv_cache="int8")), POLICY)
    plain = prepared(BEAM, POLICY)
    assert search is not None and plain is not None
    for found, kind in ((search, np.int8), (plain, np.float32)):
        kept = found.setting.decoder().caches(1, 2, 8)
        assert np.dtype(kind) in {leaf.dtype for leaf in jax.tree.leaves(kept)}
        assert (np.dtype(np.int8) in {leaf.dtype for leaf in jax.tree.leaves(kept)}) == (kind is np.int8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"verifier": None}, "scorer: beam needs one: give a scorer"),
        ({"strategy": None}, "verifier: scores nothing without a strategy"),
        ({"samples": 3}, "samples: is of samples, and this job searches"),
        ({"answer": "nmber"}, "answer: 'nmber' is no way of reading answers: did you mean 'number'"),
        ({"max_tokens": 40}, "engine.max_len: leaves no room for a prompt"),
        ({"verifier": UserFunction("nowhere.py")}, "verifier.file: nowhere.py: no such file"),
        ({"strategy": Beam(5, 2)}, "width: is 2, which does not divide samples=5"),
    ],
)
def test_what_no_row_could_be_searched_with_is_refused_before_the_job_begins(
    change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as error:
        prepared(dataclasses.replace(BEAM, **change), POLICY)
    assert message in str(error.value)


def test_flags_name_parts_as_text_as_json_and_as_files(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text('{"name": "beam", "samples": 4}')
    body = "from search.strategies.beam import Beam\n\ndef config():\n    return Beam(4)\n"
    (tmp_path / "s.py").write_text(f'"""A strategy."""\n{body}')
    for text in ("beam:samples=4", '{"type": "Beam", "samples": 4}', f"{tmp_path}/s.json", f"{tmp_path}/s.py"):
        assert named_parts(text, "likelihood") == {"strategy": Beam(4), "verifier": Likelihood()}
    assert named_parts(None, None) == {}
    for text, words in (("baem", "did you mean 'beam'"), (f"{tmp_path}/t.json", "no such file")):
        with pytest.raises(ConfigError, match=words):
            named_parts(text, None)
    with pytest.raises(ConfigError, match="verifier: 'numric' is none: did you mean 'numeric'"):
        named_parts(None, "numric")


@pytest.mark.slow  # four processes that each import jax
def test_a_search_of_a_folder_that_is_killed_and_shared_writes_what_one_process_does(tmp_path: Path) -> None:
    folder = with_tokenizer(GOLDEN / "qwen3", tmp_path / "qwen3")
    prompts = tmp_path / "p.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"w{10 + i} w20", "answer": "w9"}) + "\n" for i in range(6)))
    sizes = ("--max_tokens=8", "--config.engine.max_len=24", "--config.shard_size=2", "--config.search.rows=8")
    strategy = 'particle_filter:samples=4,delimiter="w30",tokens_per_step=3'

    def arguments(out: str) -> tuple[str, ...]:
        parts = f"--strategy={strategy}", "--verifier=confidence:top=3", f"--out={tmp_path / out}", *sizes
        return "infer", f"--checkpoint={folder}", f"--prompts={prompts}", *parts

    whole = commands.run(*arguments("whole"))
    assert whole.returncode == 0, whole.stderr
    assert whole.stdout.startswith("6 searches of 6 prompts (") and "of 6 answers are right" in whole.stdout
    killed = commands.start(*arguments("killed"))
    while killed.poll() is None and not list((tmp_path / "killed").glob("shards/*.jsonl")):
        time.sleep(0.002)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    both = [commands.start(*arguments("killed")) for _ in range(2)]
    outputs = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    lines = [(tmp_path / out / "samples.jsonl").read_bytes() for out in ("whole", "killed")]
    assert lines[0] == lines[1] and lines[0].count(b'"candidates"') == 6


def test_every_strategy_is_a_field_of_a_job(tmp_path: Path) -> None:
    for text in ("greedy", "hogwild:workers=2", "short_m:chains=4"):
        config = dataclasses.replace(BEAM, strategy=read_strategy(text))
        made = Job.open(tmp_path / text[:4], config, PromptFile(_one(tmp_path)), "digest", "")
        assert Job.find(made.path)[0].config == config


@pytest.mark.slow  # compiles a search each
@pytest.mark.parametrize(
    "strategy",
    [
        "twisted_smc:samples=4", "particle_gibbs:samples=4,iterations=2", "astar:branch=2,capacity=6",
        "mcts:simulations=4,actions=2", "short_m:chains=4,m=2", "adaptive_consistency:most=6,batch=2",
        'hogwild:workers=2,openings=["1","2"]',
    ],
)  # fmt: skip
def test_jobs_of_other_strategies_write_what_their_search_finds_and_go_on_after_a_stop(
    strategy: str, tmp_path: Path
) -> None:
    """A store of pages, a reference, a frontier, a tree, a race, a vote that may end early, workers on one cache."""
    config = dataclasses.replace(BEAM, strategy=read_strategy(strategy))
    search, rows = prepared(config, POLICY), ROWS[:3]
    assert search is not None
    lines = {line["line"] - 1: line for line in worked(job(tmp_path / "whole", config, rows, search), search)}
    for found in search.of(None).run(SearchProblem(i, tuple(row["prompt"].encode())) for i, row in enumerate(rows)):
        line, ledger = lines.pop(found.problem.number), dataclasses.asdict(found.cost)
        ledger.pop("seconds")
        written = [list(c.tokens) for c in found.candidates if c.tokens]  # places of a store that nobody took are none
        assert [c["tokens"] for c in line["candidates"]] == written
        assert (tuple(line["tokens"]), line["ledger"], line["rounds"]) == (found.answer or (), ledger, found.rounds)
    assert not lines
    for most in (0, 1, 1000):  # looks at whether it is to stop: before anything, soon, and never
        worked(job(tmp_path / "again", config, rows, search), search, most)
    both = [(tmp_path / name / "job" / "samples.jsonl").read_bytes() for name in ("whole", "again")]
    assert both[0] == both[1]


@pytest.mark.slow  # compiles a search each
@pytest.mark.parametrize(
    ("golden", "strategy", "change"),
    [
        ("mamba2", "beam:samples=4,width=2", {}),
        ("qwen3", "astar:branch=2,capacity=6", {"engine": EngineConfig(max_len=32, kv_cache="int8")}),
        ("qwen3", "rebase:samples=4", {"mesh": MeshConfig(tensor=2)}),
    ],
)
def test_jobs_on_folders_go_on_to_the_bits_of_a_quiet_run(
    golden: str, strategy: str, change: dict[str, Any], tmp_path: Path
) -> None:
    """A state per row, keys and values in int8, and a model that is split among devices."""
    folder = with_tokenizer(GOLDEN / golden, tmp_path / golden)
    config = dataclasses.replace(BEAM, strategy=read_strategy(strategy), **change)
    search = prepared(config, load_policy(folder, engine_mesh(config.mesh)))
    assert search is not None
    rows: list[Any] = [{"prompt": f"w{10 + i} w20"} for i in range(3)]
    quiet = worked(job(tmp_path / "quiet", config, rows, search), search)
    assert len(quiet) == 3 and all(c["tokens"] for line in quiet for c in line["candidates"])
    for most in (0, 1, 2, 1000):  # looks at whether it is to stop
        worked(job(tmp_path / "again", config, rows, search), search, most)
    both = [(tmp_path / name / "job" / "samples.jsonl").read_bytes() for name in ("quiet", "again")]
    assert both[0] == both[1]
    if "mesh" in change:  # products of halves are summed in another order: equal tokens, not equal bits
        config = dataclasses.replace(config, mesh=MeshConfig())
        alone = prepared(config, load_policy(folder))
        assert alone is not None
        lines = worked(job(tmp_path / "alone", config, rows, alone), alone)
        assert [line["tokens"] for line in lines] == [line["tokens"] for line in quiet]


def _one(root: Path) -> Path:
    path = root / "one.jsonl"
    path.write_text('{"prompt": "a"}\n')
    return path
