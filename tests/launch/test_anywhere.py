"""A sweep gives the same table on this machine, on SLURM and on Ray, and each executor outlives its workers."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from launch import cli
from launch import sweep as command
from scaling.sweep import lease
from tests.launch import clusters, commands

pytestmark = pytest.mark.slow
PATIENCE_S = 600.0
FOUR = """
points = grid({"model.d_model": [8, 16], "train.learning_rate": [0.01, 0.003]})
return SweepConfig("four", MODEL, DATA, TRAIN, points=tuple(points), stack_size=2, workers=2)
"""
LONG = """
import dataclasses
train = dataclasses.replace(TRAIN, steps=4000, log_every=50, checkpoint_every=200)
points = grid({"train.learning_rate": [0.01, 0.003]})
return SweepConfig("long", MODEL, DATA, train, points=tuple(points), stack_size=1, workers=2)
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("anywhere")
    commands.write_config(root, "four", FOUR)
    commands.write_config(root, "long", LONG)
    return root


@pytest.fixture(scope="module")
def local(root: Path) -> dict[str, Any]:
    done = commands.sweep(root / "four.py", root / "local")
    assert done.returncode == 0, done.stderr
    return everything(root / "local")


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with clusters.slurm(tmp_path_factory.mktemp("slurm") / "cluster") as cluster:
        yield commands.environment() | cluster.variables


@pytest.fixture(scope="module")
def ray() -> Iterator[str]:
    with clusters.ray() as address:
        yield address


@pytest.fixture(scope="module")
def searched(root: Path, local: dict[str, Any]) -> tuple[tuple[str, ...], bytes]:
    """A search of four prompts as arguments of launch.infer without `--out`, and what one process here writes."""
    prompts = root / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"def f{i}(x)"}) + "\n" for i in range(4)))
    checkpoint = min((root / "local" / "trials").iterdir())
    sizes = "--max_tokens=8", "--config.engine.max_len=32", "--config.shard_size=1", "--config.search.rows=4"
    strategy = "--strategy=mcts:simulations=3,actions=2,tokens_per_step=3", "--verifier=likelihood"
    arguments = "infer", f"--checkpoint={checkpoint}", f"--prompts={prompts}", *strategy, *sizes
    done = commands.run(*arguments, f"--out={root}/searched")
    assert done.returncode == 0, done.stderr
    lines = (root / "searched" / "samples.jsonl").read_bytes()
    assert lines.count(b'"candidates"') == 4
    return arguments, lines


def everything(workdir: Path) -> dict[str, Any]:
    return {"table": commands.table(workdir), "metrics": commands.metrics(workdir)}


def wait(condition: Callable[[], Any]) -> Any:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError("waited in vain")


def checkpoints(workdir: Path) -> list[Path]:
    return list(workdir.glob("stacks/*/[0-9]*"))


