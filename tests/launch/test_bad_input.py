"""Bad input through the real command lines: exit code 2, one line with the field and the fix, nothing compiled."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import pytest

from models import transformer
from models.config import ModelConfig
from scaling.sweep.directory import RunDirectory
from scaling.train.checkpoint import Checkpoints
from tests.launch import commands
from tests.scaling.sweep import tiny

# Runs many command lines in one process, since starting Python costs more than any of them. Says what each one printed
# and exited with, and how many programs were compiled by then.
DRIVER = """
import contextlib, io, json, runpy, sys
from launch import environment
environment.prepare()
import jax
compiled = []
def listen(name, *_, **__):
    if "backend_compile" in name:
        compiled.append(name)
jax.monitoring.register_event_duration_secs_listener(listen)
for line in sys.stdin:
    name, *arguments = json.loads(line)
    sys.argv = ["command", *arguments]
    sys.modules.pop("launch." + name, None)
    out, err, code = io.StringIO(), io.StringIO(), None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            runpy.run_module("launch." + name, run_name="__main__")
        except SystemExit as end:
            code = end.code
    print(json.dumps([code, out.getvalue(), err.getvalue(), len(compiled)]), flush=True)
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bad")
    commands.write_config(root, "one", "return Trial(MODEL, DATA, TRAIN)")
    commands.write_config(root, "sweep", "return SweepConfig('sweep', MODEL, DATA, TRAIN)")
    commands.write_config(
        root,
        "iso",
        "return SweepConfig('iso', MODEL, DATA, TRAIN, isoflop=Isoflop((1e9,), (8, 16), min_ratio=0.1, max_ratio=1e5))",
    )
    (root / "empty").mkdir()
    (root / "binary").mkdir()
    for number in range(3):
        (root / "binary" / f"{number}.txt").write_bytes(b"\xff\xfe\x80" * 99)
    (root / "full").mkdir()
    (root / "full" / "thesis.tex").write_text("years of work")
    (root / "file").write_text("no directory")
    return root


@pytest.fixture(scope="module")
def driver(root: Path) -> Any:
    """Call with a command and its arguments: [exit code, stdout, stderr, compiled programs]."""
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root, env=commands.environment(),
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    def call(name: str, *arguments: str) -> list[Any]:
        stdin.write(json.dumps([name, *arguments]) + "\n")
        stdin.flush()
        return json.loads(stdout.readline())

    yield call
    stdin.close()
    process.wait()


def refused(answer: list[Any]) -> str:
    """The one line of a refusal."""
    code, out, err, compiled = answer
    assert (code, out, compiled) == (2, "", 0), answer
    assert err.endswith("\n") and err.count("\n") == 1, err
    line = err.strip()
    assert re.fullmatch(r"error: [^:]\S*: [^:].*: \S.*", line), line
    return line


CASES = [
    ("model.d_modle=8", "error: model.d_modle: no such field: did you mean model.d_model? fields of "),
    ("trian.steps=8", "error: trian: no such field: did you mean train? fields of "),
    ("train.steps=abc", "error: train.steps: 'abc' is not an integer: give an integer"),
    ("train.steps=1.5", "error: train.steps: '1.5' is not an integer: give an integer"),
    ("train.steps=0", "error: train.steps: is 0: give a positive integer"),
    ("train.schedule=cosin", "error: train.schedule: 'cosin' is not one of cosine, wsd, constant: did you mean cos"),
    ("train.accumulate=3", "error: train.accumulate: 3 micro-batches do not divide batch_size 4: use a divisor of"),
    ("model.n_heads=3", "error: model.n_heads: 3 heads do not divide d_model 8: use one of [1, 2, 4, 8] heads, or set"),
    ("model.n_kv_heads=3", "error: model.n_kv_heads: 3 key-value heads do not divide 2 heads: use one of [1, 2]"),
    ("model.vocab_size=300", "error: model.vocab_size: is 300, but the tokenizer has 256 tokens: set it to 256"),
    ("data.path=empty", "error: empty: holds no"),
    ("data.path=missing", "error: missing: "),
    ("data.path=binary", "error: binary: "),
    ("data.tokenizer=byte", "error: data.tokenizer: 'byte' is neither 'bytes', 'bpe', 'characters' nor the path of a "),
    ("train.batch_size=100000", "error: train.batch_size: the corpus gives "),
    ("train.seq_len=1000000", "error: train.seq_len: "),
    ("train.init_from=missing", "error: train.init_from: missing holds no final parameters: name the directory of"),
    ("threads=1000", "error: threads: 1000 threads per worker, but this machine lends "),
]


