"""SIGKILL at any moment leaves a directory from which the last complete step comes back bit for bit.

Run as a script this file is the victim: it imports jax once and forks a process per kill.
"""

from __future__ import annotations

import functools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from scaling.train import checkpoint, manifest
from scaling.train.checkpoint import Checkpoints

REPOSITORY = Path(__file__).resolve().parents[3]
KILLS, KEEP = 8, 2

# Where the second save dies, the step that must come back, and what it finds. The last three replace step 2 by another.
MOMENTS = {
    "before orbax begins": (1, {"1"}),
    "when orbax has committed": (1, {"1", "2.saving"}),
    "in the middle of the manifest": (1, {"1", "2.saving"}),
    "before the step is published": (1, {"1", "2.saving"}),
    "after the step is published": (2, {"1", "2"}),
    "while an old step is deleted": (2, {"1.deleting", "2"}),
    "before the replaced step is moved": (2, {"1", "2", "2.saving"}),
    "between the renames that replace a step": (2, {"1", "2.replaced", "2.saving"}),
    "before the replaced step is deleted": (2, {"1", "2", "2.replaced"}),
}


def make_state(step: int, version: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([step, version])
    large = rng.standard_normal(400_000).astype(np.float32)  # stored by orbax on its own
    return {"step": np.array(step), "small": rng.standard_normal(1000), "large": large}


def identical(a: Any, b: Any) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(x.dtype == y.dtype and x.tobytes() == y.tobytes() for x, y in pairs)


# -- the victims ------------------------------------------------------------------------------------------------


def save_for_ever(directory: Path, ready: int, asynchronous: bool) -> None:
    """Go on from what is there, after checking it, until killed; every step that `wait` vouched for is reported."""
    with Checkpoints(directory, keep=KEEP, asynchronous=asynchronous) as checkpoints:
        step = 0
        if checkpoints.latest() is not None:
            restored = checkpoints.restore(make_state(0))
            step = restored.step
            assert identical(restored.state, make_state(step)), f"step {step} came back changed"
        while True:
            step += 1
            checkpoints.save(step, make_state(step))
            if not asynchronous or step % 3 == 0:
                checkpoints.wait()
                os.write(ready, f"{step}\n".encode())


def die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(owner: Any, name: str, where: Callable[..., bool] = lambda *_, **__: True, after: bool = False) -> None:
    """Make the first call of owner.name whose arguments fulfil `where` fatal, before or after it does its work."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        fatal = where(*args, **kwargs)
        if fatal and not after:
            die()
        result = original(*args, **kwargs)
        if fatal:
            die()
        return result

    setattr(owner, name, wrapper)


def onto(name: str) -> Callable[..., bool]:
    return lambda source, target, **_: os.path.basename(target) == name


def inside_a_tree(*_: Any, dir_fd: int | None = None) -> bool:
    return dir_fd is not None  # as only rmtree calls it


def tear_manifest(directory: Path, draft: manifest.Manifest) -> None:
    (directory / manifest.NAME).write_bytes(manifest._render(draft)[:100])
    die()


def save_and_die(directory: Path, moment: str) -> None:
    keep = 1 if moment == "while an old step is deleted" else KEEP
    checkpoints = Checkpoints(directory, keep=keep, asynchronous=False)
    checkpoints.save(1, make_state(1))
    if "replace" in moment:
        checkpoints.save(2, make_state(2, version=1))
    arm: dict[str, Callable[[], None]] = {
        "before orbax begins": lambda: die_at(checkpoint.ocp, "save_async"),
        "when orbax has committed": lambda: die_at(manifest, "write"),
        "in the middle of the manifest": lambda: setattr(manifest, "write", tear_manifest),
        "before the step is published": lambda: die_at(os, "rename", onto("2")),
        "after the step is published": lambda: die_at(os, "rename", onto("2"), after=True),
        "while an old step is deleted": lambda: die_at(os, "unlink", inside_a_tree, after=True),
        "before the replaced step is moved": lambda: die_at(os, "rename", onto("2.replaced")),
        "between the renames that replace a step": lambda: die_at(os, "rename", onto("2.replaced"), after=True),
        "before the replaced step is deleted": lambda: die_at(os, "rename", onto("2"), after=True),
    }
    arm[moment]()
    checkpoints.save(2, make_state(2))


def fork(child: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            child()
        finally:
            os._exit(1)  # a victim that was not killed has failed
    return pid


def reap(pid: int) -> None:
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, f"the victim ended by itself: {status}"


def kill_at_random(directory: Path, asynchronous: bool) -> None:
    """Kill one process after another, each taking over from the last; prints the last step each had made safe."""
    delays = random.Random(int(asynchronous))
    for _ in range(KILLS):
        receiver, sender = os.pipe()
        pid = fork(lambda sender=sender: save_for_ever(directory, sender, asynchronous))
        os.close(sender)
        reported = os.read(receiver, 1 << 16)
        time.sleep(delays.uniform(0, 0.4))
        os.kill(pid, signal.SIGKILL)
        reap(pid)
        reported += os.read(receiver, 1 << 16)
        print(reported.decode().split()[-1], flush=True)


def kill_at_each_moment(root: Path) -> None:
    for moment in MOMENTS:
        reap(fork(functools.partial(save_and_die, root / moment, moment)))


# -- the tests --------------------------------------------------------------------------------------------------


def run_victim(*arguments: object) -> list[int]:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
    command = [sys.executable, "-W", "ignore", __file__, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return [int(line) for line in done.stdout.split()]


@pytest.mark.slow
@pytest.mark.parametrize("asynchronous", [False, True])
def test_killed_at_random_the_last_complete_step_survives(tmp_path: Path, asynchronous: bool):
    safe = run_victim("random", tmp_path / "run", int(asynchronous))
    assert len(safe) == KILLS and safe == sorted(safe)
    restored = Checkpoints(tmp_path / "run").restore(make_state(0))
    assert restored.step >= safe[-1]
    assert identical(restored.state, make_state(restored.step))
    assert not list((tmp_path / "run").glob("*.*")), "nothing was damaged, and all leftovers are gone"


@pytest.mark.slow
def test_killed_at_each_moment_of_a_save_the_last_complete_step_survives(tmp_path: Path):
    run_victim("moments", tmp_path)
    for moment, (expected, found) in MOMENTS.items():
        directory = tmp_path / moment
        assert {p.name for p in directory.iterdir()} == found, moment
        restored = Checkpoints(directory).restore(make_state(0))
        assert restored.step == expected, moment
        old = moment in ("before the replaced step is moved", "between the renames that replace a step")
        assert identical(restored.state, make_state(expected, version=int(old))), moment
        assert not list(directory.glob("*.*")), moment


if __name__ == "__main__":
    mode, where, *rest = sys.argv[1:]
    if mode == "random":
        kill_at_random(Path(where), bool(int(rest[0])))
    else:
        kill_at_each_moment(Path(where))
