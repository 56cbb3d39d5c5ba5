"""Real clusters on this machine: SLURM with its own daemons, and Ray. What is not installed is skipped, and said."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HEAD = "include_dashboard"  # an option of the first node of a Ray cluster
DAEMONS = ("slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "sinfo")
CONFIG = """
ClusterName=isoflop
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool.%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.%n.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd.%n.log
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1,sched_min_interval=10000
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
KillWait=60
MinJobAge=300
SlurmdTimeout=120
SlurmdParameters=config_overrides
AccountingStorageType=accounting_storage/none
NodeName=n[1-{nodes}] NodeHostname={host} NodeAddr=127.0.0.1 Port={ports} CPUs={cpus} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
PartitionName=spot Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=120
"""


def program(name: str) -> str | None:
    """Where a SLURM program is; daemons are often outside a user's PATH."""
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]))


@contextlib.contextmanager
def slurm(root: Path, nodes: int = 2, cpus: int = 1) -> Iterator[dict[str, str]]:
    """A SLURM cluster of `nodes` nodes on loopback, without root or munge; yields what its clients' shell has."""
    missing = [name for name in DAEMONS if program(name) is None]
    if missing:
        pytest.skip(f"SLURM is not installed ({', '.join(missing)}); Debian: slurmctld slurmd slurm-client")
    root.mkdir(parents=True)
    (root / "state").mkdir()
    first = _free_ports(nodes + 1)
    user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    ports = str(first + 1) if nodes == 1 else f"[{first + 1}-{first + nodes}]"
    host = socket.gethostname().split(".")[0]
    config = CONFIG.format(root=root, host=host, port=first, user=user, nodes=nodes, ports=ports, cpus=cpus)
    (root / "slurm.conf").write_text(config)
    made = os.environ | {"SLURM_CONF": str(root / "slurm.conf")}
    daemons = [subprocess.Popen([str(program("slurmctld")), "-D", "-c"], env=made, stderr=subprocess.DEVNULL)]
    for node in range(1, nodes + 1):
        command = [str(program("slurmd")), "-D", "-N", f"n{node}"]
        daemons.append(subprocess.Popen(command, env=made, stderr=subprocess.DEVNULL))
    try:
        end = time.monotonic() + 120
        while said("sinfo", "--noheader", "--format=%D %T", env=made) != f"{nodes} idle":
            assert time.monotonic() < end, (root / "slurmctld.log").read_text()[-2000:]
            time.sleep(0.2)
        yield {"SLURM_CONF": made["SLURM_CONF"]}
    finally:
        said("scancel", "--user", user, env=made)
        said("scancel", "--full", "--signal=KILL", "--user", user, env=made)
        for daemon in reversed(daemons):
            daemon.send_signal(signal.SIGTERM)
        for daemon in daemons:
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(30)
            daemon.kill()
            daemon.wait()


def said(*command: str, env: dict[str, str]) -> str:
    """What a client of the cluster prints."""
    return subprocess.run(command, capture_output=True, text=True, env=env).stdout.strip()


@contextlib.contextmanager
def ray(nodes: int = 2, cpus: int = 1) -> Iterator[str]:
    """The address of a Ray cluster of `nodes` nodes of this machine."""
    pytest.importorskip("ray", reason="Ray is not installed; pip install 'isoflop[ray]'")
    before = {name: os.environ.get(name) for name in ("RAY_AUTH_MODE", "RAY_USAGE_STATS_ENABLED")}
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    from ray.cluster_utils import Cluster

    size: dict[str, Any] = {"num_cpus": cpus, "include_dashboard": False}
    size["object_store_memory"] = 80 * 2**20
    cluster = Cluster()
    try:
        for node in range(nodes):
            _add_node(cluster, size if node == 0 else {name: size[name] for name in size if name != HEAD})
        yield cluster.address
    finally:
        cluster.shutdown()
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _add_node(cluster: Any, size: dict[str, Any]) -> None:
    """Ray gives a node 30 s to start, which a busy machine may not keep; then the test says so instead of failing."""
    for attempt in range(3):
        try:
            cluster.add_node(**size)
            return
        except Exception as error:
            if "timed out during startup" not in str(error):
                raise
            if attempt == 2:
                pytest.skip("Ray did not start within its own 30 s, three times: this machine is too busy")


def _free_ports(count: int) -> int:
    """The first of `count` consecutive ports that nobody listens on."""
    for first in range(20000 + os.getpid() % 10000, 60000, count):
        with contextlib.ExitStack() as held:
            try:
                for port in range(first, first + count):
                    held.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return first
    raise RuntimeError("no free ports")
