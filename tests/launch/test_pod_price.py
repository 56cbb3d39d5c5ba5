"""A reader with a pod changes three numbers of a reproduction, and --dry_run prices it on the pod's devices."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from launch import cli, gallery, reproduce
from launch.estimate import ASSUMED_SHARE, estimate
from launch.executors.choice import Options
from models.devices import DEVICES
from models.errors import ConfigError
from scaling.sweep.config import SweepConfig

MESH = "MeshConfig(data=2, fsdp=4)"
POD = {  # what docs/gallery.md shows: sizes, tokens, mesh
    "fp8_gap": {"WIDTH": "4096", "STEPS": "100_000", "MESH": MESH},
    "matmul_free": {"WIDTHS": "(512, 2048)", "STEPS": "20_000", "MESH": MESH},
    "resume_state": {"WIDTH": "1024", "BEFORE": "10_000", "MESH": MESH},
}


def changed(name: str, folder: Path) -> Path:
    """The reproduction with three numbers changed, each on the one line that sets it."""
    text = gallery.path_of(name).read_text(encoding="utf-8")
    for constant, value in POD[name].items():
        text, count = re.subn(rf"^{constant} = [^#\n]*", f"{constant} = {value} ", text, flags=re.MULTILINE)
        assert count == 1, constant
    copy = folder / f"{name}.py"
    copy.write_text(text, encoding="utf-8")
    return copy


@pytest.mark.parametrize("name", list(POD))
def test_three_numbers_make_a_pods_experiment_which_is_priced(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = changed(name, tmp_path)
    sweeps = gallery.load(str(copy)).planned(False)
    small = gallery.load(name).planned(False)
    arguments = [str(copy), "--workdir", str(tmp_path / "work"), "--dry_run", "--device=v5e"]
    assert cli.execute(reproduce.main, reproduce.FLAGS, reproduce.__doc__, arguments, positional="name") == 0
    lines = capsys.readouterr().out.splitlines()
    flops = [float(line.split()[1]) for line in lines if line.startswith("FLOPs")]
    assert flops == pytest.approx([sum(trial.flops for trial in sweep.trials()) for sweep in sweeps], rel=1e-3)
    assert len(flops) == len(small) and sum(flops) > 1e3 * sum(t.flops for s in small for t in s.trials())
    speed = DEVICES["v5e"].flops * 8 * ASSUMED_SHARE
    told = [line for line in lines if line.startswith("speed")]
    assert all(f"{speed:.3g} FLOP/s" in line and "8 x v5e" in line for line in told) and len(told) == len(sweeps)
    hours = [float(line.split()[1]) for line in lines if line.startswith("device-hours")]
    assert all(h >= 8 * f / speed / 3600 * 0.99 for h, f in zip(hours, flops, strict=True))
    assert lines[-1].startswith("in all") and lines[-1].endswith("device-hours of v5e for its sweeps")
    assert float(lines[-1].split()[2]) == pytest.approx(sum(hours), rel=0.02)  # three digits each
    assert not (tmp_path / "work").exists()


def test_an_axis_that_fills_takes_the_devices_of_the_worker_and_an_unknown_device_gets_the_near_one() -> None:
    import dataclasses

    from models.sharding import MeshConfig
    from tests.scaling.sweep import tiny

    sweep = SweepConfig(
        "pod", tiny.MODEL, train=dataclasses.replace(tiny.TRAIN, batch_size=8), mesh=MeshConfig(data=-1)
    )
    found = estimate(sweep, Path("none"), Options(devices_per_worker=8), "h100")
    assert found.devices == 8 and math.isclose(found.speed, DEVICES["h100"].flops * 8 * ASSUMED_SHARE)
    with pytest.raises(ConfigError, match="did you mean h100"):
        estimate(sweep, Path("none"), Options(devices_per_worker=8), "h10")