@pytest.mark.parametrize(("override", "words"), CASES, ids=[override for override, _ in CASES])
@pytest.mark.parametrize("command", ["train", "sweep"])
def test_a_config_that_cannot_work_is_refused(root, driver, command, override, words, tmp_path):
    config = {"train": "one.py", "sweep": "sweep.py"}[command]
    line = refused(driver(command, f"--config={config}", f"--workdir={tmp_path}/run", f"--config.{override}"))
    assert line.startswith(words)
    assert not (tmp_path / "run" / "config.json").exists()  # the right config may still claim this directory


MESHES = [
    (["mesh.fsdp=2"], "error: mesh: fsdp=2 does not make 1 devices: "),
    (["mesh.tensor=3"], "error: mesh.tensor: 3 does not divide the "),
    (["mesh.stage=2"], "error: mesh.stage: 2 stages for 1 layers: use at most 1"),
    (
        ["mesh.stage=2", "model.scan_layers=true", "model.n_layers=2", "train.microbatches=3"],
        "error: train.microbatches: 3 micro-batches do not divide the 4 sequences",
    ),
    (["mesh.data=8"], "error: train.batch_size: a micro-batch of 4 sequences does not divide over data=8: use a mul"),
    (["mesh.context=3"], "error: train.seq_len: 16 positions do not divide over context=3: use a multiple of 3"),
    (["mesh.expert=2"], "error: mesh.expert: the model has no experts: use 1, or set model.moe"),
    (["train.init_from=other"], "error: train.init_from: block_0/"),
]


@pytest.fixture(scope="module")
def other(root: Path) -> None:
    """The final parameters of a wider model, in root/other."""
    model = ModelConfig(vocab_size=256, d_model=16, n_layers=1, n_heads=2, d_ff=16)
    with Checkpoints(root / "other" / "checkpoints") as checkpoints:
        checkpoints.save(1, {"params": transformer.init(model, jax.random.key(0))}, {})


@pytest.mark.parametrize(("overrides", "words"), MESHES, ids=[overrides[0] for overrides, _ in MESHES])
def test_a_mesh_or_a_checkpoint_of_another_model_is_refused(root, other, driver, overrides, words, tmp_path):
    flags = [f"--config.{override}" for override in overrides]
    assert refused(driver("train", "--config=one.py", f"--workdir={tmp_path}/run", *flags)).startswith(words)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("isoflop.budgets=1e3", "error: isoflop.budgets: no width of [8, 16] spends 1e+03 FLOPs within 1% at "),
        ("isoflop.budgets=1e9,1e19", "error: isoflop.budgets: no width of [8, 16] spends 1e+19 FLOPs within 1% at "),
        ("isoflop.widths=9", "error: model.n_heads: 2 heads do not divide d_model 9: use one of [1, 3, 9] heads"),
        ("isoflop.width=8", "error: isoflop.width: no such field: did you mean isoflop.widths?"),
        ("prediction.law=chinchila", "error: "),
    ],
)
def test_a_plan_that_cannot_work_is_refused(root, driver, override, words, tmp_path):
    line = refused(driver("sweep", "--config=iso.py", f"--workdir={tmp_path}/run", f"--config.{override}"))
    assert line.startswith(words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config=iso.py", "--workdir=x"], "error: iso.py: config() returned a SweepConfig: return a Trial"),
        (["--config=oen.py", "--workdir=x"], "error: oen.py: no such file: did you mean one.py?"),
        (["--config=one.py"], "error: --workdir: is required: give --workdir=VALUE"),
        (["--config=one.py", "--workdri=x"], "error: --workdri: unknown flag: did you mean --workdir?"),
        (["--config=one.py", "--workdir=x", "--threads=2"], "error: --threads: is a field of the config"),
        (
            ["--config=one.py", "--workdir=x", "--seed=2"],
            "error: --seed: is a field of the config: give --config.data.seed=VALUE or --config.train.seed=VALUE",
        ),
        (["--config=one.py", "--workdir=full"], "error: full: is not empty (thesis.tex) and is no run directory: "),
        (["--config=one.py", "--workdir=file"], "error: file: "),
    ],
)
def test_flags_that_cannot_work_are_refused(root, driver, arguments, words):
    assert refused(driver("train", *arguments)).startswith(words)
    assert tiny.hashes(root / "full").keys() <= {"thesis.tex", ".launcher"}


