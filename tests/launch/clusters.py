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
CONTROLLER = "slurmctld"
DAEMONS = (CONTROLLER, "slurmd", "sbatch", "squeue", "scontrol", "sinfo")
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
KillWait={kill_wait_s}
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


class Slurm:
    """A SLURM cluster of nodes n1, n2 ... on loopback, without root or munge.

    kill_wait_s: what a step may take to end. variables: what the shell of its clients has. daemons: by name, those of
    the controller and of the nodes.
    """

    def __init__(self, root: Path, nodes: int = 2, cpus: int = 1, kill_wait_s: int = 60):
        (root / "state").mkdir(parents=True)
        first = free_ports(nodes + 1)
        self.user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
        ports = str(first + 1) if nodes == 1 else f"[{first + 1}-{first + nodes}]"
        host = socket.gethostname().split(".")[0]
        config = CONFIG.format(
            root=root,
            host=host,
            port=first,
            user=self.user,
            nodes=nodes,
            ports=ports,
            cpus=cpus,
            kill_wait_s=kill_wait_s,
        )
        (root / "slurm.conf").write_text(config)
        self.root, self.nodes = root, [f"n{i + 1}" for i in range(nodes)]
        self.variables = {"SLURM_CONF": str(root / "slurm.conf")}
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        """Start the daemon of the controller or of a node; a controller that was here before remembers its jobs."""
        command = ["slurmctld", "-D"] if name == CONTROLLER else ["slurmd", "-D", "-N", name]
        out = subprocess.DEVNULL
        command[0] = str(program(command[0]))
        self.daemons[name] = subprocess.Popen(command, env=self.environment, stdout=out, stderr=out)

    def wait_until_idle(self, patience_s: float = 120.0) -> None:
        """Until the controller calls every node idle."""
        end = time.monotonic() + patience_s
        while said("sinfo", "--noheader", "--format=%D %T", env=self.environment) != f"{len(self.nodes)} idle":
            assert time.monotonic() < end, (self.root / "slurmctld.log").read_text()[-2000:]
            time.sleep(0.2)

    @property
    def environment(self) -> dict[str, str]:
        """This process's, with the cluster's variables."""
        return os.environ | self.variables

    def processes(self, node: str) -> list[int]:
        """Process ids of a node: its daemon, the steps of its jobs and what they started."""
        found = {self.daemons[node].pid}
        marks = [f"SLURM_CONF={self.variables['SLURM_CONF']}".encode(), f"SLURMD_NODENAME={node}".encode()]
        for process in Path("/proc").iterdir():
            with contextlib.suppress(OSError, IndexError):
                if set(marks) <= set((process / "environ").read_bytes().split(b"\0")):
                    parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
                    found.add(int(process.name))
                    if (Path("/proc") / str(parent) / "comm").read_text().startswith("slurmstepd"):
                        found.add(parent)
        return sorted(found)

    def lose(self, node: str, number: signal.Signals) -> int:
        """Send a signal to all of a node's processes, as the end of its power or a shutdown does; how many there were.

        What a shutdown does not end within 10 s is killed, as an operating system does.
        """
        living = self.processes(node)
        for process in living:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)
        end = time.monotonic() + 10
        while number != signal.SIGKILL and len(self.processes(node)) > 1 and time.monotonic() < end:
            time.sleep(0.1)
        for process in self.processes(node):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.daemons[node].wait()
        return len(living)

    def close(self) -> None:
        """End the jobs and the daemons."""
        said("scancel", "--user", self.user, env=self.environment)
        said("scancel", "--full", "--signal=KILL", "--user", self.user, env=self.environment)
        for daemon in reversed(self.daemons.values()):
            daemon.send_signal(signal.SIGTERM)
        for daemon in self.daemons.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(30)
            daemon.kill()
            daemon.wait()


def missing() -> str:
    """What SLURM needs and is not installed, and where to get it; "" when all is there."""
    names = [name for name in DAEMONS if program(name) is None]
    return f"SLURM is not installed ({', '.join(names)}); Debian: slurmctld slurmd slurm-client" if names else ""


@contextlib.contextmanager
def slurm(root: Path, nodes: int = 2, cpus: int = 1, kill_wait_s: int = 60) -> Iterator[Slurm]:
    """A SLURM cluster that is up; the test is skipped where SLURM is not installed."""
    if missing():
        pytest.skip(missing())
    cluster = Slurm(root, nodes, cpus, kill_wait_s)
    try:
        for name in (CONTROLLER, *cluster.nodes):
            cluster.start(name)
        cluster.wait_until_idle()
        yield cluster
    finally:
        cluster.close()


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


def free_ports(count: int) -> int:
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
