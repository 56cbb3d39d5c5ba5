"""Two processes save, lose and restore a checkpoint together; run as a script this file is one of them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from scaling.train.checkpoint import Checkpoints, load

REPOSITORY = Path(__file__).resolve().parents[3]
LARGE = np.arange(1024 * 512, dtype=np.float32).reshape(1024, 512)


def sharded(shape: tuple[int, int], spec: PartitionSpec, value: np.ndarray) -> jax.Array:
    sharding = NamedSharding(Mesh(np.array(jax.devices()).reshape(shape), ("data", "tensor")), spec)
    return jax.make_array_from_callback(value.shape, sharding, value.__getitem__)


def make_state(step: int, shape: tuple[int, int]) -> dict[str, object]:
    return {
        "large": sharded(shape, PartitionSpec("data", "tensor"), LARGE + step),
        "small": sharded(shape, PartitionSpec("data"), np.arange(16, dtype=np.int32) + step),
        "replicated": sharded(shape, PartitionSpec(), np.arange(3, dtype=np.int32) + step),
        "host": np.array(step),
    }


def same_here(a: object, b: object) -> bool:
    """Whether this process's parts are equal."""
    if isinstance(a, jax.Array) and isinstance(b, jax.Array):
        pairs = zip(a.addressable_shards, b.addressable_shards)
        return a.sharding == b.sharding and all(np.array_equal(x.data, y.data) for x, y in pairs)
    return np.array_equal(a, b)


def one_of_two(directory: Path, port: str, index: int) -> None:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=index, initialization_timeout=60)
    with Checkpoints(directory, keep=2) as checkpoints:
        for step in (1, 2, 3, 3):
            checkpoints.save(step, make_state(step, (8, 1)), {"step": step})
        checkpoints.wait()
        assert checkpoints.steps() == [2, 3]
        for newest in (3, 2):
            restored = checkpoints.restore(make_state(0, (2, 4)))
            assert restored.step == newest and restored.metadata == {"step": newest}
            expected = make_state(newest, (2, 4))
            assert all(same_here(restored.state[name], expected[name]) for name in expected)
            if index == 0 and newest == 3:
                (directory / "3" / "_CHECKPOINT_METADATA").write_text("{}")


@pytest.mark.slow
def test_two_processes_save_and_restore_on_another_mesh_and_agree_on_a_fallback(tmp_path: Path):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "4"}
    log = [tmp_path / f"{i}.log" for i in range(2)]
    command = [sys.executable, __file__, str(tmp_path / "run"), str(port)]
    processes = [
        subprocess.Popen([*command, str(i)], env=environment, stdout=log[i].open("wb"), stderr=subprocess.STDOUT)
        for i in range(2)
    ]
    try:
        codes = [process.wait(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert codes == [0, 0], "\n".join(path.read_text()[-3000:] for path in log)
    alone = load(tmp_path / "run")  # one process reads what two have written
    assert alone.step == 2 and (tmp_path / "run" / "3.corrupt").is_dir()
    np.testing.assert_array_equal(alone.state["large"], LARGE + 2)
    np.testing.assert_array_equal(alone.state["small"], np.arange(16) + 2)


if __name__ == "__main__":
    one_of_two(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