@pytest.mark.parametrize(
    ("config", "override", "words"),
    [
        ("sweep.py", "data.path=missing", "error: missing: does not exist: "),
        ("sweep.py", "mesh.fsdp=2", "error: mesh: fsdp=2 does not make 1 devices: "),
        ("sweep.py", "threads=1000", "error: threads: 1000 threads per worker, but this machine lends "),
        ("iso.py", "prediction.factor=8", "error: prediction.law: chinchilla has 5 parameters, but "),
    ],
)
@pytest.mark.parametrize("flags", [(), ("--dry_run",)])
def test_a_dry_run_refuses_what_the_run_would_refuse(root, driver, config, override, words, flags, tmp_path):
    line = refused(driver("sweep", f"--config={config}", f"--workdir={tmp_path}/run", f"--config.{override}", *flags))
    assert line.startswith(words)
    assert not (tmp_path / "run").exists()


def test_a_dry_run_says_what_data_there_is_and_what_it_costs(root, driver, tmp_path):
    code, out, err, _ = driver("sweep", "--config=sweep.py", f"--workdir={tmp_path}/run", "--dry_run")
    names = [line.split()[0] for line in out.splitlines()]
    assert (code, err) == (0, "") and names[0] == "data" and "epochs" in names and names[-1] == "disk"
    assert f"data          {root}/text: " in out and not (tmp_path / "run").exists()


@pytest.fixture
def claimed(root: Path, tmp_path: Path) -> Path:
    """A directory that a sweep has begun in, on the data that there is."""
    from launch import overrides
    from launch.preflight import check_trials
    from scaling.sweep.config import SweepConfig

    config = overrides.load_config(root / "sweep.py", (SweepConfig,))
    directory = RunDirectory(tmp_path / "run")
    directory.claim(config, check_trials(config.trials()))
    return directory.path


def test_a_directory_of_another_sweep_is_refused_with_what_differs(driver, claimed):
    before = tiny.hashes(claimed)
    line = refused(driver("sweep", "--config=sweep.py", f"--workdir={claimed}", "--config.train.steps=25"))
    assert line.startswith(f"error: {claimed}: belongs to another sweep (train.steps was 24, now 25): choose a new")
    line = refused(driver("train", "--config=one.py", f"--workdir={claimed}"))
    assert line.startswith(f'error: {claimed}: belongs to another sweep (name was "sweep", now "train"')
    assert {name: before[name] for name in before} == {name: tiny.hashes(claimed)[name] for name in before}


def test_a_directory_in_use_is_refused_with_who_uses_it(driver, claimed):
    with RunDirectory(claimed).locked():
        line = refused(driver("sweep", "--config=sweep.py", f"--workdir={claimed}"))
    assert line.startswith(f"error: {claimed}: is in use by process {os.getpid()} on ")
    assert line.endswith(": wait for it, stop it, or choose another --workdir")


def test_data_that_changed_since_the_sweep_began_is_refused(root, driver, claimed):
    document = root / "text" / "7.txt"
    original = document.read_text()
    try:
        document.write_text("something else")
        line = refused(driver("sweep", "--config=sweep.py", f"--workdir={claimed}"))
    finally:
        document.write_text(original)
    words = re.escape(f"error: {claimed}/manifest.json: the data changed since this sweep began (digest ")
    assert re.match(words + r"\w{12} is now \w{12}\): restore the files, or start a new --workdir", line)


def test_a_damaged_config_is_refused_by_name(driver, claimed):
    text = (claimed / "config.json").read_text()
    (claimed / "config.json").write_text(text[: len(text) // 2])
    line = refused(driver("sweep", "--config=sweep.py", f"--workdir={claimed}"))
    assert line.startswith(f"error: {claimed}/config.json: is damaged (")


def test_a_disk_with_too_little_room_is_refused_before_the_sweep(driver, claimed):
    vast = ["--config.model.d_model=65536", "--config.model.n_layers=1000", "--config.train.keep_checkpoints=1000"]
    line = refused(driver("train", "--config=one.py", f"--workdir={claimed}/new", *vast))
    assert re.match(r"error: \S+: has [\d,]+ MB free, but the sweep takes up to [\d,]+ MB: make room, choose", line)


def test_a_worker_of_a_directory_that_is_none_is_refused(root, driver):
    assert refused(driver("worker", "--workdir=full")).startswith("error: full: ")


def test_a_refusal_is_the_same_from_a_shell(root, tmp_path):
    done = commands.run("train", f"--config={root}/one.py", f"--workdir={tmp_path}/x", "--config.model.d_modle=8")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: model.d_modle: no such field: did you mean model.d_model?")
    assert done.stderr.count("\n") == 1
