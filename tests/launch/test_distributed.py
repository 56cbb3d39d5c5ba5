"""Start-up of several processes: who is found from which variables and flags, and what every mistake says."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from typing import Any

import pytest

from launch import distributed
from launch.distributed import Processes, find
from models.errors import ConfigError
from tests.launch import commands

SLURM = {
    "SLURM_JOB_ID": "12345", "SLURM_STEP_NODELIST": "node[07-09,12]", "SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1", "SLURM_STEP_TASKS_PER_NODE": "2(x4)",
}  # fmt: skip
JAX = {"JAX_COORDINATOR_ADDRESS": "10.0.0.1:4321", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}


@pytest.mark.parametrize(
    ("flags", "environment", "found"),
    [
        ({}, {}, None),
        ({"processes": 1}, {}, None),
        ({}, {"JAX_NUM_PROCESSES": "1"}, None),
        ({"processes": 1}, SLURM, None),
        ({"cluster": "none"}, SLURM | JAX, None),
        ({}, SLURM | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, None),
        ({}, {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, None),  # a batch script, outside srun
        ({}, JAX, Processes(2, 1, "10.0.0.1:4321")),
        ({"coordinator": "a:1", "processes": 3, "process_id": 0}, {}, Processes(3, 0, "a:1")),
        ({"process_id": 0}, JAX, Processes(2, 0, "10.0.0.1:4321")),
        ({}, SLURM, Processes(8, 3, "node07:61497", (1,))),
        ({}, SLURM | {"SLURM_STEP_NODELIST": "a1,b[2-3]"}, Processes(8, 3, "a1:61497", (1,))),
        ({}, SLURM | {"SLURM_STEP_NODELIST": "gpu[3-4]"}, Processes(8, 3, "gpu3:61497", (1,))),
        ({}, SLURM | {"SLURM_STEP_TASKS_PER_NODE": "1(x8)"}, Processes(8, 3, "node07:61497")),
        ({}, SLURM | {"JAX_COORDINATOR_ADDRESS": "10.0.0.1:5"}, Processes(8, 3, "10.0.0.1:5", (1,))),
        ({"cluster": "tpu"}, {}, Processes(0, 0, "")),
        ({}, {"TPU_WORKER_HOSTNAMES": "t0,t1"}, Processes(0, 0, "")),
        ({}, {"TPU_WORKER_HOSTNAMES": "localhost"}, None),
        ({}, {"MEGASCALE_NUM_SLICES": "2"}, Processes(0, 0, "")),
    ],
)
def test_this_process_is_found_among_those_of_its_run(flags: dict[str, Any], environment: dict[str, str], found: Any):
    assert find(**flags, environment=environment) == found


@pytest.mark.parametrize(
    ("flags", "environment", "words"),
    [
        ({"processes": 0}, {}, "--processes (JAX_NUM_PROCESSES): is 0: give 1 or more"),
        ({"processes": -2}, JAX, "--processes (JAX_NUM_PROCESSES): is -2: give 1 or more"),
        (
            {},
            {"JAX_NUM_PROCESSES": "2"},
            "--coordinator (JAX_COORDINATOR_ADDRESS): is not set, but JAX_NUM_PROCESSES is: set all three,",
        ),
        (
            {},
            {name: JAX[name] for name in ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES")},
            "--process_id (JAX_PROCESS_ID): is not set, but JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES are: set all",
        ),
        (
            {},
            JAX | {"JAX_PROCESS_ID": "2"},
            "--process_id (JAX_PROCESS_ID): is 2, but there are 2 processes: give 0 to 1",
        ),
        ({"process_id": -1}, JAX, "--process_id (JAX_PROCESS_ID): is -1, but there are 2 processes: give 0 to 1"),
        ({}, JAX | {"JAX_PROCESS_ID": "one"}, "--process_id (JAX_PROCESS_ID): is 'one': give a whole number"),
        ({"coordinator": "host"}, JAX, "--coordinator (JAX_COORDINATOR_ADDRESS): 'host' is no address: give host:port"),
        ({"cluster": "slurm"}, {}, "--cluster: is slurm, but SLURM_JOB_ID is not set: start it by srun"),
    ],
)
def test_what_is_missing_or_impossible_is_named(flags: dict[str, Any], environment: dict[str, str], words: str):
    with pytest.raises(ConfigError) as caught:
        find(**flags, environment=environment)
    assert str(caught.value).startswith(words)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_coordinator_that_does_not_answer_is_named_within_the_time_given():
    for address in (f"127.0.0.1:{free_port()}", "no-such-host.invalid:80", "127.0.0.1:99999"):
        with pytest.raises(ConfigError, match=f"--coordinator: {address} does not answer within 0.3 s .*: start proc"):
            distributed.meet(Processes(2, 1, address), start_s=0.3)


@pytest.mark.slow
def test_processes_that_stay_away_end_the_first_with_one_line():
    script = f"from launch.distributed import *; meet(Processes(2, 0, 'localhost:{free_port()}'), start_s=2)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=commands.environment())
    assert done.returncode == 2
    line = done.stderr.splitlines()[-1]
    assert line.startswith("error: --processes: not all of the 2 processes were there within 2 s: start every one")


@pytest.mark.slow
def test_bad_input_to_one_process_of_several_is_one_line_and_exit_code_2(tmp_path):
    commands.write_config(tmp_path, "one", "return Trial(MODEL, DATA, TRAIN)")
    config, workdir = f"--config={tmp_path}/one.py", f"--workdir={tmp_path}/run"
    for flags, words in (
        (["--processes=0"], "error: --processes (JAX_NUM_PROCESSES): is 0: give 1 or more"),
        (["--processes=2"], "error: --coordinator (JAX_COORDINATOR_ADDRESS): is not set, but JAX_NUM_PROCESSES is: "),
        (["--heartbeat_s=0", "--coordinator=a:1", "--processes=2", "--process_id=0"], "error: --heartbeat_s: is 0: "),
    ):
        done = commands.run("train", config, workdir, *flags)
        assert done.returncode == 2 and done.stderr.startswith(words) and done.stderr.count("\n") == 1, done.stderr
    assert not (tmp_path / "run").exists()


def test_a_signal_from_before_the_processes_met_is_passed_on_once(monkeypatch):
    sent: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        stop = distributed.StopTogether()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.early
        monkeypatch.setattr(os, "kill", lambda _, number: sent.append(number))
        stop.begin()
        stop._handle(signal.SIGINT, None)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert sent == [signal.SIGTERM]