@contextlib.contextmanager
def running(config: Path, workdir: Path, *flags: str, env: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    launcher = commands.start("sweep", f"--config={config}", f"--workdir={workdir}", *flags, env=env)
    try:
        yield launcher
    finally:
        launcher.kill()
        launcher.communicate()
        for worker in commands.workers(workdir):
            os.kill(worker, signal.SIGKILL)


def test_slurm_with_two_nodes_gives_the_same_table(root: Path, local: dict[str, Any], slurm: dict[str, str]) -> None:
    done = commands.sweep(root / "four.py", root / "slurm", "--executor=slurm", env=slurm)
    assert done.returncode == 0, done.stderr
    assert everything(root / "slurm") == local
    finished = [w for w in lease.read_workers(root / "slurm" / ".leases") if w.name != "launcher"]
    assert sorted(w.name for w in finished) == ["0", "1"] and all(w.ended for w in finished)


def test_ray_with_two_nodes_gives_the_same_table(root: Path, local: dict[str, Any], ray: str) -> None:
    done = commands.sweep(root / "four.py", root / "ray", "--executor=ray", f"--ray_address={ray}")
    assert done.returncode == 0, done.stderr
    assert everything(root / "ray") == local


def test_a_search_of_prompts_on_slurm_writes_the_same_lines(root: Path, searched: Any, slurm: dict[str, str]) -> None:
    arguments, lines = searched
    done = commands.run(*arguments, f"--out={root}/slurm_job", "--executor=slurm", "--workers=2", env=slurm)
    assert done.returncode == 0, done.stderr
    assert (root / "slurm_job" / "samples.jsonl").read_bytes() == lines


def test_a_search_of_prompts_on_ray_writes_the_same_lines(root: Path, searched: Any, ray: str) -> None:
    arguments, lines = searched
    done = commands.run(*arguments, f"--out={root}/ray_job", "--executor=ray", f"--ray_address={ray}", "--workers=2")
    assert done.returncode == 0, done.stderr
    assert (root / "ray_job" / "samples.jsonl").read_bytes() == lines


def test_what_slurm_preempts_saves_and_goes_on(root: Path, slurm: dict[str, str]) -> None:
    flags = ("--executor=slurm", "--partition=spot")
    with running(root / "long.py", root / "spot", *flags, env=slurm) as launcher:
        wait(lambda: len({path.parent for path in checkpoints(root / "spot")}) == 2)
        command = ["sbatch", "--partition=main", "--array=0-1", "--output=/dev/null", "--wrap=sleep 1"]
        subprocess.run(command, env=slurm, check=True, capture_output=True)
        _, err = launcher.communicate(timeout=PATIENCE_S)
    assert launcher.returncode == 0, err
    logs = "".join(path.read_text() for path in (root / "spot" / "logs").glob("worker-*.log"))
    assert "resuming" in logs and commands.table(root / "spot")["status"] == ["done"] * 2
    assert sum(w.name != "launcher" for w in lease.read_workers(root / "spot" / ".leases")) > 2


def test_a_worker_that_slurm_loses_is_queued_again(root: Path, slurm: dict[str, str]) -> None:
    with running(root / "long.py", root / "lost", "--executor=slurm", env=slurm) as launcher:
        wait(lambda: checkpoints(root / "lost"))
        os.kill(commands.workers(root / "lost")[0], signal.SIGKILL)
        _, err = launcher.communicate(timeout=PATIENCE_S)
    assert launcher.returncode == 0, err
    assert commands.table(root / "lost") == commands.table(root / "spot")


def test_a_worker_that_ray_loses_is_started_again(root: Path, ray: str) -> None:
    env = commands.environment()
    flags = ("--executor=ray", f"--ray_address={ray}")
    with running(root / "long.py", root / "raylost", *flags, env=env) as launcher:
        wait(lambda: checkpoints(root / "raylost"))
        os.kill(commands.workers(root / "raylost")[0], signal.SIGKILL)
        _, err = launcher.communicate(timeout=PATIENCE_S)
    assert launcher.returncode == 0, err
    assert commands.table(root / "raylost")["status"] == ["done"] * 2


def test_ctrl_c_lets_slurm_s_workers_save_and_the_same_command_goes_on(root: Path, slurm: dict[str, str]) -> None:
    workdir = root / "stopped"
    with running(root / "long.py", workdir, "--executor=slurm", env=slurm) as launcher:
        wait(lambda: checkpoints(workdir))
        launcher.send_signal(signal.SIGINT)
        launcher.communicate(timeout=PATIENCE_S)
        assert launcher.returncode == 130 and commands.workers(workdir) == []
    assert clusters.said("squeue", "--noheader", "--states=R,PD", env=slurm) == ""
    done = commands.sweep(root / "long.py", workdir, "--executor=slurm", env=slurm)
    assert done.returncode == 0, done.stderr
    assert "resuming" in "".join(path.read_text() for path in (workdir / "logs").glob("worker-*.log"))


REFUSED = [
    (["--executor=slurm", "--partition=spto"], "error: --partition: spto does not exist: did you mean spot?"),
    (["--executor=slurm", "--sbatch=--cpus-per-task=999"], "error: --sbatch: SLURM refuses such workers ("),
    (["--executor=slurm", "--config.mesh.fsdp=4"], "error: mesh: fsdp=4 does not make 1 devices: "),
    (["--executor=ray", "--partition=main"], "error: --partition: is for the slurm executor, not ray: give --exec"),
    (["--executor=local", "--config.mesh.fsdp=4"], "error: mesh: fsdp=4 does not make 1 devices: "),
    (["--executor=local", "--nodes_per_worker=2"], "error: --nodes_per_worker: is 2, but only SLURM starts workers"),
    (["--executor=slum"], "error: --executor: 'slum' is not among its choices: did you mean slurm?"),
]


@pytest.mark.parametrize(("flags", "words"), REFUSED, ids=[" ".join(flags) for flags, _ in REFUSED])
def test_what_cannot_work_there_is_refused_and_nothing_is_written(
    root, slurm, flags, words, tmp_path, monkeypatch, capsys
) -> None:
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)
    line = [f"--config={root}/four.py", f"--workdir={tmp_path}/run", *flags]
    assert cli.execute(command.main, command.FLAGS, command.__doc__, line, command.kinds) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith(words) and said.err.count("\n") == 1, said
    assert not (tmp_path / "run").exists()


