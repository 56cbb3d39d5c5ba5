"""What all executors share: who is started again and when, what is refused, how a machine is divided."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from launch import environment
from launch.executors import choice, local
from launch.executors.choice import Options, make, options
from launch.executors.executor import Order, Pulse, Retries, one_line, progress_of, refuse, said
from launch.executors.ray import check_port
from launch.executors.slurm import SlurmExecutor
from models.errors import ConfigError
from scaling.sweep import lease

FLAGS = {"executor": "local", "devices_per_worker": 0, "nodes_per_worker": 1, "partition": "", "sbatch": [],
         "ray_address": ""}  # fmt: skip


def test_deaths_without_progress_are_borne_three_times_with_longer_and_longer_pauses() -> None:
    retries = Retries(lambda: 0.0)
    assert [retries.pause("0", "died", Path("log")) for _ in range(3)] == [1, 2, 4]
    assert retries.pause("1", "died", Path("log")) == 1
    with pytest.raises(RuntimeError, match="worker 0 died 4 times: see log"):
        retries.pause("0", "died", Path("log"))


def test_deaths_after_progress_are_borne_for_ever() -> None:
    steps = iter(range(100))
    retries = Retries(lambda: float(next(steps)))
    assert [retries.pause("0", "died", Path("log")) for _ in range(100)] == [1] * 100


def test_progress_grows_with_rows_checkpoints_and_samples(tmp_path: Path) -> None:
    seen = [progress_of(tmp_path)]
    for path, content in (("stacks/a/8", ""), ("stacks/a/16", ""), ("trials/x/result.json", "{}"),
                          ("shards/000001.partial.jsonl", "line\n"), ("shards/000001.jsonl", "line\n")):  # fmt: skip
        target = tmp_path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.mkdir() if path.startswith("stacks") else target.write_text(content)
        seen.append(progress_of(tmp_path))
    assert seen == sorted(seen) and len(set(seen)) == len(seen)


def test_what_another_start_would_only_repeat_is_said_in_the_worker_s_words(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("noise\nerror: train.steps: is 0: give: a positive integer\nmore noise\n")
    with pytest.raises(ConfigError) as caught:
        refuse(2, log, tmp_path)
    assert (caught.value.field, caught.value.problem, caught.value.fix) == (
        "train.steps",
        "is 0",
        "give: a positive integer",
    )
    with pytest.raises(ConfigError, match="the disk is full: make room"):
        refuse(74, log, tmp_path)
    for code in (1, 70, 75, 76, -9):
        refuse(code, log, tmp_path)
    assert said(tmp_path / "absent") == ("worker", "failed", f"see {tmp_path / 'absent'}")


def test_a_worker_that_stands_still_is_noticed_once_and_not_for_its_past(tmp_path: Path, monkeypatch) -> None:
    now = 0.0
    monkeypatch.setattr(lease.time, "monotonic", lambda: now)
    folder = tmp_path / ".leases" / "workers"
    folder.mkdir(parents=True)
    who = '{"id": "0-a", "name": "0", "host": "h", "process": 1, "kernel": "k", "started": 1.0}\n'
    (folder / "0-a").write_text(who + "7\n")
    pulse = Pulse(tmp_path)
    pulse.started("0")
    assert not pulse.stands_still("0")  # what an earlier process left
    (folder / "0-b").write_text(who.replace("0-a", "0-b").replace("1.0", "2.0") + "7\n")
    found = []
    for _ in range(20):
        now += lease.BEAT_S
        found.append(pulse.stands_still("0"))
    assert found.count(True) == 1 and not any(found[:12])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"partition": "x"},
            "--partition: is for the slurm executor, not local: give --executor=slurm, or leave it out",
        ),
        ({"executor": "ray", "sbatch": ["--x"]}, "--sbatch: is for the slurm executor, not ray"),
        ({"executor": "slurm", "ray_address": "auto"}, "--ray_address: is for the ray executor, not slurm"),
        ({"devices_per_worker": -1}, "--devices_per_worker: is -1: give 0 or more"),
        ({"nodes_per_worker": 2}, "--nodes_per_worker: is 2, but only SLURM starts workers that span machines"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(changes: dict, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        options(FLAGS | changes)
    assert str(caught.value).startswith(words)


def test_options_leave_the_other_flags_alone() -> None:
    flags = FLAGS | {"executor": "slurm", "sbatch": ["--account=x"], "other": 1}
    assert options(flags) == Options("slurm", sbatch=("--account=x",)) and flags == {"other": 1}
    assert {type(make(Options())).__name__, type(make(Options("slurm"))).__name__} == {"LocalExecutor", "SlurmExecutor"}
    assert choice.EXECUTORS == ("local", "slurm", "ray")


def test_a_machine_is_divided_into_disjoint_cpus_or_gpus(monkeypatch) -> None:
    monkeypatch.setattr(environment, "available_cpus", lambda: [2, 3, 4, 5, 6])
    assert local.shares(Order(Path("x"), threads=2), False) == [([2, 3], ()), ([4, 5], ())]
    assert local.shares(Order(Path("x"), workers=3, threads=2), False) == [([2, 3, 4, 5, 6], ())] * 3
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,3,5,7,9")
    groups = [devices for _, devices in local.shares(Order(Path("x"), devices=2), True)]
    assert groups == [("0", "3"), ("5", "7")]
    assert [d for _, d in local.shares(Order(Path("x"), workers=1, devices=2), True)] == [("0", "3")]
    assert local.shares(Order(Path("x")), True) == [([2, 3, 4, 5, 6], ())]  # jax takes all


def test_a_worker_that_never_begins_is_noticed_unless_it_waits_for_its_turn(tmp_path: Path, monkeypatch) -> None:
    now = 0.0
    monkeypatch.setattr(lease.time, "monotonic", lambda: now)
    found: dict[bool, list[float]] = {}
    for queued in (True, False):
        pulse = Pulse(tmp_path)
        pulse.started("0")
        begin, found[queued] = now, []
        for _ in range(200):
            now += lease.BEAT_S
            if pulse.stands_still("0", queued):
                found[queued].append(now - begin)
                pulse.started("0")
    assert not found[True] and found[False][0] > 10 * lease.SILENCE_S


def test_an_address_where_nobody_listens_is_known_at_once_and_others_are_left_to_ray() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        closed = listener.getsockname()[1]
        with pytest.raises(ConnectionRefusedError):
            check_port(f"127.0.0.1:{closed}")
        listener.listen()
        check_port(f"127.0.0.1:{closed}")
        check_port(f"ray://127.0.0.1:{closed}")
    check_port("auto")
    with pytest.raises(ValueError):
        check_port("127.0.0.1:head")


def test_more_threads_or_devices_than_there_are_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(environment, "accelerators", lambda *_: False)
    with pytest.raises(ConfigError, match="threads: 10000 threads per worker, but this machine lends "):
        local.LocalExecutor().check(Order(Path("x"), threads=10000))
    with pytest.raises(ConfigError, match="--devices_per_worker: is 2, but this machine has 0: give at most 0"):
        local.LocalExecutor().check(Order(Path("x"), devices=2))


def test_the_batch_script_says_everything_once_and_quotes_what_it_is_given(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    folder = tmp_path / "a b; rm -rf c"
    slurm = SlurmExecutor("gpu", ["--account=x"])
    slurm.order = Order(folder, threads=3, devices=2, arguments=("--profile", "p q"))
    script = slurm.script()
    for option in (
        "--cpus-per-task=3",
        "--gpus-per-node=2",
        "--partition=gpu",
        "--requeue",
        "--account=x",
        "--nodes=1",
    ):
        assert script.count(f"#SBATCH {option}\n") == 1
    assert "export OMP_NUM_THREADS=3\n" in script and f"--workdir '{folder}'" in script and "'p q'" in script
    assert "srun" not in script and "kill -TERM $child" in script
    slurm.order = Order(folder, nodes=4)
    assert (
        "srun --ntasks=4 --ntasks-per-node=1" in slurm.script()
        and "scancel --signal=TERM $SLURM_JOB_ID" in slurm.script()
    )


def test_a_scheduler_s_words_fit_one_line() -> None:
    assert one_line("a\nsbatch: error: Batch job  submission failed\n") == "Batch job submission failed"
    assert one_line("") == "no reason given"
