"""Inference jobs from the command line: every sample once, the same after kill -9, beside others, and run again."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest

from launch import cli
from launch import infer as command
from launch.jobs import Job, JobConfig
from models.errors import ConfigError
from models.sharding import MeshConfig
from search.engine.config import EngineConfig
from search.engine.placement import engine_mesh
from search.policy import load_policy
from tests.launch import commands

pytestmark = pytest.mark.slow
SIZES = ("--samples=3", "--max_tokens=12", "--config.shard_size=2", "--config.engine.slots=4",
         "--config.engine.max_len=64", "--config.engine.page_size=8", "--config.engine.prefill_chunk=16",
         "--config.engine.stage_tokens=4", "--config.engine.share_rows=2")  # fmt: skip
PROMPTS = [{"prompt": f"def f{i}(x): return x * {i}"[: 3 + 5 * i]} for i in range(1, 7)]


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("infer")
    config = commands.write_config(root, "one", "return Trial(MODEL, DATA, TRAIN)")
    done = commands.run("train", f"--config={config}", f"--workdir={root}/run")
    assert done.returncode == 0, done.stderr
    write(root / "p.jsonl", PROMPTS)
    return root


@pytest.fixture(scope="module")
def trial(root: Path) -> Path:
    (found,) = (root / "run" / "trials").iterdir()
    return found


def samples(path: Path) -> list[dict[str, Any]]:
    """The lines of a job, without the bytes moved: they depend on how many samples read a prompt together."""
    lines = [json.loads(line) for line in (path / "samples.jsonl").read_text().splitlines()]
    for line in lines:
        line.get("ledger", {}).pop("bytes", None)
    return lines


def arguments(root: Path, trial: Path, out: str, *more: str, prompts: str = "p.jsonl") -> list[str]:
    return [f"--checkpoint={trial}", f"--prompts={root / prompts}", f"--out={root / out}", *SIZES, *more]


def infer(root: Path, trial: Path, out: str, *more: str, prompts: str = "p.jsonl") -> Any:
    return commands.run("infer", *arguments(root, trial, out, *more, prompts=prompts))


@pytest.fixture(scope="module")
def whole(root: Path, trial: Path) -> list[dict[str, Any]]:
    """What an undisturbed job writes."""
    done = infer(root, trial, "whole")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("18 samples of 6 prompts (")
    return samples(root / "whole")


def test_every_sample_is_there_once_with_what_it_cost(whole: list[dict[str, Any]]) -> None:
    assert [(line["line"], line["sample"]) for line in whole] == [(i, s) for i in range(1, 7) for s in range(3)]
    for line in whole:
        tokens = line["tokens"]
        assert len(tokens) == len(line["logprobs"]) == line["ledger"]["generated_tokens"] <= 12
        assert line["finish_reason"] == ("eos" if tokens[-1] == 0 else "length")
        assert line["text"] == bytes(t for t in tokens if t).decode(errors="replace")
        assert line["ledger"]["prompt_tokens"] == len(PROMPTS[line["line"] - 1]["prompt"])
        assert line["ledger"]["flops"] > 0


def test_running_it_again_changes_nothing(root: Path, trial: Path, whole: list[dict[str, Any]]) -> None:
    before = {path: path.stat().st_mtime_ns for path in (root / "whole").rglob("*") if path.is_file()}
    done = infer(root, trial, "whole")
    assert done.returncode == 0 and done.stdout.startswith("18 samples of 6 prompts (")
    assert {path: path.stat().st_mtime_ns for path in (root / "whole").rglob("*") if path.is_file()} == before


def test_a_killed_job_goes_on_where_it_stopped(root: Path, trial: Path, whole: list[dict[str, Any]]) -> None:
    line = arguments(root, trial, "killed")
    kills = 0
    for lines in (1, 7, 12):  # kill it once so many samples are on disk
        job = commands.start("infer", *line)
        while job.poll() is None and _lines(root / "killed") < lines:
            time.sleep(0.002)
        job.send_signal(signal.SIGKILL)
        kills += job.wait() == -signal.SIGKILL
    assert kills >= 1
    assert infer(root, trial, "killed").returncode == 0
    assert samples(root / "killed") == whole


def test_a_finished_shard_that_changed_is_drawn_again(root: Path, trial: Path, whole: list[dict[str, Any]]) -> None:
    line = arguments(root, trial, "changed")
    job = commands.start("infer", *line)
    shards = root / "changed" / "shards"
    while job.poll() is None and not (done := [p for p in shards.glob("*.jsonl") if "partial" not in p.name]):
        time.sleep(0.002)
    job.send_signal(signal.SIGKILL)
    assert job.wait() == -signal.SIGKILL
    done[0].write_text(done[0].read_text().replace('"tokens": [', '"tokens": [1, ', 1))
    again = infer(root, trial, "changed")
    assert again.returncode == 0 and f"{done[0]} had changed and was drawn again" in again.stderr
    assert samples(root / "changed") == whole


def _lines(out: Path) -> int:
    try:
        return sum(len(path.read_text().splitlines()) for path in out.glob("shards/*.jsonl"))
    except FileNotFoundError:  # a partial file has just become final
        return 0


def test_two_processes_share_a_job(root: Path, trial: Path, whole: list[dict[str, Any]]) -> None:
    line = arguments(root, trial, "shared")
    jobs = [commands.start("infer", *line) for _ in range(2)]
    outputs = [job.communicate() for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], outputs
    assert samples(root / "shared") == whole


def test_guesses_change_how_tokens_are_found_and_not_which(
    root: Path, trial: Path, whole: list[dict[str, Any]]
) -> None:
    done = infer(root, trial, "guessed", "--config.speculate=table+text")
    assert done.returncode == 0, done.stderr
    guessed = samples(root / "guessed")
    assert [line["tokens"] for line in guessed] == [line["tokens"] for line in whole]
    costs = [sum(line["ledger"]["flops"] for line in lines) for lines in (guessed, whole)]
    assert costs[0] > costs[1], "what is read in vain is charged"


def test_quantised_weights_generate(root: Path, trial: Path, whole: list[dict[str, Any]]) -> None:
    done = infer(root, trial, "int8", "--config.quantize=int8")
    assert done.returncode == 0, done.stderr
    for line, other in zip(samples(root / "int8"), whole, strict=True):
        assert line["ledger"]["prompt_tokens"] == other["ledger"]["prompt_tokens"]
        assert line["tokens"] != other["tokens"] or line["logprobs"] == pytest.approx(other["logprobs"], abs=0.1)


def test_a_mesh_draws_the_same_samples(root: Path, trial: Path, whole: list[dict[str, Any]]) -> None:
    line = arguments(root, trial, "mesh")
    devices = commands.environment() | {"JAX_NUM_CPU_DEVICES": "8"}
    job = commands.start("infer", *line, "--config.mesh.data=2", "--config.mesh.tensor=2", env=devices)
    _, err = job.communicate()
    assert job.returncode == 0, err
    # float32 sums in another order move logits by 1e-6, and no choice here is as close as that
    assert [line["tokens"] for line in samples(root / "mesh")] == [line["tokens"] for line in whole]


def test_parameters_are_read_into_their_shards(trial: Path) -> None:
    mesh = engine_mesh(MeshConfig(tensor=2))
    one, two = load_policy(trial), load_policy(trial, mesh)
    assert one.digest == two.digest
    jax.tree.map(np.testing.assert_array_equal, one.params, two.params)
    table = two.params["tokens"]
    assert table.sharding.shard_shape(table.shape)[0] == table.shape[0] // 2
    with pytest.raises(ConfigError, match="mesh.tensor: 4 does not divide the kv_heads dim 2 of "):
        load_policy(trial, engine_mesh(MeshConfig(tensor=4)))


def test_workers_do_the_job_and_one_that_is_killed_is_replaced(
    root: Path, trial: Path, whole: list[dict[str, Any]]
) -> None:
    line = arguments(root, trial, "crew", "--workers=2")
    job = commands.start("infer", *line)
    while job.poll() is None and not (started := commands.workers(root / "crew")):
        time.sleep(0.02)
    os.kill(started[0], signal.SIGKILL)
    _, err = job.communicate()
    assert job.returncode == 0, err
    assert samples(root / "crew") == whole
    cards = [json.loads(path.read_text()) for path in (root / "crew" / "cards").iterdir()]
    assert sum(card["samples"] for card in cards) <= 18 and all(card["energy"]["kwh"] > 0 for card in cards)


def test_a_bad_line_is_reported_and_stops_nothing(root: Path, trial: Path, whole: list[dict[str, Any]]) -> None:
    rows = [*PROMPTS[:2], '{"prompt": ', {"prompt": "x" * 64}, {"prompt": ""}, {"tokens": [1, 999]}, PROMPTS[3],
            {"prompt": "\ud800"}, {"prompt": "a", "id": "\udfff"}, "[" * 100_000,
            {"messages": [{"role": "user", "content": "a"}]}, {"prompt": "a", "id": 12, "gold": {"é": 1}}]  # fmt: skip
    write(root / "bad.jsonl", rows)
    done = infer(root, trial, "bad", prompts="bad.jsonl")
    assert done.returncode == 1
    messages = done.stderr.splitlines()
    assert [m.partition("bad.jsonl:")[2].partition(":")[0] for m in messages if "error: " in m] == [
        "3", "4", "5", "6", "8", "9", "10", "11",
    ]  # fmt: skip
    words = ("JSON", "64 tokens, but the context", "empty", "unknown tokens", "half of a character",
             "half of a character", "nested too deeply", "no chat template")  # fmt: skip
    for word, message in zip(words, messages, strict=True):
        assert word in message
    good = [line for line in samples(root / "bad") if "error" not in line]
    assert [line["line"] for line in good] == [1] * 3 + [2] * 3 + [7] * 3 + [12] * 3
    assert {(line["id"], line["gold"]["é"]) for line in good[9:]} == {(12, 1)}
    table = pq.read_table(root / "bad" / "samples.parquet").to_pylist()
    assert [(row["id"], row["fields"]) for row in table if row["line"] == 12] == [("12", '{"gold": {"é": 1}}')] * 3
    assert good[:6] == whole[:6]


def test_a_stop_cuts_tokens_and_text_where_it_is_complete(
    root: Path, trial: Path, whole: list[dict[str, Any]]
) -> None:
    text = next(line["text"][3:5] for line in whole if line["text"][3:5].isascii() and "\n" not in line["text"][3:5])
    done = infer(root, trial, "stopped", f"--config.stop={json.dumps([text])}", "--config.prompt_logprobs=true")
    assert done.returncode == 0, done.stderr
    for line, free in zip(samples(root / "stopped"), whole, strict=True):
        n = next((n for n in range(1, 13) if bytes(free["tokens"][:n]).endswith(text.encode())), None)
        assert line["tokens"] == free["tokens"][:n]
        assert (line["finish_reason"] == "stop") == (n is not None)
        prompt = PROMPTS[line["line"] - 1]["prompt"]
        own = line.get("prompt_logprobs")
        assert (own is None) == (line["sample"] > 0)
        assert own is None or (len(own) == len(prompt) and own[0] is None and max(own[1:]) < 0)
        assert line["text"] == (free["text"] if n is None else free["text"][: free["text"].index(text)])
    assert any(line["finish_reason"] == "stop" for line in samples(root / "stopped"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--samples=4",), "belongs to another job (changed: samples was 3, is 4)"),
        (("--out={root}/run",), "holds no job"),
        (("--prompts={root}/absent.jsonl",), "absent.jsonl: no such file"),
        (("--checkpoint={root}/run",), "holds no final parameters"),
        (("--checkpoint={root}/nowhere",), "--checkpoint: "),
        (("--temperature=-1",), "sampling.temperature: is -1.0"),
        (("--config.engine.page_size=0",), "engine.page_size: is 0"),
        (("--config.quantize=int9",), "quantize: "),
        (("--config.mesh.tensor=9",), "mesh: tensor=9 does not make 8 devices: choose axes whose product is 8"),
        (("--config.mesh.fsdp=2",), "mesh.fsdp: splits nothing that an engine has: use data and tensor"),
        (("--config.stop=abcdefghijklmnop", "--out={root}/new2"), "can never match"),
    ],
)
def test_bad_input_is_one_line(
    root: Path, trial: Path, whole: list[dict[str, Any]], change: tuple[str, ...], message: str, capsys: Any
) -> None:
    line = arguments(root, trial, "whole", *(text.format(root=root) for text in change))
    assert cli.execute(command.main, command.FLAGS, command.__doc__, line, command.kinds) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1


def test_a_checkpoint_without_a_tensor_is_refused(root: Path, trial: Path) -> None:
    broken = root / "broken"
    shutil.copytree(trial, broken)
    config = json.loads((broken / "config.json").read_text())
    config["model"]["qk_norm"] = True
    (broken / "config.json").write_text(json.dumps(config))
    done = infer(root, broken, "broken_out")
    assert done.returncode == 2 and "k_norm" in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", ["job.json", "manifest.json"])
def test_a_damaged_file_of_a_job_is_named(root: Path, whole: list[dict[str, Any]], name: str, tmp_path: Path) -> None:
    shutil.copytree(root / "whole", tmp_path / "job")
    job, _ = Job.find(tmp_path / "job")
    assert job.verify()["samples"] == 18
    file = tmp_path / "job" / name
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ConfigError, match=rf"{name}: is damaged .*: restore it, or start in a new directory"):
        Job.find(tmp_path / "job")[0].verify()


def test_damaged_parameters_are_not_called_absent(trial: Path, tmp_path: Path) -> None:
    shutil.copytree(trial, tmp_path / "trial")
    largest = max((p for p in (tmp_path / "trial" / "checkpoints").rglob("*") if p.is_file()), key=os.path.getsize)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    with pytest.raises(ConfigError, match=r"the parameters in .*checkpoints are damaged: restore them, or delete"):
        load_policy(str(tmp_path / "trial"))


def test_a_default_context_is_cut_to_what_the_model_has(trial: Path) -> None:
    policy = load_policy(str(trial))
    for positions, most, asked, expected in (
        ("learned", 64, 1024, 64), ("learned", 4096, 1024, 1024), ("learned", 64, 512, 512), ("rope", 64, 1024, 1024),
    ):  # fmt: skip
        model = dataclasses.replace(policy.model, positions=positions, max_seq_len=most)
        job = JobConfig(engine=EngineConfig(max_len=asked, pages=4096))
        assert command.fitted(job, dataclasses.replace(policy, model=model)).engine.max_len == expected