NO_CONTROLLER = """
ClusterName=none
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={port}
AuthType=auth/none
CredType=cred/none
MessageTimeout=1
NodeName=n1
PartitionName=main Nodes=ALL
"""


def test_without_slurm_the_error_says_so(root: Path, tmp_path: Path) -> None:
    bare = commands.environment() | {"PATH": str(tmp_path)}
    done = commands.sweep(root / "four.py", tmp_path / "run", "--executor=slurm", env=bare)
    words = "error: --executor: slurm needs sbatch, which is not in PATH: run this on a login node"
    assert done.returncode == 2 and done.stderr.startswith(words) and done.stderr.count("\n") == 1, done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(bool(clusters.missing()), reason=clusters.missing())
def test_without_slurm_s_controller_the_error_says_so(root: Path, tmp_path: Path) -> None:
    (tmp_path / "slurm.conf").write_text(NO_CONTROLLER.format(port=clusters.free_ports(1)))
    nobody = commands.environment() | {"SLURM_CONF": str(tmp_path / "slurm.conf")}
    done = commands.sweep(root / "four.py", tmp_path / "run", "--executor=slurm", env=nobody)
    words = "error: --executor: no SLURM controller answers (Unable to contact slurm controller (connect failure)): "
    assert done.returncode == 2 and done.stderr == words + "see that the cluster is up: sinfo has to work here\n"
    assert not (tmp_path / "run").exists()


def test_without_a_ray_cluster_at_the_address_the_error_says_so(root: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed; pip install 'isoflop[ray]'")
    address = f"127.0.0.1:{clusters.free_ports(1)}"
    done = commands.sweep(root / "four.py", tmp_path / "run", "--executor=ray", f"--ray_address={address}")
    words = f"error: --ray_address: no Ray cluster answers at {address!r} ([Errno 111] Connection refused): start one"
    assert done.returncode == 2 and done.stderr.startswith(words) and done.stderr.count("\n") == 1, done.stderr
    assert not (tmp_path / "run").exists()


def test_without_ray_the_error_says_so(root: Path, tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "ray.py").write_text("raise ModuleNotFoundError(\"No module named 'ray'\", name='ray')")
    path = os.pathsep.join([str(hidden), str(commands.REPOSITORY)])
    env = commands.environment() | {"PYTHONPATH": path}
    done = commands.sweep(root / "four.py", tmp_path / "run", "--executor=ray", env=env)
    assert done.returncode == 2 and done.stderr == "error: ray: is not installed: pip install 'isoflop[ray]'\n"
    assert not (tmp_path / "run").exists()
